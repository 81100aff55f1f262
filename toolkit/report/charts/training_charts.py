"""Learning curves of the trainings of a run: the training loss, and what was validated after each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toolkit.number_text import printable
from toolkit.report.charts.drawing import PRECISIONS, SERIES, Chart, new_axes
from toolkit.report.details import Curve
from toolkit.report.validation_series import LOSS

Series: TypeAlias = Mapping[str, Sequence[float | None]]
SMOOTHING = 12  # number of windows in the smoothed line
LOGARITHMIC_FROM = 30  # largest / smallest loss
PANEL_HEIGHT = 1.3  # inches, of the axes of another metric


def learning_curves(curves: Sequence[Curve], validation: Mapping[int, Series]) -> Iterator[Chart]:
    """Yield a chart for each training: the loss, the smoothed loss, and the metrics of validation by epoch.

    Args:
        curves: losses of the trainings.
        validation: for the number of a row the values after each epoch, by metric.
    """
    for curve in curves:
        if curve.step and len(curve.step) == len(curve.loss):
            yield _learning_curve(curve, validation.get(curve.number, {}))


def _learning_curve(curve: Curve, validation: Series) -> Chart:
    others = {metric: values for metric, values in validation.items() if metric != LOSS}
    figure, axes, panels = _axes(len(others), has_legend=bool(validation))
    many = len(curve.loss) > 2 * SMOOTHING
    label = None if many else "training loss"
    axes.plot(curve.step, curve.loss, color=SERIES, linewidth=1, alpha=0.4 if many else 1.0, label=label)
    if many:
        means = smoothed(curve.loss, len(curve.loss) // SMOOTHING)
        axes.plot(curve.step, means, color=SERIES, linewidth=2, label="training loss, smoothed")
    if LOSS in validation:
        _draw_epochs(axes, validation[LOSS], curve, "validation loss")
    for panel, (metric, values) in zip(panels, others.items(), strict=True):
        _draw_epochs(panel, values, curve, f"validation {printable(metric)}")
        panel.set_ylabel(printable(metric))
    _scale_losses(axes, [*curve.loss, *_numbers(validation.get(LOSS, ()))])
    (panels[-1] if panels else axes).set_xlabel("training step")
    axes.set_ylabel("loss")
    if validation:
        figure.legend(loc="outside lower center", ncols=2, handlelength=1.6)
    name = f"{curve.number} {printable(curve.stage)}"
    return Chart(f"curve-{curve.number}", name, _in_words(curve, name, validation), figure, _description(curve))


def _axes(panels: int, has_legend: bool) -> tuple[Figure, Axes, list[Axes]]:
    """Return a figure with the axes of the losses, and `panels` axes of other metrics below them."""
    height = 2.4 + PANEL_HEIGHT * panels + (0.3 if has_legend else 0)
    figure, axes = new_axes(height, "y")
    if not panels:
        return figure, axes, []
    grid = figure.add_gridspec(1 + panels, 1, height_ratios=[1.8, *[1.0] * panels])
    axes.set_subplotspec(grid[0])
    others = [figure.add_subplot(grid[1 + place], sharex=axes) for place in range(panels)]
    for panel in others:
        panel.grid(visible=True, axis="y")
        panel.tick_params(length=0)
    return figure, axes, others


def _draw_epochs(axes: Axes, values: Sequence[float | None], curve: Curve, label: str) -> None:
    """Draw a value at the last step of each epoch; without a value an epoch has no point."""
    last = max(curve.steps, curve.step[-1])
    points = [(last * epoch / len(values), value) for epoch, value in enumerate(values, start=1) if value is not None]
    axes.plot(*zip(*points, strict=True), color=PRECISIONS[1], linewidth=1.6, marker="o", markersize=4, label=label)


def _scale_losses(axes: Axes, losses: Sequence[float]) -> None:
    if min(losses) > 0 and max(losses) / min(losses) > LOGARITHMIC_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")
        axes.yaxis.set_minor_formatter(lambda *_: "")


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _in_words(curve: Curve, name: str, validation: Series) -> str:
    ends = f"from {curve.loss[0]:.4g} to {curve.loss[-1]:.4g} in {curve.step[-1]:,} steps"
    sentences = [f"The loss in the training of {name} goes {ends}."]
    for metric, values in validation.items():
        first, *_, last = numbers if len(numbers := _numbers(values)) > 1 else numbers * 2
        sentences.append(f"The validation {printable(metric)} goes from {first:.4g} to {last:.4g}.")
    return " ".join(sentences)


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Return the mean of the last `window` values at each position, of fewer at the beginning."""
    means = []
    for end in range(1, len(values) + 1):
        last = values[max(0, end - window) : end]
        means.append(sum(last) / len(last))
    return means


def _description(curve: Curve, lines: int = 10) -> list[dict[str, str]]:
    """Return about `lines` points of the curve, including the last one."""
    stride = max(1, len(curve.step) // lines)
    places = sorted({*range(stride - 1, len(curve.step), stride), len(curve.step) - 1})
    return [{"step": f"{curve.step[place]:,}", "loss": f"{curve.loss[place]:.4g}"} for place in places]
