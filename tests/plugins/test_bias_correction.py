"""Bias correction: the best offset against brute force, the bias that is found, and what is measured."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from toolkit_bias import add_to_bias, best_offset
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from toolkit import Data, TechniqueError, masks
from toolkit.hooks import loading as techniques
from toolkit.recipe.read import PluginUse, Stage
from toolkit.runner.stage import StageOutcome, perform
from toolkit.runner.technique_numbers import named_measures
from toolkit.seeding import reseed
from toolkit.tasks import MultiLabel
from toolkit.testing import TiedToy, toy_cnn, toy_data, toy_mlp
from toolkit.training import Training, TrainingSettings, fit


def step(technique: str = "bias-correction", **params: Any) -> PluginUse:
    loaded = techniques.load(technique)
    return PluginUse(loaded, loaded.params_class.model_validate(params, context={"directory": Path()}))


def run(model: nn.Module, *steps: PluginUse, data: Data | None = None) -> StageOutcome:
    reseed(0, 1)
    data = data or toy_data(256)
    return perform(Stage(1, "stage", steps, 0, None), model.eval(), masks.clone(model), data)


def trained(model: nn.Module | None = None, data: Data | None = None) -> nn.Module:
    data = data or toy_data(256)
    model = model or toy_mlp()
    fit(model, Training(TrainingSettings(epochs=2, lr=1e-2), data.task.loss), data)
    return model


def lowered(model: nn.Module, path: str = "3.bias", classes: tuple[int, ...] = (0,), by: float = 5.0) -> nn.Module:
    """A trained model that hardly ever answers so any more."""
    with torch.no_grad():
        model.get_parameter(path)[list(classes)] -= by
    return model


def errors(logits: Tensor, targets: Tensor, classes: list[int], offset: float) -> int:
    """Counted sample by sample."""
    wrong = 0
    for row, target in zip(logits.double().tolist(), targets.tolist(), strict=True):
        moved = [value + offset * (number in classes) for number, value in enumerate(row)]
        wrong += moved.index(max(moved)) != target
    return wrong


# The best offset.


@pytest.mark.parametrize("seed", range(30))
def test_no_other_offset_has_fewer_errors(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples, known = 1 + seed, 2 + seed % 4
    classes = torch.randperm(known, generator=generator)[: 1 + seed % (known - 1)].tolist()
    logits = 3 * torch.randn(samples, known, generator=generator)
    targets = torch.randint(known, (samples,), generator=generator)
    if seed % 3 == 0:
        logits = logits.round()  # ends that coincide, and ties
    targets[0] = classes[0]
    found = best_offset(logits, targets, classes)
    # The errors only change where a logit of the one kind passes one of the other: try between all of these.
    others = [number for number in range(known) if number not in classes]
    ends = sorted({a - b for row in logits.double() for a in row[others].tolist() for b in row[classes].tolist()})
    offsets = [0.0, ends[0] - 1, ends[-1] + 1, *((a + b) / 2 for a, b in pairwise(ends))]
    assert errors(logits, targets, classes, found) == min(errors(logits, targets, classes, each) for each in offsets)


@pytest.mark.parametrize(
    ("rows", "targets", "expected"),
    [
        ([[0.0, 2.0], [0.0, -6.0]], [0, 1], -7.0),  # one is right below −6, or one above 2: the first, 1 beyond
        ([[0.0, 2.0], [0.0, 4.0]], [0, 1], 3.0),  # both are right from 2 to 4
        ([[0.0, 2.0], [0.0, 3.0], [0.0, 4.0], [0.0, 9.0]], [0, 1, 0, 1], 6.5),  # 2 to 3 has one error, 4 to 9 none
        ([[0.0, 2.0], [0.0, 3.0], [0.0, 4.0], [0.0, 7.0]], [0, 1, 0, 0], 8.0),  # 1 beyond the last end
        ([[0.0, 2.0], [0.0, 3.0]], [1, 1], 0.0),  # no sample of the class
    ],
)
@pytest.mark.smoke
def test_the_offset_is_the_middle_of_the_best_interval(
    rows: list[list[float]], targets: list[int], expected: float
) -> None:
    assert best_offset(torch.tensor(rows), torch.tensor(targets), [0]) == pytest.approx(expected)


def test_of_intervals_with_as_many_errors_the_widest_is_taken() -> None:
    # From 0 to 1 and from 2 to 5 two are right, between them one.
    logits = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 5.0]])
    assert best_offset(logits, torch.tensor([0, 1, 0, 1]), [0]) == pytest.approx(3.5)


def test_where_nothing_can_be_right_nothing_is_changed() -> None:
    logits = torch.tensor([[1.0, 5.0, 0.0, 0.0], [0.0, 0.0, 1.0, 5.0]])
    assert best_offset(logits, torch.tensor([0, 2]), [0, 1]) == 0


# The stage.


@pytest.mark.parametrize("classes", [[0], [2, 1]])
def test_a_bias_that_is_too_low_is_raised(classes: list[int]) -> None:
    data, model = toy_data(512), lowered(trained(data=toy_data(512)), classes=tuple(classes))
    correction = step(classes=classes)
    outcome = run(model, correction, data=data)
    found = named_measures(correction, outcome.model, data, outcome.prepared[0])
    offset = found["bias-correction.offset"]
    assert offset == pytest.approx(5, abs=2)
    added = torch.zeros(4).index_fill(0, torch.tensor(classes), offset)
    assert torch.allclose(outcome.model.get_parameter("3.bias"), model.get_parameter("3.bias") + added)
    inputs, targets = data.test  # type: ignore[misc]
    for suffix, network in (("", outcome.model), ("_before", model)):
        answers = network(inputs).argmax(1)
        for number in classes:
            share = (answers[targets == number] == number).double().mean().item()
            assert found[f"bias-correction.right_{number}{suffix}"] == pytest.approx(share)
        others = [t.item() not in classes for t in targets]
        assert found[f"bias-correction.errors_on_others{suffix}"] == int((answers != targets)[others].sum())
    assert (
        found[f"bias-correction.right_{classes[0]}_before"] < 0.3 < 0.8 < found[f"bias-correction.right_{classes[0]}"]
    )


@pytest.mark.parametrize("validation", [True, False])
def test_the_offset_is_chosen_on_the_split_that_decides(validation: bool) -> None:
    data = toy_data(256)
    data = data if validation else replace(data, validation=None)
    name = "validation" if validation else "train"
    model = lowered(trained())
    outcome = run(model, step(), data=data)
    inputs, targets = data.split(name)  # type: ignore[misc]
    with torch.no_grad():
        logits = model(inputs)
        after = int((outcome.model(inputs).argmax(1) != targets).sum())
    offset = best_offset(logits, targets, [0])
    assert outcome.model.get_parameter("3.bias")[0].item() == pytest.approx(
        model.get_parameter("3.bias")[0].item() + offset, abs=1e-5
    )
    note = named_measures(step(), outcome.model, data, outcome.prepared[0])["bias-correction.chosen"]
    before = errors(logits, targets, [0], 0)
    assert note.text == f"3.bias, chosen on {len(targets)} samples of {name}: {before} errors before, {after} after"
    assert after < before


def test_a_student_that_has_not_seen_a_class_answers_so_afterwards(recipe_run: Any) -> None:
    outcome = recipe_run(
        """
        [model]
        source = "toolkit.testing:toy_mlp"
        training = { epochs = 3, lr = 1e-2 }
        [[stages]]
        technique = "distillation"
        params = { student = { source = "toolkit.testing:toy_mlp" }, alpha = 1.0, without_classes = [3] }
        finetune = { epochs = 6, lr = 1e-2 }
        [[stages]]
        technique = "bias-correction"
        params = { classes = [3] }
        [[stages]]
        technique = "quantization"
        params = { max_drop = 0.1 }
        """
    )
    assert outcome.error == ""
    row = outcome.rows[2]
    assert row["bias-correction.right_3_before"] < 0.1 < 0.8 < row["bias-correction.right_3"]
    assert outcome.rows[1]["accuracy"] + 0.15 < row["accuracy"]


# The bias.


class AsProbabilities(nn.Module):
    """Gives what a softmax makes of the logits."""

    def __init__(self, logarithm: bool) -> None:
        super().__init__()
        self.body, self.head = toy_mlp(4), nn.LogSoftmax(1) if logarithm else nn.Softmax(1)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.body(inputs))


class TwoHeads(nn.Module):
    """The sum of two linear layers, which may share a bias."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(64, 4), nn.Linear(64, 4)
        if shared:
            self.other.bias = self.one.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return self.one(inputs.flatten(1)) + self.other(inputs.flatten(1))


class ReadsLast(nn.Module):
    """Its output layer comes first, and a hidden one is as wide."""

    def __init__(self) -> None:
        super().__init__()
        self.leave, self.enter = nn.Linear(4, 4), nn.Linear(64, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.leave(torch.relu(self.enter(inputs.flatten(1))))


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (ReadsLast(), "leave.bias"),
        (toy_mlp(4), "3.bias"),
        (toy_cnn(4), "6.bias"),
        (TiedToy(), "leave.bias"),
        (AsProbabilities(logarithm=True), "body.3.bias"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False), nn.BatchNorm1d(4)), "2.bias"),
    ],
    ids=["order", "width", "cnn", "tied", "logarithms", "batch norm"],
)
def test_the_bias_is_found_by_what_it_does(model: nn.Module, path: str) -> None:
    model = trained(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outcome = run(lowered(model, path), step())
    changed = [name for name, tensor in outcome.model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == [path]
    assert run(model, step(layer=path.removesuffix(".bias"))).prepared[0] == outcome.prepared[0]


@pytest.mark.parametrize(
    ("model", "params", "sentence"),
    [
        (TwoHeads(shared=False), {}, "one.bias and other.bias all add to the logits; choose one with 'layer'"),
        (TwoHeads(shared=True), {}, r"no bias adds .*the model has one.bias \(4\), other.bias \(4\)"),  # it adds twice
        (AsProbabilities(logarithm=False), {}, r"no bias adds to the logits .*body.1.bias \(4\), body.3.bias \(4\)"),
        (
            toy_mlp(),
            {"layer": "1"},
            r"'1.bias' does not add to the logits of these classes.* the model has 1.bias \(32\)",
        ),
        (
            toy_mlp(),
            {"layer": "fc"},
            r"the layer 'fc' has no bias that can be changed; the model has 1.bias \(32\), 3.bias",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False)),
            {},
            r"the model has none \(those of quantized layers",
        ),
        (toy_mlp(), {"classes": [4]}, "classes lists 4, but the model has classes 0 to 3"),
        (toy_mlp(), {"classes": [0, 3, 1, 2]}, "classes lists all 4 classes of the model"),
    ],
)
def test_what_cannot_be_corrected_is_refused(model: nn.Module, params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TechniqueError, match=sentence):
        run(model, step(**params))


@pytest.mark.parametrize("engine", ["toolkit", "torch"])
def test_quantized_layers_are_refused(engine: str) -> None:
    quantized = run(trained(), step("quantization", engine=engine, max_drop=1.0)).model
    with pytest.raises(TechniqueError, match=r"the model has none \(those of quantized layers cannot be changed\)"):
        run(quantized, step())


def test_another_task_is_refused() -> None:
    with pytest.raises(TechniqueError, match="with one class per sample, but the task is MultiLabel"):
        run(toy_mlp(), step(), data=replace(toy_data(64), task=MultiLabel()))


@pytest.mark.parametrize(
    ("classes", "sentence"), [([], "at least 1"), ([-1], "greater than or equal"), ([1, 1], "1 is listed twice")]
)
def test_numbers_that_are_no_classes_are_refused(classes: list[int], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        step(classes=classes)


def test_one_of_two_biases_can_be_named() -> None:
    model = trained(TwoHeads(shared=False))
    outcome = run(lowered(model, "one.bias"), step(layer="other"))
    assert outcome.prepared[0].path == "other.bias"
    assert torch.equal(outcome.model.get_parameter("one.bias"), model.get_parameter("one.bias"))


# Parametrized biases.


class Halved(nn.Module):
    """What the layer sees is half of what lies below."""

    def forward(self, value: Tensor) -> Tensor:
        return value / 2

    def right_inverse(self, value: Tensor) -> Tensor:
        return 2 * value


class OneWay(nn.Module):
    """Nobody knows what lies below."""

    def forward(self, value: Tensor) -> Tensor:
        return value.sin()


def test_a_parametrized_bias_is_raised_as_its_layer_sees_it() -> None:
    model = lowered(trained())
    plain = run(model, step())
    parametrize.register_parametrization(model[3], "bias", Halved())  # type: ignore[index]
    parametrizations.weight_norm(model[1])  # type: ignore[index]
    outcome = run(model, step())
    assert torch.allclose(masks.folded(outcome.model).get_parameter("3.bias"), plain.model.get_parameter("3.bias"))
    assert parametrize.is_parametrized(outcome.model[3], "bias")  # type: ignore[index]


def test_a_mask_of_the_bias_is_kept() -> None:
    model = lowered(trained())
    masks.apply(model, {"3.bias": torch.tensor([True, True, False, True])})
    outcome = run(model, step())
    assert masks.folded(outcome.model).get_parameter("3.bias")[2] == 0
    with pytest.raises(TechniqueError, match="no bias adds"):
        run(model, step(classes=[2]))


def test_a_bias_that_cannot_be_set_is_refused() -> None:
    model = trained()
    parametrize.register_parametrization(model[3], "bias", OneWay())  # type: ignore[index]
    with pytest.raises(TechniqueError, match="no bias adds"):
        run(model, step())


def test_adding_to_a_bias_adds_to_these_entries_alone() -> None:
    model = toy_mlp()
    before = model.get_parameter("3.bias").detach().clone()
    add_to_bias(model, "3.bias", [1, 3], 2.5)
    assert torch.allclose(model.get_parameter("3.bias") - before, torch.tensor([0.0, 2.5, 0.0, 2.5]))
    assert model.get_parameter("3.bias").requires_grad
