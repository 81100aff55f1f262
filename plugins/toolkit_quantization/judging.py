"""What a conversion costs: the drop of the foremost metric, and how far the outputs have moved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit import Batch, Data, Pooled
from toolkit_quantization.params import Params

# Noise of a quarter of the signal's power. Sound int8 gives 0.01 to 0.1, vanished outputs 1, unrelated ones 1.4.
MAX_ERROR = 0.5
# For a task that has only a loss nothing else is looked at: noise of a hundredth of the signal's power, so that of
# what a regression explains of its targets it loses about a hundredth at most.
MAX_ERROR_ALONE = 0.1
COMPARED = 256  # samples whose outputs are compared: they have to be kept


def relative_error(outputs: Tensor, reference: Tensor) -> float:
    """The norm of the difference over the norm of the reference; equal infinities do not differ."""
    difference = torch.where(outputs == reference, 0.0, outputs - reference)
    size = reference[reference.isfinite()].norm().clamp_min(torch.finfo(reference.dtype).tiny)
    return (difference.norm() / size).item()


class Bounds(NamedTuple):
    """The largest drop and output error that are accepted; the drop's is None where there is no metric."""

    drop: float | None
    error: float


class Verdict(NamedTuple):
    """What a conversion costs: `drop` in the judge's unit, None without a metric; `failure` if it does not run."""

    drop: float | None
    error: float
    failure: str = ""


def share(cost: float | None, bound: float | None) -> float:
    """How much of a bound is used up; all of infinity by what is no number."""
    if cost is None or bound is None:
        return 0.0
    if math.isnan(cost):
        return math.inf
    return cost / bound if bound > 0 else (math.inf if cost > 0 else 0.0)


class Judge:
    """Compares converted models with the model before them, on the same samples of the deciding split.

    `metric` is the foremost metric of quality, None for a task that has only a loss; `unit` is the drop's: points
    (hundredths) of a metric that is a fraction, percent of the value of any other. A drop is a change for the worse.
    """

    def __init__(self, model: nn.Module, data: Data, params: Params) -> None:
        self.data = data
        self._what = "quantization" if params.overrides else params.dtype
        foremost, direction = next(iter(data.quality.items()))
        self.metric = None if foremost == "loss" else foremost
        self._sign = 1.0 if direction == "higher" else -1.0
        count = data.samples(data.selection_split)
        self.samples = min(count, params.samples)
        # Spread over the whole split, which may be sorted by class.
        self._order = torch.linspace(0, count - 1, self.samples, dtype=torch.float64).long()
        self._scores, self._outputs = self._ask(model)
        self._set_unit()
        self.bounds = self._bounds(params)

    def __call__(self, model: nn.Module) -> Verdict:
        """The verdict on a converted model; one that does not run is judged as well."""
        try:
            scores, outputs = self._ask(model)
            error = relative_error(outputs, self._outputs)
        except Exception as problem:  # of somebody's network, which a layer does not fit
            return Verdict(None, math.nan, " ".join(f"{type(problem).__name__}: {problem}".split()))
        drop = None
        if self._scores is not None and scores is not None:
            drop = (self._scores.mean() - scores.mean()).item() * self._sign * self._scale
        return Verdict(drop, error)

    def severity(self, verdict: Verdict) -> float:
        """The share of what is accepted that is used up, of drop or error the larger one; above 1 is too much."""
        return max(share(verdict.drop, self.bounds.drop), share(verdict.error, self.bounds.error))

    def accepts(self, verdict: Verdict) -> bool:
        """Whether a conversion is within the bounds."""
        return self.severity(verdict) <= 1

    def complaint(self, verdict: Verdict) -> str:
        """What is wrong with a conversion that is not accepted: the beginning of a sentence."""
        if verdict.failure:
            return f"the model fails with {self._what} layers, exclude those at fault: {verdict.failure}"
        wrong = []
        if share(verdict.drop, self.bounds.drop) > 1:
            cost = f"costs {verdict.drop:.3g} {self.unit} of {self.metric} on the {self.data.selection_split} split"
            wrong.append(f"{cost}, more than {self.bounds.drop:.3g}")
        if share(verdict.error, self.bounds.error) > 1:
            wrong.append(f"changes the outputs by {verdict.error:.2g} of their size, more than {self.bounds.error:.3g}")
        return f"{self._what} {' and '.join(wrong)}"

    def _set_unit(self) -> None:
        self.unit, self._scale = "points", 100.0
        if self._scores is not None and not ((self._scores >= 0) & (self._scores <= 1)).all():
            value = abs(self._scores.mean().item())
            self.unit, self._scale = "%", 100.0 / max(value, torch.finfo(torch.float64).tiny)

    def _bounds(self, params: Params) -> Bounds:
        if self._scores is None:
            return Bounds(None, params.max_error or MAX_ERROR_ALONE)
        drop = params.max_drop
        if drop > 0 and self.metric == "accuracy":
            # One answer of few is no measurement. Half of it more, for what rounding adds to it.
            drop = max(drop, 100.5 / self.samples)
        return Bounds(drop, params.max_error or MAX_ERROR)

    @torch.no_grad()
    def _ask(self, model: nn.Module) -> tuple[Tensor | None, Tensor]:
        """The score of every sample, float64, or the one of all of them, and the outputs of the first of them."""
        scores: list[Tensor | Pooled] = []
        outputs: list[Tensor] = []
        compared = 0
        task = self.data.task
        for batch in self._batches():
            found = task.forward(model.eval(), batch)
            if self.metric is not None:
                scores.append(self._score(found, batch))
            if compared < COMPARED:
                outputs.append(task.logits(found).double().flatten().cpu())
                compared += len(batch)
        return _together(scores) if scores else None, torch.cat(outputs)

    def _batches(self) -> Iterator[Batch]:
        return iter(self.data.batches(self.data.selection_split, order=self._order))

    def _score(self, outputs: object, batch: Batch) -> Tensor | Pooled:
        if self.metric == "accuracy" and self.data.has_right_answers:
            correct = self.data.task.correct(outputs, batch)
            assert correct is not None  # as the toolkit has checked before the run
            return correct
        assert self.metric is not None
        if self.metric in self.data.task.better:
            return self.data.task.scores(outputs, batch)[self.metric]
        return self.data.metrics[self.metric](outputs, batch)


def _together(batches: Sequence[Tensor | Pooled]) -> Tensor:
    """The scores of all samples, (N,) float64; of what is no mean over samples the one score of all of them, (1,)."""
    pooled = [batch for batch in batches if isinstance(batch, Pooled)]
    if pooled:
        return Pooled.joined(pooled).metric().reshape(1)
    return torch.cat([batch.double().cpu() for batch in batches if isinstance(batch, Tensor)])
