"""What a caller may pass as `allow`: classes, names, files, packages; and what a file gets by it."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import toolkit
from toolkit.errors import ArtifactError, InputError
from toolkit.importing import import_file
from toolkit.model_files import pack

NETS = """
from dataclasses import dataclass
from enum import Enum

from torch import nn


class Mode(Enum):
    FAST = 1


@dataclass
class Settings:
    width: int = 4


def halved(inputs):
    return inputs / 2


class Block(nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.inner, self.settings, self.mode, self.function = nn.Linear(4, 4), settings, Mode.FAST, halved

    def forward(self, inputs):
        return self.function(self.inner(inputs))


class Linear(nn.Linear):
    pass


class Net(nn.Sequential):
    def __init__(self):
        super().__init__(Block(Settings(4)), nn.Linear(4, 4), Linear(4, 4))


def make():
    return Net()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `nets.py`, and with a model of it in `run` that was made where the file is imported by its path."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    save(import_file(tmp_path / "nets.py").Net(), tmp_path / "run")
    return tmp_path


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A package `madeup` with `madeup/nets.py`, and a model of it in `run`; not imported any more."""
    (tmp_path / "madeup").mkdir()
    (tmp_path / "madeup" / "__init__.py").write_text("")
    (tmp_path / "madeup" / "__main__.py").write_text("raise SystemExit('a program ran')")
    (tmp_path / "madeup" / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    from madeup.nets import Net  # type: ignore[import-not-found]

    save(Net(), tmp_path / "run")
    forget()
    yield tmp_path / "run"
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "madeup"]:
        del sys.modules[name]


def save(model: nn.Module, folder: Path) -> None:
    folder.mkdir()
    for name, content in pack(model).items():
        (folder / name).write_bytes(content)


def refused(folder: Path, *allow: Any) -> str:
    with pytest.raises(InputError) as caught:
        toolkit.load(folder, allow=allow)
    return str(caught.value)


@pytest.mark.parametrize("entry", ["nets.py", "./nets.py", "nets.py:make"])
def test_a_file_or_a_source_in_it_allows_what_the_file_defines(folder: Path, entry: str) -> None:
    model: Any = toolkit.load(folder / "run", allow=[entry])
    assert [type(part).__name__ for part in model] == ["Block", "Linear", "Linear"]
    assert type(model[1]) is nn.Linear, "its own Linear is not torch's"
    assert type(model[2]) is not nn.Linear
    assert model[0].settings.width == 4
    assert model(torch.ones(1, 4)).shape == (1, 4)


def test_the_path_of_a_file_may_have_a_colon_as_on_windows(folder: Path) -> None:
    (folder / "nets.py").rename(folder / "c:nets.py")
    (folder / "run").rename(folder / "before")
    save(import_file(folder / "c:nets.py").Net(), folder / "run")
    assert type(toolkit.load(folder / "run", allow=["c:nets.py"])).__name__ == "Net"
    assert type(toolkit.load(folder / "run", allow=["c:nets.py:make"])).__name__ == "Net"


def test_single_classes_are_enough_by_name_or_as_objects(folder: Path) -> None:
    module = import_file(folder / "nets.py")
    rest = ["nets.py:Settings", "nets.py:Mode", "nets.py:halved", "nets.py:Linear"]
    strings = toolkit.load(folder / "run", allow=["nets.py:Net", "nets.py:Block", "nets.py"])
    objects = toolkit.load(
        folder / "run", allow=[module.Net, module.Block, module.Settings, module.Mode, module.halved, module.Linear]
    )
    assert type(strings) is type(objects) is module.Net
    assert "it needs 'nets_py_" in refused(folder / "run", *(entry for entry in rest if entry != "nets.py:halved"))


def test_a_package_is_imported_when_it_is_allowed_and_no_sooner(package: Path) -> None:
    assert 'pass allow=["madeup"], or --allow madeup on the command line' in refused(package)
    assert "madeup" not in sys.modules
    assert type(toolkit.load(package, allow=["madeup"])).__name__ == "Net"
    forget()
    assert type(toolkit.load(package, allow=["madeup.nets"])).__name__ == "Net"


def test_a_module_may_be_passed_as_an_object(package: Path) -> None:
    import madeup.nets  # type: ignore[import-not-found]

    assert isinstance(madeup.nets, ModuleType)
    assert type(toolkit.load(package, allow=[madeup.nets])).__name__ == "Net"


def test_the_error_lists_everything_at_once_ready_to_copy(folder: Path) -> None:
    entries = re.findall(r"pass allow=(\[.*?\])", refused(folder / "run"))
    assert entries == ['["nets.py"]']
    module = import_file(folder / "nets.py")
    own = {"Net": module.Net, "Block": module.Block, "Settings": module.Settings, "Mode": module.Mode}
    assert 'pass allow=["nets.py"]' in refused(folder / "run", *own.values())
    assert 'pass allow=["nets.py:halved"], or --allow nets.py:halved' in refused(
        folder / "run", *own.values(), module.Linear
    )


def test_no_program_of_an_allowed_package_runs(package: Path) -> None:
    skeleton = package / "model.skeleton"
    skeleton.write_bytes(skeleton.read_bytes().replace(b"cmadeup.nets\nNet\n", b"cmadeup.__main__\nN\n"))
    with pytest.raises(ArtifactError):  # and no SystemExit
        toolkit.load(package, allow=["madeup"])
    from toolkit.model_files.parts import allowed
    from toolkit.model_files.safe.allowed import resolve_globals

    with pytest.raises(ArtifactError, match="not known to be safe"):
        resolve_globals(["madeup.__main__.Net"], allowed(["madeup"]))


@pytest.mark.parametrize("name", ["madeup.nets.nn.functional.relu", "madeup.nets.Enum", "madeup.nets.dataclass"])
def test_what_an_allowed_package_imports_is_not_allowed_with_it(package: Path, name: str) -> None:
    from toolkit.model_files.parts import allowed
    from toolkit.model_files.safe.allowed import resolve_globals

    with pytest.raises(ArtifactError, match="not known to be safe"):
        resolve_globals([name], allowed(["madeup"]))


@pytest.mark.parametrize("name", ["a; touch x.Net", "nets.`id`", "a\nb.Net", "$(x).Net"])
def test_a_name_that_nobody_should_copy_is_no_advice(name: str) -> None:
    from toolkit.model_files.safe.refusal import refusal

    assert "allow" not in refusal([name, "nets.Net"])
    assert "ask where the file comes from" in refusal([name])


@pytest.mark.parametrize(
    ("allow", "sentence"),
    [
        ("nets.py:Net", r"^allow must be a list, found the string 'nets.py:Net'; pass \['nets.py:Net'\]$"),
        ([3], r"^allow must be classes, or names such as 'nets:Net', 'nets.py' and 'transformers', found 3$"),
        (["nets.py:Nett"], "^allow: '.*nets.py' has no 'Nett'; did you mean 'Net'?"),
        (["nowhere:Net"], "^allow: cannot import 'nowhere': ModuleNotFoundError: "),
        (["nowhere.py"], "^allow: 'nowhere.py' does not exist$"),
        ([""], "^allow: cannot import '': "),
        (["torch.hub"], "^allow: 'torch.hub' cannot be allowed as a whole; name the class, as in 'torch.hub:Name'$"),
    ],
)
def test_a_mistake_of_the_caller_is_not_a_damaged_file(folder: Path, allow: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        toolkit.load(folder / "run", allow=allow)
    assert "damaged" not in str(caught.value)
