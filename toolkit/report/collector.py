"""Collects the losses, weights and samples that the page of a run needs, while the run is in progress."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import nn

from toolkit.data.splits import Data
from toolkit.metrics import Answers, answers
from toolkit.report.curves import CurveRecorder
from toolkit.report.details import Details, Layer, Lost
from toolkit.report.layers import layers_of
from toolkit.report.samples import lost_samples

AnswersOf = Callable[[nn.Module], Answers | None]
log = logging.getLogger("toolkit")


class Collector:
    """Collects the content of `details.json`.

    Args:
        last: number of the row whose answers are compared with the baseline's.
        answers_of: returns the known answers of a model, or None; then they are computed.
    """

    def __init__(self, last: int, answers_of: AnswersOf) -> None:
        self._last, self._answers_of = last, answers_of
        self._curves: dict[int, CurveRecorder] = {}
        self._layers: list[list[Layer]] = []
        self._baseline: Answers | None = None
        self._lost: Lost | None = None

    def add_step(self, number: int, stage: str, step: int, steps: int, loss: float) -> None:
        """Add a training step of stage `number`."""
        if number not in self._curves:
            self._curves[number] = CurveRecorder(number, stage)
        self._curves[number].add(step, steps, loss)

    def add_model(self, model: nn.Module, data: Data) -> None:
        """Add the model of the next row; the answers of the first and the last model are compared."""
        number = len(self._layers)
        self._layers.append(self._looked_into(model))
        if number in (0, self._last):
            self._compare(number, model, data)

    def details(self) -> Details:
        """Return everything that was collected so far."""
        curves = [recorder.curve() for recorder in self._curves.values()]
        return Details(curves=curves, layers=self._layers, lost=self._lost)

    def _looked_into(self, model: nn.Module) -> list[Layer]:
        try:
            return layers_of(model)
        except Exception:  # of a custom module; a table of layers is no reason to end the run
            log.warning("cannot describe the layers of row %d; the report omits them", len(self._layers), exc_info=True)
            return []

    def _compare(self, number: int, model: nn.Module, data: Data) -> None:
        if not data.has_right_answers:
            return
        split = "test" if data.test is not None else "validation"
        model_answers = self._answers_of(model) or answers(model, data, split)
        if number == 0:
            self._baseline = model_answers
        elif self._baseline is not None:
            self._lost = lost_samples(self._baseline, model_answers, data, split)
