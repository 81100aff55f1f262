"""Distillation: its loss against the formula, its teachers, and stages that it shares with other techniques."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import toolkit_distillation
import torch
from toolkit_distillation import Prepared, Teacher
from toolkit_distillation import teachers as teachers_module
from torch import Tensor, nn

import toolkit
from toolkit import Batch, Data, Task, Training, masks
from toolkit.data.validation_split import with_validation
from toolkit.errors import InputError
from toolkit.hooks import loading as techniques
from toolkit.recipe.read import PluginUse, Stage
from toolkit.runner.stage import StageOutcome, perform
from toolkit.runner.technique_numbers import named_measures
from toolkit.seeding import reseed
from toolkit.tasks.classification import softened_divergence as distillation_loss
from toolkit.testing import toy_cnn, toy_data, toy_mlp
from toolkit.training import TrainingSettings, fit


def formula(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """T² · mean over samples of sum p · log(p / q), in float64 and written out."""
    losses = []
    for row, taught in zip(student.double().tolist(), teacher.double().tolist(), strict=True):
        q, p = ([torch.tensor(value / temperature).double().exp() for value in logits] for logits in (row, taught))
        q, p = ([value / sum(values) for value in values] for values in (q, p))
        losses.append(sum(a * (a / b).log() for a, b in zip(p, q, strict=True)))
    return float(temperature**2 * sum(losses) / len(losses))


def step(technique: str, **params: Any) -> PluginUse:
    loaded = techniques.load(technique)
    return PluginUse(loaded, loaded.params_class.model_validate(params, context={"directory": Path()}))


def stage(*steps: PluginUse, **finetune: Any) -> Stage:
    settings = TrainingSettings(**{"epochs": 2, "lr": 1e-2, **finetune})
    return Stage(1, "stage", steps, 0, settings)


def run(
    model: nn.Module, *steps: PluginUse, data: Data | None = None, reference: Any = None, **finetune: Any
) -> StageOutcome:
    reference = masks.clone(model) if reference is None else reference
    reseed(0, 1)
    return perform(stage(*steps, **finetune), model, reference.eval().requires_grad_(False), data or toy_data(256))


def trained(make: Callable[[], nn.Module] = toy_mlp, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model, data = make(), toy_data(256)
    fit(model, Training(TrainingSettings(epochs=2, lr=1e-2), data.task.loss), data)
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def equal(one: nn.Module | dict[str, Tensor], other: nn.Module | dict[str, Tensor]) -> bool:
    left, right = (state(each) if isinstance(each, nn.Module) else each for each in (one, other))
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def small_student() -> nn.Module:
    return toy_mlp(hidden=6)


STUDENT = {"source": f"{__name__}:small_student"}


class Spy:
    """A technique that changes nothing and keeps what the loss so far gives, as a technique of one hook."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.outputs: list[Tensor] = []
        self.batches: list[Batch] = []

    @property
    def step(self) -> PluginUse:
        @toolkit.hookimpl
        def finetune(training: Training) -> Training:
            def loss(outputs: Any, batch: Batch) -> Tensor:
                value = training.loss(outputs, batch)
                self.losses.append(value.item())
                self.outputs.append(outputs.detach())
                self.batches.append(batch)
                return value

            return training.using(loss=loss)

        return PluginUse(techniques.from_module(SimpleNamespace(finetune=finetune), "spy"), toolkit.Params())


def assert_both_terms(spy: Spy, teacher: nn.Module, alpha: float, temperature: float) -> None:
    """Every loss of the stage is the weighted sum of cross-entropy and the formula, and both of them count."""
    terms = []
    for loss, outputs, batch in zip(spy.losses, spy.outputs, spy.batches, strict=True):
        with torch.no_grad():
            soft = formula(outputs, teacher(batch.inputs), temperature)
        hard = nn.functional.cross_entropy(outputs.double(), batch.targets).item()
        assert loss == pytest.approx((1 - alpha) * hard + alpha * soft, rel=1e-4)
        terms.append(((1 - alpha) * hard, alpha * soft))
    assert min(map(max, zip(*terms, strict=True))) > 1e-2


# The loss.


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 100.0])
@pytest.mark.parametrize("shape", [(1, 2), (7, 10), (64, 4)])
def test_the_loss_is_that_of_the_formula(shape: tuple[int, int], temperature: float) -> None:
    student, teacher = 3 * torch.randn(shape), 3 * torch.randn(shape)
    loss = distillation_loss(student, teacher, temperature)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(formula(student, teacher, temperature), rel=1e-4, abs=1e-7)


def test_the_loss_of_several_answers_a_sample_is_their_mean() -> None:
    student, teacher = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    expected = formula(student.flatten(0, 1), teacher.flatten(0, 1), 2.0)
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_equal_logits_is_zero_and_any_other_is_not() -> None:
    logits = torch.randn(8, 5)
    assert distillation_loss(logits, logits, 3.0).item() == pytest.approx(0, abs=1e-6)
    shifted = logits + torch.randn(8, 1)  # the same distributions
    assert distillation_loss(shifted, logits, 3.0).item() == pytest.approx(0, abs=1e-5)
    assert distillation_loss(logits.roll(1, dims=1), logits, 3.0) > 0.1


def test_the_loss_is_not_symmetric() -> None:
    student, teacher = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    forward, backward = distillation_loss(student, teacher, 1.0), distillation_loss(teacher, student, 1.0)
    assert forward.item() == pytest.approx(formula(student, teacher, 1.0), rel=1e-4)
    assert forward.item() != pytest.approx(backward.item(), rel=0.1)


def test_extreme_logits_give_a_finite_loss() -> None:
    student, teacher = torch.tensor([[1e4, 0.0, -1e4]]).requires_grad_(), torch.tensor([[-1e4, 0.0, 1e4]])
    loss = distillation_loss(student, teacher, 1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_gradients_are_those_of_the_formula(temperature: float) -> None:
    student, teacher = torch.randn(6, 4).requires_grad_(), torch.randn(6, 4)
    distillation_loss(student, teacher, temperature).backward()
    q, p = ((logits.detach().double() / temperature).softmax(dim=1) for logits in (student, teacher))
    assert student.grad is not None
    assert torch.allclose(student.grad.double(), temperature * (q - p) / 6, atol=1e-6)


def test_the_size_of_gradients_hardly_depends_on_the_temperature() -> None:
    # Section 2 of the paper: at high temperatures it is (z − v) / C for logits of zero mean, whatever T.
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    expected = ((student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))) / 4 / 6
    for temperature in (50.0, 500.0):
        logits = student.clone().requires_grad_()
        distillation_loss(logits, teacher, temperature).backward()
        assert logits.grad is not None
        assert torch.allclose(logits.grad, expected, rtol=0.05, atol=2e-3)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.3, 1.0), (0.7, 4.0), (0.95, 10.0)])
@pytest.mark.smoke
def test_a_stage_trains_with_both_terms(alpha: float, temperature: float) -> None:
    model, spy = trained(), Spy()
    distillation = step("distillation", student=STUDENT, alpha=alpha, temperature=temperature)
    run(model, distillation, spy.step)
    assert_both_terms(spy, model, alpha, temperature)


def test_alpha_1_learns_from_the_teacher_alone() -> None:
    data, model = toy_data(256), trained()
    inputs, targets = data.train  # type: ignore[misc]
    spy = Spy()
    distillation = step("distillation", student=STUDENT, alpha=1.0)
    one = run(model, distillation, spy.step, data=data)
    other = run(model, distillation, data=replace(data, train=(inputs, (targets + 1) % 4)))
    assert equal(one.model, other.model), "the targets do not matter"
    soft = formula(spy.outputs[0], model(spy.batches[0].inputs), 4.0)
    assert spy.losses[0] == pytest.approx(soft, rel=1e-4)


def test_alpha_0_trains_the_student_alone() -> None:
    model = trained()

    @toolkit.hookimpl
    def optimize() -> nn.Module:
        return small_student()

    alone = PluginUse(techniques.from_module(SimpleNamespace(optimize=optimize), "replace"), toolkit.Params())
    outcome = run(model, step("distillation", student=STUDENT, alpha=0.0))
    assert outcome.prepared == (None,)
    assert outcome.losses == run(model, alone).losses
    assert equal(outcome.model, run(model, alone).model)
    assert not equal(outcome.model, run(model, step("distillation", student=STUDENT)).model)


def test_the_loss_wraps_the_one_it_is_given() -> None:
    data, model = toy_data(64), trained()
    batch, outputs = data.example(8), torch.randn(8, 4)
    params: Any = step("distillation", alpha=0.4, temperature=2.0).params
    inner = Training(TrainingSettings(), lambda outputs, batch: outputs.sum())
    training = toolkit_distillation.finetune(small_student(), params, data, Prepared([model]), inner)
    expected = 0.6 * outputs.sum().item() + 0.4 * formula(outputs, model(batch.inputs), 2.0)
    assert training.loss(outputs, batch).item() == pytest.approx(expected, rel=1e-4)
    assert toolkit_distillation.finetune(small_student(), params, data, None, inner) is inner


# Teachers.


def teacher_of(model: nn.Module, reference: nn.Module, **params: Any) -> nn.Module:
    checked: Any = step("distillation", **params).params
    prepared = toolkit_distillation.prepare(model, checked, toy_data(64), reference)
    assert prepared is not None
    [teacher] = prepared.teachers
    return teacher


def test_the_teacher_is_what_is_asked_for(tmp_path: Path) -> None:
    model, reference, third = trained(seed=1), trained(seed=2), trained(seed=3)
    weights = tmp_path / "third.safetensors"
    safetensors.torch.save_file(third.state_dict(), weights)
    source = {"source": "toolkit.testing:toy_mlp", "weights": str(weights)}
    assert equal(teacher_of(model, reference), model)
    assert equal(teacher_of(model, reference, teacher="input"), model)
    assert equal(teacher_of(model, reference, teacher="reference"), reference)
    assert equal(teacher_of(model, reference, teacher=source), third)


@pytest.mark.parametrize("teacher", ["input", "reference", {"source": "toolkit.testing:toy_cnn"}], ids=str)
def test_a_teacher_is_frozen_in_eval_mode_and_independent(teacher: Any) -> None:
    model, reference = toy_cnn().train(), toy_cnn()
    made = teacher_of(model, reference, teacher=teacher)
    assert not any(module.training for module in made.modules())
    assert not any(parameter.requires_grad for parameter in made.parameters())
    assert model.training
    assert all(parameter.requires_grad for parameter in [*model.parameters(), *reference.parameters()])
    own = {parameter.data_ptr() for parameter in [*model.parameters(), *reference.parameters()]}
    assert own.isdisjoint(parameter.data_ptr() for parameter in made.parameters())


def test_weights_of_a_teacher_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "other.safetensors"
    safetensors.torch.save_file(toy_mlp(5).state_dict(), weights)
    with pytest.raises(InputError, match="does not match"):
        teacher_of(toy_mlp(), toy_mlp(), teacher={"source": "toolkit.testing:toy_mlp", "weights": str(weights)})


def test_a_masked_teacher_is_a_copy_of_its_own() -> None:
    model = trained()
    masks.apply(model, {"1.weight": torch.rand(32, 64) < 0.5})
    teacher = teacher_of(model, model)
    masks.apply(model, {"1.weight": torch.zeros(32, 64, dtype=torch.bool)})
    assert (teacher.get_submodule("1").weight != 0).any()  # type: ignore[union-attr]


@pytest.mark.parametrize("augment", [None, lambda inputs: inputs + 0.1 * torch.randn_like(inputs)])
@pytest.mark.parametrize("teacher", ["input", "reference"])
def test_training_changes_neither_the_teacher_nor_what_it_came_from(teacher: str, augment: Any) -> None:
    model, reference = trained(toy_cnn), trained(toy_cnn, seed=1)
    before = [state(model), state(reference)]
    data = replace(toy_data(256), augment=augment)
    outcome = run(model, step("distillation", teacher=teacher), data=data, reference=reference)
    taught = before[0] if teacher == "input" else before[1]
    assert equal(outcome.prepared[0].teachers[0], taught), "batch norm's statistics included"
    assert equal(model, before[0])
    assert equal(reference, before[1])
    assert not equal(outcome.model, before[0])


class Counting(nn.Module):
    """A network that counts the samples it sees, copies of it included, and notes whether gradients were on."""

    seen: int = 0
    modes: set[tuple[bool, bool]] = set()  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, inputs: Tensor) -> Tensor:
        Counting.seen += len(inputs)
        Counting.modes.add((self.training, torch.is_grad_enabled()))
        return self.norm(self.linear(inputs.flatten(1)))


@pytest.fixture
def counting() -> nn.Module:
    Counting.seen, Counting.modes = 0, set()
    return Counting()


PROBED = 1  # the sample by which the size of the cache is found


def samples_seen(counting: nn.Module, data: Data, epochs: int) -> int:
    run(toy_mlp(), step("distillation", teacher="reference"), data=data, reference=counting, epochs=epochs)
    assert Counting.modes == {(False, False)}, "in eval mode and without gradients"
    return Counting.seen


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_teacher_sees_every_sample_once(counting: nn.Module, epochs: int) -> None:
    assert samples_seen(counting, toy_data(200), epochs) in (200, 200 + PROBED)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_teacher_sees_augmented_samples_in_every_epoch(counting: nn.Module, epochs: int) -> None:
    assert samples_seen(counting, replace(toy_data(200), augment=lambda inputs: inputs + 1), epochs) == 200 * epochs


class Watched(nn.Module):
    """A convolutional network that notes in which dtype and layout each pass runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 4)
        self.seen: set[tuple[torch.dtype, bool]] = set()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.seen.add((y.dtype, y.is_contiguous(memory_format=torch.channels_last)))
        return self.fc(y.mean((2, 3)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_teacher_runs_as_fast_as_the_student_in_every_step(precision: str) -> None:
    teacher = Watched().requires_grad_(False)
    data = replace(toy_data(64), augment=lambda inputs: inputs)
    training = Training(TrainingSettings.model_validate({"precision": precision}), data.task.loss)
    params = toolkit_distillation.Params()
    taught = toolkit_distillation.finetune(toy_cnn(), params, data, Prepared([teacher]), training)
    teacher.seen.clear()
    fit(toy_cnn(), taught, data)
    assert teacher.seen == {(getattr(torch, precision), True)}
    teacher.seen.clear()
    taught.loss(torch.randn(8, 4), data.example(8))
    assert teacher.seen == {(torch.float32, True)}, "no step runs"


def test_the_teacher_sees_samples_of_a_dataset_in_every_epoch(counting: nn.Module) -> None:
    class Pairs(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 200

        def __getitem__(self, position: int) -> Any:
            return torch.full((1, 8, 8), float(position)), position % 4

    assert samples_seen(counting, replace(toy_data(200), train=Pairs()), epochs=2) == 400


def test_logits_that_do_not_fit_into_memory_are_computed_in_every_epoch(
    counting: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers_module, "MAX_CACHE_BYTES", 200 * 4 * 4)
    assert samples_seen(counting, toy_data(200), epochs=2) == 200 + PROBED
    monkeypatch.setattr(teachers_module, "MAX_CACHE_BYTES", 200 * 4 * 4 - 1)
    Counting.seen = 0
    assert samples_seen(counting, toy_data(200), epochs=2) == 400 + PROBED


def test_augmented_samples_are_shown_to_teacher_and_student_alike() -> None:
    model, spy = trained(), Spy()
    data = replace(toy_data(256), augment=lambda inputs: inputs + torch.randn_like(inputs))
    run(model, step("distillation", student=STUDENT, alpha=0.6, temperature=3.0), spy.step, data=data)
    assert all(batch.augmented for batch in spy.batches)
    assert_both_terms(spy, model, 0.6, 3.0)


@pytest.mark.parametrize("held_out", [0, 40])
def test_a_row_of_the_cache_belongs_to_its_sample(held_out: int) -> None:
    model = trained()
    data = with_validation(replace(toy_data(200), validation=None), held_out)
    teacher = Teacher(model.eval(), data)
    assert teacher.logits is not None
    assert teacher.logits.shape == (200 - held_out, 4)
    for batch in data.training_batches(torch.randperm(200 - held_out), 33):
        with torch.no_grad():
            assert torch.allclose(teacher(batch).logits, model(batch.inputs), atol=1e-5)


@pytest.mark.parametrize("augmented", [False, True])
def test_kept_logits_train_as_computed_ones_do(augmented: bool) -> None:
    # The identity as an augmentation: what is seen is the same, and nothing may be kept.
    data = replace(toy_data(256), augment=(lambda inputs: inputs) if augmented else None)
    model = trained()
    expected = run(model, step("distillation", student=STUDENT))
    found = run(model, step("distillation", student=STUDENT), data=data)
    assert found.losses == pytest.approx(expected.losses, rel=1e-4)


def test_two_stages_with_one_seed_are_the_same_to_the_last_bit() -> None:
    model = trained(toy_cnn)
    outcomes = [run(model, step("distillation", student={"source": "toolkit.testing:toy_cnn"})) for _ in range(2)]
    assert outcomes[0].losses == outcomes[1].losses
    assert equal(outcomes[0].model, outcomes[1].model)


def test_bfloat16_distils_in_float32() -> None:
    model, spy = trained(), Spy()
    run(model, step("distillation", student=STUDENT), spy.step, precision="bfloat16")
    assert {outputs.dtype for outputs in spy.outputs} == {torch.float32}
    assert_both_terms(spy, model, 0.7, 4.0)


# Students.


def test_a_student_takes_the_models_place_and_learns() -> None:
    model = trained()
    distillation = step("distillation", student=STUDENT)
    assert distillation.params.replaces_model
    outcome = run(model, distillation, epochs=6)
    assert [tuple(p.shape) for p in outcome.model.parameters()] == [
        tuple(p.shape) for p in small_student().parameters()
    ]
    assert outcome.losses[-1] < outcome.losses[0] / 2
    assert named_measures(distillation, outcome.model, toy_data(256), outcome.prepared[0])[
        "distillation.agreement"
    ] == pytest.approx(1, abs=0.1)


def test_without_a_student_the_model_itself_learns() -> None:
    model = trained(toy_cnn)
    before = state(model)
    distillation = step("distillation")
    assert not distillation.params.replaces_model
    outcome = run(model, distillation)
    assert state(outcome.model).keys() == before.keys()
    assert not equal(outcome.model, before)
    assert equal(model, before), "the stage works on a copy"


def test_distillation_needs_a_training() -> None:
    assert step("distillation").params.needs_finetune
    assert step("distillation").params.trainable_after


def test_a_student_is_drawn_anew_from_the_stages_seed() -> None:
    students = []
    for seed in (0, 0, 1):
        reseed(seed, 1)
        only = replace(stage(step("distillation", student=STUDENT)), finetune=None)
        students.append(perform(only, toy_mlp(), toy_mlp(), toy_data(64)).model)
    assert equal(students[0], students[1])
    assert not equal(students[0], students[2])


class Constant(nn.Module):
    """Gives the same answer to every sample, but for those whose first pixel is above a limit."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, inputs: Tensor) -> Tensor:
        above = inputs[:, 0, 0, 0] > self.limit
        return torch.stack([(~above).float(), above.float(), torch.zeros(len(inputs))], dim=1)


@pytest.mark.parametrize("name", ["test", "validation", "train"])
def test_agreement_is_the_share_of_equal_answers(name: str) -> None:
    data = toy_data(256)
    data = replace(data, test=data.test if name == "test" else None)
    data = replace(data, validation=None if name == "train" else data.validation)
    model, teacher = Constant(0.2), Constant(-0.3)
    inputs, _ = data.split(name)  # type: ignore[misc]
    pixels = inputs[:, 0, 0, 0]
    differing = ((pixels > -0.3) & (pixels <= 0.2)).double().mean().item()
    found = toolkit_distillation.measure(model, data, Prepared([teacher]))["agreement"]
    assert found == pytest.approx(1 - differing)
    assert 0 < differing < 1
    assert toolkit_distillation.measure(teacher, data, Prepared([teacher]))["agreement"] == 1
    assert toolkit_distillation.measure(model, data, None) == {}


class Wrapped(nn.Module):
    """Two inputs by name; the logits are one of two outputs, an answer for each of three positions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 5)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        return {"hidden": left, "logits": self.linear(left * right)}


class Tagging(Task):
    """One of five classes for each position."""

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(self.logits(outputs).flatten(0, 1), batch.targets.flatten())

    def answers(self, outputs: Any) -> Tensor:
        return self.logits(outputs).argmax(-1)

    def correct(self, outputs: Any, batch: Batch) -> Tensor:
        return (self.answers(outputs) == batch.targets).all(dim=1)


def test_models_are_reached_through_the_task() -> None:
    inputs = {"right": torch.randn(90, 3, 8), "left": torch.randn(90, 3, 8)}
    split: Any = inputs, torch.randint(5, (90, 3))
    data = Data(train=split, validation=split, test=split, task=Tagging(), batch_size=32)
    model, distillation = Wrapped(), step("distillation", teacher="reference", alpha=1.0)
    reference = Wrapped()
    outcome = run(model, distillation, data=data, reference=reference, epochs=30, lr=5e-2)
    assert outcome.losses[-1] < outcome.losses[0] / 5
    agreement = named_measures(distillation, outcome.model, data, outcome.prepared[0])["distillation.agreement"]
    logits = [data.task.logits(network(**inputs)).argmax(-1) for network in (outcome.model, reference)]
    assert agreement == pytest.approx((logits[0] == logits[1]).double().mean().item())
    assert agreement > 0.8


# Several techniques in one stage.


def sparsity(model: nn.Module) -> float:
    weights = [weight.value for weight in masks.named_weights(model) if weight.value.dim() > 1]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


@pytest.mark.parametrize("make", [toy_mlp, toy_cnn])
@pytest.mark.parametrize("first", ["pruning", "distillation"])
def test_gradual_pruning_with_distillation_ends_as_asked_and_trains_with_both_terms(
    make: Callable[[], nn.Module], first: str
) -> None:
    model, spy = trained(make), Spy()
    pruning = step("pruning", sparsity=0.9, schedule="gradual", steps_between=1)
    distillation = step("distillation", alpha=0.6, temperature=3.0)
    both = (pruning, distillation) if first == "pruning" else (distillation, pruning)
    outcome = run(model, *both, spy.step, epochs=3)
    weights = sum(weight.value.numel() for weight in masks.named_weights(model) if weight.value.dim() > 1)
    assert sparsity(outcome.model) == round(0.9 * weights) / weights
    assert sparsity(model) == 0
    assert_both_terms(spy, model, 0.6, 3.0)


def test_a_student_is_pruned_in_the_stage_that_brings_it() -> None:
    model, spy = trained(), Spy()
    outcome = run(
        model,
        step("distillation", student=STUDENT, alpha=0.5, temperature=2.0),
        step("pruning", sparsity=0.5, schedule="gradual", steps_between=1),
        spy.step,
    )
    assert sparsity(outcome.model) == 0.5
    assert [tuple(p.shape) for p in masks.folded(outcome.model).parameters() if p.dim() > 1] == [(6, 64), (4, 6)]
    assert_both_terms(spy, model, 0.5, 2.0)


def hinting(scale: float, calls: list[str]) -> PluginUse:
    """A toy technique with a helper module: a penalty on the outputs, through a projection that learns."""

    @toolkit.hookimpl
    def prepare(model: nn.Module, data: Data, reference: nn.Module) -> nn.Module:
        calls.append("prepare")
        assert data.test is None
        return nn.Linear(4, 2)

    @toolkit.hookimpl
    def finetune(prepared: nn.Module, training: Training) -> Training:
        calls.append("finetune")

        def loss(outputs: Any, batch: Batch) -> Tensor:
            return training.loss(outputs, batch) + scale * prepared(outputs).square().mean()

        count = lambda step, steps: calls.append(f"step {step} of {steps}")  # noqa: E731
        return training.using(loss=loss, after_step=count, trained_along=prepared)

    @toolkit.hookimpl
    def measure(prepared: nn.Module) -> dict[str, float]:
        calls.append("measure")
        return {"norm": prepared.get_parameter("weight").norm().item()}

    module = SimpleNamespace(prepare=prepare, finetune=finetune, measure=measure)
    return PluginUse(techniques.from_module(module, "hinting"), toolkit.Params())


def test_three_techniques_train_together_in_one_stage() -> None:
    model, spy, calls = trained(), Spy(), list[str]()
    hint = hinting(0.1, calls)
    distillation = step("distillation", alpha=0.6, temperature=3.0)
    pruning = step("pruning", sparsity=0.8, schedule="gradual", steps_between=1)
    outcome = run(model, pruning, distillation, spy.step, hint)
    assert calls == ["prepare", "finetune", *(f"step {number} of 8" for number in range(1, 9))]
    assert sparsity(outcome.model) == pytest.approx(0.8, abs=1e-3)
    assert_both_terms(spy, model, 0.6, 3.0)
    helper = outcome.prepared[3]
    assert not any(parameter is other for parameter in helper.parameters() for other in outcome.model.parameters())
    # Without the toy the same losses begin, and end elsewhere: its penalty is in the sum and its helper learned.
    spies = spy, Spy()
    other = run(model, pruning, distillation, spies[1].step, hinting(0.0, []))
    assert spies[0].losses[0] == spies[1].losses[0]
    assert spies[0].losses[1:] != spies[1].losses[1:]
    assert outcome.losses[0] > other.losses[0]
    assert not equal(outcome.model, other.model)
    assert not equal(helper, other.prepared[3])
    values = {}
    for one, prepared in zip((pruning, distillation, hint), (*outcome.prepared[:2], helper), strict=True):
        values.update(named_measures(one, outcome.model, toy_data(256), prepared))
    assert {"pruning.sparsity", "distillation.agreement", "hinting.norm"} <= values.keys()
