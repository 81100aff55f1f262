"""Accuracy, counts and MACs against numbers worked out by hand; nothing of the model changes."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from toolkit import masks
from toolkit.data.splits import Data
from toolkit.errors import ToolkitError
from toolkit.metrics import answers, counts, macs, quality
from toolkit.models import lenet5
from toolkit.tasks import Batch, Classification, Task
from toolkit.testing import TiedToy, toy_cnn, toy_data, toy_mlp

LENET5_PARAMETERS = 20 * 25 + 20 + 50 * 20 * 25 + 50 + 500 * 800 + 500 + 10 * 500 + 10
LENET5_MACS = 24 * 24 * 20 * 25 + 8 * 8 * 50 * 20 * 25 + 800 * 500 + 500 * 10


class Int8(nn.Module):
    """Stands for a layer as techniques do it: int8 and one scale, computing twice what is needed."""

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.replaces = type(layer).__name__
        weight = layer.weight.detach()
        self.register_buffer("scale", weight.abs().max() / 127)
        self.register_buffer("weight", (weight / self.scale).round().to(torch.int8))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        if isinstance(layer, nn.Linear):
            self.compute: Any = F.linear
        else:
            function: Any = F.conv2d if isinstance(layer, nn.Conv2d) else F.conv_transpose2d
            self.compute = partial(function, stride=layer.stride, padding=layer.padding, groups=layer.groups)

    def dense_weight(self) -> Tensor:
        return self.weight.float() * self.scale

    def forward(self, inputs: Tensor) -> Tensor:
        both = [self.compute(inputs, self.dense_weight(), self.bias) for _ in range(2)]
        return (both[0] + both[1]) / 2


class Wrapped(nn.Module):
    """Stands for a linear layer that it keeps inside."""

    replaces = "Linear"

    def __init__(self, layer: nn.Linear | Int8) -> None:
        super().__init__()
        self.inner = layer

    @property
    def bias(self) -> Any:
        return self.inner.bias

    def dense_weight(self) -> Tensor:
        return self.inner.dense_weight() if isinstance(self.inner, Int8) else self.inner.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inner(inputs)


class Several(nn.Module):
    """Stands for an LSTM by two tensors that all its weights are made of."""

    replaces = "LSTM"

    def __init__(self, layer: nn.LSTM) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False).to("meta")
        self.shapes = {name: weight.shape for name, weight in layer.named_parameters()}
        self.register_buffer("values", torch.cat([torch.randn(shape.numel()) for shape in self.shapes.values()]))

    def dense_weights(self) -> dict[str, Tensor]:
        parts = self.values.split([shape.numel() for shape in self.shapes.values()])  # type: ignore[operator]
        return {name: part.view(self.shapes[name]) for name, part in zip(self.shapes, parts, strict=True)}

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.func.functional_call(self.layer, self.dense_weights(), (inputs,))[0]


class Calls(nn.Module):
    """A model out of a function of a layer and the inputs."""

    def __init__(self, function: Any, layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.function = function

    def forward(self, inputs: Tensor) -> Any:
        return self.function(self.layer, inputs)


def quantized(model: nn.Module) -> nn.Module:
    for name, child in model.named_children():
        if isinstance(child, (nn.Linear, nn.Conv2d)):
            setattr(model, name, Int8(child))
    return model


def half_masked(model: nn.Module) -> nn.Module:
    weights = [weight for weight in masks.named_weights(model) if weight.value.dim() > 1]
    halves = {weight.path: torch.arange(weight.value.numel()) % 2 == 0 for weight in weights}
    masks.apply(model, {weight.path: halves[weight.path].view_as(weight.value) for weight in weights})
    return model


def samples_of(*shape: int) -> Data:
    return Data(train=(torch.randn(3, *shape), torch.zeros(3, dtype=torch.int64)))


def trace(model: nn.Module) -> Any:
    """What measuring must leave as it was."""
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    modes = [module.training for module in model.modules()]
    return hooks, modes, {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model: nn.Module, before: Any) -> None:
    hooks, modes, state = trace(model)
    assert (hooks, modes) == before[:2]
    assert state.keys() == before[2].keys()
    assert all(torch.equal(state[name], before[2][name]) for name in state)


def with_mixed_modes(model: nn.Module) -> nn.Module:
    model.train()
    next(model.children()).eval()
    return model


# --- answers and accuracy


def accuracy(model: nn.Module, data: Data, split: str = "test") -> float:
    return quality(answers(model, data, split))["accuracy"]


@pytest.mark.smoke
def test_accuracy_is_the_share_counted_by_hand() -> None:
    logits, targets = torch.randn(130, 4), torch.randint(4, (130,))
    data = Data(train=(logits, targets), test=(logits, targets), batch_size=32)
    rows = zip(logits.tolist(), targets.tolist(), strict=True)
    right = [row.index(max(row)) == target for row, target in rows]

    found = answers(nn.Identity(), data)
    assert found.correct is not None
    assert found.correct.tolist() == right
    assert found.loss == pytest.approx(F.cross_entropy(logits, targets).item())
    assert (quality(found)["accuracy"], quality(found)["samples"]) == (pytest.approx(sum(right) / 130), 130)
    assert 0 < sum(right) < 130


def test_accuracy_reads_the_split_that_it_is_told_and_no_other() -> None:
    right, wrong = (torch.eye(4), torch.arange(4)), (torch.eye(4)[:2], torch.tensor([1, 0]))
    data = Data(train=right, validation=wrong)

    assert accuracy(nn.Identity(), data, "train") == 1.0
    assert accuracy(nn.Identity(), data, "validation") == 0.0
    with pytest.raises(ValueError, match="no test split"):
        accuracy(nn.Identity(), data)


def test_accuracy_is_measured_in_eval_mode_and_leaves_every_mode_as_it_was() -> None:
    data = Data(train=(torch.eye(4), torch.arange(4)), test=(torch.eye(4), torch.arange(4)))
    model = with_mixed_modes(nn.Sequential(nn.Identity(), nn.Dropout(1.0), nn.BatchNorm1d(4)))
    before = trace(model)

    assert accuracy(model, data) == 1.0
    assert_untouched(model, before)


def test_modes_come_back_even_if_the_model_fails() -> None:
    model = with_mixed_modes(nn.Sequential(nn.Flatten(), nn.Linear(3, 4)))
    before = trace(model)
    for measure in (accuracy, macs):
        with pytest.raises(RuntimeError):
            measure(model, toy_data(8))
    assert_untouched(model, before)


@pytest.mark.parametrize(
    ("judge", "returned"),
    [
        (lambda right: right.float(), r"must return bool, found torch.float32"),
        (lambda right: right.all(), r"one value per sample, \(4,\), found \(\)"),
        (lambda right: right[:, None], r"one value per sample, \(4,\), found \(4, 1\)"),
    ],
)
def test_a_task_that_does_not_judge_every_sample_is_refused(judge: Any, returned: str) -> None:
    class Strange(Classification):
        def correct(self, outputs: Any, batch: Batch) -> Tensor:
            return judge(super().correct(outputs, batch))

    data = Data(train=(torch.eye(4), torch.arange(4)), task=Strange())
    with pytest.raises(ToolkitError, match=returned):
        accuracy(nn.Identity(), data, "train")


def test_an_empty_split_is_refused() -> None:
    data = Data(train=(torch.eye(4), torch.arange(4)), test=(torch.eye(4)[:0], torch.arange(0)))
    with pytest.raises(ToolkitError, match="test split has no samples"):
        accuracy(nn.Identity(), data)


class Doubling(Task):
    """Regression on y = 2x: nothing is right or wrong."""

    better: ClassVar = {"absolute_error": "lower"}

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return F.mse_loss(outputs, batch.targets)

    def scores(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        return {"absolute_error": (outputs - batch.targets).abs().squeeze(1)}


def bias(outputs: Any, batch: Batch) -> Tensor:
    return (outputs - batch.targets).squeeze(1)


def test_a_task_without_right_answers_is_measured_by_its_own_metrics_and_those_of_the_data() -> None:
    inputs = torch.arange(1.0, 9.0).unsqueeze(1)
    split = (inputs, 2 * inputs)
    data = Data(train=split, test=split, task=Doubling(), metrics={"bias": bias}, batch_size=3)
    before, after = answers(nn.Identity(), data), answers(nn.Threshold(2.5, 0.0), data)
    row = quality(after, before)

    assert "accuracy" not in row
    assert "agreement" not in row
    assert row["absolute_error"] == pytest.approx((2 + 4 + 3 + 4 + 5 + 6 + 7 + 8) / 8)
    assert row["absolute_error_change"] == pytest.approx((1 + 2) / 8)
    assert row["bias"] == pytest.approx(-row["absolute_error"])
    assert row["loss"] == pytest.approx((4 + 16 + 9 + 16 + 25 + 36 + 49 + 64) / 8)
    assert data.quality == {"absolute_error": "lower", "bias": "higher", "loss": "lower"}


def test_accuracy_against_the_baseline_is_paired_by_sample() -> None:
    targets = torch.zeros(100, dtype=torch.int64)
    old, new = torch.zeros(100), torch.zeros(100)
    old[:10], new[8:30] = 1, 1  # wrong there: 8 gained, 20 lost, 2 wrong in both
    outputs = {name: F.one_hot(wrong.long(), 2).float() for name, wrong in (("old", old), ("new", new))}
    found = {
        name: answers(nn.Identity(), Data(train=(logits, targets), test=(logits, targets)))
        for name, logits in outputs.items()
    }
    row = quality(found["new"], found["old"])

    assert row["accuracy"] == 0.78
    assert row["accuracy_change"] == pytest.approx(-0.12)
    assert row["agreement"] == 0.72
    assert row["accuracy_change_p"] == pytest.approx(2 * sum(math.comb(28, k) for k in range(9)) / 2**28)
    assert row["accuracy_change_interval"][0] < -0.12 < row["accuracy_change_interval"][1] < 0


# --- counts


def test_counts_of_lenet5_are_the_same_plain_masked_folded_and_replaced() -> None:
    assert LENET5_PARAMETERS == 431_080
    model = lenet5()
    assert counts(model) == {"parameters": 431_080, "nonzero": 431_080, "sparsity": 0.0}

    left = LENET5_PARAMETERS - (500 + 25_000 + 400_000 + 5_000) // 2
    masked = {"parameters": 431_080, "nonzero": left, "sparsity": pytest.approx(1 - left / 431_080)}
    assert counts(half_masked(model)) == masked
    assert counts(masks.folded(model)) == masked

    small = sum(int((weight.value == 0).sum()) for weight in masks.named_weights(masks.folded(model)))
    assert small == 431_080 - left
    replaced = quantized(masks.folded(model))
    rounded = sum(int((layer.weight == 0).sum()) for layer in replaced.modules() if isinstance(layer, Int8))
    assert counts(replaced) == {
        "parameters": 431_080,
        "nonzero": 431_080 - rounded,
        "sparsity": pytest.approx(rounded / 431_080),
    }
    assert rounded >= small


def test_shared_weights_count_once_however_they_are_held() -> None:
    own = 64 * 16 + 16 + 16 * 16 + 16 + 16 + 16 * 4 + 4
    model = TiedToy()
    assert counts(model)["parameters"] == own

    masks.apply(model, {"first.weight": torch.arange(256).view(16, 16) % 4 == 0})
    assert counts(model) == {"parameters": own, "nonzero": own - 192, "sparsity": pytest.approx(192 / own)}

    replaced: Any = quantized(masks.folded(model))
    assert counts(replaced)["parameters"] == own + 256  # the technique untied them
    replaced.second.weight, replaced.second.scale = replaced.first.weight, replaced.first.scale
    assert counts(replaced)["parameters"] == own


def test_an_entry_of_a_shared_weight_is_zero_only_if_all_layers_see_zero() -> None:
    model = TiedToy()
    parametrization = masks.Mask(torch.zeros(16, 16))
    nn.utils.parametrize.register_parametrization(model.first, "weight", parametrization)
    assert counts(model)["sparsity"] == 0.0


def test_what_a_replaced_layer_is_made_of_does_not_count_on_top() -> None:
    model = toy_mlp(32)
    expected = counts(model)
    model[1] = Wrapped(cast(nn.Linear, model[1]))
    assert expected["parameters"] == 64 * 32 + 32 + 32 * 4 + 4
    assert counts(model) == expected
    model[1] = Wrapped(Int8(nn.Linear(64, 32)))
    assert counts(model)["parameters"] == expected["parameters"]


def test_buffers_and_absent_biases_are_no_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
    assert counts(model)["parameters"] == 6 + 4
    assert counts(quantized(model))["parameters"] == 6 + 4
    assert counts(nn.ReLU()) == {"parameters": 0, "nonzero": 0, "sparsity": 0.0}


def test_counting_leaves_the_model_as_it_was() -> None:
    model = with_mixed_modes(half_masked(toy_cnn()))
    before = trace(model)
    counts(model)
    assert_untouched(model, before)


# --- MACs

SELF_ATTENTION = 4 * 6 * 8 * 8 + 2 * 6 * 6 * 8  # four projections of 6 steps, scores, weighted sums


def attend(layer: Any, inputs: Tensor, need_weights: bool) -> Tensor:
    return layer(inputs, inputs, inputs, need_weights=need_weights)[0]


def packed(layer: Any, inputs: Tensor) -> Tensor:
    return layer(pack_padded_sequence(inputs, torch.tensor([4]), batch_first=True))[0].data


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Linear(8, 16), (8,), 8 * 16),
        (nn.Linear(8, 16, bias=False), (6, 8), 6 * 8 * 16),
        (nn.Conv1d(4, 6, 3, padding=1), (4, 9), 9 * 6 * 4 * 3),
        (nn.Conv2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 2 * 2 * 6 * 2 * 9),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 5 * 5 * 4 * 3 * 9),
        (nn.RNN(8, 5, batch_first=True), (6, 8), 6 * 5 * (8 + 5)),
        (nn.GRU(8, 5, batch_first=True), (6, 8), 6 * 3 * 5 * (8 + 5)),
        (
            nn.LSTM(8, 5, num_layers=2, bidirectional=True, batch_first=True),
            (6, 8),
            6 * 2 * (4 * 5 * (8 + 5) + 4 * 5 * (10 + 5)),
        ),
        (nn.LSTM(8, 5, proj_size=3, batch_first=True), (6, 8), 6 * (4 * 5 * (8 + 3) + 5 * 3)),
        (nn.LSTMCell(8, 5), (8,), 4 * 5 * (8 + 5)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (6, 8), SELF_ATTENTION + 2 * 6 * 8 * 16),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)), (4, 6, 6), 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
@pytest.mark.smoke
def test_macs_of_layers(model: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert expected == macs(model.train(), samples_of(*shape))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            Calls(partial(attend, need_weights=True), nn.MultiheadAttention(8, 2, batch_first=True)),
            SELF_ATTENTION,
        ),
        (
            Calls(partial(attend, need_weights=False), nn.MultiheadAttention(8, 2, batch_first=True)),
            SELF_ATTENTION,
        ),
        (Calls(lambda _, x: F.scaled_dot_product_attention(x, x, x, is_causal=True)), 2 * 6 * 6 * 8),
        (Calls(lambda _, x: torch.einsum("bij,bkj->bik", x, x)), 6 * 6 * 8),
        (Calls(lambda _, x: x[0] @ x[0, 0]), 6 * 8),
        (Calls(lambda layer, x: layer(x, x), nn.Bilinear(8, 8, 5)), 6 * 5 * 8 * 8),
        (Calls(packed, nn.LSTM(8, 5, batch_first=True)), 4 * 4 * 5 * (8 + 5)),
        (Calls(packed, nn.GRU(8, 5, batch_first=True)), 4 * 3 * 5 * (8 + 5)),
        (Calls(lambda layer, x: layer(layer(x)), nn.Linear(8, 8)), 2 * 6 * 8 * 8),
        (Calls(lambda layer, x: layer(layer(x)), Int8(nn.Linear(8, 8))), 2 * 6 * 8 * 8),
        (Calls(lambda layer, x: layer(inputs=x), Int8(nn.Linear(8, 8))), 6 * 8 * 8),
    ],
    ids=[
        "attention",
        "fused attention",
        "functional attention",
        "einsum",
        "matrix by vector",
        "bilinear",
        "packed lstm",
        "packed gru",
        "shared",
        "shared replaced",
        "keyword",
    ],
)
def test_macs_of_calls(model: nn.Module, expected: int) -> None:
    assert macs(model, samples_of(6, 8)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(8, 16), (6, 8)),
        (nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False), (4, 7, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5)),
    ],
    ids=["linear", "convolution", "transposed"],
)
def test_a_replaced_layer_has_the_macs_of_the_layer(layer: Any, shape: tuple[int, ...]) -> None:
    data = samples_of(*shape)
    assert macs(Int8(layer), data) == macs(layer, data) > 0


def test_a_replaced_layer_of_several_weights_has_the_macs_and_parameters_of_the_layer() -> None:
    layer, data = nn.LSTM(8, 5, 2, batch_first=True), samples_of(6, 8)
    model: Any = nn.Sequential(Several(copy.deepcopy(layer)))
    assert macs(model, data) == macs(layer, data) == 6 * 20 * (8 + 5 + 5 + 5)
    parameters = sum(weight.numel() for weight in layer.parameters())
    assert counts(model) == {"parameters": parameters, "nonzero": parameters, "sparsity": 0.0}
    model[0].values[:10] = 0
    assert counts(model)["nonzero"] == parameters - 10
    assert counts(nn.Sequential(model[0], model[0]))["parameters"] == parameters


def test_macs_of_lenet5_are_the_same_plain_masked_and_replaced() -> None:
    assert LENET5_MACS == 2_293_000
    data, model = samples_of(1, 28, 28), lenet5()
    assert macs(model, data) == 2_293_000
    assert macs(half_masked(model), data) == 2_293_000
    assert macs(quantized(masks.folded(model)), data) == 2_293_000


def test_a_parametrization_costs_nothing() -> None:
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 16))
    assert macs(nn.Sequential(layer), samples_of(8)) == 8 * 16


def test_macs_inside_a_replaced_layer_are_its_own() -> None:
    inner = Int8(nn.Linear(4, 4))
    inner.replaces = "something of its own"
    model = nn.Sequential(nn.Linear(8, 8), Wrapped(nn.Linear(8, 4)), Wrapped(inner), nn.Linear(4, 2))
    assert macs(model, samples_of(8)) == 64 + 32 + 16 + 8


def test_a_replaced_layer_of_unknown_arithmetic_is_named() -> None:
    layer = Wrapped(nn.Linear(8, 4))
    layer.replaces = "Fold"
    with pytest.raises(ToolkitError, match=r"MACs of '1', which replaces 'Fold'; known: Bilinear, Conv1d"):
        macs(nn.Sequential(nn.Linear(8, 8), layer), samples_of(8))


@pytest.mark.parametrize("prepare", [lambda model: model, half_masked, quantized])
def test_counting_macs_leaves_the_model_as_it_was(prepare: Callable[[nn.Module], nn.Module]) -> None:
    model = with_mixed_modes(prepare(toy_cnn()))
    before = trace(model)
    assert macs(model, toy_data(8)) == 64 * 8 * 9 + 16 * 8 * 8 * 9 + 128 * 4
    assert_untouched(model, before)


def infinite() -> Data:
    """Data with a metric that is infinite for one sample."""
    return replace(toy_data(64), metrics={"odd": lambda outputs, batch: torch.where(batch.index == 0, math.inf, 1.0)})


def test_a_metric_that_is_not_finite_counts_as_not_measured(recipe_run: Any) -> None:
    outcome = recipe_run(f'[data]\nsource = "{__file__}:infinite"\n[[stages]]\ntechnique = "pruning"')
    assert outcome.error == ""
    for row in outcome.rows:
        assert (row["odd"], row["odd_interval"]) == (None, None)
        assert row["accuracy"] is not None
    assert "odd is not finite and counts as not measured" in outcome.log
