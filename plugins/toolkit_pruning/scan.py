"""The sensitivity scan: what it costs to prune each layer alone, before anything is pruned.

As in Li et al., "Pruning filters for efficient ConvNets", ICLR 2017, and Han et al. 2015: layers whose quality falls
early are those to exclude, or to prune less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

import toolkit
from toolkit import masks
from toolkit_pruning.choosing import choose
from toolkit_pruning.params import Params
from toolkit_pruning.quality import Quality

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
SAMPLES = 2000


def scan_note(model: nn.Module, layers: Sequence[str], params: Params, data: toolkit.Data) -> toolkit.Note:
    """Prune each layer alone to `SPARSITIES` and measure, on `SAMPLES` samples of the split that decides.

    The model and the random numbers that follow are as if it had not been. Single weights go, by the criterion of
    `params`, whatever its pattern; sparsities that a layer has already passed are left out.
    """
    quality = Quality(data, SAMPLES)
    cuda = [data.device] if data.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        before = quality.of(masks.clone(model).eval())
        rows = [row for layer in layers for row in _rows(model, layer, params, quality)]
    cost = quality.change(before)
    table = [{**row, cost: quality.cost(before, row[quality.metric])} for row in rows]
    where = f"on {quality.samples} samples of {data.selection_split}"
    text = f"each layer pruned alone, {where}, where {quality.metric} is {before:.4g} before"
    return toolkit.Note(text, table, toolkit.Plot("sparsity", cost, "layer"))


def _rows(model: nn.Module, layer: str, params: Params, quality: Quality) -> Iterator[dict[str, Any]]:
    """The quality at each sparsity. One copy gets them all in turn: what is masked goes first, so that masks nest."""
    single = params.model_copy(update={"pattern": "unstructured"})
    twin = masks.clone(model).eval()
    for sparsity in SPARSITIES:
        [(path, mask)] = choose(twin, [layer], single, sparsity).items()
        present = masks.current(twin).get(path)
        if present is None or int(present.sum()) >= int(mask.sum()):
            masks.apply(twin, {path: mask})
            yield {"layer": layer, "sparsity": sparsity, quality.metric: quality.of(twin)}
