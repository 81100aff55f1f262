"""All charts of a report, by section of the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toolkit.report import Report
from toolkit.report.charts.drawing import Chart, style
from toolkit.report.charts.layer_charts import histograms, layer_charts
from toolkit.report.charts.note_charts import note_charts
from toolkit.report.charts.size_chart import quality_against_size
from toolkit.report.charts.stage_charts import stage_bars
from toolkit.report.charts.training_charts import learning_curves
from toolkit.report.details import Curve, Details, Layer
from toolkit.report.validation_series import validation_series


@dataclass(frozen=True)
class Charts:
    """Charts of a page, in its order."""

    stages: Sequence[Chart]
    size: Sequence[Chart]
    layers: Sequence[Chart]
    histograms: Sequence[Chart]
    curves: Sequence[Chart]
    notes: Sequence[Chart]

    def of_note(self, name: str) -> Chart | None:
        """Return the chart of a note, None if the note has nothing to draw."""
        return next((chart for chart in self.notes if chart.name == name), None)

    def __iter__(self) -> Iterator[Chart]:
        for section in (self.stages, self.size, self.layers, self.histograms, self.curves, self.notes):
            yield from section


def charts(report: Report) -> Charts:
    """Draw everything that was measured."""
    details = report.details or Details()
    before, after = _ends(details)
    with style():
        return Charts(
            list(stage_bars(report)),
            list(quality_against_size(report)),
            list(layer_charts(before, after)),
            list(histograms(before, after)),
            list(learning_curves(details.curves or _curves_by_epoch(report), validation_series(report))),
            list(note_charts(report)),
        )


def _ends(details: Details) -> tuple[Sequence[Layer], Sequence[Layer]]:
    return (details.layers[0], details.layers[-1]) if details.layers else ([], [])


def _curves_by_epoch(report: Report) -> list[Curve]:
    """Return the learning curves in the rows, with one mean loss per epoch."""
    curves = []
    for number, row in enumerate(report.rows):
        losses = [loss for loss in row.get("training_loss") or () if loss is not None]
        epochs = list(range(1, len(losses) + 1))
        curves.append(Curve(number=number, stage=row.stage, steps=len(losses), step=epochs, loss=losses))
    return [curve for curve in curves if curve.step]
