"""Axis of a chart of quality that begins at zero: accuracy as the share of errors, other metrics as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from toolkit.metrics.support.quality_format import quality_format
from toolkit.number_text import percent


class QualityScale(NamedTuple):
    """Title, axis and unit of a metric of quality, and its value and text from the number in a row."""

    title: str
    axis: str
    unit: str
    lower_is_better: bool
    value: Callable[[float], float]
    text: Callable[[float], str]


def quality_scale(metric: str, better: str) -> QualityScale:
    """Return the scale of a metric: accuracy near 100 % would have bars of equal length, so its errors are drawn."""
    if metric == "accuracy":
        return QualityScale("Errors", "wrong answers in %", "points", True, _errors, _errors_text)
    form = quality_format(metric)
    return QualityScale(form.title, form.axis, form.unit, better == "lower", float, form.text)


def _errors(accuracy: float) -> float:
    return 100.0 * (1.0 - accuracy)


def _errors_text(accuracy: float) -> str:
    return percent(1.0 - accuracy)
