"""Table of the layers of a result, next to those of the baseline."""

from __future__ import annotations

from collections.abc import Sequence

from toolkit.number_text import bytes_text, percent, printable
from toolkit.report.details import Layer


def layer_table(before: Sequence[Layer], after: Sequence[Layer]) -> list[dict[str, str]]:
    """Return all layers of the result, with the size of the baseline's layer of the same name."""
    baseline = {layer.layer: layer for layer in before}
    return [_line(layer, baseline.get(layer.layer)) for layer in after]


def _line(layer: Layer, before: Layer | None) -> dict[str, str]:
    return {
        "layer": printable(layer.layer) or "(the model)",
        "kind": printable(layer.kind),
        "weights": f"{layer.weights:,}",
        "zeros": percent(layer.sparsity, 1),
        "precision": printable(layer.precision),
        "size": bytes_text(layer.size_bytes),
        "before": "" if before is None else f"{bytes_text(before.size_bytes)}, {printable(before.precision)}",
    }
