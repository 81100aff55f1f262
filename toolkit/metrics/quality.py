"""Quality of a model's answers, and how they differ from the baseline's on the same samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from toolkit.data.splits import Data
from toolkit.errors import ToolkitError
from toolkit.eval_mode import in_eval_mode
from toolkit.metrics.support.metric import (
    COUNT,
    EXACT,
    FRACTION,
    Column,
    Metric,
    Quantity,
    Subject,
    TableContent,
    column_of,
)
from toolkit.metrics.support.quality_format import PLACE, quality_columns
from toolkit.number_text import percent, plain
from toolkit.scoring import joined, one_per_sample, require_one_per_sample
from toolkit.statistics import Floats, mcnemar_p, mean_interval, paired_change_interval, share_interval
from toolkit.tasks import Batch, Pooled, Task


@dataclass(frozen=True)
class Answers:
    """The answers of a model to all N samples of a split, in its order.

    Attributes:
        samples: N.
        loss: mean of the task's loss.
        correct: (N,) bool, whether each answer is correct; None for a task without correct answers.
        given: (N, …) answers; None for a task without answers.
        scores: other metrics by name, (N,) float64 each.
    """

    samples: int
    loss: float
    correct: Tensor | None
    given: Tensor | None
    scores: dict[str, Floats]


@torch.no_grad()
def answers(model: nn.Module, data: Data, split: str = "test") -> Answers:
    """Run a model on all samples of a split, in eval mode; the model is unchanged afterwards.

    Raises:
        ValueError: the data has no such split.
        ToolkitError: the split is empty, or the task does not return one value per sample.
    """
    if not data.samples(split):
        raise ToolkitError(f"the {split} split has no samples")
    with in_eval_mode(model):
        return joined_answers(
            [answers_to_batch(data.task.forward(model, batch), data, batch) for batch in data.batches(split)]
        )


def joined_answers(parts: Sequence[BatchAnswers]) -> Answers:
    """Return the answers to all batches of a split, in its order."""
    samples = sum(part.samples for part in parts)
    return Answers(
        samples,
        sum(part.loss * part.samples for part in parts) / samples,
        _joined([part.correct for part in parts]),
        _joined([part.given for part in parts]),
        {name: joined([part.scores[name] for part in parts]).numpy() for name in parts[0].scores},
    )


def quality(model_answers: Answers, baseline: Answers | None = None) -> dict[str, Any]:
    """Return each metric of quality with its interval and, given the baseline's answers, its change.

    Returns:
        `samples` and `loss`; `accuracy`, a fraction, with its Wilson interval, the paired `accuracy_change` with
        `accuracy_change_interval`, and `accuracy_change_p` of the exact McNemar test; `agreement`, the fraction of
        samples with the same answer as the baseline; other metrics as `<name>`, `<name>_interval`, `<name>_change` and
        `<name>_change_interval`.
    """
    row: dict[str, Any] = {"samples": model_answers.samples, "loss": model_answers.loss}
    if model_answers.correct is not None:
        row |= _accuracy(model_answers.correct, None if baseline is None else baseline.correct)
    if baseline is not None and model_answers.given is not None and baseline.given is not None:
        same = (model_answers.given == baseline.given).reshape(model_answers.samples, -1).all(dim=1)
        row["agreement"] = same.double().mean().item()
    with np.errstate(invalid="ignore"):  # of values that are not finite
        for name, values in model_answers.scores.items():
            row |= _mean(name, values)
            if baseline is not None:
                row |= _mean(f"{name}_change", values - baseline.scores[name])
    return row


def _mean(name: str, values: Floats) -> dict[str, Any]:
    return {name: float(values.mean()), f"{name}_interval": list(mean_interval(values))}


def _accuracy(correct: Tensor, before: Tensor | None) -> dict[str, Any]:
    samples, right = len(correct), int(correct.sum())
    row: dict[str, Any] = {"accuracy": right / samples, "accuracy_interval": list(share_interval(right, samples))}
    if before is not None:
        gained, lost = int((correct & ~before).sum()), int((~correct & before).sum())
        row["accuracy_change"] = (gained - lost) / samples
        row["accuracy_change_interval"] = list(paired_change_interval(gained, lost, samples))
        row["accuracy_change_p"] = mcnemar_p(gained, lost)
    return row


class BatchAnswers(NamedTuple):
    """The answers of a model to one batch; as `Answers`, with one score for each sample."""

    samples: int
    loss: float
    correct: Tensor | None
    given: Tensor | None
    scores: dict[str, Tensor | Pooled]


def answers_to_batch(outputs: Any, data: Data, batch: Batch) -> BatchAnswers:
    """Return the answers in a model's outputs for a batch.

    Raises:
        ToolkitError: the task does not return one value per sample.
    """
    task = data.task
    own = {name: metric(outputs, batch) for name, metric in data.metrics.items()}
    measures = {**task.scores(outputs, batch), **own}
    scores = {name: one_per_sample(value, batch, name) for name, value in measures.items()}
    correct, given = task.correct(outputs, batch), _given(task, outputs, batch)
    if correct is not None and require_one_per_sample(correct, batch, "correct").dtype != torch.bool:
        raise ToolkitError(f"{type(task).__name__}.correct must return bool, found {correct.dtype}")
    return BatchAnswers(len(batch), float(task.loss(outputs, batch)), _on_cpu(correct), _on_cpu(given), scores)


def _given(task: Task, outputs: Any, batch: Batch) -> Tensor | None:
    """Return the answers, with 0 where the task does not count them."""
    given, counted = task.answers(outputs), task.counted(batch)
    return given if given is None or counted is None else given.masked_fill(~counted, 0)


def _on_cpu(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.cpu()


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    return torch.cat(present) if present else None


def _measure(subject: Subject) -> dict[str, Any]:
    return quality(subject.answers, subject.baseline_answers)


def _columns(content: TableContent) -> Iterable[Column]:
    yield from quality_columns(content)
    yield column_of(AGREEMENT, place=40)


AGREEMENT = Quantity(
    "agreement",
    plain,
    "fraction of the samples with the same answer as the baseline",
    better="higher",
    title="agree",
    cell=lambda fraction: percent(fraction, 1),
    dispensable=95,
    bounds=FRACTION,
)
METRIC = Metric(
    _measure,
    (
        Quantity("samples", plain, "number of samples in the evaluated split", bounds=COUNT, comparison=EXACT),
        Quantity("accuracy", percent, "fraction of correct answers", better="higher", bounds=FRACTION),
        AGREEMENT,
    ),
    _columns,
    order=10,
    place=PLACE,
)
