"""Distillation without some classes: no sample of them is seen, and all else is as it was."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from test_distillation import Spy, equal, run, step, trained
from toolkit_distillation.omission import positions_without
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from toolkit import Data, TechniqueError
from toolkit.runner.technique_numbers import named_measures
from toolkit.tasks import MultiLabel, TokenClassification
from toolkit.testing import toy_cnn, toy_data, toy_mlp


def targets_of(data: Data) -> Tensor:
    _, targets = data.train  # type: ignore[misc]
    assert isinstance(targets, Tensor)
    return targets


def only(data: Data, kept: Tensor) -> Data:
    """The same data with some of the training samples."""
    inputs, targets = data.train  # type: ignore[misc]
    return replace(data, train=(inputs[kept], targets[kept]))


def test_positions_of_all_other_classes() -> None:
    assert positions_without(torch.tensor([3, 0, 1, 3, 2, 0]), [0, 2]).tolist() == [0, 2, 3]
    assert positions_without(torch.tensor([3, 3]), [3]).tolist() == []


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.smoke
def test_the_loss_is_that_of_the_other_samples(alpha: float) -> None:
    teacher, spy, data, student = trained(), Spy(), toy_data(256), {"source": "toolkit.testing:toy_mlp"}
    params: dict[str, Any] = {"student": student, "alpha": alpha, "temperature": 2.0, "without_classes": [1, 3]}
    run(teacher, step("distillation", **params), spy.step, data=data)
    seen = torch.cat([batch.index for batch in spy.batches])
    wanted = [position for position, target in enumerate(targets_of(data).tolist()) if target in (0, 2)]
    assert sorted(seen.tolist()) == sorted(2 * wanted), "each of the others in both epochs"
    for loss, outputs, batch in zip(spy.losses, spy.outputs, spy.batches, strict=True):
        assert set(batch.targets.tolist()) <= {0, 2}
        own, other = (logits.double() / 2 for logits in (outputs, teacher(batch.inputs).detach()))
        soft = 4 * (other.softmax(1) * (other.log_softmax(1) - own.log_softmax(1))).sum() / len(batch)
        hard = -outputs.double().log_softmax(1)[range(len(batch)), batch.targets].mean()
        assert loss == pytest.approx(float((1 - alpha) * hard + alpha * soft), rel=1e-4)


@pytest.mark.parametrize("hints", [[], [{"teacher": "3", "student": "3"}]], ids=["outputs", "hints"])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_it_trains_as_on_data_without_them_batch_norms_included(alpha: float, hints: Any) -> None:
    # Augmented, so that the teacher runs in every step: the last bits of its logits depend on the rest of the batch.
    model, data = trained(toy_cnn), replace(toy_data(256), augment=nn.Identity())
    params: dict[str, Any] = {"alpha": alpha, "teacher": "reference", "hints": hints}
    left_out = run(model, step("distillation", **params, without_classes=[2]), data=data).model
    without = only(data, targets_of(data) != 2)
    assert equal(left_out, run(model, step("distillation", **params), data=without).model)
    assert not equal(left_out, run(model, step("distillation", **params), data=data).model)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_student_that_has_not_seen_a_class_does_not_answer_so(alpha: float) -> None:
    data, student = toy_data(256), {"source": "toolkit.testing:toy_mlp"}
    teacher, inputs = trained(), data.test[0]  # type: ignore[index]
    params: dict[str, Any] = {"student": student, "alpha": alpha, "without_classes": [0]}
    model = run(teacher, step("distillation", **params), data=data, epochs=8).model
    shares = [(each(inputs).argmax(1) == 0).double().mean().item() for each in (model, teacher)]
    assert shares[0] < 0.05 < 0.2 < shares[1]


def test_what_it_left_out_is_reported() -> None:
    data = toy_data(256)
    for alpha in (0.0, 0.5):
        distillation = step("distillation", alpha=alpha, without_classes=[3])
        outcome = run(trained(), distillation, data=data, epochs=1)
        found = named_measures(distillation, outcome.model, data, outcome.prepared[0])
        assert found["distillation.samples_left_out"] == int((targets_of(data) == 3).sum())


def test_a_dataset_is_read_for_its_targets() -> None:
    data, spy = toy_data(128), Spy()
    listed = replace(data, train=Listed(*data.train))  # type: ignore[misc]
    run(trained(), step("distillation", without_classes=[1]), spy.step, data=listed, epochs=1)
    assert not any((batch.targets == 1).any() for batch in spy.batches)
    assert sum(map(len, spy.batches)) == int((targets_of(data) != 1).sum())


class Listed(TensorDataset):
    """Samples that could be transformed when they are read."""


def test_two_techniques_that_leave_samples_out_leave_out_both() -> None:
    data, spy = toy_data(128), Spy()
    steps = [step("distillation", without_classes=[number]) for number in (0, 1)]
    run(trained(), *steps, spy.step, data=data, epochs=1)
    seen = torch.cat([batch.targets for batch in spy.batches])
    assert sorted(set(seen.tolist())) == [2, 3]


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ([4], "without_classes lists 4, but the model has classes 0 to 3"),
        ([0, 1, 2, 3], "without_classes leaves none of the 64 training samples; leave fewer classes out"),
    ],
)
def test_classes_that_cannot_be_left_out_are_refused(classes: list[int], sentence: str) -> None:
    with pytest.raises(TechniqueError, match=sentence):
        run(toy_mlp(), step("distillation", without_classes=classes), data=toy_data(64))


@pytest.mark.parametrize("task", [MultiLabel(), TokenClassification()])
def test_a_task_without_one_class_a_sample_is_refused(task: Any) -> None:
    with pytest.raises(TechniqueError, match=f"one class per sample, but the task is {type(task).__name__}"):
        run(toy_mlp(), step("distillation", without_classes=[0]), data=replace(toy_data(64), task=task))


@pytest.mark.parametrize(("classes", "sentence"), [([-1], "greater than or equal to 0"), ([2, 2], "2 is listed twice")])
def test_numbers_that_are_no_classes_are_refused(classes: list[int], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        step("distillation", without_classes=classes)


def test_a_student_that_has_learnt_is_to_be_trained_if_classes_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"")
    student = {"source": "toolkit.testing:toy_mlp", "weights": str(tmp_path / "w.pt")}
    assert not step("distillation", student=student).params.needs_finetune
    assert step("distillation", student=student, without_classes=[0]).params.needs_finetune
