"""The one training loop: its arithmetic, its order of calls, and what it leaves alone."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, OneCycleLR
from torch.utils.data import Dataset, TensorDataset

from toolkit import Batch, Data, Task, masks
from toolkit.errors import TrainingError
from toolkit.runner.stage import train
from toolkit.tasks import Classification
from toolkit.testing import TOY_MODELS, toy_cnn, toy_data, toy_mlp
from toolkit.timing import Timings
from toolkit.training import Training, TrainingSettings, fit
from toolkit.training.precision import with_fixed_precision

SCHEDULES = ("one-cycle", "cosine", "constant")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.1},
    "sgd": {"optimizer": "sgd", "lr": 3e-2, "momentum": 0.8, "weight_decay": 1e-3},
}


def training(loss: Any = None, **settings: Any) -> Training:
    return Training(TrainingSettings(**settings), loss or Classification().loss)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def equal(one: nn.Module | dict[str, Tensor], other: nn.Module | dict[str, Tensor]) -> bool:
    left, right = (state(each) if isinstance(each, nn.Module) else each for each in (one, other))
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def tensors(data: Data) -> tuple[Tensor, Tensor]:
    inputs, targets = data.train  # type: ignore[misc]
    return inputs, targets


def recorded(model: nn.Module, train_with: Training, data: Data) -> list[tuple[int, int, float, float]]:
    """What `on_step` was told."""
    steps: list[tuple[int, int, float, float]] = []
    fit(model, train_with, data, lambda *told: steps.append(told))
    return steps


class Spy:
    """A loss that keeps the batches and outputs it was given."""

    def __init__(self, inner: Any = None) -> None:
        self.inner = inner or Classification().loss
        self.batches: list[Batch] = []
        self.outputs: list[Any] = []

    def __call__(self, outputs: Any, batch: Batch) -> Tensor:
        self.batches.append(batch)
        self.outputs.append(outputs)
        return self.inner(outputs, batch)

    @property
    def order(self) -> list[int]:
        return torch.cat([batch.index for batch in self.batches]).tolist()


# The arithmetic.


def scheduler_of(name: str, optimizer: Any, lr: float, steps: int) -> Any:
    if name == "one-cycle":
        return OneCycleLR(optimizer, max_lr=lr, total_steps=steps + 1, cycle_momentum=False)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return ConstantLR(optimizer, factor=1.0)


def train_by_hand(model: nn.Module, data: Data, settings: TrainingSettings) -> None:
    """The shortest loop that does the arithmetic of `fit`."""
    inputs, targets = tensors(data)
    batch_size = settings.batch_size or data.batch_size
    steps = settings.epochs * -(-len(inputs) // batch_size)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    if settings.optimizer == "adamw":
        optimizer: Any = AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    else:
        decay = settings.weight_decay
        optimizer = SGD(model.parameters(), settings.lr, settings.momentum, weight_decay=decay, fused=True)
    scheduler = scheduler_of(settings.schedule, optimizer, settings.lr, steps)
    model.train()
    for _ in range(settings.epochs):
        for index in torch.randperm(len(inputs), generator=generator).split(batch_size):
            loss = F.cross_entropy(model(inputs[index]), targets[index])
            optimizer.zero_grad()
            loss.backward()
            if settings.clip_norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
            optimizer.step()
            scheduler.step()
    model.eval()


@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.3}, {"batch_size": 100}], ids=["plain", "clipped", "batch_size"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_weights_are_those_of_the_shortest_loop(optimizer: dict[str, Any], schedule: Any, more: dict[str, Any]) -> None:
    data, model = toy_data(256), toy_mlp()
    settings = TrainingSettings(epochs=2, schedule=schedule, **optimizer, **more)
    by_hand = masks.clone(model)
    torch.manual_seed(5)
    train_by_hand(by_hand, data, settings)
    torch.manual_seed(5)
    fit(model, Training(settings, data.task.loss), data)
    assert equal(model, by_hand)


def test_convolutions_are_trained_as_by_the_shortest_loop_in_channels_last() -> None:
    data, model = toy_data(128), toy_cnn()
    by_hand = masks.clone(model).to(memory_format=torch.channels_last)
    torch.manual_seed(5)
    train_by_hand(by_hand, data, TrainingSettings())
    torch.manual_seed(5)
    fit(model, training(), data)
    assert equal(model, by_hand)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.smoke
def test_learning_rates_are_those_of_torchs_schedulers(schedule: Any) -> None:
    told = recorded(toy_mlp(), training(epochs=5, lr=0.02, schedule=schedule, optimizer="sgd"), toy_data(256))
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.02)
    scheduler, expected = scheduler_of(schedule, optimizer, 0.02, len(told)), []
    for _ in told:
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [lr for *_, lr in told] == expected
    assert max(expected) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_training_may_have_a_single_step(schedule: Any) -> None:
    model = toy_mlp()
    before = state(model)
    assert len(recorded(model, training(schedule=schedule), toy_data(64))) == 1
    assert not equal(model, before)


def test_clip_norm_bounds_the_norm_of_all_gradients_together() -> None:
    model = toy_mlp()
    before = state(model)
    settings: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "lr": 0.5}
    fit(model, training(clip_norm=0.01, **settings), toy_data(64))
    moved = torch.cat([(state(model)[name] - before[name]).flatten() for name in before])
    assert moved.norm().item() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_the_mean_loss_of_every_epoch_is_returned() -> None:
    data, spy = toy_data(150), Spy()
    losses = fit(toy_mlp(), training(spy, epochs=2, batch_size=64), data)
    values = [data.task.loss(*pair).item() * len(pair[1]) for pair in zip(spy.outputs, spy.batches, strict=True)]
    assert losses == pytest.approx([sum(values[:3]) / 150, sum(values[3:]) / 150])


@pytest.mark.smoke
def test_training_learns() -> None:
    data, model = toy_data(512), toy_mlp()
    losses = fit(model, training(epochs=3, lr=1e-2), data)
    assert losses[-1] < losses[0] / 2


# The order of calls.


def test_steps_and_epochs_are_counted_from_one() -> None:
    data, seen = toy_data(150), []
    told = recorded(
        toy_mlp(),
        training(epochs=3, batch_size=64).using(after_step=lambda step, steps: seen.append((step, steps))),
        data,
    )
    expected = [(step, 9) for step in range(1, 10)]
    assert seen == expected
    assert [(step, steps) for step, steps, *_ in told] == expected


def test_losses_are_told_as_they_were_before_the_step() -> None:
    data, model, spy = toy_data(128), toy_mlp(), Spy()
    told = recorded(model, training(spy), data)
    expected = [data.task.loss(*pair).item() for pair in zip(spy.outputs, spy.batches, strict=True)]
    assert [loss for _, _, loss, _ in told] == expected


def test_what_is_called_in_which_order() -> None:
    model, events = toy_mlp(), []
    weight = model.get_parameter("1.weight")

    def note(event: str) -> Callable[..., None]:
        return lambda *arguments: events.append((event, weight.detach().sum().item()))

    def loss(outputs: Any, batch: Batch) -> Tensor:
        note("loss")()
        return Classification().loss(outputs, batch)

    plan = training(loss, batch_size=32).using(after_step=note("first")).using(after_step=note("second"))
    fit(model, plan, toy_data(64), note("told"))
    assert [event for event, _ in events] == ["loss", "first", "second", "told"] * 2
    assert events[0][1] != events[1][1], "functions are called after the optimizer's step"
    assert events[1][1] == events[4][1]


def test_what_a_step_function_changes_is_what_the_next_step_sees() -> None:
    model = toy_mlp()
    weight = model.get_parameter("1.weight")

    def zero(step: int, steps: int) -> None:
        with torch.no_grad():
            weight.zero_()

    fit(model, training().using(after_step=zero), toy_data(128))
    assert not weight.any()


def test_using_adds_and_leaves_the_original_alone() -> None:
    original, module, loss = training(), nn.Linear(1, 1), Spy()
    other = original.using(loss=loss).using(after_step=print).using(trained_along=module).using(after_step=max)  # type: ignore[arg-type]
    assert (original.step_functions, original.modules) == ((), ())
    assert other.loss is loss
    assert [added.function for added in other.step_functions] == [print, max]
    assert other.modules == (module,)
    assert original.using().loss is original.loss
    assert [added.function for added in original.using(around_step=nullcontext).contexts] == [nullcontext]
    assert original.contexts == ()


def test_only_the_samples_that_are_asked_for_are_seen() -> None:
    spy, data = Spy(), toy_data(100)
    plan = training(spy, epochs=2, batch_size=16)
    told = recorded(toy_mlp(), plan.using(samples=torch.arange(40, 90)).using().using(samples=torch.arange(60)), data)
    assert [step for step, *_ in told] == [1, 2, 3, 4], "two batches an epoch"
    assert [steps for _, steps, *_ in told] == [4] * 4
    for epoch in (spy.batches[:2], spy.batches[2:]):
        index = torch.cat([batch.index for batch in epoch])
        assert sorted(index.tolist()) == list(range(40, 60))
        assert torch.equal(torch.cat([batch.targets for batch in epoch]), tensors(data)[1][index])
    assert plan.samples is None


def test_nothing_to_train_on_is_an_error() -> None:
    plan = training().using(samples=torch.arange(3)).using(samples=torch.arange(3, 6))
    with pytest.raises(TrainingError, match="no samples remain to train on"):
        fit(toy_mlp(), plan, toy_data(64))


@contextmanager
def noting(events: list[str], name: str, model: nn.Module) -> Iterator[None]:
    hook = model.register_forward_hook(lambda *_: events.append(f"{name} pass"))
    try:
        yield
    finally:
        hook.remove()
        events.append(f"{name} left")


def test_contexts_are_around_the_pass_and_the_loss_of_each_step() -> None:
    events: list[str] = []

    def loss(outputs: Any, batch: Batch) -> Tensor:
        events.append("loss")
        return F.cross_entropy(outputs, batch.targets)

    plan = training(loss)
    for name in ("first", "second"):
        plan = plan.using(around_step=partial(noting, events, name))
    model = toy_mlp()
    fit(model, plan.using(after_step=lambda *_: events.append("after")), toy_data(128))
    one = ["first pass", "second pass", "loss", "second left", "first left", "after"]
    assert events == one * 2
    assert not model._forward_hooks


@pytest.mark.parametrize("fails", ["pass", "loss"])
def test_contexts_are_left_where_a_step_fails(fails: str) -> None:
    def loss(outputs: Any, batch: Batch) -> Tensor:
        raise KeyboardInterrupt

    model, events = (toy_mlp() if fails == "loss" else nn.Sequential(nn.Linear(1, 1))), list[str]()
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        fit(model, training(loss).using(around_step=partial(noting, events, "it")), toy_data(128))
    assert events == (["it pass", "it left"] if fails == "loss" else ["it left"])
    assert not model._forward_hooks


def test_contexts_are_given_the_copy_on_which_precisions_are_timed() -> None:
    seen: list[nn.Module] = []

    def around_step(model: nn.Module) -> AbstractContextManager[None]:
        seen.append(model)
        return nullcontext()

    model = toy_mlp()
    with_fixed_precision(model, training(precision="auto").using(around_step=around_step), toy_data(64))
    assert len(seen) > 2
    assert model not in seen


# What is trained.


class Hint(nn.Module):
    """A projection with batch norm, as a technique's helper has."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.modes: list[bool] = []

    def forward(self, outputs: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.norm(self.projection(outputs))


def with_hint(hint: nn.Module, **settings: Any) -> Training:
    def loss(outputs: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(hint(outputs), batch.targets)

    return training(loss, lr=1e-2, **settings).using(trained_along=hint)


def test_helper_modules_learn_and_do_not_become_part_of_the_model() -> None:
    model, hint = toy_mlp(), Hint().eval()
    before, names = state(hint), list(model.state_dict())
    fit(model, with_hint(hint), toy_data(128))
    after = state(hint)
    assert all(not torch.equal(after[name], before[name]) for name in before)
    assert after["norm.num_batches_tracked"] == 2
    assert hint.modes == [True, True], "they are in train mode while they train"
    assert not any(module.training for module in hint.modules())
    assert list(model.state_dict()) == names


def test_a_helper_module_that_holds_the_model_trains_it_once() -> None:
    data, model = toy_data(128), toy_mlp()
    other = masks.clone(model)
    torch.manual_seed(1)
    fit(model, training(optimizer="sgd", lr=0.1), data)
    torch.manual_seed(1)
    fit(other, training(optimizer="sgd", lr=0.1).using(trained_along=nn.ModuleList([other])), data)
    assert equal(model, other)


def test_clip_norm_counts_the_gradients_of_helper_modules_too() -> None:
    model, hint = toy_mlp(), Hint()
    before = [state(model), state(hint)]
    settings: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"}
    fit(model, with_hint(hint, clip_norm=1e-3, **settings), toy_data(64))
    moved = [
        (state(module)[name] - old[name]).flatten()
        for module, old in zip((model, hint), before, strict=True)
        for name in dict(module.named_parameters())
    ]
    assert torch.cat(moved).norm().item() == pytest.approx(1e-2 * 1e-3, rel=0.05)


def test_frozen_parameters_stay_as_they_are() -> None:
    model = toy_mlp()
    model[1].requires_grad_(False)
    before = state(model)
    fit(model, training(weight_decay=0.5, epochs=2), toy_data(128))
    after = state(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"3.weight", "3.bias"}
    assert not model[1].weight.requires_grad


@pytest.mark.parametrize("make", [nn.Flatten, lambda: toy_mlp().requires_grad_(False)], ids=["empty", "frozen"])
def test_nothing_to_train_is_said(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(TrainingError, match=r"^(Flatten|Sequential) has no parameters to train$"):
        fit(make(), training(), toy_data(64))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_stops_the_training(value: float) -> None:
    model = toy_mlp()
    seen: list[dict[str, Tensor]] = []

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        factor = value if len(seen) == 5 else 1.0
        seen.append(state(model))
        return outputs.square().mean() * factor

    with pytest.raises(TrainingError, match=rf"^the loss is {value} in epoch 2 of 3, step 6 of 12; ") as failure:
        fit(model, training(loss, epochs=3), toy_data(256))
    assert "\n" not in str(failure.value)
    assert equal(model, seen[-1]), "the step is not taken"
    assert not model.training


def test_a_learning_rate_without_measure_is_found_out() -> None:
    with pytest.raises(TrainingError, match=r"lower lr \(now 1e\+30\)"):
        fit(toy_mlp(), training(optimizer="sgd", lr=1e30, schedule="constant", epochs=5), toy_data(128))


# Modes and layouts.


class View(nn.Module):
    """A network that insists on the plain layout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.linear = nn.Linear(216, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.conv(inputs)
        return self.linear(hidden.view(len(hidden), -1))


class Volumes(nn.Module):
    """A network with pictures and volumes, of which channels_last exists for pictures only."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Conv2d(1, 3, 3, padding=1)
        self.deep = nn.Conv3d(1, 2, 3, padding=1)
        self.linear = nn.Linear(2 * 3 * 64, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(self.deep(self.flat(inputs).unsqueeze(1)).flatten(1))


def layouts(model: nn.Module) -> set[bool]:
    """Whether the weights of more than one channel and pixel are in channels_last."""
    weights = [p for p in model.parameters() if p.dim() == 4 and min(p.shape[1:3]) > 1]
    return {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}


def test_convolutions_train_in_channels_last() -> None:
    model = toy_cnn()
    seen: set[bool] = set()

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        seen.update(layouts(model))
        return Classification().loss(outputs, batch)

    fit(model, training(loss), toy_data(64))
    assert seen == {True}


@pytest.mark.parametrize("make", [*TOY_MODELS.values(), View, Volumes], ids=[*TOY_MODELS, "view", "volumes"])
def test_a_model_is_left_in_eval_mode_and_in_the_plain_layout(make: Callable[[], nn.Module]) -> None:
    model = make()
    before = state(model)
    fit(model, training(), toy_data(128))
    assert not any(module.training for module in model.modules())
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    after = state(model)
    assert all(not torch.equal(after[name], before[name]) for name in before)
    model(toy_data(64).example(3).inputs)


def test_models_are_in_train_mode_while_they_train() -> None:
    model = toy_cnn().eval()
    modes: set[bool] = set()

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        modes.update(module.training for module in model.modules())
        return Classification().loss(outputs, batch)

    fit(model, training(loss), toy_data(128))
    assert modes == {True}
    assert model.get_buffer("1.num_batches_tracked") == 2


def test_a_model_is_left_in_eval_mode_when_its_training_fails() -> None:
    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        raise ZeroDivisionError

    model = toy_cnn()
    with pytest.raises(ZeroDivisionError):
        fit(model, training(loss), toy_data(128))
    assert not model.training
    assert layouts(model) == {False}


# Batches.


class Samples(Dataset[Any]):
    """The samples of a split of tensors, one at a time."""

    def __init__(self, inputs: Any, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, position: int) -> Any:
        if isinstance(self.inputs, dict):
            return {name: tensor[position] for name, tensor in self.inputs.items()}, self.targets[position]
        if isinstance(self.inputs, tuple):
            return tuple(tensor[position] for tensor in self.inputs), self.targets[position]
        return self.inputs[position], int(self.targets[position])


@pytest.mark.parametrize("wrap", [Samples, TensorDataset], ids=["Dataset", "TensorDataset"])
@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["plain", "dropout"])
def test_a_dataset_trains_like_the_tensors_it_holds(wrap: Any, dropout: float) -> None:
    data = toy_data(150)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(dropout), nn.Linear(8, 4))
    other = masks.clone(model)
    torch.manual_seed(1)
    losses = fit(model, training(epochs=2), data)
    torch.manual_seed(1)
    assert fit(other, training(epochs=2), replace(data, train=wrap(*tensors(data)))) == losses
    assert equal(model, other)


def test_a_tensor_dataset_with_a_getitem_of_its_own_is_asked() -> None:
    class Brighter(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            inputs, targets = super().__getitem__(index)
            return inputs + 100, targets

    data, spy = toy_data(64), Spy()
    fit(toy_mlp(), training(spy), replace(data, train=Brighter(*tensors(data))))
    assert spy.batches[0].inputs.min() > 50


def test_every_epoch_reads_every_sample_once_in_an_order_of_its_own() -> None:
    spy = Spy()
    fit(toy_mlp(), training(spy, epochs=2, batch_size=50), toy_data(150))
    orders = [spy.order[:150], spy.order[150:]]
    assert [sorted(order) for order in orders] == [list(range(150))] * 2
    assert orders[0] != orders[1]
    assert orders[0] != list(range(150))


@pytest.mark.parametrize("wrap", [None, Samples], ids=["tensors", "Dataset"])
def test_an_index_is_the_position_of_its_sample(wrap: Any) -> None:
    data, spy = toy_data(150), Spy()
    inputs, targets = tensors(data)
    fit(toy_mlp(), training(spy), replace(data, train=wrap(inputs, targets)) if wrap else data)
    for batch in spy.batches:
        assert torch.equal(batch.inputs, inputs[batch.index])
        assert torch.equal(batch.targets, targets[batch.index])


@pytest.mark.parametrize("wrap", [None, Samples], ids=["tensors", "Dataset"])
def test_augmentation_is_for_training_only(wrap: Any) -> None:
    data, spy = toy_data(128), Spy()
    inputs, targets = tensors(data)
    data = replace(data, augment=lambda inputs: inputs + 100, train=wrap(inputs, targets) if wrap else data.train)
    fit(toy_mlp(), training(spy), data)
    assert all(batch.augmented for batch in spy.batches)
    for batch in spy.batches:
        assert torch.equal(batch.inputs, inputs[batch.index] + 100)
    for plain in (*data.batches("train"), *data.batches("test"), *data.batches("validation"), data.example(3)):
        assert not plain.augmented
        assert plain.inputs.min() < 50
    assert torch.equal(inputs, tensors(toy_data(128))[0]), "the data itself is left alone"


@pytest.mark.parametrize(
    ("change", "augmented"),
    [
        (lambda data: data, False),
        (lambda data: replace(data, train=TensorDataset(*data.train)), False),
        (lambda data: replace(data, augment=torch.relu), True),
        (lambda data: replace(data, train=Samples(*data.train)), True),
    ],
    ids=["tensors", "TensorDataset", "augment", "Dataset"],
)
def test_data_says_whether_samples_may_look_different_every_time(change: Any, augmented: bool) -> None:
    data, spy = change(toy_data(64)), Spy()
    fit(toy_mlp(), training(spy), data)
    assert data.augmented is augmented
    assert {batch.augmented for batch in spy.batches} == {augmented}


@pytest.mark.parametrize("wrap", [None, Samples], ids=["tensors", "Dataset"])
def test_a_last_batch_of_one_sample_is_left_out(wrap: Any) -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4))
    data, spy = toy_data(129), Spy()
    data = replace(data, train=wrap(*tensors(data)) if wrap else data.train)
    told: list[tuple[int, int]] = []
    losses = fit(model, training(spy, epochs=2), data, lambda step, steps, *_: told.append((step, steps)))
    assert [len(batch) for batch in spy.batches] == [64] * 4
    assert told == [(step, 4) for step in range(1, 5)]
    values = [data.task.loss(*pair).item() for pair in zip(spy.outputs, spy.batches, strict=True)]
    assert losses == pytest.approx([sum(values[:2]) / 2, sum(values[2:]) / 2])
    assert len(set(spy.order[:128])) == 128


@pytest.mark.parametrize(("samples", "batch_size", "sizes"), [(1, 64, [1]), (3, 1, [1] * 3), (5, 64, [5])])
def test_small_data_is_trained_on(samples: int, batch_size: int, sizes: list[int]) -> None:
    data, spy = toy_data(64), Spy()
    inputs, targets = tensors(data)
    fit(toy_mlp(), training(spy, batch_size=batch_size), replace(data, train=(inputs[:samples], targets[:samples])))
    assert [len(batch) for batch in spy.batches] == sizes


class Pair(nn.Module):
    """Two inputs; the outputs are a tuple, a dictionary or an object with `logits`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.left, self.right = nn.Linear(64, 4), nn.Linear(64, 4)

    def forward(self, left: Tensor, right: Tensor) -> Any:
        logits = self.left(left.flatten(1)) + self.right(right.flatten(1))
        if self.kind == "tuple":
            return logits, left
        return {"hidden": left, "logits": logits} if self.kind == "dict" else logits


@pytest.mark.parametrize("wrap", [None, Samples], ids=["tensors", "Dataset"])
@pytest.mark.parametrize("outputs", ["tensor", "tuple", "dict"])
@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_models_with_several_inputs_and_outputs_train(kind: str, outputs: str, wrap: Any) -> None:
    data, model = toy_data(128), Pair(outputs)
    inputs, targets = tensors(data)
    several: Any = (inputs, inputs.square()) if kind == "tuple" else {"right": inputs.square(), "left": inputs}
    by_hand: Any = masks.clone(model)
    by_hand.kind = "tensor"
    loss = data.task.loss
    torch.manual_seed(1)
    losses = fit(model, training(loss), replace(data, train=wrap(several, targets) if wrap else (several, targets)))
    torch.manual_seed(1)

    class OneInput(Task):
        def forward(self, model: nn.Module, batch: Batch) -> Any:
            return model(batch.inputs, batch.inputs.square())

    assert fit(by_hand, training(loss), replace(data, task=OneInput())) == losses
    assert equal(model, by_hand)


# Precision.


@pytest.mark.parametrize("outputs", ["tensor", "tuple", "dict"])
def test_bfloat16_is_for_the_model_and_float32_for_the_loss(outputs: str) -> None:
    data, model, spy, inside = toy_data(64), Pair(outputs), Spy(), []
    inputs, targets = tensors(data)
    hook = model.left.register_forward_hook(lambda module, args, output: inside.append(output.dtype))
    fit(model, training(spy, precision="bfloat16"), replace(data, train=((inputs, inputs), targets)))
    hook.remove()
    found = spy.outputs[0]
    found = list(found.values()) if isinstance(found, dict) else found if isinstance(found, tuple) else [found]
    assert inside == [torch.bfloat16]
    assert {tensor.dtype for tensor in found} == {torch.float32}
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_the_loss_is_computed_outside_of_autocast() -> None:
    enabled = []

    def loss(outputs: Tensor, batch: Batch) -> Tensor:
        enabled.append(torch.is_autocast_enabled("cpu"))
        return Classification().loss(outputs, batch)

    fit(toy_mlp(), training(loss, precision="bfloat16"), toy_data(64))
    assert enabled == [False]


@pytest.mark.parametrize("make", [toy_mlp, toy_cnn])
def test_bfloat16_learns(make: Callable[[], nn.Module]) -> None:
    data, model, losses = toy_data(256), make(), {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(1)
        losses[precision] = fit(masks.clone(model), training(precision=precision, epochs=4, lr=1e-2), data)
    assert losses["bfloat16"][-1] < losses["bfloat16"][0] / 2
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.2)
    assert losses["bfloat16"] != losses["float32"]


def test_integer_outputs_are_left_as_they_are() -> None:
    class Numbered(nn.Linear):
        def forward(self, inputs: Tensor) -> Any:
            return super().forward(inputs.flatten(1)), torch.arange(len(inputs))

    spy = Spy()
    fit(Numbered(64, 4), training(spy, precision="bfloat16"), toy_data(64))
    assert spy.outputs[0][1].dtype == torch.int64


def test_auto_takes_the_faster_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    for faster in ("float32", "bfloat16"):

        def timed(calls: dict[str, Any], *_: Any, faster: str = faster, **__: Any) -> Timings[str]:
            return Timings({name: np.array([1.0 if name == faster else 2.0]) for name in calls})

        monkeypatch.setattr("toolkit.training.precision.time_in_turn", timed)
        found = with_fixed_precision(toy_mlp(), training(precision="auto", lr=0.5), toy_data(64))
        assert found.settings == TrainingSettings(precision=faster, lr=0.5)


class OnlyFloat32(nn.Module):
    """Raises what oneDNN raises on processors without bfloat16 for a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = toy_mlp()

    def forward(self, inputs: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive descriptor. Run workload with ONEDNN_VERBOSE=all")
        outputs: Tensor = self.inner(inputs)
        return outputs


def test_auto_does_not_take_a_precision_that_the_processor_has_not() -> None:
    found = with_fixed_precision(OnlyFloat32(), training(precision="auto"), toy_data(64))
    assert found.settings.precision == "float32"


def test_a_precision_that_the_processor_has_not_is_told() -> None:
    told = (
        r"^the model does not run in bfloat16 on this machine \(.*could not create a primitive descriptor\); "
        "set precision to float32$"
    )
    with pytest.raises(TrainingError, match=told):
        fit(OnlyFloat32(), training(precision="bfloat16"), toy_data(64))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_precision_that_is_given_is_taken(precision: str) -> None:
    given = training(precision=precision)
    assert with_fixed_precision(toy_mlp(), given, toy_data(64)) is given


def test_finding_the_precision_leaves_everything_as_it_was() -> None:
    model, hint = toy_cnn(), Hint()
    plan = with_hint(hint, precision="auto")
    before, random = [state(model), state(hint)], torch.get_rng_state()
    hint.modes.clear()
    found = with_fixed_precision(model, plan, toy_data(64))
    assert found.settings.precision in ("float32", "bfloat16")
    assert replace(found, settings=plan.settings) == plan
    assert equal(model, before[0])
    assert model.training
    assert all(parameter.grad is None for parameter in [*model.parameters(), *hint.parameters()])
    assert equal(hint, before[1])
    assert set(hint.modes) == {True}, "what is timed is a training"
    assert torch.equal(torch.get_rng_state(), random)


def test_a_stage_trains_in_the_precision_it_found_and_says_so() -> None:
    data, model = toy_data(64), toy_mlp()
    twin = masks.clone(model)
    torch.manual_seed(1)
    outcome = train(model, training(precision="auto"), data)
    assert outcome.settings is not None
    assert outcome.settings.precision in ("float32", "bfloat16")
    torch.manual_seed(1)
    fit(twin, training(precision=outcome.settings.precision), data)
    assert equal(outcome.model, twin), "running what was written down repeats the run"


# Seeds.


class Noisy:
    """A loss that draws from the global generator, as dropout does."""

    def __init__(self, draws: int) -> None:
        self.draws, self.spy = draws, Spy()

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        torch.rand(self.draws)
        return self.spy(outputs, batch)


@pytest.mark.parametrize("make", TOY_MODELS.values(), ids=TOY_MODELS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.smoke
def test_two_trainings_with_one_seed_are_the_same_to_the_last_bit(
    make: Callable[[], nn.Module], precision: str
) -> None:
    model = make()
    twins = [model, masks.clone(model)]
    losses = []
    for twin in twins:
        torch.manual_seed(3)
        try:
            losses.append(fit(twin, training(precision=precision, epochs=2), toy_data(128)))
        except TrainingError as error:
            if "primitive descriptor" in str(error):
                pytest.skip("this processor has no bfloat16 for recurrent layers")
            raise
    assert losses[0] == losses[1]
    assert equal(*twins)


def orders_of(seed: int, draws: int) -> list[int]:
    torch.manual_seed(seed)
    loss = Noisy(draws)
    fit(toy_mlp(), training(loss, epochs=3), toy_data(150))
    return loss.spy.order


def test_the_order_of_samples_depends_on_the_seed_and_not_on_what_the_loss_draws() -> None:
    assert orders_of(1, draws=0) == orders_of(1, draws=7)
    assert orders_of(1, draws=0) != orders_of(2, draws=0)


@pytest.fixture
def one_draw() -> Iterator[None]:
    """Fails a test that draws more than the one number which seeds the order."""
    torch.manual_seed(9)
    torch.randint(2**62, ())
    expected = torch.get_rng_state()
    torch.manual_seed(9)
    yield
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.usefixtures("one_draw")
@pytest.mark.parametrize("wrap", [None, Samples], ids=["tensors", "Dataset"])
def test_a_training_draws_one_number_for_its_order(wrap: Any) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    data = toy_data(64)
    torch.manual_seed(9)
    fit(model, training(epochs=2), replace(data, train=wrap(*tensors(data)) if wrap else data.train))
