"""Hints: their losses against formulas, what they do to features, and that they leave nothing behind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from toolkit_distillation.comparing import MAX_GROUP, attention_loss, fitnets_loss, relational_loss
from toolkit_distillation.features import catching, first_tensor, probe
from toolkit_distillation.hints import Hint, make_hints
from toolkit_distillation.initialisation import copy_tensors
from toolkit_distillation.soft_targets import soft_loss
from toolkit_distillation.teachers import Lesson
from toolkit_quantization import Params as QuantizationParams
from toolkit_quantization import convert
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import SwinTransformer

import toolkit
from toolkit import Training, masks
from toolkit import model_files as artifact
from toolkit.errors import RecipeError, TechniqueError
from toolkit.hooks import loading as techniques
from toolkit.recipe.read import PluginUse, Stage
from toolkit.runner.stage import StageOutcome, perform
from toolkit.runner.technique_numbers import named_measures
from toolkit.seeding import reseed
from toolkit.tasks import Classification
from toolkit.testing import toy_cnn, toy_data, toy_lstm, toy_mlp, toy_outputs, toy_transformer
from toolkit.training import TrainingSettings, fit

CONV = "3"  # the second convolution of toy_cnn
BATCH = toolkit.Batch(torch.zeros(6, 1), torch.zeros(6).long(), torch.arange(6))
STUDENT = {"source": "toolkit.testing:toy_cnn", "args": {"channels": 4}}
WIDE = {"source": "toolkit.testing:toy_cnn", "args": {"channels": 12}}  # which can show all that its teacher's 8 show


def step(technique: str = "distillation", **params: Any) -> PluginUse:
    loaded = techniques.load(technique)
    return PluginUse(loaded, loaded.params_class.model_validate(params, context={"directory": Path()}))


def hint(loss: str = "fitnets", teacher: str = CONV, student: str = CONV, **more: Any) -> dict[str, Any]:
    return {"teacher": teacher, "student": student, "loss": loss, **more}


def run(model: nn.Module, *steps: PluginUse, data: Any = None, on_step: Any = None, **finetune: Any) -> StageOutcome:
    settings = TrainingSettings(**{"epochs": 2, "lr": 1e-2, **finetune})
    reseed(0, 1)
    reference = masks.clone(model).eval().requires_grad_(False)
    return perform(Stage(1, "stage", steps, 0, settings), model, reference, data or toy_data(256), on_step)


def trained(make: Callable[[], nn.Module] = toy_cnn, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model, data = make(), toy_data(256)
    fit(model, Training(TrainingSettings(epochs=2, lr=1e-2), data.task.loss), data)
    return model


def hooks_on(model: nn.Module) -> int:
    return sum(len(value) for module in model.modules() for name, value in vars(module).items() if "_hooks" in name)


def made_up(**hooks: Any) -> PluginUse:
    marked = {name: toolkit.hookimpl(hook) for name, hook in hooks.items()}
    return PluginUse(techniques.from_module(SimpleNamespace(**marked), "made-up"), toolkit.Params())


# The losses.


def halved(features: np.ndarray) -> np.ndarray:
    """(…, H, W) averaged over squares of four."""
    *left, height, width = features.shape
    return features.reshape(*left, height // 2, 2, width // 2, 2).mean(axis=(-3, -1))


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 7), (5, 3, 4, 6), (5, 3, 2, 2, 2)])
@pytest.mark.smoke
def test_fitnets_is_the_mean_squared_difference(shape: tuple[int, ...]) -> None:
    one, other = torch.randn(shape), torch.randn(shape)
    expected = np.mean((one.double().numpy() - other.double().numpy()) ** 2)
    assert fitnets_loss(one, other).item() == pytest.approx(expected, rel=1e-5)


def test_fitnets_averages_to_the_smaller_number_of_positions() -> None:
    wide, narrow = torch.randn(5, 3, 8, 4), torch.randn(5, 3, 4, 8)
    left = wide.numpy().reshape(5, 3, 4, 2, 4).mean(axis=3)
    right = narrow.numpy().reshape(5, 3, 4, 4, 2).mean(axis=4)
    assert fitnets_loss(wide, narrow).item() == pytest.approx(np.mean((left - right) ** 2), rel=1e-5)


def attention_formula(student: Tensor, teacher: Tensor) -> float:
    """Equation 2 of the paper with p = 2, squared, averaged over the samples."""
    losses = []
    for one, other in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        maps = [(features**2).sum(axis=0).ravel() for features in (one, other)]
        losses.append(
            sum((a - b) ** 2 for a, b in zip(*[each / np.sqrt((each**2).sum()) for each in maps], strict=True))
        )
    return float(np.mean(losses))


@pytest.mark.parametrize("positions", [(9,), (4, 6), (2, 3, 2)])
@pytest.mark.smoke
def test_attention_is_that_of_the_formula(positions: tuple[int, ...]) -> None:
    student, teacher = torch.randn(6, 3, *positions), torch.randn(6, 8, *positions)
    assert attention_loss(student, teacher).item() == pytest.approx(attention_formula(student, teacher), rel=1e-4)
    assert attention_loss(7 * student, student).item() == pytest.approx(0, abs=1e-6)


def test_attention_averages_maps_to_the_smaller_number_of_positions() -> None:
    student, teacher = torch.randn(6, 3, 8, 4), torch.randn(6, 5, 4, 2)
    squares = torch.from_numpy(halved((student**2).numpy())).sum(dim=1, keepdim=True)
    expected = attention_formula(squares.sqrt(), teacher)
    assert attention_loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def relational_formula(student: np.ndarray, teacher: np.ndarray) -> float:
    """Equations 5 to 9 of the paper over all pairs and triples, written out; a sample and itself count as zero."""

    def relations(x: np.ndarray) -> tuple[np.ndarray, dict[tuple[int, int, int], float]]:
        count = len(x)
        distances = np.array([[np.linalg.norm(x[i] - x[j]) for j in range(count)] for i in range(count)])
        cosines = {}
        for i, j, k in np.ndindex(count, count, count):
            scale = distances[i, j] * distances[k, j]
            cosines[i, j, k] = (x[i] - x[j]) @ (x[k] - x[j]) / scale if scale else 0.0
        return distances / distances[distances > 0].mean(), cosines

    (distances, cosines), (wanted, angles) = relations(student), relations(teacher)
    distance = np.mean([huber(a - b) for a, b in zip(distances.ravel(), wanted.ravel(), strict=True)])
    return float(distance + 2 * np.mean([huber(cosines[triple] - angles[triple]) for triple in cosines]))


@pytest.mark.parametrize("shapes", [((5, 3), (5, 7)), ((6, 3, 2), (6, 4)), ((4, 2, 3, 3), (4, 5, 4, 4))])
@pytest.mark.smoke
def test_relational_is_that_of_the_formula(shapes: tuple[tuple[int, ...], ...]) -> None:
    student, teacher = (torch.randn(shape) + 5 for shape in shapes)
    expected = relational_formula(student.flatten(1).double().numpy(), teacher.flatten(1).double().numpy())
    assert relational_loss(student, teacher).item() == pytest.approx(expected, rel=1e-3)


def test_relational_sees_neither_scale_nor_place_nor_rotation() -> None:
    features, other = torch.randn(8, 5), torch.randn(8, 5)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5))
    assert relational_loss(3 * features @ rotation + 10, features).item() == pytest.approx(0, abs=1e-5)
    assert relational_loss(other, features) > 0.05


def test_relational_takes_large_batches_in_groups() -> None:
    count = MAX_GROUP + 6
    student, teacher = torch.randn(count, 3), torch.randn(count, 3)
    losses = [relational_loss(student[part], teacher[part]) for part in (slice(MAX_GROUP), slice(MAX_GROUP, None))]
    expected = (MAX_GROUP * losses[0] + 6 * losses[1]) / count
    assert relational_loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    "features", [torch.randn(1, 4), torch.ones(5, 4), torch.tensor([[1.0, 2.0]] * 3 + [[0.0, 1.0]])]
)
def test_relations_of_equal_samples_have_finite_gradients(features: Tensor) -> None:
    student = features.clone().requires_grad_()
    loss = relational_loss(student, torch.randn(len(features), 3))
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", [attention_loss, relational_loss, fitnets_loss])
def test_gradients_are_right(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = torch.randn(4, 3, 5).double().requires_grad_(), torch.randn(4, 3, 5).double()
    assert torch.autograd.gradcheck(lambda features: loss(features, teacher), student)


# Several teachers.


@pytest.mark.parametrize("shares", [[1.0, 1.0], [3.0, 1.0], [0.2, 0.5, 0.3]])
def test_several_teachers_draw_towards_the_mean_of_their_softened_answers(shares: list[float]) -> None:
    student, teachers = torch.randn(6, 4).requires_grad_(), [2 * torch.randn(6, 4) for _ in shares]
    lessons = [Lesson(each, {}) for each in teachers]
    soft_loss(Classification(), student, BATCH, lessons, shares, 3.0).backward()
    weights = np.array(shares) / np.sum(shares)
    mean = sum(weight * (logits / 3).softmax(dim=1) for weight, logits in zip(weights, teachers, strict=True))
    expected = 3.0 * ((student.detach() / 3).softmax(dim=1) - mean) / 6
    assert student.grad is not None
    assert torch.allclose(student.grad, expected.float(), atol=1e-6)


def test_teachers_of_other_architectures_teach_together(tmp_path: Path) -> None:
    model, other = trained(), trained(toy_mlp)
    safetensors.torch.save_file(other.state_dict(), tmp_path / "mlp.safetensors")
    mlp = {"source": "toolkit.testing:toy_mlp", "weights": str(tmp_path / "mlp.safetensors")}
    distillation = step(
        student=STUDENT, teachers=["input", mlp], shares=[1.0, 2.0], alpha=1.0, temperature=2.0,
        hints=[hint("relational", "1", CONV, of=2), hint()],
    )  # fmt: skip
    losses = []

    def look(training: Training) -> Training:
        def loss(outputs: Any, batch: toolkit.Batch) -> Tensor:
            losses.append((training.loss(outputs, batch).item(), outputs.detach(), batch.inputs))
            return training.loss(outputs, batch)

        return training.using(loss=loss)

    outcome = run(model, replace_hints(distillation, []), made_up(finetune=look))
    value, outputs, inputs = losses[0]
    with torch.no_grad():
        answers = [(network(inputs) / 2).log_softmax(dim=1) for network in (model, other)]
    mine = (outputs / 2).log_softmax(dim=1)
    parts = [4 * (each.exp() * (each - mine)).sum(dim=1).mean().item() for each in answers]
    assert value == pytest.approx((parts[0] + 2 * parts[1]) / 3, rel=1e-4)
    outcome = run(model, distillation)
    measured = named_measures(distillation, outcome.model, toy_data(256), outcome.prepared[0])
    assert {"distillation.agreement_1", "distillation.agreement_2", "distillation.hints"} == measured.keys()
    rows = measured["distillation.hints"].table
    assert [row["after"] < row["before"] for row in rows] == [True, True]


def replace_hints(one: PluginUse, hints: list[Any]) -> PluginUse:
    return replace(one, params=one.params.model_copy(update={"hints": hints}))


# Catching features.


def test_features_are_caught_as_the_module_returns_them() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True))
    inputs = torch.randn(5, 4)
    with catching(model, ["0", "1"]) as caught:
        model(inputs)
        assert torch.equal(caught["0"][0], model[0](inputs))  # type: ignore[index, unused-ignore]
        assert torch.equal(caught["1"][0], model[0](inputs).relu())
    assert not caught
    assert hooks_on(model) == 0


def test_no_hook_is_left_by_a_pass_that_fails() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(4, 3))
    with pytest.raises(RuntimeError), catching(model, ["0", "1"]):
        model(torch.randn(5, 4))
    assert hooks_on(model) == 0


@pytest.mark.parametrize(
    "outputs",
    [
        torch.ones(2),
        (torch.ones(2), 1),
        [None, torch.ones(2)],
        {"a": (torch.ones(2),)},
        SimpleNamespace(h=torch.ones(2)),
    ],
)
def test_the_first_tensor_of_what_a_module_returns_is_taken(outputs: Any) -> None:
    tensor = first_tensor(outputs)
    assert tensor is not None
    assert torch.equal(tensor, torch.ones(2))


def test_shapes_have_channels_second_and_the_model_stays_in_its_mode() -> None:
    data = toy_data(64)
    assert probe(toy_lstm(8).train(), data, ["lstm"], "it").shapes == {"lstm": (3, 8, 8)}
    assert probe(toy_transformer(), data, ["block", "block.linear1"], "it").shapes == {
        "block": (3, 16, 8),
        "block.linear1": (3, 32, 8),
    }
    model = nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 6, 5))
    assert probe(model, data, ["1"], "it").shapes == {"1": (3, 6, 60)}
    assert probe(model.train(), data, ["1"], "it").problems == []
    assert model[1].training


def swin() -> nn.Module:
    """A Swin transformer, which passes pictures (N, H, W, C) between its layers."""
    inner = SwinTransformer([2, 2], embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=[2, 2], num_classes=4)
    return nn.Sequential(nn.Conv2d(1, 3, 1), inner)


def test_channels_that_come_last_are_recognized() -> None:
    paths = ["1.features.0", "1.features.1", "1.features.1.0.norm1", "1.features.3", "1.permute"]
    probed = probe(swin(), toy_data(64), paths, "it")
    assert probed.problems == []
    assert [tuple(probed.shapes[path]) for path in paths] == [(3, 12, 4, 4)] * 3 + [(3, 24, 2, 2)] * 2
    quantized = convert(swin(), QuantizationParams(arithmetic="float"))
    assert tuple(probe(quantized, toy_data(64), ["1.features.1"], "it").shapes["1.features.1"]) == (3, 12, 4, 4)


def test_convolutions_that_end_with_linear_layers_keep_their_channels_first() -> None:
    block = CNBlockConfig(6, 10, 1), CNBlockConfig(10, None, 1)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Upsample(scale_factor=4), ConvNeXt(block, num_classes=4))
    shapes = probe(model, toy_data(64), ["2.features.1", "2.features.3"], "it").shapes
    assert [tuple(shape) for shape in shapes.values()] == [(3, 6, 8, 8), (3, 10, 4, 4)]


def test_channels_that_may_be_first_or_last_are_refused() -> None:
    sentence = (
        "'1.features.1.0.stochastic_depth' of it runs 2 times in one pass: name a module that runs once",
        "'1.features.1.0.mlp.4' of it returns (4, 4, 12) per sample, and its channels may be the first or the last "
        "dimension: name another module",
    )
    paths = ["1.features.1.0.stochastic_depth", "1.features.1.0.mlp.4"]
    assert probe(swin(), toy_data(64), paths, "it").problems == list(sentence)


def test_a_hint_from_one_swin_transformer_to_another_projects_channels() -> None:
    params = hint(teacher="1.features.1", student="1.features.1")
    [made] = make_hints([Hint.model_validate(params)], swin(), [swin()], toy_data(64)).projections
    assert isinstance(made, nn.Conv2d)
    assert (made.in_channels, made.out_channels) == (12, 12)


class Odd(nn.Module):
    """Every way in which a module's features are of no use."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.none = nn.Linear(64, 64), nn.Linear(1, 1), Returning(None)
        self.turned, self.single = Returning(torch.ones(64, 3)), Returning(torch.ones(3))
        self.leave = nn.Linear(64, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.twice(self.twice(inputs.flatten(1)))
        self.none(), self.turned(), self.single()
        return self.leave(hidden)


class Returning(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("levae", "the student has no module 'levae' (close are leave, never)"),
        ("zzz", "the student has no module 'zzz' (it has twice, never, none, turned, single, leave)"),
        ("never", "'never' of the student does not run in a pass through the model"),
        ("twice", "'twice' of the student runs 2 times in one pass: name a module that runs once"),
        ("none", "'none' of the student returns no tensor"),
        (
            "turned",
            "'turned' of the student returns (64, 3) for 3 samples, but the samples must come first, each with values",
        ),
        (
            "single",
            "'single' of the student returns (3,) for 3 samples, but the samples must come first, each with values",
        ),
    ],
)
def test_what_cannot_be_a_hint_is_said(path: str, sentence: str) -> None:
    assert probe(Odd(), toy_data(64), [path, "leave"], "the student").problems == [sentence]


def test_everything_wrong_with_hints_is_said_at_once() -> None:
    hints = [
        Hint(teacher="first", student=CONV),
        Hint(teacher="1", student="conv"),
        Hint(teacher="1", student=CONV),
        Hint(teacher="1", student="6", loss="attention"),
    ]
    with pytest.raises(TechniqueError) as caught:
        make_hints(hints, toy_cnn(), [toy_mlp()], toy_data(64))
    for part in (
        "the student has no module 'conv' (it has 0, 1, 2, 3, 4, 5, 6)",
        "the teacher has no module 'first' (it has 0, 1, 2, 3)",
        "'1' to '3' by fitnets: features of (8, 4, 4) and (32,) per sample differ in the number of dimensions",
        "'1' to '6' by attention: features of (4,) and (32,) per sample have no positions to attend to",
    ):
        assert part in str(caught.value)


# Training.


def explained(student: Tensor, teacher: Tensor) -> float:
    """The share of the teacher's variance that the best linear map of the student's channels leaves unexplained."""
    (x, y) = (each.movedim(1, -1).flatten(0, -2).double().numpy() for each in (student, teacher))
    x = np.hstack([x, np.ones((len(x), 1))])
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return float((residual**2).sum() / ((y - y.mean(axis=0)) ** 2).sum())


FAR = {"fitnets": explained, "attention": attention_formula, "relational": lambda *pair: relational_loss(*pair).item()}


@pytest.mark.parametrize(("loss", "weight"), [("fitnets", 3.0), ("attention", 10.0), ("relational", 10.0)])
def test_hints_bring_features_of_unseen_samples_closer(loss: str, weight: float) -> None:
    model, data = trained(), toy_data(256)
    inputs, _ = data.test  # type: ignore[misc]

    def features(network: nn.Module) -> Tensor:
        with torch.no_grad(), catching(network, [CONV]) as caught:
            network(inputs)
            return caught[CONV][0]

    found = []
    for hints in ([], [hint(loss, weight=weight)]):
        outcome = run(model, step(student=WIDE, hints=hints), epochs=6)
        found.append(FAR[loss](features(outcome.model), features(model)))
    assert found[1] < 0.75 * found[0]


@pytest.mark.parametrize("loss", ["fitnets", "attention", "relational"])
def test_the_loss_is_the_weighted_sum(loss: str) -> None:
    model, losses = trained(), []

    def look(training: Training) -> Training:
        def spied(outputs: Any, batch: toolkit.Batch) -> Tensor:
            losses.append(training.loss(outputs, batch))
            return losses[-1]

        return training.using(loss=spied)

    for hints in ([hint(loss, weight=1.5)], [hint(loss, weight=3.0)], [hint(loss, weight=4.5)], [hint(loss)] * 3):
        run(model, step(student=STUDENT, hints=hints), made_up(finetune=look), epochs=1)
    once, twice, thrice, several = (losses[position].item() for position in range(0, 16, 4))
    assert twice - once > 0.01
    assert thrice - twice == pytest.approx(twice - once, rel=1e-3)
    if loss != "fitnets":  # where each has a projection of its own
        assert several == pytest.approx(twice, rel=1e-4)


def test_projections_learn_along_and_are_no_part_of_the_model() -> None:
    weights = []
    for lr in (1e-12, 1e-2):
        outcome = run(trained(), step(student=STUDENT, hints=[hint()]), lr=lr)
        [projection] = outcome.prepared[0].hinting.hints.projections
        weights.append(projection.weight.detach())
        assert not {*map(id, projection.parameters())} & {*map(id, outcome.model.parameters())}
    assert weights[0].shape == (8, 4, 1, 1)
    assert (weights[0] - weights[1]).abs().mean() > 1e-3


def test_hints_alone_without_soft_targets() -> None:
    model = trained()
    plain = run(model, step(student=STUDENT, alpha=0.0))
    hinted = run(model, step(student=STUDENT, alpha=0.0, hints=[hint(weight=1e-6)]))
    assert plain.prepared == (None,)
    assert hinted.losses == pytest.approx(plain.losses, rel=0.2)
    assert hinted.losses != plain.losses


def test_the_result_has_no_trace_of_hints() -> None:
    model = trained()
    plain, hinted = (run(model, step(hints=hints)).model for hints in ([], [hint(), hint("attention")]))
    assert hooks_on(hinted) == hooks_on(model) == 0
    parts = [artifact.take_apart(result) for result in (plain, hinted)]
    assert parts[0].skeleton == parts[1].skeleton
    assert parts[0].tensors.keys() == parts[1].tensors.keys()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("place", ["loss", "after_step", "on_step"])
def test_no_hook_is_left_where_a_training_ends_early(place: str, error: type[BaseException]) -> None:
    seen: list[nn.Module] = []
    counted: list[int] = []

    def fail(*_: Any) -> None:
        counted.append(sum(map(hooks_on, seen)))
        if len(counted) == 3:
            raise error

    def finetune(model: nn.Module, training: Training) -> Training:
        seen.append(model)

        def loss(outputs: Any, batch: toolkit.Batch) -> Tensor:
            fail()
            return training.loss(outputs, batch)

        added: dict[str, Any] = {"loss": loss} if place == "loss" else {"after_step": fail}
        return training.using(**added) if place != "on_step" else training

    with pytest.raises((error, TechniqueError)):
        run(trained(), step(hints=[hint()]), made_up(finetune=finetune), on_step=fail if place == "on_step" else None)
    assert counted == [1, 1, 1] if place == "loss" else [0, 0, 0]
    assert hooks_on(seen[0]) == 0


def test_hints_in_bfloat16_are_compared_in_float32() -> None:
    model = trained()
    outcome = run(model, step(student=STUDENT, hints=[hint(), hint("relational")]), precision="bfloat16")
    expected = run(model, step(student=STUDENT, hints=[hint(), hint("relational")]))
    assert outcome.losses == pytest.approx(expected.losses, rel=0.05)
    assert outcome.losses != expected.losses


def test_the_faster_precision_is_found_with_hints() -> None:
    outcome = run(trained(), step(hints=[hint()]), precision="auto")
    assert outcome.settings is not None
    assert outcome.settings.precision in ("float32", "bfloat16")


def test_augmented_samples_reach_teacher_and_student_alike() -> None:
    data = replace(toy_data(256), augment=lambda inputs: inputs + torch.randn_like(inputs))
    distillation = step(alpha=0.0, hints=[hint("attention", weight=1e6)])
    outcome = run(trained(), distillation, data=data, epochs=1, lr=1e-12)
    assert outcome.losses[0] < 1e5, "the model is its own teacher, but for batch norm's statistics"


def test_gradual_pruning_with_hints_ends_as_asked() -> None:
    model = trained()
    pruning = step("pruning", sparsity=0.8, schedule="gradual", steps_between=1)
    for steps in ((pruning, step(hints=[hint()])), (step(hints=[hint()]), pruning)):
        outcome = run(model, *steps, epochs=3)
        weights = [weight.value for weight in masks.named_weights(outcome.model) if weight.value.dim() > 1]
        zeros = sum(int((weight == 0).sum()) for weight in weights)
        assert zeros == round(0.8 * sum(weight.numel() for weight in weights))
        assert hooks_on(outcome.model) == 0


def test_layers_without_pictures_get_a_projection_too() -> None:
    model = trained(toy_lstm)
    distillation = step(
        student={"source": "toolkit.testing:toy_lstm", "args": {"hidden": 6}},
        hints=[hint("fitnets", "lstm", "lstm"), hint("attention", "lstm", "lstm"), hint("fitnets", "leave", "leave")],
    )
    outcome = run(model, distillation, epochs=4)
    rows = named_measures(distillation, outcome.model, toy_data(256), outcome.prepared[0])["distillation.hints"].table
    assert all(row["after"] < row["before"] for row in rows)


def test_dictionaries_between_layers_are_looked_into() -> None:
    outcome = run(
        trained(toy_outputs), step(hints=[hint("attention", "body", "body"), hint("fitnets", "head", "head")])
    )
    assert len(outcome.losses) == 2


# A student that begins as its teacher.


def test_tensors_are_copied_where_name_and_shape_agree() -> None:
    teacher, student = trained(toy_mlp), toy_mlp()
    student[1] = nn.Linear(64, 6)
    student[3] = nn.Linear(6, 4)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    note = copy_tensors(student, teacher)
    assert torch.equal(student.state_dict()["3.bias"], teacher.state_dict()["3.bias"])
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in before if name != "3.bias")
    assert note.text == "1 of 4 tensors, 1.0% of the values, were copied from the teacher"
    rows = {row["tensor"]: row for row in note.table}
    assert (rows["3.bias"]["teacher's"], rows["3.bias"]["why not"]) == ("3.bias", "")
    assert rows["1.weight"]["why not"] == "is (6, 64), but (32, 64) in the teacher"


def deep(layers: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *(nn.Linear(64, 64) for _ in range(layers)), nn.Linear(64, 4))


def test_every_second_layer_of_a_teacher_makes_a_student() -> None:
    teacher, student = deep(4), deep(2)
    copy_tensors(student, teacher, {"2": "3", "3": "5"})
    for ours, theirs in (("1", "1"), ("2", "3"), ("3", "5")):
        assert torch.equal(student.get_parameter(f"{ours}.weight"), teacher.get_parameter(f"{theirs}.weight"))
    with pytest.raises(TechniqueError, match=r"the student has no module '4' .*; the teacher has no module '6' "):
        copy_tensors(student, teacher, {"4": "3", "3": "6"})


def test_layers_within_layers_are_renamed_by_the_innermost() -> None:
    teacher, student = nn.ModuleDict({"a": deep(3), "b": deep(3)}), nn.ModuleDict({"c": deep(2)})
    copy_tensors(student, teacher, {"c": "a", "c.2": "b.3"})
    for ours, theirs in (("c.1", "a.1"), ("c.2", "b.3")):
        assert torch.equal(student.get_parameter(f"{ours}.bias"), teacher.get_parameter(f"{theirs}.bias"))


def test_masked_weights_are_copied_as_they_are_seen() -> None:
    teacher, student = toy_mlp(), toy_mlp()
    masks.apply(teacher, {"1.weight": torch.rand(32, 64) < 0.5})
    copy_tensors(student, teacher)
    assert torch.equal(student.get_parameter("1.weight"), masks.folded(teacher).get_parameter("1.weight"))
    assert not masks.current(student)


def test_a_student_begins_as_its_teacher_and_says_so() -> None:
    model = trained()
    begun = step(student={"source": "toolkit.testing:toy_cnn"}, initialize=True, alpha=0.0)
    outcome = run(model, begun, lr=1e-12, epochs=1)
    pairs = zip(outcome.model.parameters(), model.parameters(), strict=True)
    assert all(torch.allclose(found, begun, atol=1e-6) for found, begun in pairs)
    note = named_measures(begun, outcome.model, toy_data(256), outcome.prepared[0])["distillation.initialized"]
    assert note.text.startswith("11 of 11 tensors, 100.0% of the values")


def test_a_student_that_shares_nothing_with_its_teacher_is_refused() -> None:
    with pytest.raises(
        TechniqueError, match=r"initialize cannot copy any tensor of the student from the teacher: 'lstm.weight"
    ):
        run(trained(), step(student={"source": "toolkit.testing:toy_lstm"}, initialize=True))


# In a recipe.

RECIPE = """
[model]
source = "toolkit.testing:toy_cnn"
training = { epochs = 2, lr = 1e-2 }
[[stages]]
name = "small"
technique = "distillation"
params = { student = { source = "toolkit.testing:toy_cnn", args = { channels = 4 } }, initialize = true, hints = [
    { teacher = "3", student = "3" },
    { teacher = "3", student = "3", loss = "attention", weight = 5.0 },
    { teacher = "6", student = "6", loss = "relational", weight = 0.5 },
] }
finetune = { epochs = 6, lr = 1e-2 }
[[stages]]
technique = "pruning"
params = { sparsity = 0.5, schedule = "gradual", steps_between = 2 }
with = [{ technique = "distillation", params = { teachers = ["reference", "input"], shares = [2.0, 1.0], hints = [
    { teacher = "3", student = "3", of = 2 },
] } }]
finetune = { epochs = 2, lr = 1e-2 }
[[stages]]
technique = "quantization"
"""


@pytest.mark.slow
def test_a_recipe_with_hints_runs_and_its_resolved_form_repeats_it(recipe_run: Any, tmp_path: Path) -> None:
    outcome = recipe_run(RECIPE)
    assert outcome.error == ""
    rows = outcome.rows[1]["distillation.hints"].table
    assert [row["loss"] for row in rows] == ["fitnets", "attention", "relational"]
    assert all(row["after"] < row["before"] for row in rows)
    assert "were copied from the teacher" in outcome.rows[1]["distillation.initialized"].text
    assert outcome.rows[2]["pruning.sparsity"] == 0.5
    assert {"distillation.agreement_1", "distillation.agreement_2"} <= outcome.rows[2].values.keys()
    assert hooks_on(outcome.model) == 0
    again = toolkit.run(outcome.directory / "recipe.toml", output=tmp_path / "again")
    assert [row["loss"] for row in again.rows] == [row["loss"] for row in outcome.rows]


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ('hints = [{ teacher = "3" }]', "params.hints.1.student: is missing"),
        ('hints = [{ teacher = "3", student = "3", loss = "l1" }]', "params.hints.1.loss: must be 'fitnets'"),
        ('hints = [{ teacher = "3", student = "3", weight = 0.0 }]', "params.hints.1.weight: must be greater than 0"),
        ('hints = [{ teacher = "3", studnet = "3" }]', "did you mean 'student'?"),
        ('hints = [{ teacher = "", student = "3" }]', "params.hints.1.teacher: "),
        ('hints = [{ teacher = "3", student = "3", of = 2 }]', "hint 1 is of teacher 2, but there is only one"),
        ('teacher = "input", teachers = ["reference"]', "teacher and teachers are both set; put all of them into"),
        ('teachers = ["reference", "inptu"]', "params.teachers.2: "),
        ('teachers = [{ source = "lenet5" }]', "'lenet5' without weights has nothing to teach"),
        ('teachers = ["input", "reference"], shares = [1.0]', "there are 1 shares for 2 teachers"),
        ('teachers = ["input", "reference"], shares = [1.0, 0.0]', "params.shares.2: must be greater than 0"),
        ('teachers = ["input", "reference"], alpha = 0.0', "teacher 1 teaches nothing: alpha is 0, and no hint"),
        ('layers = { "1" = "2" }', "layers only matters for initialize; set initialize = true"),
        ("initialize = true", "initialize needs a student that has no weights of its own"),
    ],
)  # fmt: skip
def test_what_a_recipe_cannot_mean_is_said(params: str, sentence: str, tmp_path: Path) -> None:
    text = '[model]\nsource = "toolkit.testing:toy_cnn"\n[data]\nsource = "toolkit.testing:toy_data"\n'
    path = tmp_path / "recipe.toml"
    path.write_text(f'{text}[[stages]]\ntechnique = "distillation"\nparams = {{ {params} }}\nfinetune = {{}}\n')
    with pytest.raises(RecipeError) as caught:
        toolkit.run(path, output=tmp_path / "run")
    assert sentence in str(caught.value)


def test_wrong_paths_end_the_run_before_the_stage_trains(recipe_run: Any) -> None:
    outcome = recipe_run(RECIPE.replace('teacher = "6", student = "6"', 'teacher = "66", student = "conv"'))
    assert "refused in finetune: the student has no module 'conv'" in outcome.error
    assert "the teacher has no module '66' (close are 6)" in outcome.error
    assert len(outcome.error.splitlines()) == 1


def test_hints_need_a_training(tmp_path: Path) -> None:
    safetensors.torch.save_file(toy_mlp().state_dict(), tmp_path / "mlp.safetensors")
    student = {"source": "toolkit.testing:toy_mlp", "weights": str(tmp_path / "mlp.safetensors")}
    assert step(student=student, hints=[hint()]).params.needs_finetune
    assert not step(student=student).params.needs_finetune
