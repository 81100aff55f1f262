"""The foremost metric of quality on some samples of the split that decides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from toolkit import Batch, Data, Pooled


class Quality:
    """Measures models on the same samples, spread over the whole split, which may be sorted by class.

    `metric` is the foremost one that is measured of every row, the loss where there is no other.
    """

    def __init__(self, data: Data, most_samples: int) -> None:
        self.data = data
        self.metric, self._better = next(iter(data.quality.items()))
        count = data.samples(data.selection_split)
        self.samples = min(count, most_samples)
        self._order = torch.linspace(0, count - 1, self.samples, dtype=torch.float64).long()

    @torch.no_grad()
    def of(self, model: nn.Module) -> float:
        """The metric of a model in eval mode."""
        batches = self.data.batches(self.data.selection_split, order=self._order)
        found = [self._of_samples(self.data.task.forward(model, batch), batch) for batch in batches]
        pooled = [part for part in found if isinstance(part, Pooled)]
        if pooled:
            means = torch.cat([part.parts.double().cpu() for part in pooled]).mean(dim=0)
            return float(pooled[0].value(means))
        return float(torch.cat([part.double().cpu() for part in found if isinstance(part, Tensor)]).mean())

    def change(self, before: float) -> str:
        """What `cost` is, in words: `drop of accuracy (points)`, `rise of loss (%)`."""
        way, unit = ("drop", "points") if self._better == "higher" else ("rise", "%")
        return f"{way} of {self.metric} ({unit if self._is_fraction(before) else '%'})"

    def cost(self, before: float, after: float) -> float | None:
        """The change for the worse: in points, hundredths, of a metric that is a fraction, else in percent of what it
        was; None where that was 0."""
        worse = before - after if self._better == "higher" else after - before
        if self._is_fraction(before):
            return 100 * worse
        return 100 * worse / abs(before) if before else None

    def _is_fraction(self, value: float) -> bool:
        # What is better when lower may be an error of any size, and be below 1 by chance.
        return self._better == "higher" and 0 <= value <= 1

    def _of_samples(self, outputs: Any, batch: Batch) -> Tensor | Pooled:
        task = self.data.task
        if self.metric in task.better:
            return task.scores(outputs, batch)[self.metric]
        if self.metric in self.data.metrics:
            return self.data.metrics[self.metric](outputs, batch)
        correct = task.correct(outputs, batch) if self.data.has_right_answers else None
        return task.loss(outputs, batch).expand(len(batch)) if correct is None else correct
