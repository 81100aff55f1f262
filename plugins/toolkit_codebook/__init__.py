"""Codebook: the entries of a weight share a few values, found by k-means, which later training moves.

As in Han, Mao and Dally, "Deep Compression: compressing deep neural networks with pruning, trained quantization and
Huffman coding", ICLR 2016. Zeros keep a value of their own, so that pruned weights stay pruned. A model is not smaller
or faster for it until it is written by something that counts values: `toolkit pack`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from toolkit import Note, hookimpl, masks
from toolkit_codebook.budget import choose_bits
from toolkit_codebook.clustering import cluster, entropy_bytes
from toolkit_codebook.params import Params
from toolkit_codebook.selection import bits_by_path, select
from toolkit_codebook.sharing import share

__all__ = ["Findings", "Params", "measure", "optimize", "prepare"]


@dataclass
class Findings:
    """The bits of each weight that `optimize` chose, by path."""

    bits: dict[str, int] = field(default_factory=dict)


@hookimpl
def prepare() -> Findings:
    """Room for what `optimize` finds: before it, another technique of the stage may put in a model of its own."""
    return Findings()


@hookimpl
def optimize(model: nn.Module, params: Params, prepared: Findings) -> nn.Module:
    """Cluster the weights as they are, and let the entries of a cluster be one value from now on."""
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
    """What the weights take at least, in bytes and in bits an entry, and for each how many values it has."""
    weights = {weight.path: weight.value for weight in masks.named_weights(model)}
    rows = [_row(path, weights[path], bits) for path, bits in prepared.bits.items() if path in weights]
    if not rows:  # a technique after this one put in another model
        return {"layers": Note("no weight that shared values is left")}
    size, entries = sum(row["bytes"] for row in rows), sum(row["weights"] for row in rows)
    text = "bytes: the entropy of the indices, zeros included, without the table of values"
    return {"entropy_bytes": size, "bits_per_weight": 8 * size / entries, "layers": Note(text, rows)}


def _row(path: str, value: Tensor, bits: int) -> dict[str, Any]:
    found, indices = value.unique(return_inverse=True)
    layer = path.removesuffix(".weight")
    zeros = int((value == 0).sum())
    values = int((found != 0).sum())
    size = round(entropy_bytes(indices))
    return {"layer": layer, "weights": value.numel(), "zeros": zeros, "bits": bits, "values": values, "bytes": size}
