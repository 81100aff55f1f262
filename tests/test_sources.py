"""From the name in a recipe to the object, and what is said where there is none."""

import pytest
from torch import nn

from toolkit.errors import InputError
from toolkit.importing import import_file
from toolkit.sources import Source, resolve

NETS = """
from torch import nn
import lies_beside
class Net(nn.Linear):
    def __init__(self, size=2):
        super().__init__(size, size)
def number():
    return lies_beside.NUMBER
def fails():
    raise ValueError("two\\nlines")
def leaves():
    raise SystemExit(3)
constant = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "lies_beside.py").write_text("NUMBER = 7\n")
    return tmp_path / "nets.py"


@pytest.mark.smoke
def test_a_model_is_built_from_a_built_in_name_a_module_or_a_file(file):
    assert isinstance(Source(source="lenet5").build(), nn.Module)
    assert isinstance(Source(source="torch.nn:Linear", args={"in_features": 2, "out_features": 3}).build(), nn.Linear)
    assert Source(source=f"{file}:Net", args={"size": 5}).build().in_features == 5


def test_a_file_is_executed_once_and_imports_what_lies_beside_it(file):
    assert import_file(file) is import_file(file)
    assert resolve(f"{file}:number", "model")() == 7


@pytest.mark.parametrize(
    ("name", "said"),
    [("fails", "raised ValueError: two lines"), ("leaves", "raised SystemExit: 3"), ("number", "found int")],
)
def test_what_makes_no_model_is_one_sentence(file, name, said):
    with pytest.raises(InputError, match=said) as caught:
        Source(source=f"{file}:{name}").build()
    assert f"{file}:{name}" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("lenet", "did you mean 'lenet5'?"),
        ("{0}:Nett", "did you mean 'Net'?"),
        ("{0}:constant", "must be callable, found int"),
        ("{0}.py:Net", "does not exist"),
        ("no_such_module:Net", "No module named 'no_such_module'"),
    ],
)
def test_what_leads_nowhere_is_said(file, source, said):
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        resolve(source.format(file), "model")


def test_arguments_and_weights_are_checked_before_anything_is_built(file):
    with pytest.raises(ValueError, match="unknown argument 'sizes'; did you mean 'size'"):
        Source(source=f"{file}:Net", args={"sizes": 2})
    with pytest.raises(ValueError, match=r"nowhere\.pt does not exist"):
        Source(source=f"{file}:Net", weights="nowhere.pt")
