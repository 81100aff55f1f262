"""A model taken apart to be trained on: it comes back with its parametrizations, and learns as if it had never gone."""

import enum
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from toolkit import masks
from toolkit.errors import ArtifactError
from toolkit.model_files import Parts, pack, put_together, take_apart
from toolkit.testing import TiedToy, toy_cnn, toy_mlp

PICTURES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class Recurrent(nn.Module):
    """An LSTM, which keeps a list of its weights besides its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 6, num_layers=2, batch_first=True)
        self.linear = nn.Linear(6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.rnn(inputs.squeeze(1))[0][:, -1])


def half_masked(model: nn.Module) -> nn.Module:
    drawn = torch.Generator().manual_seed(2)
    weights = [weight for weight in masks.named_weights(model) if weight.value.dim() > 1]
    masks.apply(model, {weight.path: torch.rand(weight.value.shape, generator=drawn) < 0.5 for weight in weights})
    return model


def weight_normed() -> nn.Module:
    return nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(64, 8)), nn.ReLU(), nn.Linear(8, 4))


def constrained() -> nn.Module:
    """Parametrizations with buffers of their own, with settings, and on a layer that is frozen."""
    spectral = parametrizations.spectral_norm(nn.Linear(64, 8))
    orthogonal = parametrizations.orthogonal(nn.Linear(8, 8)).requires_grad_(False)
    return nn.Sequential(nn.Flatten(), spectral, nn.Dropout(0.1), orthogonal, nn.Linear(8, 4))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": toy_mlp,
    "cnn": toy_cnn,
    "masked": lambda: half_masked(toy_cnn()),
    "masked twice": lambda: half_masked(half_masked(toy_mlp())),
    "tied": TiedToy,
    "tied and masked": lambda: half_masked(TiedToy()),
    "weight norm": weight_normed,
    "weight norm, masked": lambda: half_masked(weight_normed()),
    "constrained": constrained,
    "lstm": Recurrent,
    "lstm, masked": lambda: half_masked(Recurrent()),
}
OWN = [Recurrent]


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()


def round_trip(model: nn.Module) -> nn.Module:
    return put_together(take_apart(model, fold=False), allow=OWN)


def train(model: nn.Module) -> None:
    torch.manual_seed(3)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(PICTURES).square().sum().backward()
        optimizer.step()


def assert_equal_states(one: nn.Module, other: nn.Module) -> None:
    assert list(one.state_dict()) == list(other.state_dict())
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
class TestATrainableModel:
    def test_it_comes_back_as_it_was(self, make: Callable[[], nn.Module]) -> None:
        model = seeded(make)
        again = round_trip(model)
        assert_equal_states(model, again)
        before, after = masks.current(model), masks.current(again)
        assert before.keys() == after.keys()
        assert all(torch.equal(mask, after[path]) for path, mask in before.items())
        assert [name for name, _ in model.named_parameters()] == [name for name, _ in again.named_parameters()]
        assert torch.equal(masks.clone(model).eval()(PICTURES), again.eval()(PICTURES))

    def test_it_learns_as_if_it_had_never_gone(self, make: Callable[[], nn.Module]) -> None:
        model = seeded(make)
        again = round_trip(model)
        train(model)
        train(again)
        assert_equal_states(model, again)

    def test_it_comes_back_from_the_middle_of_a_training(self, make: Callable[[], nn.Module]) -> None:
        model = seeded(make)
        train(model)
        again = round_trip(model)
        train(model)
        train(again)
        assert_equal_states(model, again)

    def test_the_model_itself_is_left_as_it_was(self, make: Callable[[], nn.Module]) -> None:
        model, other = seeded(make), seeded(make)
        classes = [type(module).__name__ for module in model.modules()]
        take_apart(model, fold=False)
        assert [type(module).__name__ for module in model.modules()] == classes
        train(model)
        train(other)
        assert_equal_states(model, other)

    def test_it_can_be_folded_masked_and_packed_afterwards(self, make: Callable[[], nn.Module]) -> None:
        model = seeded(make)
        packed = pack(model)
        again = round_trip(model)
        assert pack(again) == packed
        assert_equal_states(half_masked(model), half_masked(again))

    def test_flags_and_modes_come_back(self, make: Callable[[], nn.Module]) -> None:
        model = seeded(make).train()
        list(model.children())[-1].eval()
        next(model.parameters()).requires_grad_(False)
        again = round_trip(model)
        assert [module.training for module in again.modules()] == [module.training for module in model.modules()]
        flags = [parameter.requires_grad for parameter in model.parameters()]
        assert [parameter.requires_grad for parameter in again.parameters()] == flags

    def test_the_same_model_gives_the_same_bytes(self, make: Callable[[], nn.Module]) -> None:
        model = seeded(make)
        assert take_apart(model, fold=False).skeleton == take_apart(model, fold=False).skeleton


def test_what_is_folded_opens_as_the_artifact_does() -> None:
    model = half_masked(toy_mlp())
    opened = put_together(take_apart(model))
    assert not any(parametrize.is_parametrized(module) for module in opened.modules())
    assert torch.equal(masks.clone(model).eval()(PICTURES), opened(PICTURES))
    assert not opened.training


def test_tied_weights_share_their_parameter_and_their_mask_again() -> None:
    again: Any = round_trip(half_masked(TiedToy()))
    first, second = again.first.parametrizations.weight, again.second.parametrizations.weight
    assert first.original is second.original
    assert first[0] is second[0]


def test_two_models_do_not_share_a_class() -> None:
    parts = take_apart(half_masked(toy_mlp()), fold=False)
    one, other = put_together(parts), put_together(parts)
    masks.fold(one[1])  # type: ignore[index]
    assert masks.current(other).keys() == {"1.weight", "3.weight"}
    assert torch.equal(one(PICTURES), other(PICTURES))


# What a recipe's own sources may be made of, once they are imported.


def activation(inputs: Tensor) -> Tensor:
    return torch.relu(inputs)


class Pool(enum.Enum):
    """A setting with a name."""

    MEAN = "mean"


@dataclass
class Settings:
    """Settings together."""

    width: int = 8


class Other:
    """None of these."""


class Own(nn.Module):
    """A network with a function and settings of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.activation = activation
        self.pool = Pool.MEAN
        self.settings = Settings(3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.activation(self.linear(inputs.flatten(1)))


@pytest.mark.parametrize("trusted", [(), ("toolkit_nowhere",), (f"{__name__}_more",), (__name__[:-1],)])
def test_only_what_is_trusted_may_be_named(trusted: tuple[str, ...]) -> None:
    with pytest.raises(ArtifactError, match="not known to be safe"):
        put_together(take_apart(Own()), trusted=trusted)


def test_classes_functions_and_settings_of_a_trusted_module_are_found() -> None:
    model = Own().eval()
    again: Any = put_together(take_apart(model), trusted=[__name__])
    assert torch.equal(model(PICTURES), again(PICTURES))
    assert (again.activation, again.pool, again.settings) == (activation, Pool.MEAN, Settings(3))


def test_an_enumeration_is_stored_alike_however_python_pickles_it(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = take_apart(Own()).skeleton
    monkeypatch.setattr(enum.Enum, "__reduce_ex__", lambda member, _: (getattr, (type(member), member.name)))
    assert take_apart(Own()).skeleton == expected


def test_other_classes_of_a_trusted_module_are_not() -> None:
    model = Own()
    model.other = Other()  # type: ignore[assignment]
    with pytest.raises(ArtifactError, match=r"Other', which is not known to be safe"):
        put_together(take_apart(model), trusted=[__name__])


def test_what_a_trusted_module_imports_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Own()
    parts = take_apart(model)
    # Named as if it lay in this module, into which it was only imported.
    skeleton = parts.skeleton.replace(f"c{__name__}\nactivation\n".encode(), f"c{__name__}\nmonkeyed_s\n".encode())
    assert skeleton != parts.skeleton
    monkeypatch.setattr(sys.modules[__name__], "monkeyed_s", take_apart, raising=False)
    with pytest.raises(ArtifactError, match=r"monkeyed_s', which is not known to be safe"):
        put_together(Parts(skeleton, parts.tensors, parts.ties), trusted=[__name__])


def test_a_function_of_a_trusted_module_is_not_called() -> None:
    model: Any = Own().to("meta")
    model.pool = None
    model.attack = Called()
    file = io.BytesIO()
    torch.save(model, file)
    with pytest.raises(ArtifactError, match=r"it calls '.*never_called'"):
        put_together(Parts(file.getvalue(), {}, {}), trusted=[__name__])


def never_called() -> None:
    raise AssertionError("executed")


class Called:
    """Pickled, it calls a function when it is unpickled."""

    def __reduce__(self) -> Any:
        return never_called, ()
