"""Learning curves, averaged during a training, so that a long one needs as little memory as a short one."""

from __future__ import annotations

from toolkit.report.details import Curve

MAX_POINTS = 400


class CurveRecorder:
    """Averages the losses of one training to at most `MAX_POINTS` points."""

    def __init__(self, number: int, stage: str) -> None:
        self._number, self._stage = number, stage
        self._steps, self._sum, self._count = 0, 0.0, 0
        self._points: list[tuple[int, float]] = []

    def add(self, step: int, steps: int, loss: float) -> None:
        """Add the loss of step `step` of `steps`, counted from 1."""
        self._steps = steps
        self._sum, self._count = self._sum + loss, self._count + 1
        if self._count == -(-steps // MAX_POINTS) or step == steps:
            self._points.append((step, self._sum / self._count))
            self._sum, self._count = 0.0, 0

    def curve(self) -> Curve:
        """Return the curve so far."""
        return Curve(
            number=self._number,
            stage=self._stage,
            steps=self._steps,
            step=[step for step, _ in self._points],
            loss=[float(f"{loss:.6g}") for _, loss in self._points],
        )
