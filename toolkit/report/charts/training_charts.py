"""Learning curves of the trainings of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from toolkit.number_text import printable
from toolkit.report.charts.drawing import SERIES, Chart, new_axes
from toolkit.report.details import Curve

SMOOTHING = 12  # number of windows in the smoothed line
LOGARITHMIC_FROM = 30  # largest / smallest loss


def learning_curves(curves: Sequence[Curve]) -> Iterator[Chart]:
    """Yield a chart for each training, with the loss and the smoothed loss."""
    for curve in curves:
        if curve.step and len(curve.step) == len(curve.loss):
            yield _learning_curve(curve)


def _learning_curve(curve: Curve) -> Chart:
    figure, axes = new_axes(2.4, "y")
    many = len(curve.loss) > 2 * SMOOTHING
    axes.plot(curve.step, curve.loss, color=SERIES, linewidth=1, alpha=0.4 if many else 1.0)
    if many:
        axes.plot(curve.step, smoothed(curve.loss, len(curve.loss) // SMOOTHING), color=SERIES, linewidth=2)
    if min(curve.loss) > 0 and max(curve.loss) / min(curve.loss) > LOGARITHMIC_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda loss, _: f"{loss:g}")
        axes.yaxis.set_minor_formatter(lambda *_: "")
    axes.set_xlabel("training step")
    axes.set_ylabel("loss")
    name = f"{curve.number} {printable(curve.stage)}"
    ends = f"from {curve.loss[0]:.4g} to {curve.loss[-1]:.4g} in {curve.step[-1]:,} steps"
    text = f"The loss in the training of {name} goes {ends}."
    return Chart(f"curve-{curve.number}", name, text, figure, _description(curve))


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
