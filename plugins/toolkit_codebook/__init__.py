"""Codebook: the entries of each weight share a few values, found by k-means and moved by later training.

As in Han, Mao and Dally, "Deep Compression: compressing deep neural networks with pruning, trained quantization and
Huffman coding", ICLR 2016. Zero is a value of its own, so that pruned weights stay pruned. The model gets smaller only
once it is written in a format that exploits repeated values, as `toolkit pack` does; it never gets faster.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from toolkit import Note, Number, hookimpl, masks
from toolkit_codebook.budget import choose_bits
from toolkit_codebook.clustering import cluster, entropy_bytes
from toolkit_codebook.params import Params
from toolkit_codebook.selection import bits_by_path, select
from toolkit_codebook.sharing import share

__all__ = ["Findings", "Params", "measure", "numbers", "optimize", "prepare"]

numbers = {
    "entropy_bytes": Number(
        "entropy", "entropy of the indices into the tables of values, zeros included", "bytes", "lower"
    ),
    "bits_per_weight": Number(
        "bits per weight", "entropy of the indices, divided by the number of weights", better="lower"
    ),
}


@dataclass
class Findings:
    """The bits of each weight that `optimize` chose, by path."""

    bits: dict[str, int] = field(default_factory=dict)


@hookimpl
def prepare() -> Findings:
    """Return empty findings: `optimize` selects the weights, because another technique may replace the model first."""
    return Findings()


@hookimpl
def optimize(model: nn.Module, params: Params, prepared: Findings) -> nn.Module:
    """Cluster the weights, and make the entries of each cluster share one value from now on."""
    values = {path: weight.value for path, weight in select(model, params).items()}
    bits = bits_by_path(values, params)
    if params.budget_bytes is not None:
        bits = choose_bits(values, bits, params.budget_bytes, params.initialisation)
    for path, value in values.items():
        count = 2 ** bits[path]
        share(model, path, cluster(value, count, params.initialisation), count, half=params.values == "float16")
    prepared.bits = bits
    return model


@hookimpl
def measure(model: nn.Module, prepared: Findings) -> dict[str, float | Note]:
    """Return the entropy of the weights, in bytes and in bits per entry, and how many values each of them has."""
    weights = {weight.path: weight.value for weight in masks.named_weights(model)}
    rows = [_row(path, weights[path], bits) for path, bits in prepared.bits.items() if path in weights]
    if not rows:  # a later technique of the stage replaced the model
        return {"layers": Note("none of the weights that shared values is left")}
    size, entries = sum(row["bytes"] for row in rows), sum(row["weights"] for row in rows)
    text = "bytes is the entropy of the indices, zeros included, without the table of values"
    return {"entropy_bytes": size, "bits_per_weight": 8 * size / entries, "layers": Note(text, rows)}


def _row(path: str, value: Tensor, bits: int) -> dict[str, Any]:
    distinct, indices = value.unique(return_inverse=True)
    layer = path.removesuffix(".weight")
    zeros = int((value == 0).sum())
    values = int((distinct != 0).sum())
    size = round(entropy_bytes(indices))
    return {"layer": layer, "weights": value.numel(), "zeros": zeros, "bits": bits, "values": values, "bytes": size}
