"""Charts of the layers: their zeros, precision and bytes, and the distribution of their weights before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from toolkit.number_text import bytes_text, percent, printable
from toolkit.report.charts.drawing import (
    BASE,
    INK,
    PRECISIONS,
    SERIES,
    Chart,
    label_rows,
    new_axes,
    rows_height,
    size_axis,
)
from toolkit.report.details import Histogram, Layer
from toolkit.report.layer_table import layer_table

MAX_LAYERS = 24
MAX_HISTOGRAMS = 9
MIN_OCCUPIED_BINS = 8  # fewer are spikes of a few values, such as a codebook, and no distribution


def layer_charts(before: Sequence[Layer], after: Sequence[Layer]) -> Iterator[Chart]:
    """Yield charts of zeros and bytes of the layers of the result, next to those of the baseline."""
    shown = _largest(after, MAX_LAYERS)
    if shown:
        baseline = {layer.layer: layer for layer in before}
        yield _sparsity(baseline, shown)
        yield _bytes(baseline, shown)


def histograms(before: Sequence[Layer], after: Sequence[Layer]) -> Iterator[Chart]:
    """Yield histograms of the weights of the largest layers that baseline and result share by name."""
    baseline = {layer.layer: layer for layer in before}
    named = [layer for layer in after if layer.layer in baseline and _is_spread(layer.histogram)]
    for place, layer in enumerate(_largest(named, MAX_HISTOGRAMS)):
        yield _histogram(place, baseline[layer.layer], layer)


def _is_spread(histogram: Histogram | None) -> bool:
    return histogram is not None and sum(count > 0 for count in histogram.counts) >= MIN_OCCUPIED_BINS


def _largest(layers: Sequence[Layer], most: int) -> list[Layer]:
    """Return the layers with the most weights, in the order of the model."""
    chosen = sorted(layers, key=lambda layer: layer.weights, reverse=True)[:most]
    return [layer for layer in layers if layer in chosen]


def _sparsity(baseline: Mapping[str, Layer], layers: Sequence[Layer]) -> Chart:
    figure, axes = new_axes(rows_height(len(layers)))
    for place, layer in enumerate(layers):
        axes.barh(place, 100 * layer.sparsity, height=0.55, color=SERIES)
        if layer.layer in baseline:
            before = 100 * baseline[layer.layer].sparsity
            axes.plot([before, before], [place - 0.36, place + 0.36], color=INK, linewidth=1.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("% zeros; the stroke is the baseline")
    label_rows(axes, [printable(layer.layer) for layer in layers], [percent(layer.sparsity, 0) for layer in layers])
    text = "Zeros in each layer of the result: " + ", ".join(
        f"{printable(layer.layer)} {percent(layer.sparsity, 0)}" for layer in layers
    )
    return Chart("layers-sparsity", "Zeros by layer", f"{text}.", figure, layer_table([*baseline.values()], layers))


def _bytes(baseline: Mapping[str, Layer], layers: Sequence[Layer]) -> Chart:
    figure, axes = new_axes(rows_height(len(layers)))
    kinds = sorted({layer.precision for layer in layers}, key=[layer.precision for layer in layers].index)
    for place, layer in enumerate(layers):
        if layer.layer in baseline:
            size = baseline[layer.layer].size_bytes
            axes.barh(place, size, height=0.7, fill=False, edgecolor=BASE, linewidth=1)
        color = PRECISIONS[kinds.index(layer.precision) % len(PRECISIONS)]
        axes.barh(place, layer.size_bytes, height=0.45, color=color)
    shown = [*layers, *(baseline[layer.layer] for layer in layers if layer.layer in baseline)]
    size_axis(axes, [layer.size_bytes for layer in shown])
    axes.set_xlabel("logarithmic; the outline is the baseline")
    notes = [f"{printable(layer.precision)} · {bytes_text(layer.size_bytes)}" for layer in layers]
    label_rows(axes, [printable(layer.layer) for layer in layers], notes)
    description = ", ".join(f"{printable(layer.layer)} {note}" for layer, note in zip(layers, notes, strict=True))
    table = layer_table([*baseline.values()], layers)
    return Chart(
        "layers-bytes", "Precision and bytes by layer", f"Each layer of the result: {description}.", figure, table
    )


def _histogram(place: int, before: Layer, after: Layer) -> Chart:
    figure, axes = new_axes(2.4, "y")
    _outline(axes, before.histogram, BASE, "baseline", filled=True)
    _outline(axes, after.histogram, SERIES, "result", filled=False)
    axes.set_xlabel("weight (zeros left out)")
    axes.set_yticks([])
    figure.legend(loc="outside lower center", ncols=2, handlelength=1.2)
    name = printable(after.layer)
    text = (
        f"Distribution of the weights of {name} that are not zero: {_spread(before)} before, {_spread(after)} after; "
        f"{percent(before.sparsity, 1)} zeros before, {percent(after.sparsity, 1)} after."
    )
    table = [_record("baseline", before), _record("result", after)]
    return Chart(f"histogram-{place}", f"{name}: {percent(after.sparsity, 0)} zeros", text, figure, table)


def _outline(axes: Any, histogram: Histogram | None, color: str, label: str, filled: bool) -> None:
    if histogram is None:
        return
    bins, total = len(histogram.counts), sum(histogram.counts) or 1
    width = 2 * histogram.limit / bins
    edges = [-histogram.limit + width * place for place in range(bins + 1)]
    density = [count / total / width for count in histogram.counts]
    axes.stairs(density, edges, color=color, fill=filled, alpha=0.45 if filled else 1.0, linewidth=1.6, label=label)


def _spread(layer: Layer) -> str:
    return "none" if layer.histogram is None else f"within ±{layer.histogram.limit:.3g}"


def _record(label: str, layer: Layer) -> dict[str, str]:
    return {"": label, "weights": f"{layer.weights:,}", "zeros": percent(layer.sparsity, 1), "range": _spread(layer)}
