"""Stored names: every layer that a file may hold has one, and no two classes have the same."""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

import toolkit
from toolkit import stored_names
from toolkit.errors import ToolkitError
from toolkit.hooks.loading import installed

ROOT = Path(__file__).parents[1]
# Losses, teachers, opened files and what a compiled copy consists of: no model that is written holds one of these.
NEVER_STORED = {
    *("toolkit_distillation.DistillationLoss", "toolkit_distillation.hints.Hints"),
    "toolkit_distillation.teachers.Teacher",
    *("toolkit.exports.process.OpenedFile", "toolkit.exports.time_file._Timed"),
    "toolkit.tracing._PlainOutputs",
    "toolkit.attention.ProjectedAttention",  # the base class of others
    "toolkit.structure.graph._Call",
    "toolkit_pruning.movement.LearnedScores",
    *("toolkit_quantization.inductor.CompilableInt8Linear", "toolkit_quantization.inductor.UncompiledInt8Linear"),
    "toolkit_quantization.codecs.Encoded",  # the base class of others
    "toolkit_quantization.static.training.WeightRounding",  # seen by a training only
}

# From a plugin to the core: the name in files stays.
MOVED = {"toolkit.structure.windows.NarrowWindowAttention": "channels"}


@pytest.fixture
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_names, "_classes", dict(stored_names._classes))
    monkeypatch.setattr(stored_names, "_names", dict(stored_names._names))


def modules_of(package: ModuleType) -> Iterator[ModuleType]:
    yield package
    for found in pkgutil.walk_packages(getattr(package, "__path__", []), f"{package.__name__}."):
        if not found.name.endswith("__main__") and ".recipes" not in found.name:
            yield importlib.import_module(found.name)


def shipped_layers() -> dict[str, type[nn.Module]]:
    """All subclasses of nn.Module that the toolkit and the plugins beside it define, by module path."""
    plugins = {path.stem for path in (ROOT / "plugins").glob("toolkit_*")}
    if importlib.util.find_spec("openvino") is None:
        plugins.remove("toolkit_openvino")  # an extra; it has no layers
    names = ["toolkit", *plugins]
    modules = [module for name in sorted(names) for module in modules_of(importlib.import_module(name))]
    layers = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    own = [layer for layer in layers if issubclass(layer, nn.Module) and layer.__module__.split(".")[0] in names]
    return {stored_names.path_of(layer): layer for layer in own}


def test_every_layer_that_is_stored_has_a_name_of_its_techniques() -> None:
    owners = {plugin.entry_point.module.split(".")[0]: plugin.name for plugin in installed()} | {"toolkit": "toolkit"}
    layers = shipped_layers()
    assert "toolkit.masks.Mask" in layers
    for path in layers.keys() - NEVER_STORED:
        name = stored_names.name_of(path)
        assert name is not None, f"decorate {path} with stored_as, or say in NEVER_STORED why no file holds it"
        assert name.split(".")[0] == MOVED.get(path, owners[path.split(".")[0]])
        assert stored_names.class_of(name) is layers[path]
    assert layers.keys() >= NEVER_STORED


def test_the_names_never_change() -> None:
    """To be extended, and never edited: a file that has one of these names must open for ever."""
    assert {
        *("toolkit.Mask", "toolkit.LSTMToy", "toolkit.OutputsToy", "toolkit.TiedToy", "toolkit.TransformerToy"),
        *("toolkit.NarrowAttention", "channels.NarrowWindowAttention"),
        "codebook.Shared",
        *("quantization.Compiled", "quantization.Int8Attention"),
        *("quantization.Int8", "quantization.Int4", "quantization.Short"),
        *("quantization.Int8Linear", "quantization.TorchInt8Linear", "quantization.TorchaoInt8Linear"),
        "quantization.Int8Recurrent",
        *("quantization.Int32Bias", "quantization.Quantizer", "quantization.StaticNetwork"),
        *("quantization.Stored", "quantization.StoredWeight"),
        *("quantization.StoredEmbedding", "quantization.StoredEmbeddingBag"),
    } == {stored_names.name_of(path) for path in shipped_layers().keys() - NEVER_STORED}


@pytest.mark.usefixtures("_registry")
def test_two_classes_with_one_name_are_an_error_that_names_both() -> None:
    @toolkit.stored_as("own.Net")
    class Net(nn.Module):
        """The first."""

    with pytest.raises(ToolkitError, match=r"'own\.Net' is taken by both .*\.Net and .*\.Other; choose"):

        @toolkit.stored_as("own.Net")
        class Other(nn.Module):
            """The second."""

    assert stored_names.class_of("own.Net") is Net


@pytest.mark.usefixtures("_registry")
def test_a_module_that_is_imported_again_takes_its_names_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own_layers.py"
    path.write_text("import toolkit\nfrom torch import nn\n@toolkit.stored_as('own.Net')\nclass Net(nn.Module): ...\n")
    for name in ("own_layers", "own_layers", "own_layers_py_12345678"):  # the last as a recipe's file is imported
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        assert stored_names.class_of("own.Net") is module.Net


@pytest.mark.parametrize(
    "name", ["Net", "own", "own.", ".Net", "own.layers.Net", "own Net", "own.Net\n", "@own.Net", ""]
)
def test_a_name_has_an_owner_and_a_class(name: str) -> None:
    with pytest.raises(ToolkitError, match=r"must have the form '<technique>\.<class>'"):
        toolkit.stored_as(name)


@pytest.mark.usefixtures("_registry")
@pytest.mark.parametrize("value", [len, 3, dict, nn.Linear(1, 1)])
def test_only_layers_have_names(value: object) -> None:
    with pytest.raises(ToolkitError, match=r"which is not a subclass of nn\.Module"):
        toolkit.stored_as("own.Net")(value)  # type: ignore[type-var]
