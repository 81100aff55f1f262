"""Format of the metrics of quality: accuracy in percent, others as plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from toolkit.metrics.support.metric import Column, TableContent
from toolkit.number_text import MINUS, half_width, percent, plus_minus, printable
from toolkit.rows import Interval, Row

PLACE = 10


class QualityFormat(NamedTuple):
    """Format of a metric of quality: values times `scale` are on its axis, and `unit` is that of their differences."""

    name: str
    title: str
    axis: str
    scale: float
    unit: str
    text: Callable[[float], str]

    @property
    def form(self) -> str:
        """Format specification of intervals and changes."""
        return ".2f" if self.scale != 1 else ".3g"

    def change(self, value: float, interval: Interval | None) -> str:
        """Return a change with its interval: `−0.04 ± 0.11`, in units of the axis."""
        scaled = interval and (interval[0] * self.scale, interval[1] * self.scale)
        return plus_minus(value * self.scale, scaled, self.form)


def quality_format(name: str) -> QualityFormat:
    """Return the format of a metric of quality, which for all but accuracy is its name and a plain number."""
    if name == "accuracy":
        return QualityFormat("accuracy", "Accuracy", "accuracy in %", 100.0, "points", percent)
    label = printable(name)
    return QualityFormat(label, label, label, 1.0, "", lambda value: f"{value:.4g}".replace("-", MINUS))


def measured_qualities(rows: Sequence[Row], quality: Mapping[str, str]) -> list[str]:
    """Return the names of the measured metrics of quality, the primary one first; the loss only if it is alone."""
    measured = [name for name in quality if any(row.number(name) is not None for row in rows)]
    return [name for name in measured if name != "loss"] or measured


def quality_columns(content: TableContent) -> Iterable[Column]:
    """Yield two columns for each metric of quality: its value, and the change against the baseline."""
    for place, metric in enumerate(measured_qualities(content.rows, content.quality)):
        first = not place
        title = "change" if first else f"{printable(metric)} change"
        explanation = "± is the longer arm of the 95 % interval"
        yield Column(
            quality_format(metric).name, partial(_value, metric), 0 if first else 50 + place, explanation, PLACE
        )
        explanation = "difference to the baseline on the same samples, with its 95 % interval"
        yield Column(title, partial(_change, metric), 60 + place, explanation, PLACE)


def _value(metric: str, row: Row, _: Row) -> str:
    value, form = row.number(metric), quality_format(metric)
    if value is None:
        return ""
    arm = half_width(value, row.interval(f"{metric}_interval"))
    return form.text(value) + ("" if arm is None else f" ±{arm * form.scale:{form.form}}")


def _change(metric: str, row: Row, _: Row) -> str:
    value = row.number(f"{metric}_change")
    if value is None:
        return ""
    return quality_format(metric).change(value, row.interval(f"{metric}_change_interval")).replace("± ", "±")
