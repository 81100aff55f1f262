"""Scores of weights: LAMP against the paper's sum written out, between layers, and on every kind of schedule."""

from typing import Any

import pytest
import toolkit_pruning
import torch
from toolkit_pruning import Params
from toolkit_pruning.saliency import lamp_scores
from torch import Tensor, nn

from toolkit import masks
from toolkit.testing import toy_cnn, toy_data, toy_mlp, toy_tied
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(256)


def by_hand(weight: Tensor) -> Tensor:
    """Formula (1) of the paper: sorted in ascending order, W[u]² over the sum of all W[v]² with v ≥ u."""
    flat = weight.flatten().tolist()
    order = sorted(range(len(flat)), key=lambda place: abs(flat[place]))  # stable: of equal ones the first is first
    scores = [0.0] * len(flat)
    for rank, place in enumerate(order):
        total = sum(flat[other] ** 2 for other in order[rank:])
        scores[place] = flat[place] ** 2 / total if total else 0.0
    return torch.tensor(scores, dtype=torch.float64).view(weight.shape)


def pruned(model: nn.Module, **params: Any) -> nn.Module:
    return toolkit_pruning.optimize(model=masks.clone(model), params=Params(**params), data=DATA, prepared=[])


def kept(model: nn.Module) -> dict[str, Tensor]:
    return masks.current(model)


# The scores


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1,), (7,), (4, 5), (3, 2, 3, 3)])
def test_it_is_the_papers_formula(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.allclose(lamp_scores(weight), by_hand(weight), rtol=1e-12, atol=0)


@pytest.mark.smoke
def test_an_example_worked_out() -> None:
    found = lamp_scores(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
    assert torch.allclose(found, torch.tensor([[1 / 14, 4 / 13], [0.0, 1.0]], dtype=torch.float64))


def test_of_equal_weights_the_first_counts_as_the_smaller_one() -> None:
    weight = torch.tensor([2.0, -2.0, 1.0, 2.0])
    assert torch.allclose(lamp_scores(weight), torch.tensor([1 / 3, 1 / 2, 1 / 13, 1.0], dtype=torch.float64))
    assert torch.allclose(lamp_scores(weight), by_hand(weight))


def test_a_layer_of_zeros_has_scores_of_zero_and_masked_weights_are_in_no_sum() -> None:
    assert torch.equal(lamp_scores(torch.zeros(2, 3)), torch.zeros(2, 3, dtype=torch.float64))
    weight = torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert torch.equal(lamp_scores(weight)[[0, 2]], lamp_scores(torch.tensor([3.0, 4.0])))


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_the_size_of_a_layers_weights_does_not_matter(scale: float) -> None:
    weight = torch.randn(64, generator=torch.Generator().manual_seed(2))
    found = lamp_scores(weight * scale)  # whose squares float32 does not hold
    assert torch.allclose(found, lamp_scores(weight), rtol=1e-5, atol=0)


def test_sums_of_many_weights_keep_their_digits() -> None:
    weight = torch.full((200_000,), 1e-3)
    weight[-1] = 1.0
    found = lamp_scores(weight)
    rank = torch.arange(199_999, 0, -1, dtype=torch.float64)
    square = float(torch.tensor(1e-3)) ** 2
    assert torch.allclose(found[:-1], square / (rank * square + 1.0), rtol=1e-9, atol=0)


def test_within_a_layer_the_order_is_that_of_the_magnitudes() -> None:
    weight = torch.randn(500, generator=torch.Generator().manual_seed(3))
    assert torch.equal(lamp_scores(weight).argsort(), weight.abs().argsort())


# The criterion


@pytest.mark.parametrize("sparsity", [0.3, 0.9])
@pytest.mark.parametrize("make", [toy_mlp, toy_cnn, toy_tied])
def test_global_ranking_takes_the_smallest_scores_of_all_layers(make: Any, sparsity: float) -> None:
    model = make()
    found = kept(pruned(model, sparsity=sparsity, criterion="lamp"))
    paths = dict.fromkeys(found)
    unique = {id(model.get_parameter(path)): path for path in reversed(list(paths))}.values()
    scores = torch.cat([by_hand(model.get_parameter(path).detach()).flatten() for path in unique])
    mask = torch.cat([found[path].flatten() for path in unique])
    assert int((~mask).sum()) == round(sparsity * len(scores))
    assert scores[~mask].max() <= scores[mask].min()


def test_a_layer_of_small_weights_is_spared() -> None:
    model = toy_mlp()
    with torch.no_grad():
        model.get_parameter("3.weight").mul_(1e-3)
    by_magnitude, by_lamp = (
        kept(pruned(model, sparsity=0.9, criterion=criterion))["3.weight"] for criterion in ("magnitude", "lamp")
    )
    assert not by_magnitude.any()
    assert by_lamp.float().mean() > 0.3


def test_no_layer_ends_empty_while_another_has_two_weights() -> None:
    model = toy_cnn()
    found = kept(pruned(model, sparsity=0.9969, criterion="lamp"))
    total = sum(mask.numel() for mask in found.values())
    assert sum(int(mask.sum()) for mask in found.values()) == total - round(0.9969 * total) == 4
    assert all(mask.any() for mask in found.values())


@pytest.mark.parametrize("params", [{"scope": "layer", "sparsity": 0.7}, {"pattern": "2:4", "exclude": ["0"]}])
def test_layer_by_layer_and_in_groups_it_ranks_as_magnitude_does(params: dict[str, Any]) -> None:
    model = toy_cnn()
    by_lamp, by_magnitude = kept(pruned(model, criterion="lamp", **params)), kept(pruned(model, **params))
    assert by_lamp.keys() == by_magnitude.keys()
    assert all(torch.equal(mask, by_magnitude[path]) for path, mask in by_lamp.items())


def test_what_is_masked_goes_first_and_is_in_no_sum() -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False))
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.tensor([[10.0, 0.0, 1.0, 2.0]]))
        model.get_parameter("1.weight").copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    masks.apply(model, {"0.weight": torch.tensor([[False, True, True, True]])})
    # Scores are 0, 1/5 and 1 in the first layer and 1/30, 4/29, 9/25 and 1 in the second. Were 10 still in the sum, the
    # first layer would have 0, 1/105 and 4/104, and lose all of it before the second one loses 4/29.
    for count, expected in ((2, [False, False, True, True]), (4, [False, False, True, True])):
        found = pruned(model, sparsity=count / 8, criterion="lamp")
        assert kept(found)["0.weight"].flatten().tolist() == expected
        assert int((~kept(found)["1.weight"]).sum()) == count - 2


def test_on_a_gradual_schedule_it_ends_exactly() -> None:
    model: nn.Module = toy_cnn()
    settings = Params(sparsity=0.9, criterion="lamp", schedule="gradual", steps_between=1)
    prepared: Any = toolkit_pruning.prepare()
    model = toolkit_pruning.optimize(model=model, params=settings, data=DATA, prepared=prepared)
    training = Training(TrainingSettings(epochs=2, lr=1e-2), DATA.task.loss)
    training = toolkit_pruning.finetune(model=model, params=settings, data=DATA, prepared=prepared, training=training)
    fit(model, training, DATA)
    found = kept(model)
    total = sum(mask.numel() for mask in found.values())
    assert sum(int((~mask).sum()) for mask in found.values()) == round(0.9 * total)
