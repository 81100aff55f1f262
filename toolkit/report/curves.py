"""Learning curves, thinned while they come in: a long training needs no more memory than a short one."""

from __future__ import annotations

from toolkit.report.details import Curve

MAX_POINTS = 400


class CurveRecorder:
    """Collects the loss of every step of one training in at most `MAX_POINTS` means."""

    def __init__(self, number: int, stage: str) -> None:
        self._number, self._stage = number, stage
        self._steps, self._sum, self._count = 0, 0.0, 0
        self._points: list[tuple[int, float]] = []

    def add(self, step: int, steps: int, loss: float) -> None:
        """Take the loss of step `step` of `steps`, counted from 1."""
        self._steps = steps
        self._sum, self._count = self._sum + loss, self._count + 1
        if self._count == -(-steps // MAX_POINTS) or step == steps:
            self._points.append((step, self._sum / self._count))
            self._sum, self._count = 0.0, 0

    def curve(self) -> Curve:
        """The curve so far."""
        return Curve(
            number=self._number,
            stage=self._stage,
            steps=self._steps,
            step=[step for step, _ in self._points],
            loss=[float(f"{loss:.6g}") for _, loss in self._points],
        )
