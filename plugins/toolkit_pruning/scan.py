"""The sensitivity scan: what it costs to prune each layer alone, before anything is pruned.

As in Li et al., "Pruning filters for efficient ConvNets", ICLR 2017, and Han et al. 2015: exclude the layers whose
quality falls early, or prune them less.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit.scoring import Score, score
from toolkit_pruning.mask_choice import choose
from toolkit_pruning.params import Params

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
MAX_SAMPLES = 2000


def scan_note(model: nn.Module, scores: Mapping[str, Tensor], params: Params, data: toolkit.Data) -> toolkit.Note:
    """Prune each layer alone to `SPARSITIES` and score the model on up to `MAX_SAMPLES` samples of the selection split.

    The model and the random numbers that follow stay as they were. Single weights are pruned, by their scores by layer
    and whatever the pattern of `params`; sparsities that a layer already exceeds are skipped.
    """
    cuda = [data.device] if data.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        before = score(masks.clone(model), data, MAX_SAMPLES)
        rows = [row for layer in scores for row in _rows(model, layer, scores[layer], params, data)]
    table = [{**row, cost_name(before): cost(before, row[before.metric])} for row in rows]
    where = f"on {before.samples} samples of {data.selection_split}"
    text = f"each layer pruned alone, {where}; {before.metric} was {before.value:.4g} before"
    return toolkit.Note(text, table, toolkit.Plot("sparsity", cost_name(before), "layer"))


def cost_name(before: Score) -> str:
    """Return what `cost` is, in words: `drop of accuracy (points)`, `rise of loss (%)`."""
    direction = "drop" if before.better == "higher" else "rise"
    return f"{direction} of {before.metric} ({'points' if _is_fraction(before) else '%'})"


def cost(before: Score, value: float) -> float | None:
    """Return how much worse a value of the metric is, None if that cannot be told, because the metric was 0.

    In points (hundredths) if the metric is a fraction, else in percent of its value before.
    """
    worse = before.value - value if before.better == "higher" else value - before.value
    if _is_fraction(before):
        return 100 * worse
    return 100 * worse / abs(before.value) if before.value else None


def _is_fraction(before: Score) -> bool:
    # A metric that is better when lower may be an error of any size, and lie below 1 by chance.
    return before.better == "higher" and 0 <= before.value <= 1


def _rows(model: nn.Module, layer: str, scores: Tensor, params: Params, data: toolkit.Data) -> Iterator[dict[str, Any]]:
    """Return the score at each sparsity, of one copy: masked weights are pruned first, so masks nest."""
    single = params.model_copy(update={"pattern": "unstructured"})
    twin = masks.clone(model)
    for sparsity in SPARSITIES:
        [(path, mask)] = choose(twin, {layer: scores}, single, sparsity).items()
        present = masks.current(twin).get(path)
        if present is None or int(present.sum()) >= int(mask.sum()):
            masks.apply(twin, {path: mask})
            after = score(twin, data, MAX_SAMPLES)
            yield {"layer": layer, "sparsity": sparsity, after.metric: after.value}
