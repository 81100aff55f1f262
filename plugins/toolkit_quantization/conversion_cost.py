"""What a conversion costs: how far the primary metric drops, and how far the outputs move."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from toolkit import Batch, Data, TechniqueError, scoring
from toolkit_quantization.params import Params

# Noise with a quarter of the signal's power. Sound int8 has 0.01 to 0.1, vanished outputs 1, unrelated outputs 1.4.
MAX_ERROR = 0.5
# For a task that has only a loss, where nothing else is checked: noise with a hundredth of the signal's power, so that
# a regression loses at most about a hundredth of what it explains of its targets.
MAX_ERROR_ALONE = 0.1
MAX_CHANGE = 1e-3  # of the outputs' size, by what only rounds elsewhere: folded norms, moved scales
MAX_COMPARED = 256  # samples whose outputs are kept and compared, in whole batches


def relative_error(outputs: Tensor, reference: Tensor) -> float:
    """Return the norm of the difference over the norm of the reference; equal infinities do not differ."""
    difference = torch.where(outputs == reference, 0.0, outputs - reference)
    size = reference[reference.isfinite()].norm().clamp_min(torch.finfo(reference.dtype).tiny)
    return (difference.norm() / size).item()


@torch.no_grad()
def require_equal(model: nn.Module, other: nn.Module, data: Data, what: str, remedy: str) -> None:
    """Refuse another model, which `what` names, whose outputs are not those of a model.

    Raises:
        TechniqueError: they differ by more than a thousandth of their size; it ends with the remedy.
    """
    batch = data.example(2)
    before, after = (data.task.logits(data.task.forward(each.eval(), batch)).double() for each in (model, other))
    error = relative_error(after, before)
    if before.isfinite().all() and not error <= MAX_CHANGE:
        raise TechniqueError(f"{what} changes the outputs by {error:.2g} of their size; {remedy}")


class Bounds(NamedTuple):
    """The largest drop and output error that are accepted; `drop` is None where there is no metric."""

    drop: float | None
    error: float


class Cost(NamedTuple):
    """What a conversion costs: `drop` in the meter's unit, None without a metric; `failure` if it does not run."""

    drop: float | None
    error: float
    failure: str = ""


def share(cost: float | None, bound: float | None) -> float:
    """Return the share of a bound that is used up; infinite for a cost that is NaN."""
    if cost is None or bound is None:
        return 0.0
    if math.isnan(cost):
        return math.inf
    return cost / bound if bound > 0 else (math.inf if cost > 0 else 0.0)


class CostMeter:
    """A comparison of converted models with the model before them, on the same samples of the selection split.

    `metric` is the primary metric, None for a task that has only a loss; `unit` is that of a drop: points (hundredths)
    of a metric that is a fraction, percent of the value of any other. A drop is a change for the worse.
    """

    def __init__(self, model: nn.Module, data: Data, params: Params) -> None:
        self.data = data
        self._what = "quantization" if params.overrides else params.dtype
        self._max_samples = params.samples
        self._before, self._outputs = self._run(model)
        self.samples = self._before.samples
        self.metric = None if self._before.metric == "loss" else self._before.metric
        self.unit = "points" if self._before.is_fraction else "%"
        self.bounds = self._bounds(params)

    def __call__(self, model: nn.Module) -> Cost:
        """Return the cost of a converted model, even on one that does not run."""
        try:
            score, outputs = self._run(model)
            error = relative_error(outputs, self._outputs)
        except Exception as problem:  # of a network that a converted layer does not fit into
            return Cost(None, math.nan, " ".join(f"{type(problem).__name__}: {problem}".split()))
        return Cost(None if self.metric is None else self._drop(score), error)

    def severity(self, cost: Cost) -> float:
        """Return the share of a bound that is used up, the larger one of drop and error; above 1 is too much."""
        return max(share(cost.drop, self.bounds.drop), share(cost.error, self.bounds.error))

    def accepts(self, cost: Cost) -> bool:
        """Return whether a conversion is within the bounds."""
        return self.severity(cost) <= 1

    def complaint(self, cost: Cost) -> str:
        """Return what is wrong with a conversion that is not accepted: the beginning of a sentence."""
        if cost.failure:
            return f"the model fails with {self._what} layers, exclude those at fault: {cost.failure}"
        wrong = []
        if share(cost.drop, self.bounds.drop) > 1:
            drop = f"costs {cost.drop:.3g} {self.unit} of {self.metric} on the {self.data.selection_split} split"
            wrong.append(f"{drop}, more than {self.bounds.drop:.3g}")
        if share(cost.error, self.bounds.error) > 1:
            wrong.append(f"changes the outputs by {cost.error:.2g} of their size, more than {self.bounds.error:.3g}")
        return f"{self._what} {' and '.join(wrong)}"

    def _drop(self, score: scoring.Score) -> float:
        if self._before.is_fraction:
            return 100.0 * score.drop_from(self._before)
        return score.drop_from(self._before) * (100.0 / max(abs(self._before.value), torch.finfo(torch.float64).tiny))

    def _bounds(self, params: Params) -> Bounds:
        if self.metric is None:
            return Bounds(None, params.max_error or MAX_ERROR_ALONE)
        drop = params.max_drop
        if drop > 0 and self.metric == "accuracy":
            # A single answer among few samples is no measurement. The half on top allows for rounding.
            drop = max(drop, 100.5 / self.samples)
        return Bounds(drop, params.max_error or MAX_ERROR)

    def _run(self, model: nn.Module) -> tuple[scoring.Score, Tensor]:
        """Return the score of a model, and its outputs on the first samples, in float64 and flattened."""
        parts: list[Tensor] = []

        def keep_outputs(outputs: Any, _: Batch) -> None:
            if len(parts) * self.data.batch_size < MAX_COMPARED:
                parts.append(self.data.task.logits(outputs).double().flatten().cpu())

        score = scoring.score(model, self.data, self._max_samples, keep_outputs)
        return score, torch.cat(parts)
