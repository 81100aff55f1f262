"""Compiled packages: outputs are the model's, and a missing compiler is named."""

import zipfile

import pytest
from exported_toys import DTYPES, check_answers, exported, quantized

from toolkit.errors import TechniqueError
from toolkit.hooks import loading
from toolkit.testing import toy_mlp


@pytest.fixture
def runtime():
    return loading.load("aoti", "runtime")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("toy", "dtype"),
    [("mlp", "int8"), ("lstm", "int8"), ("cnn", "int4"), ("transformer", "float"), ("tied", "float16")],
)
def test_outputs_are_those_of_the_model(toy, dtype, runtime, tmp_path):
    model = quantized(toy, DTYPES[dtype])
    check_answers(exported(runtime, model, tmp_path), model)


@pytest.mark.slow
def test_a_package_has_no_tables_for_debuggers(runtime, tmp_path):
    file = exported(runtime, toy_mlp().eval(), tmp_path)
    with zipfile.ZipFile(file.folder / "model.pt2") as archive:
        (library,) = (archive.read(name) for name in archive.namelist() if name.endswith(".so"))
    assert b".debug_line" not in library


def test_a_missing_compiler_is_named(runtime, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TechniqueError, match=r"needs a C\+\+ compiler, found none; install g\+\+") as problem:
        exported(runtime, toy_mlp().eval(), tmp_path)
    assert "\n" not in str(problem.value)
    assert capfd.readouterr() == ("", "")
