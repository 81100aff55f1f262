"""Files name classes by their stored names: they outlive a move of the class, and open nothing more than before."""

import contextlib
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import toolkit_quantization
import torch
from torch import Tensor, nn

import toolkit
from toolkit import masks, stored_names
from toolkit import model_files as artifact
from toolkit.errors import ArtifactError
from toolkit.hooks import loading
from toolkit.model_files.parts import Parts, put_together
from toolkit.testing import TOY_MODELS, toy_mlp
from toolkit.testing.distributions import write_distribution

LAYERS = """
import toolkit
from torch import nn

@toolkit.stored_as("halves.{name}")
class {kind}(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) / 2
"""
PLUGIN = """
import toolkit
from {module} import {kind}

@toolkit.hookimpl
def optimize(model):
    model[3] = {kind}(32, 4)
    return model
"""


@toolkit.stored_as("mine.Net")
class Net(nn.Module):
    """A class of the user's own, with a stored name."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + 1


class Derived(Net):
    """It has no name of its own."""


class Namesakes:
    class Net(nn.Module):
        """Another class of that name."""


Namesakes.Net.__qualname__ = "Net"


def write(model: nn.Module, directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in artifact.pack(model).items():
        (directory / name).write_bytes(content)
    return directory


def pickled(model: nn.Module, directory: Path) -> bytes:
    with zipfile.ZipFile(write(model, directory) / artifact.SKELETON) as archive:
        return archive.read("archive/data.pkl")


def stage(folder: Path, module: str, kind: str) -> Path:
    """An installation of the technique `halves` whose one layer is a class of that name in that module."""
    folder.mkdir()
    (folder / f"{module}_layers.py").write_text(LAYERS.format(kind=kind, name="Half"))
    (folder / f"{module}.py").write_text(PLUGIN.format(kind=kind, module=f"{module}_layers"))
    write_distribution(folder, "toolkit-halves", {"halves": module}, "0.1")
    return folder


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """Have what is in the folder installed meanwhile, as in a process that has seen no other installation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        for registry in ("_classes", "_names"):
            patch.setattr(stored_names, registry, dict(getattr(stored_names, registry)))
        loading.load.cache_clear()
        yield
    loading.load.cache_clear()
    for name in [name for name in sys.modules if "halves" in name]:
        del sys.modules[name]


def test_a_file_outlives_a_move_of_the_class_and_of_its_module(tmp_path: Path) -> None:
    before, after = stage(tmp_path / "1", "toolkit_halves", "Half"), stage(tmp_path / "2", "halves_by_me", "Renamed")
    inputs = torch.ones(1, 64)
    with installed(before):
        model = loading.load("halves").call("optimize", model=toy_mlp(), params=None, data=None, prepared=None)
        expected = model.eval()(inputs)
        write(model, tmp_path)
    with installed(after):
        loaded = toolkit.load(tmp_path)
        assert str(type(loaded.get_submodule("3"))) == "<class 'halves_by_me_layers.Renamed'>"
        assert torch.equal(loaded(inputs), expected)
    with pytest.raises(ArtifactError, match="install or upgrade the technique 'halves'"):
        toolkit.load(tmp_path)


@pytest.mark.parametrize("name", TOY_MODELS)
def test_no_file_names_a_module_of_the_toolkit_or_of_a_plugin(name: str, tmp_path: Path) -> None:
    model = TOY_MODELS[name]()
    weights = [weight for weight in masks.named_weights(model) if weight.value.dim() > 1]
    masks.apply(model, {weight.path: weight.value > 0 for weight in weights})
    for change in (toolkit_quantization.Params(engine="toolkit"), toolkit_quantization.Params(dtype="int4")):
        quantized = toolkit_quantization.convert(masks.clone(model).eval(), change)
        assert b"@quantization" in pickled(quantized, tmp_path)
        assert b"ctoolkit" not in pickled(quantized, tmp_path)
    training_form = artifact.take_apart(model, fold=False).skeleton
    assert b"c@toolkit\nMask\n" in training_form
    assert b"ctoolkit" not in training_form


@pytest.mark.slow
def test_opening_imports_the_technique_and_no_other(tmp_path: Path) -> None:
    model = toolkit_quantization.convert(toy_mlp().eval(), toolkit_quantization.Params(engine="toolkit"))
    write(model, tmp_path)
    program = f"import sys, toolkit; toolkit.load({str(tmp_path)!r}); print(sorted(sys.modules))"
    imported = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "'toolkit_quantization'" in imported
    assert "toolkit_pruning" not in imported


def test_files_that_name_module_paths_are_still_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toolkit_quantization.convert(toy_mlp().eval(), toolkit_quantization.Params(engine="toolkit"))
    monkeypatch.setattr(stored_names, "_names", {})
    assert b"ctoolkit_quantization.int8\nInt8Linear\n" in pickled(model, tmp_path)
    inputs = torch.randn(3, 64)
    assert torch.equal(toolkit.load(tmp_path)(inputs), model(inputs))


class TestAClassOfOnesOwn:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        assert b"c@mine\nNet\n" in pickled(Net(), tmp_path)
        return tmp_path

    def test_it_has_to_be_allowed_although_it_is_registered(self, directory: Path) -> None:
        with pytest.raises(
            ArtifactError, match=r"needs 'mine\.Net', .* technique 'mine', or, if you trust it, pass allow=\[Net\]"
        ):
            toolkit.load(directory)
        assert type(toolkit.load(directory, allow=[Net])) is Net

    def test_a_namesake_is_not_taken_for_it(self, directory: Path) -> None:
        with pytest.raises(ArtifactError, match=r"needs 'mine\.Net'"):
            toolkit.load(directory, allow=[Namesakes.Net])

    def test_a_module_that_is_trusted_may_have_it(self, directory: Path) -> None:
        parts = Parts((directory / artifact.SKELETON).read_bytes(), {}, {})
        assert type(put_together(parts, trusted=[__name__])) is Net
        with pytest.raises(ArtifactError, match=r"needs 'mine\.Net'"):
            put_together(parts, trusted=["toolkit_quantization"])

    def test_a_derived_class_is_not_stored_as_its_base(self, tmp_path: Path) -> None:
        assert b"@mine" not in pickled(Derived(), tmp_path)
        assert type(toolkit.load(tmp_path, allow=[Derived])) is Derived


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "toolkit_broken.py").write_text("raise RuntimeError('no luck')")
    write_distribution(tmp_path, "toolkit-broken", {"mine": "toolkit_broken"}, "0.1")
    monkeypatch.syspath_prepend(tmp_path)
    return "mine"


def test_a_technique_that_cannot_be_imported_is_named(broken: str, tmp_path: Path) -> None:
    write(Net(), tmp_path / "model")
    with pytest.raises(
        ArtifactError, match=r"'mine' \(toolkit-broken 0\.1\) cannot be imported: RuntimeError: no luck"
    ):
        toolkit.load(tmp_path / "model")
