"""Weights kept in shape: masks survive training, copies are independent, folding leaves plain weights."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from toolkit import ToolkitError, masks
from toolkit.testing import TOY_MODELS, TiedToy, toy_cnn, toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Two threads that wait for a busy core take a thousand times as long for models as small as these.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_masks(model: nn.Module) -> dict[str, Tensor]:
    weights = [weight for weight in masks.named_weights(model) if weight.attribute == "weight"]
    return {weight.path: torch.rand(weight.value.shape) < 0.5 for weight in weights}


def masked(model: nn.Module) -> nn.Module:
    masks.apply(model, random_masks(model))
    return model


def values(model: nn.Module) -> dict[str, Tensor]:
    return {weight.path: weight.value.clone() for weight in masks.named_weights(model)}


def train(model: nn.Module, **settings: Any) -> None:
    data = toy_data(256)
    fit(model, Training(TrainingSettings(**settings), data.task.loss), data)


@pytest.mark.parametrize("make", TOY_MODELS.values(), ids=TOY_MODELS)
@pytest.mark.smoke
def test_weights_keep_their_names_when_they_are_masked(make: Callable[[], nn.Module]) -> None:
    model = make()
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    masked(model)
    assert sorted(weight.path for weight in masks.named_weights(model)) == sorted(names)


def test_apply_zeroes_what_is_false_and_changes_nothing_else() -> None:
    model = toy_mlp()
    before = values(model)
    wanted = random_masks(model)
    masks.apply(model, wanted)
    after = values(model)
    for path, value in before.items():
        expected = torch.where(wanted[path], value, 0.0) if path in wanted else value
        assert torch.equal(after[path], expected), path


def test_apply_intersects_with_the_masks_that_are_there() -> None:
    model = toy_mlp()
    first, second = random_masks(model), random_masks(model)
    masks.apply(model, first)
    masks.apply(model, second)
    found = masks.current(model)
    assert found.keys() == first.keys()
    assert all(torch.equal(found[path], first[path] & second[path]) for path in first)
    lists: list[Any] = [m for m in model.modules() if isinstance(m, parametrize.ParametrizationList)]
    assert [len(parts) for parts in lists] == [1, 1]  # a mask made tighter, not a second one on top


def test_a_mask_is_a_copy_of_what_was_given() -> None:
    model, mask = toy_mlp(), torch.ones(32, 64)
    masks.apply(model, {"1.weight": mask})
    masks.apply(model, {"1.weight": torch.zeros(32, 64, dtype=torch.bool)})
    assert mask.all()


@pytest.mark.parametrize(
    ("path", "mask", "message"),
    [
        ("1.wieght", torch.ones(32, 64), "^the model has no weight '1.wieght'; did you mean '1.weight'\\?$"),
        ("zzz", torch.ones(4, 4), r"^the model has no weight 'zzz'; masks.named_weights\(model\) has all paths$"),
        ("1.weight", torch.ones(4, 4), r"'1.weight' must have the weight's shape \(32, 64\), found \(4, 4\)$"),
        ("1.weight", [[True] * 64] * 32, "^the mask of '1.weight' must be a tensor, found list$"),
        ("1.weight", None, "must be a tensor, found NoneType"),
        ("1.weight", torch.full((32, 64), 0.5), "'1.weight' must be bool, or contain nothing but ones and zeros"),
        ("1.weight", torch.full((32, 64), torch.nan), "'1.weight' must be bool, or contain nothing but ones and zeros"),
    ],
)
def test_apply_refuses_what_does_not_fit_and_masks_nothing(path: str, mask: Any, message: str) -> None:
    model = toy_mlp()
    with pytest.raises(ToolkitError, match=message):
        masks.apply(model, {"3.weight": torch.zeros(4, 32), path: mask})
    assert masks.current(model) == {}


def test_masks_of_ones_and_zeros_in_any_dtype_are_masks() -> None:
    zeros = torch.arange(2048).view(32, 64) % 2
    for dtype in (torch.bool, torch.uint8, torch.int64, torch.float64):
        model = toy_mlp()
        masks.apply(model, {"1.weight": zeros.to(dtype)})
        assert torch.equal(masks.current(model)["1.weight"], zeros.bool())


def test_a_weight_that_is_not_initialized_is_refused() -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ToolkitError, match=r"^'0.weight' is not initialized yet; run the lazy model on a batch first$"):
        masks.apply(model, {"0.weight": torch.ones(4, 4)})


class Transposed(nn.Module):
    """Changes the shape, which a parametrization may not."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.t()


@pytest.mark.parametrize(
    ("path", "made", "message"),
    [
        ("1.wieght", nn.Identity(), "^the model has no weight '1.wieght'; did you mean '1.weight'\\?$"),
        ("1.weight", torch.relu, "^the parametrization of '1.weight' must be an nn.Module, found builtin_f"),
        ("1.weight", Transposed(), "^Transposed cannot parametrize '1.weight': .*shape"),
    ],
)
def test_keep_in_shape_refuses_what_does_not_fit(path: str, made: Any, message: str) -> None:
    model = toy_mlp()
    with pytest.raises(ToolkitError, match=message):
        masks.keep_in_shape(model, path, lambda: made)
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


@pytest.mark.parametrize("make", TOY_MODELS.values(), ids=TOY_MODELS)
@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw", "lr": 1e-2, "weight_decay": 0.1},
        {"optimizer": "sgd", "lr": 1e-2, "momentum": 0.9, "weight_decay": 1e-2},
    ],
    ids=["adamw", "sgd"],
)
def test_a_masked_model_has_exactly_the_zeros_it_had_after_training(
    make: Callable[[], nn.Module], settings: dict[str, Any]
) -> None:
    model = make()
    train(model, epochs=1)  # moves every weight away from its start, and from zero
    masked(model)
    before = values(model)
    train(model, epochs=2, **settings)
    after = values(model)
    for path, mask in masks.current(model).items():
        assert torch.equal(after[path] != 0, mask), path
        assert torch.equal(before[path] != 0, mask), path
    assert all(not torch.equal(after[path], before[path]) for path in before)  # everything learned


def test_masks_follow_a_model_into_another_dtype() -> None:
    model = masked(toy_mlp()).to(torch.bfloat16)
    assert all(weight.value.dtype == torch.bfloat16 for weight in masks.named_weights(model))
    assert torch.equal(masks.current(model)["1.weight"], values(model)["1.weight"] != 0)


def test_a_tied_weight_is_masked_in_all_its_layers_and_stays_one() -> None:
    model = TiedToy()
    mask = torch.rand(16, 16) < 0.5
    masks.apply(model, {"second.weight": mask})
    assert torch.equal(model.first.weight, model.second.weight)
    assert torch.equal(model.first.weight != 0, mask)
    found = {weight.path: weight.parameter for weight in masks.named_weights(model)}
    assert found["first.weight"] is found["second.weight"]
    assert torch.equal(masks.current(model)["first.weight"], mask)


def test_a_tied_weight_masked_under_both_names_gets_the_zeros_of_both() -> None:
    model = TiedToy()
    first, second = torch.rand(16, 16) < 0.7, torch.rand(16, 16) < 0.7
    masks.apply(model, {"first.weight": first, "second.weight": second})
    assert torch.equal(model.second.weight != 0, first & second)


def logits(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return toy_data(64).task.logits(model(inputs))


@pytest.mark.parametrize("make", TOY_MODELS.values(), ids=TOY_MODELS)
@pytest.mark.smoke
def test_folded_is_plain_and_computes_the_same(make: Callable[[], nn.Module]) -> None:
    model = masked(make()).eval()
    inputs = toy_data(64).train[0]
    plain = masks.folded(model)
    assert not any(parametrize.is_parametrized(module) for module in plain.modules())
    assert [type(module) for module in plain.modules()] == [type(module) for module in make().modules()]
    assert torch.equal(logits(plain, inputs), logits(model, inputs))
    assert plain.state_dict().keys() == make().state_dict().keys()
    assert all(torch.equal(values(plain)[path] != 0, mask) for path, mask in masks.current(model).items())


def test_folded_has_no_negative_zeros() -> None:
    model = masked(toy_mlp())
    assert any((torch.signbit(value) & (value == 0)).any() for value in values(model).values())
    plain = masks.folded(model)
    assert not any((torch.signbit(value) & (value == 0)).any() for value in values(plain).values())


def test_folded_keeps_ties() -> None:
    plain = masks.folded(masked(TiedToy()))
    assert isinstance(plain, TiedToy)
    assert plain.first.weight is plain.second.weight


@pytest.mark.parametrize("make", TOY_MODELS.values(), ids=TOY_MODELS)
def test_folding_a_clone_leaves_the_original_working(make: Callable[[], nn.Module]) -> None:
    model = masked(make()).eval()
    inputs = toy_data(64).train[0]
    before = logits(model, inputs)
    twin = masks.clone(model)
    for module in twin.modules():
        if hasattr(module, "parametrizations"):
            masks.fold(module)
    assert torch.equal(logits(model, inputs), before)
    assert torch.equal(logits(twin, inputs), before)
    masks.folded(model)  # the original can still be folded too
    assert masks.current(model)


def test_a_clone_is_masked_and_trained_alone() -> None:
    model = masked(toy_cnn())
    before, zeros = values(model), masks.current(model)
    twin = masks.clone(model)
    masks.apply(twin, {path: torch.zeros_like(mask) for path, mask in zeros.items()})
    train(twin, epochs=1, lr=0.1)
    assert all(torch.equal(values(model)[path], value) for path, value in before.items())
    assert all(torch.equal(masks.current(model)[path], mask) for path, mask in zeros.items())
    assert not values(twin)["0.weight"].any()


def test_a_clone_of_a_clone_is_independent_too() -> None:
    first = masks.clone(masked(toy_mlp()))
    second = masks.clone(first)
    for module in (first[1], first[3]):  # type: ignore[index]
        masks.fold(module)
    assert not masks.current(first)
    assert masks.current(second).keys() == {"1.weight", "3.weight"}
    assert all(torch.equal(values(second)[path], value) for path, value in values(first).items())
    assert isinstance(second.get_submodule("1"), nn.Linear)


def test_a_clone_keeps_ties() -> None:
    twin = masks.clone(masked(TiedToy()))
    found = {weight.path: weight.parameter for weight in masks.named_weights(twin)}
    assert found["first.weight"] is found["second.weight"]


def test_a_mask_goes_on_top_of_another_parametrization() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 4)), parametrizations.orthogonal(nn.Linear(4, 4)))
    shapes = {weight.path: tuple(weight.value.shape) for weight in masks.named_weights(model)}
    assert shapes == {"0.weight": (4, 8), "0.bias": (4,), "1.weight": (4, 4), "1.bias": (4,)}
    masked(model)
    zeros = masks.current(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(16, 8)).square().sum().backward()
        optimizer.step()
    inputs = torch.randn(16, 8)
    plain = masks.folded(model)
    assert torch.allclose(plain(inputs), model(inputs))
    assert all(not values(plain)[path][~mask].any() for path, mask in zeros.items())


@pytest.mark.parametrize("trains", [True, False])
def test_a_weight_of_several_parts_is_folded_to_a_parameter_where_gradients_are_off(trains: bool) -> None:
    layer = parametrizations.weight_norm(nn.Linear(8, 4)).requires_grad_(trains)
    with torch.no_grad():
        plain = masks.folded(layer)
    assert {name: each.requires_grad for name, each in plain.named_parameters()} == {"weight": trains, "bias": trains}
    assert torch.equal(plain.get_parameter("weight"), layer.weight)


def test_a_whole_model_is_not_folded_and_a_plain_layer_stays_as_it_is() -> None:
    model = masked(toy_mlp())
    with pytest.raises(ToolkitError, match=r"^masks.fold takes one layer, and Sequential .* layer '1'; fold that"):
        masks.fold(model)
    assert masks.current(model)
    plain = nn.Linear(2, 2)
    masks.fold(plain)
    assert [name for name, _ in plain.named_parameters()] == ["weight", "bias"]
