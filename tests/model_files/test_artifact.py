"""A model on disk: nothing of it is lost, what cannot be kept is refused by name, and no file executes anything."""

import builtins
import functools
import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torchvision.models import mobilenet_v3_small, resnet18

import toolkit
from toolkit import masks, sources
from toolkit import model_files as artifact
from toolkit.errors import ArtifactError
from toolkit.hooks import loading as techniques
from toolkit.models import lenet5
from toolkit.recipe.read import PluginUse, Stage
from toolkit.runner.stage import perform
from toolkit.testing import TiedToy, toy_cnn, toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit


class Net(nn.Module):
    """A class of the user's own, with every kind of attribute that may be kept."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.activation = functools.partial(F.leaky_relu, negative_slope=0.2)
        self.squash = torch.tanh
        self.settings = {"scales": [1.0, 2.0], "name": "net", "dtype": torch.bfloat16, "sizes": (1, 2), "tags": {"a"}}

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.squash(self.activation(self.linear(inputs.flatten(1))))
        return hidden * self.settings["scales"][1]  # type: ignore[index]


class Recurrent(nn.Module):
    """An LSTM, which keeps a list of its weights besides its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(12, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.rnn(inputs)
        return self.linear(states[:, -1])


class Buffers(nn.Module):
    """A buffer that is not part of the state dict, one that is, and one that is None."""

    table: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(64), persistent=False)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("nothing", None)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) * self.table + self.count


class Shared(nn.Module):
    """One module under two names, and one parameter that is also a buffer of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 64)
        self.again = self.first
        self.holder = nn.Module()
        self.holder.register_buffer("scale", self.first.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.again(torch.relu(self.first(inputs.flatten(1)))) * self.holder.scale


class Outer(nn.Module):
    """A class that has another one within it."""

    class Inner(nn.Linear):
        """Known by a dotted name only."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Outer.Inner(4, 4)


class Settings:
    """An object that is no module."""

    def __init__(self, value: Any) -> None:
        self.value = value


class CopiedOnly:
    """An object that can be copied and not pickled."""

    def __deepcopy__(self, memo: Any) -> "CopiedOnly":
        return self

    def __reduce__(self) -> Any:
        raise TypeError("not to be pickled")


def save(model: nn.Module, directory: Path) -> Path:
    return write(artifact.pack(model), directory)


def write(files: Mapping[str, bytes], directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


@torch.no_grad()
def outputs(model: nn.Module, *inputs: Tensor) -> Tensor:
    return model.eval()(*inputs)


def state(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach() for name, tensor in named}


def assert_same(one: nn.Module, other: nn.Module, *inputs: Tensor) -> None:
    """The same tensors to the last bit, and the same outputs."""
    before, after = state(one), state(other)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype, name
        assert torch.equal(tensor, after[name]), name
    assert torch.equal(outputs(one, *inputs), outputs(other, *inputs))


def opened_error(directory: Path, **options: Any) -> str:
    """The one sentence with which a directory is refused."""
    with pytest.raises(ArtifactError) as refused:
        artifact.load(directory, **options)
    assert refused.value.exit_code == 2
    message = str(refused.value)
    assert "\n" not in message
    return message


def pack_error(model: nn.Module) -> str:
    """The one sentence with which a model is refused, before training as after it."""
    with pytest.raises(ArtifactError) as early:
        artifact.refuse_unsavable(model)
    with pytest.raises(ArtifactError) as refused:
        artifact.pack(model)
    assert str(early.value) == str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


PICTURES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
SEQUENCES = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2))
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "lenet5": (lenet5, (torch.randn(3, 1, 28, 28),)),
    "resnet18": (resnet18, (torch.randn(2, 3, 40, 40),)),
    "mobilenet": (mobilenet_v3_small, (torch.randn(2, 3, 40, 40),)),
    "gelu": (lambda: nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True), (SEQUENCES,)),
    "relu": (lambda: nn.TransformerEncoderLayer(8, 2, 16, activation=F.relu, batch_first=True), (SEQUENCES,)),
    "torch.relu": (lambda: nn.TransformerEncoderLayer(8, 2, 16, activation=torch.relu), (SEQUENCES,)),
    "lstm": (Recurrent, (SEQUENCES,)),
    "tied": (TiedToy, (PICTURES,)),
    "buffers": (Buffers, (PICTURES,)),
    "shared": (Shared, (PICTURES,)),
    "own": (Net, (PICTURES,)),
    "grouped": (lambda: nn.Conv2d(9, 6, 3, groups=3), (torch.randn(2, 9, 7, 7),)),
    "empty": (nn.Identity, (PICTURES,)),
}
OWN = [Net, Recurrent, Buffers, Shared, Outer, Settings]


@pytest.mark.parametrize(("make", "inputs"), MODELS.values(), ids=MODELS)
@pytest.mark.smoke
def test_a_model_comes_back_as_it_was(
    make: Callable[[], nn.Module], inputs: tuple[Tensor, ...], tmp_path: Path
) -> None:
    model = make()
    before = {name: tensor.clone() for name, tensor in state(model).items()}
    loaded = artifact.load(save(model.train(), tmp_path), allow=OWN)
    assert model.training, "packing must not change the model's mode"
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(model).items())
    assert not any(module.training for module in loaded.modules())
    assert_same(model, loaded, *inputs)


@pytest.mark.parametrize(("make", "inputs"), MODELS.values(), ids=MODELS)
def test_the_same_model_gives_the_same_bytes(make: Callable[[], nn.Module], inputs: Any) -> None:
    model = make()
    assert artifact.pack(model) == artifact.pack(model)


def printed_digests() -> str:
    """Also the program of another process: what is in the files of one model."""
    torch.manual_seed(0)
    model = TiedToy()
    for name in ("sine", "cosine", "mask", "position"):
        model.register_buffer(name, torch.randn(3), persistent=False)
    model.settings = {"tags": [{"one", "two", "three"}, frozenset({"four", "five", "six"})]}  # type: ignore[assignment]
    return str({name: hashlib.sha256(content).hexdigest() for name, content in artifact.pack(model).items()})


@pytest.mark.slow
def test_another_process_writes_the_same_bytes() -> None:
    program = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import {__name__} as tests"
    printed = subprocess.check_output(
        [sys.executable, "-c", f"{program}; print(tests.printed_digests())"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"},
        text=True,
    )
    assert printed.strip() == printed_digests()


def test_what_is_loaded_can_be_trained_saved_and_loaded_again(tmp_path: Path) -> None:
    loaded = artifact.load(save(toy_cnn(), tmp_path / "once"))
    data = toy_data(128)
    fit(loaded, Training(TrainingSettings(), data.task.loss), data)
    assert_same(loaded, artifact.load(save(loaded, tmp_path / "twice")), PICTURES)


def test_an_lstm_learns_after_loading(tmp_path: Path) -> None:
    loaded: Any = artifact.load(save(Recurrent(), tmp_path), allow=[Recurrent])
    with torch.no_grad():
        loaded.rnn.weight_ih_l0.zero_()
    assert loaded.rnn._flat_weights[0] is loaded.rnn.weight_ih_l0
    loaded(SEQUENCES).sum().backward()
    assert loaded.rnn.weight_ih_l0.grad is not None


def test_a_loaded_model_does_not_depend_on_its_file(tmp_path: Path) -> None:
    model = toy_mlp()
    loaded = artifact.load(save(model, tmp_path))
    path = tmp_path / artifact.TENSORS
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert_same(model, loaded, PICTURES)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = TiedToy()
    loaded: Any = artifact.load(save(model, tmp_path))
    assert loaded.first.weight is loaded.second.weight
    assert len(list(loaded.parameters())) == len(list(model.parameters()))
    assert "second.weight" not in safetensors.torch.load_file(tmp_path / artifact.TENSORS)


def test_a_module_under_two_names_stays_one(tmp_path: Path) -> None:
    loaded: Any = artifact.load(save(Shared(), tmp_path), allow=[Shared])
    assert loaded.again is loaded.first


def test_a_parameter_that_is_a_buffer_elsewhere_stays_a_parameter(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Module(), nn.Linear(4, 4))
    linear: Any = model[1]
    model[0].register_buffer("bias", linear.bias)
    loaded = artifact.load(save(model, tmp_path))
    assert [name for name, _ in loaded.named_parameters()] == ["1.weight", "1.bias"]
    assert [name for name, _ in loaded.named_buffers()] == ["0.bias"]
    assert torch.equal(state(loaded)["0.bias"], linear.bias)


def test_buffers_that_are_not_persistent_are_kept_so(tmp_path: Path) -> None:
    model = Buffers()
    loaded = artifact.load(save(model, tmp_path), allow=[Buffers])
    assert torch.equal(loaded.get_buffer("table"), model.table)
    assert list(loaded.state_dict()) == ["count"]
    assert loaded.nothing is None


def test_the_statistics_of_batch_norm_are_kept(tmp_path: Path) -> None:
    model = toy_cnn()
    for _ in range(3):
        model.train()(PICTURES)
    loaded = artifact.load(save(model, tmp_path))
    assert loaded.get_buffer("1.num_batches_tracked") == 3
    assert loaded.get_buffer("1.num_batches_tracked").dtype == torch.int64
    assert torch.equal(loaded.get_buffer("1.running_var"), model.get_buffer("1.running_var"))


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    model = toy_mlp()
    model[1].requires_grad_(False)
    loaded = artifact.load(save(model, tmp_path))
    frozen = {name: not parameter.requires_grad for name, parameter in loaded.named_parameters()}
    assert frozen == {"1.weight": True, "1.bias": True, "3.weight": False, "3.bias": False}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool], ids=str)
def test_dtypes_are_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    model = Buffers()
    model.table = (10 * model.table).to(dtype)
    assert_same(model, artifact.load(save(model, tmp_path), allow=[Buffers]), PICTURES)


def test_a_model_in_bfloat16_comes_back_as_it_was(tmp_path: Path) -> None:
    model = toy_cnn().to(torch.bfloat16)
    assert_same(model, artifact.load(save(model, tmp_path)), PICTURES.bfloat16())


@pytest.mark.parametrize(
    "rearrange",
    [
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: model.get_parameter("3.weight").data.transpose_(0, 1),
    ],
    ids=["channels last", "transposed"],
)
def test_tensors_in_another_layout_keep_their_values(rearrange: Callable[[Any], Any], tmp_path: Path) -> None:
    model = toy_cnn()
    rearrange(model)
    before, after = state(model), state(artifact.load(save(model, tmp_path)))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize("make", [toy_cnn, TiedToy])
def test_a_masked_model_is_folded(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    weights = [weight for weight in masks.named_weights(model) if weight.value.dim() > 1]
    masks.apply(model, {weight.path: torch.rand(weight.value.shape) < 0.4 for weight in weights})
    expected = {weight.path: weight.value for weight in masks.named_weights(model)}
    loaded = artifact.load(save(model, tmp_path))
    assert masks.current(model), "the model itself keeps its masks"
    assert not any(parametrize.is_parametrized(module) for module in loaded.modules())
    for path, mask in masks.current(model).items():
        weight = loaded.get_parameter(path)
        assert torch.equal(weight != 0, mask), path
        assert torch.equal(weight, expected[path]), path
        assert not (weight[~mask].signbit()).any(), "zeros are written as +0"
    assert torch.equal(outputs(model, PICTURES), outputs(loaded, PICTURES))


def test_other_parametrizations_are_folded_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(64, 4)))
    loaded = artifact.load(save(model, tmp_path))
    assert sorted(state(loaded)) == ["1.bias", "1.weight"]
    assert torch.equal(outputs(model, PICTURES), outputs(loaded, PICTURES))


@pytest.mark.parametrize("engine", ["toolkit", "torch"])
@pytest.mark.parametrize("make", [toy_cnn, TiedToy])
def test_a_quantized_model_comes_back_as_it_was(make: Callable[[], nn.Module], engine: Any, tmp_path: Path) -> None:
    quantization = techniques.load("quantization")
    params = quantization.params_class.model_validate({"engine": engine})
    stage = Stage(1, "quantization", (PluginUse(quantization, params),))
    dense = make().eval()
    model = perform(stage, dense, dense, toy_data(64)).model
    loaded = artifact.load(save(model, tmp_path))
    replaced = [name for name, module in loaded.named_modules() if hasattr(module, "dense_weight")]
    kinds = nn.Linear if engine == "torch" else (nn.Linear, nn.Conv2d)
    assert replaced == [name for name, module in dense.named_modules() if isinstance(module, kinds)]
    assert_same(model, loaded, PICTURES)


def test_what_is_read_is_what_toolkit_load_gives(tmp_path: Path) -> None:
    model = toy_mlp()
    assert_same(model, toolkit.load(str(save(model, tmp_path))), PICTURES)


# What cannot be kept.


def with_attribute(value: Any) -> nn.Module:
    model = toy_mlp()
    model[1].extra = value
    return model


def with_hook(register: str) -> nn.Module:
    model = toy_mlp()
    getattr(model[1], register)(lambda *arguments: None)
    return model


@pytest.mark.parametrize(
    "register",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "register_state_dict_post_hook",
        "register_state_dict_pre_hook",
        "register_load_state_dict_pre_hook",
        "register_load_state_dict_post_hook",
    ],
)
def test_hooks_are_refused_by_name(register: str) -> None:
    assert pack_error(with_hook(register)).startswith("Linear '1' has hooks")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda inputs: inputs, "Linear '1' has a lambda or inner function in 'extra'"),
        ([{"deep": (lambda inputs: inputs)}], "Linear '1' has a lambda or inner function in 'extra'"),
        (functools.partial(lambda inputs: inputs), "Linear '1' has a lambda or inner function in 'extra'"),
        (torch.ones(3), "Linear '1' has a tensor in the attribute 'extra'"),
        ([torch.ones(3)], "Linear '1' has a tensor in the attribute 'extra'"),
        ({"deep": (1, [torch.ones(3)])}, "Linear '1' has a tensor in the attribute 'extra'"),
        (functools.partial(F.linear, weight=torch.ones(3, 3)), "Linear '1' has a tensor in the attribute 'extra'"),
        ([nn.Linear(2, 2)], "Linear '1' has a module in 'extra' that is not registered"),
        (nn.ReLU().forward, "Linear '1' has the method 'forward' in 'extra'"),
        (torch.exp, "Linear '1' has the method 'exp' in 'extra'"),
        ([torch.relu], "Linear '1' has the method 'relu' in 'extra'"),
        (Settings(torch.ones(3)), "Sequential has a tensor inside an object of another class"),
        (Settings(nn.ReLU().forward), "Sequential has a method inside an object of another class"),
        (Settings(lambda inputs: inputs), "Sequential cannot be saved: "),
        (threading.Lock(), "Sequential cannot be copied: "),
        (CopiedOnly(), "Sequential cannot be saved: "),
    ],
)
def test_attributes_that_no_file_can_hold_are_refused_by_name(value: Any, message: str) -> None:
    assert pack_error(with_attribute(value)).startswith(message)


def test_classes_that_have_no_name_of_their_own_are_refused_by_name() -> None:
    class Local(nn.Module):
        pass

    assert pack_error(nn.Sequential(Local())).startswith("Local '0' is defined inside a function")
    assert pack_error(Outer()).startswith("Inner 'inner' is defined inside a class")


def test_a_masked_layer_of_a_local_class_is_refused_by_its_name() -> None:
    class Local(nn.Linear):
        pass

    model = nn.Sequential(Local(4, 4))
    masks.apply(model, {"0.weight": torch.ones(4, 4, dtype=torch.bool)})
    assert "'0' is defined inside a function" in pack_error(model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.LazyLinear(3)), "LazyLinear '0' has no weights yet"),
        (nn.Linear(2, 2, dtype=torch.complex128), "the tensors of Linear cannot be saved"),
    ],
    ids=["lazy", "complex128"],
)
def test_tensors_that_cannot_be_written_are_refused(model: nn.Module, message: str) -> None:
    assert pack_error(model).startswith(message)


def test_registered_modules_may_also_be_listed(tmp_path: Path) -> None:
    model: Any = toy_mlp()
    model.layers = [model[1], model[3]]
    loaded: Any = artifact.load(save(model, tmp_path))
    assert loaded.layers[0] is loaded[1]
    assert_same(model, loaded, PICTURES)


# Which classes are known.


def test_a_class_of_the_users_own_has_to_be_allowed(tmp_path: Path) -> None:
    save(Net(), tmp_path)
    message = opened_error(tmp_path)
    assert f"'{__name__}.Net'" in message
    assert f'pass allow=["{__name__}:Net"], or --allow {__name__}:Net on the command line' in message
    assert type(artifact.load(tmp_path, allow=[Net])) is Net


def test_what_a_class_of_the_users_own_holds_has_to_be_allowed_too(tmp_path: Path) -> None:
    model = with_attribute(Settings(3))
    save(model, tmp_path)
    assert f'allow=["{__name__}:Settings"]' in opened_error(tmp_path)
    loaded: Any = artifact.load(tmp_path, allow=[Settings])
    assert loaded[1].extra.value == 3


def test_a_class_from_a_file_that_a_recipe_names_has_to_be_allowed(tmp_path: Path) -> None:
    (tmp_path / "own_nets.py").write_text(
        "from torch import nn\n\nclass FileNet(nn.Linear):\n    def __init__(self):\n        super().__init__(64, 4)\n"
    )
    source = sources.Source.model_validate({"source": "own_nets.py:FileNet"}, context={"directory": tmp_path})
    model = source.build()
    save(model, tmp_path)
    assert 'pass allow=["own_nets.py:FileNet"]' in opened_error(tmp_path)
    assert_same(model, artifact.load(tmp_path, allow=[type(model)]), torch.randn(2, 64))


def test_a_class_that_was_known_by_another_module_name_is_the_one_that_is_allowed(tmp_path: Path) -> None:
    # As in another process, where the recipe's file was imported under its own name.
    model = nn.Sequential(nn.Linear(4, 4))
    skeleton = artifact.pack(model)[artifact.SKELETON]
    assert skeleton.count(b"ctorch.nn.modules.linear\nLinear\n") == 1
    pickled = pickled_as(model, {"Linear": "elsewhere.nets"})
    write({**artifact.pack(model), artifact.SKELETON: pickled}, tmp_path)
    assert "'elsewhere.nets.Linear'" in opened_error(tmp_path)
    assert "elsewhere" not in sys.modules
    assert_same(model, artifact.load(tmp_path, allow=[nn.Linear]), torch.randn(2, 4))


def pickled_as(model: nn.Module, modules: dict[str, str]) -> bytes:
    """A skeleton in which some classes have another module's name."""

    python_pickler: Any = pickle._Pickler  # the one in C cannot be changed

    class Renaming(python_pickler):
        dispatch = dict(python_pickler.dispatch)  # noqa: RUF012

        def save_global(self, obj: Any, name: str | None = None) -> None:
            if getattr(obj, "__name__", None) in modules:
                self.write(f"c{modules[obj.__name__]}\n{obj.__name__}\n".encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        dispatch[type] = save_global

    file = io.BytesIO()
    namespace = SimpleNamespace(__name__="pickle", Pickler=Renaming, dumps=pickle.dumps)
    torch.save(masks.clone(model).to("meta"), file, pickle_module=namespace)
    return file.getvalue()


# What files may not do.


class Command:
    """Pickled, it calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def saved_by_torch(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The intact model that the tests below damage."""
    return save(toy_mlp(), tmp_path / "model")


@pytest.mark.parametrize("pickled", [pickle.dumps, saved_by_torch], ids=["pickle", "torch.save"])
@pytest.mark.parametrize("inside", [False, True], ids=["bare", "in a module"])
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, os.mkdir, subprocess.check_output])
def test_a_skeleton_that_calls_a_function_is_not_opened(
    function: Callable[..., Any],
    inside: bool,
    pickled: Callable[[Any], bytes],
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = directory.parent / "called"
    argument = f"open({str(called)!r}, 'w')" if function in (builtins.eval, builtins.exec) else f"touch {called}"
    attack: Any = Command(function, str(called) if function is os.mkdir else argument)
    if inside:
        model = toy_mlp().to("meta")
        model.attack = attack
        attack = model
    (directory / artifact.SKELETON).write_bytes(pickled(attack))
    message = opened_error(directory)
    assert artifact.SKELETON in message
    assert not called.exists()


def skeleton_of(pickled: bytes) -> bytes:
    """The archive that torch.save would write around these opcodes."""
    file = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(file)
    writer.write_record("data.pkl", pickled, len(pickled))
    writer.write_end_of_file()
    return file.getvalue()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"(S'touch {called}'\nios\nsystem\n.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c{length}touch {called}\x85R.",
        b"cposix\nsystem\n(S'touch {called}'\ntR.",
        b"c__builtin__\ngetattr\n(cbuiltins\nopen\nS'__call__'\ntR(S'{called}'\nS'w'\ntR.",
    ],
    ids=["INST", "STACK_GLOBAL", "GLOBAL", "getattr"],
)
def test_opcodes_that_call_a_function_are_not_executed(opcodes: bytes, directory: Path) -> None:
    called = directory.parent / "called"
    length = bytes([len(f"touch {called}")])
    pickled = opcodes.replace(b"{called}", str(called).encode()).replace(b"{length}", length)
    if b"open" not in pickled:
        pickle.loads(pickled)
        assert called.exists(), "the attack itself works"
        called.unlink()
    (directory / artifact.SKELETON).write_bytes(skeleton_of(pickled))
    assert artifact.SKELETON in opened_error(directory)
    assert not called.exists()


class Unpickled(nn.Module):
    """A module whose `__setstate__` would run."""

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("executed")


def test_no_code_of_a_class_that_is_not_allowed_runs(directory: Path) -> None:
    (directory / artifact.SKELETON).write_bytes(saved_by_torch(nn.Sequential(Unpickled())))
    assert f'allow=["{__name__}:Unpickled"]' in opened_error(directory)


def test_nothing_that_a_file_names_is_imported(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dangerous.py").write_text("raise SystemExit('imported')")
    (tmp_path / "toolkit_dangerous.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("dangerous", "toolkit_dangerous", "torch.nn.dangerous", "toolkit.__main__"):
        before = set(sys.modules)
        (directory / artifact.SKELETON).write_bytes(pickled_as(toy_mlp(), {"Linear": name}))
        assert f"'{name}.Linear'" in opened_error(directory)
        assert set(sys.modules) == before, name


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "torch.nn.modules.module.torch.fx.GraphModule",  # a module, but not one of torch.nn
        "torch.nn.functional.torch.hub.load",
        "torch.nn.functional.importlib.import_module",
        "torchvision.datasets.MNIST",
        "toolkit.masks.copy.deepcopy",
        "toolkit.runner.run",
        "toolkit_pruning.choose",
        "torch.nn.init.normal_",
        "torch.nn",
        "torch.nn.",
        "@toolkit.Linear",
        "@toolkit.masks.Mask",
        "@torch.nn.Linear",
        "@pruning.choose",
        "@quantization.Linear",
        "@nowhere.Mask",
        "@.",
        "@",
        "Net",
        "",
    ],
)
def test_only_modules_of_known_packages_are_allowed(name: str) -> None:
    from toolkit.model_files.parts import allowed
    from toolkit.model_files.safe.allowed import resolve_globals

    with pytest.raises(ArtifactError, match="not known to be safe"):
        resolve_globals([name], allowed(()))


@pytest.mark.parametrize(("names", "unknown"), [(["own.Net"], ("own.Net",)), (["own.Net", "posix.system"], ())])
def test_classes_are_not_proposed_if_a_file_names_more_than_classes(names: list[str], unknown: tuple[str, ...]) -> None:
    from toolkit.model_files.parts import allowed
    from toolkit.model_files.safe.allowed import resolve_globals

    with pytest.raises(ArtifactError) as caught:
        resolve_globals(names, allowed(()))
    assert caught.value.unknown == unknown


@pytest.mark.parametrize(
    "content",
    [
        {"a": 1},
        [1, 2],
        torch.ones(2),
        toy_mlp().state_dict(),
        None,
    ],
    ids=["dict", "list", "tensor", "state dict", "none"],
)
def test_a_skeleton_that_is_no_module_is_refused(content: Any, directory: Path) -> None:
    (directory / artifact.SKELETON).write_bytes(saved_by_torch(content))
    assert "not a module" in opened_error(directory)


def test_a_skeleton_that_is_a_class_and_not_an_instance_is_refused(directory: Path) -> None:
    (directory / artifact.SKELETON).write_bytes(saved_by_torch(nn.Linear))
    assert "contains a type, not a module" in opened_error(directory)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"_modules": 3, "_parameters": {}, "_buffers": {}},
        {"_modules": {}, "_parameters": {"weight": "text"}, "_buffers": {}},
        {"_modules": {}, "_parameters": {}, "_buffers": {}, "_backward_hooks": {}, "train": 3},
        {"_modules": {"child": "text"}, "_parameters": {}, "_buffers": {}},
        {"_modules": {}, "_parameters": {}, "_buffers": {}, "eval": 3},
    ],
)
def test_a_module_in_an_impossible_state_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    model = nn.Linear.__new__(nn.Linear)
    model.__dict__.update(state)
    tensors = artifact.pack(nn.Identity())[artifact.TENSORS]
    write({artifact.TENSORS: tensors, artifact.SKELETON: saved_by_torch(model)}, tmp_path)
    assert re.search("is damaged|is not opened", opened_error(tmp_path))


def test_a_skeleton_cannot_put_something_else_in_place_of_the_model(tmp_path: Path) -> None:
    model = nn.Identity()
    vars(model)["eval"] = functools.partial(F.relu, torch.ones(1, device="meta"))
    write({**artifact.pack(nn.Identity()), artifact.SKELETON: saved_by_torch(model)}, tmp_path)
    assert "in place of its method 'eval'" in opened_error(tmp_path)


@pytest.mark.parametrize("name", [artifact.SKELETON, artifact.TENSORS])
def test_truncated_files_are_refused(name: str, directory: Path) -> None:
    path = directory / name
    content = path.read_bytes()
    for size in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert str(path) in opened_error(directory), size


@pytest.mark.parametrize("name", [artifact.SKELETON, artifact.TENSORS])
@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage",
        bytes(range(256)) * 20,
        b"PK\x03\x04" + bytes(100),
        b"\xff" * 8 + b"{}",
        b"\x80\x02.",
        b"{}",
        b'\x40\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,4]}}  ',
    ],
)
def test_garbage_is_refused(name: str, garbage: bytes, directory: Path) -> None:
    (directory / name).write_bytes(garbage)
    assert str(directory / name) in opened_error(directory)


@pytest.mark.parametrize("name", [artifact.SKELETON, artifact.TENSORS])
def test_missing_files_are_named(name: str, directory: Path) -> None:
    (directory / name).unlink()
    assert opened_error(directory).startswith(f"{directory} contains no model: {name} is missing; name ")
    (directory / name).mkdir()
    assert f"no model: {name} is missing" in opened_error(directory)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    assert opened_error(tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'} does not exist; name ")


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    """The tensors changed, as a safetensors file of the toolkit's own format."""
    path = directory / artifact.TENSORS
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors, metadata))


def swap(tensors: dict[str, Tensor]) -> None:
    tensors["1.weight"], tensors["3.weight"] = tensors["3.weight"], tensors["1.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap, "the tensor '1.weight' is (4, 32) of torch.float32, but the skeleton needs (32, 64) of torch.float32"),
        (lambda tensors: tensors.pop("3.bias"), "the tensor '3.bias' is missing, but the skeleton needs (4,)"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "the tensor 'extra' has no place in the skeleton"),
        (
            lambda tensors: tensors.update({"3.bias": tensors["3.bias"].double()}),
            "the tensor '3.bias' is (4,) of torch.float64, but the skeleton needs (4,) of torch.float32",
        ),
        (lambda tensors: tensors.update({"3.bias": torch.ones(())}), "the tensor '3.bias' is () of torch.float32"),
    ],
    ids=["swapped", "missing", "extra", "dtype", "scalar"],
)
def test_tensors_that_do_not_fit_the_skeleton_are_named(
    change: Callable[[dict[str, Tensor]], Any], message: str, directory: Path
) -> None:
    rewrite(directory, change)
    assert message in opened_error(directory)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"toolkit": "not json"},
        {"toolkit": "[]"},
        {"toolkit": "null"},
        {"toolkit": json.dumps({"format": 0, "ties": {}})},
        {"toolkit": json.dumps({"format": artifact.FORMAT})},
        {"toolkit": json.dumps({"format": artifact.FORMAT, "ties": []})},
        {"toolkit": json.dumps({"format": artifact.FORMAT, "ties": {"1.weight": ["3.weight"]}})},
        {"toolkit": json.dumps({"format": artifact.FORMAT, "ties": {"1.weight": "3.weight"}})},
        {"toolkit": json.dumps({"format": artifact.FORMAT, "ties": {"1.weight": "nowhere"}})},
    ],
)
def test_tensors_with_other_metadata_are_refused(metadata: dict[str, str] | None, directory: Path) -> None:
    path = directory / artifact.TENSORS
    path.write_bytes(safetensors.torch.save(safetensors.torch.load_file(path), metadata))
    opened_error(directory)


def test_loading_allows_nothing_beyond_the_call(directory: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals([nn.Linear, (nn.ReLU, "torch.nn.modules.activation.ReLU")]):
        allowed = set(torch.serialization.get_safe_globals())
        artifact.load(directory)
        assert set(torch.serialization.get_safe_globals()) == allowed
    (directory / artifact.SKELETON).write_bytes(b"garbage")
    opened_error(directory)
    assert set(torch.serialization.get_safe_globals()) == before
