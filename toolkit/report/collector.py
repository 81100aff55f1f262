"""Collects while a run goes on what its page needs and what is gone afterwards: losses, weights, samples."""

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
    """What `details.json` is made of; row `last` is the one whose samples are compared with the baseline's.

    `answers_of` tells what a model has answered already, or None: then it is asked here.
    """

    def __init__(self, last: int, answers_of: AnswersOf) -> None:
        self._last, self._answers_of = last, answers_of
        self._curves: dict[int, CurveRecorder] = {}
        self._layers: list[list[Layer]] = []
        self._baseline: Answers | None = None
        self._lost: Lost | None = None

    def add_step(self, number: int, stage: str, step: int, steps: int, loss: float) -> None:
        """Take one training step of stage `number`."""
        if number not in self._curves:
            self._curves[number] = CurveRecorder(number, stage)
        self._curves[number].add(step, steps, loss)

    def add_model(self, model: nn.Module, data: Data) -> None:
        """Take the model of the next row; of the first and the last one the answers are compared."""
        number = len(self._layers)
        self._layers.append(self._looked_into(model))
        if number in (0, self._last):
            self._compare(number, model, data)

    def details(self) -> Details:
        """Everything so far."""
        curves = [recorder.curve() for recorder in self._curves.values()]
        return Details(curves=curves, layers=self._layers, lost=self._lost)

    def _looked_into(self, model: nn.Module) -> list[Layer]:
        try:
            return layers_of(model)
        except Exception:  # of a module that nobody here has seen; the run is about more than its picture
            log.warning("the layers of row %d are not in the report", len(self._layers), exc_info=True)
            return []

    def _compare(self, number: int, model: nn.Module, data: Data) -> None:
        if not data.has_right_answers:
            return
        split = "test" if data.test is not None else "validation"
        found = self._answers_of(model) or answers(model, data, split)
        if number == 0:
            self._baseline = found
        elif self._baseline is not None:
            self._lost = lost_samples(self._baseline, found, data, split)
