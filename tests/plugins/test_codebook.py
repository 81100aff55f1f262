"""Codebooks: what k-means finds, what is trained afterwards, zeros, budgets, and stages before, beside and after."""

from typing import Any

import numpy as np
import pytest
import toolkit_codebook
import toolkit_pruning
import torch
from toolkit_codebook import Params, sharing
from toolkit_codebook.clustering import cluster, cluster_means, entropy_bytes, initial_centroids, kmeans
from toolkit_codebook.sharing import Shared
from torch import Tensor, nn

from toolkit import masks
from toolkit.errors import TechniqueError
from toolkit.testing import TiedToy, toy_cnn, toy_data, toy_lstm, toy_mlp
from toolkit.training import Training, TrainingSettings, fit

DATA = toy_data(128)


def shared_by(model: nn.Module, **params: Any) -> nn.Module:
    """What a stage without training makes of a copy of `model`."""
    prepared = toolkit_codebook.prepare()
    return toolkit_codebook.optimize(model=masks.clone(model), params=Params(**params), prepared=prepared)


def measured(model: nn.Module, **params: Any) -> Any:
    prepared = toolkit_codebook.prepare()
    model = toolkit_codebook.optimize(model=masks.clone(model), params=Params(**params), prepared=prepared)
    return toolkit_codebook.measure(model=model, prepared=prepared)


def trained(model: nn.Module, **settings: Any) -> nn.Module:
    fit(model, Training(TrainingSettings(epochs=2, lr=1e-2, **settings), DATA.task.loss), DATA)
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {weight.path: weight.value for weight in masks.named_weights(model) if weight.value.dim() > 1}


def distinct(weight: Tensor) -> int:
    """The number of values that are not zero."""
    return len(weight[weight != 0].unique())


def pruned(model: nn.Module, sparsity: float = 0.6) -> nn.Module:
    settings = toolkit_pruning.Params(sparsity=sparsity)
    return toolkit_pruning.optimize(model=masks.clone(model), params=settings, data=DATA, prepared=[])


# k-means


def lloyd(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Lloyd's algorithm as the textbook has it, with all distances."""
    while True:
        clusters = np.abs(values[:, None] - centroids[None]).argmin(axis=1)
        moved = np.array(
            [values[clusters == k].mean() if (clusters == k).any() else c for k, c in enumerate(centroids)]
        )
        if np.allclose(moved, centroids, atol=0, rtol=0):
            return clusters
        centroids = moved


@pytest.mark.parametrize("initialisation", ["linear", "density"])
@pytest.mark.parametrize("count", [2, 5, 16])
@pytest.mark.smoke
def test_kmeans_finds_what_the_textbook_finds(count: int, initialisation: Any) -> None:
    values = torch.randn(700, generator=torch.Generator().manual_seed(count)).double()
    start = initial_centroids(values, count, initialisation).numpy()
    assert kmeans(values, count, initialisation).tolist() == lloyd(values.numpy(), start).tolist()


def test_linear_centroids_are_evenly_spaced_and_density_follows_the_values() -> None:
    values = torch.tensor([-1.0, 0.0, 0.1, 0.2, 3.0])
    assert initial_centroids(values, 5, "linear").tolist() == [-1.0, 0.0, 1.0, 2.0, 3.0]
    assert initial_centroids(values, 5, "density").tolist() == pytest.approx([-1.0, 0.0, 0.1, 0.2, 3.0])


def test_few_values_are_kept_as_they_are_and_zero_is_a_cluster_of_its_own() -> None:
    weight = torch.tensor([[0.0, 1.5, -2.0], [1.5, 0.0, 7.25]])
    clusters = cluster(weight, 4)
    assert (clusters == 0).tolist() == (weight == 0).tolist()
    assert torch.equal(cluster_means(weight, clusters, 4)[clusters], weight)


def test_means_of_equal_numbers_are_that_number() -> None:
    weight = torch.full((1000, 300), 0.1)
    assert cluster_means(weight, torch.ones(1000, 300, dtype=torch.long), 1)[1] == weight[0, 0]


def test_entropy_is_that_of_scipy() -> None:
    from scipy.stats import entropy

    clusters = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    assert entropy_bytes(clusters) == pytest.approx(100 * entropy([0.7, 0.2, 0.1], base=2) / 8)


# Sharing


@pytest.mark.parametrize("make", [toy_mlp, toy_cnn, toy_lstm])
def test_every_weight_has_at_most_so_many_values_in_float16_and_keeps_its_zeros(make: Any) -> None:
    model = pruned(make())
    result = shared_by(model, bits=3)
    for path, weight in weights(result).items():
        assert distinct(weight) <= 8
        assert torch.equal(weight.half().float(), weight)
        assert torch.equal(weight == 0, weights(model)[path] == 0)


def test_it_is_idempotent_and_folds_to_what_the_layers_saw() -> None:
    model = shared_by(pruned(toy_mlp()), bits=2)
    plain = masks.folded(model)
    for path, weight in weights(model).items():
        assert torch.equal(weights(plain)[path], weight)
        again = sharing.shared(model, path)
        assert again is not None
        assert torch.equal(again(weight), weight)


def test_what_is_of_cluster_zero_is_zero_whatever_lies_below() -> None:
    weight, clusters = torch.tensor([1.0, 5.0, 7.0, 0.0]), torch.tensor([0, 1, 1, 1])
    assert Shared(clusters, 1)(weight).tolist() == [0.0, 6.0, 6.0, 0.0]


def test_a_centroid_moves_by_the_sum_of_its_entries_gradients() -> None:
    layer = nn.Linear(6, 4)
    clusters = cluster(layer.weight.detach(), 4)
    centroids = cluster_means(layer.weight.detach(), clusters, 4).requires_grad_()
    inputs = torch.randn(5, 6)
    nn.functional.linear(inputs, centroids[clusters], layer.bias).square().sum().backward()
    assert centroids.grad is not None
    expected = centroids.detach() - 0.01 * centroids.grad

    masks.keep_in_shape(layer, "weight", lambda: Shared(clusters, 4))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
    layer(inputs).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), expected[clusters].detach())


@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"optimizer": "sgd", "momentum": 0.9}])
def test_training_moves_the_values_and_nothing_else(settings: Any) -> None:
    model = shared_by(pruned(toy_mlp()), bits=2)
    before = weights(model)
    after = weights(trained(model, **settings))
    for path, weight in after.items():
        assert not torch.equal(weight, before[path])
        assert torch.equal(weight == 0, before[path] == 0)
        for value in before[path].unique():
            assert len(weight[before[path] == value].unique()) == 1


# Other stages


def test_a_later_mask_makes_zeros_and_the_rest_goes_on_sharing() -> None:
    for first in (toy_mlp(), pruned(toy_mlp(), 0.3)):  # the mask comes after the codebook, or was there before it
        model = pruned(shared_by(first, bits=2), 0.7)
        zeros = {path: weight == 0 for path, weight in weights(model).items()}
        assert sum(int(zero.sum()) for zero in zeros.values()) >= 0.69 * sum(map(torch.numel, zeros.values()))
        for path, weight in weights(trained(model)).items():
            assert distinct(weight) <= 4
            assert bool((weight[zeros[path]] == 0).all())


def test_a_second_codebook_takes_the_place_of_the_first() -> None:
    model = shared_by(shared_by(toy_mlp(), bits=4), bits=1)
    assert all(distinct(weight) <= 2 for weight in weights(model).values())
    assert all(len(module) == 1 for module in model.modules() if isinstance(module, nn.ModuleList))


def test_tied_layers_share_one_codebook() -> None:
    model = shared_by(TiedToy(), bits=2)
    found = [module for module in model.modules() if isinstance(module, Shared)]
    assert len(found) == len({id(weight.parameter) for weight in masks.named_weights(model) if weight.value.dim() > 1})


@pytest.mark.smoke
def test_in_a_chain(recipe_run: Any) -> None:
    outcome = recipe_run(
        """
        [[stages]]
        technique = "codebook"
        params = { bits = 3 }
        with = [
            { technique = "pruning", params = { sparsity = 0.5, schedule = "gradual" } },
            { technique = "distillation", params = { teacher = "reference" } },
        ]
        finetune = { epochs = 1 }

        [[stages]]
        technique = "quantization"
        """
    )
    assert not outcome.error
    assert outcome.rows[1]["pruning.sparsity"] == pytest.approx(0.5, abs=0.01)
    table = outcome.rows[1]["codebook.layers"].table
    assert all(row["values"] <= 8 and row["zeros"] for row in table)
    assert outcome.rows[2]["sparsity"] == pytest.approx(outcome.rows[1]["sparsity"], abs=0.01)


# What a recipe may ask for


def test_the_most_exact_pattern_says_how_many_bits() -> None:
    result = shared_by(toy_mlp(), bits=5, overrides={"*": 3, "1": 1})
    counts = [distinct(weight) for weight in weights(result).values()]
    assert counts[0] == 2
    assert all(2 < count <= 8 for count in counts[1:])


def test_what_is_excluded_is_left_alone() -> None:
    model = toy_mlp()
    first, *rest = weights(model)
    result = shared_by(model, bits=1, exclude=[first.removesuffix(".weight")])
    assert torch.equal(weights(result)[first], weights(model)[first])
    assert all(distinct(weights(result)[path]) <= 2 for path in rest)


def test_a_budget_is_kept_and_used() -> None:
    model = pruned(toy_mlp())
    least = measured(model, bits=1)["entropy_bytes"]
    budget = round(2.5 * least)
    found = measured(model, budget_bytes=budget, bits=8)
    table = sum(4 * row["values"] for row in found["layers"].table)
    assert 0.6 * budget < found["entropy_bytes"] + table <= budget + len(found["layers"].table)
    assert max(row["bits"] for row in found["layers"].table) > 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"budget_bytes": 3}, "budget_bytes is 3, but one bit per weight already takes"),
        ({"layers": ["fc9"]}, "no layer matches 'fc9'; known: "),
        ({"overrides": {"fc9": 2}}, "no layer matches 'fc9'"),
        ({"overrides": {"1*": 2, "*1": 3}}, r"'\*1' and '1\*' in overrides disagree about '1.weight'"),
        ({"exclude": ["*"]}, "every selected layer is excluded"),
    ],
)
def test_what_cannot_be_done_is_said(params: Any, message: str) -> None:
    with pytest.raises(TechniqueError, match=message):
        shared_by(toy_mlp(), **params)


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(TechniqueError, match="no layer with a float weight of two or more"):
        shared_by(nn.Sequential(nn.BatchNorm1d(3)))


def test_values_beyond_float16_stay_finite() -> None:
    model = toy_mlp()
    with torch.no_grad():
        model.get_parameter("1.weight")[0, 0] = 1e6
    assert all(bool(weight.isfinite().all()) for weight in weights(shared_by(model, bits=2)).values())
    assert weights(shared_by(model, bits=2, values="float32"))["1.weight"].max() == 1e6
