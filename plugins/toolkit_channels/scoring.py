"""The scores of a network's units, by the criterion that a recipe names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

import toolkit
from toolkit import criteria, masks
from toolkit.structure import Slot, Structure
from toolkit_channels.criteria import (
    activation_scores,
    geometric_median_scores,
    l2_scores,
    random_scores,
    scale_scores,
    taylor_scores,
)
from toolkit_channels.params import Criterion, Params
from toolkit_channels.sums import OF_WEIGHTS, summed_scores

OF_ROWS: Mapping[Criterion, Callable[[Tensor], Tensor]] = {
    "batch-norm": l2_scores,  # where a channel has no batch norm
    "geometric-median": geometric_median_scores,
    "random": random_scores,
}


def unit_scores(structure: Structure, model: nn.Module, params: Params, data: toolkit.Data) -> dict[int, float]:
    """Return the score of every unit that may go.

    Scores are relative to the mean of their layer, so that layers can be ranked together. Units that are masked already
    rank below all others.
    """
    plain = masks.folded(model).eval()
    term = OF_WEIGHTS.get(params.criterion)
    scores = summed_scores(structure, plain, term) if term else _means_of_rows(structure, plain, params, data)
    dead = masked_units(structure, model)
    return {unit: -1.0 if unit in dead else scores[unit] for group in structure.groups for unit in group.units}


def _means_of_rows(structure: Structure, plain: nn.Module, params: Params, data: toolkit.Data) -> dict[int, float]:
    """Return the mean of the scores of each unit in the layers that make it, relative to the mean of the layer."""
    sums: dict[int, list[float]] = {}
    for slot, scores in _row_scores(structure, plain, params, data):
        scale = float(scores.mean())
        for unit, score in zip(slot.units.tolist(), (scores / (scale or 1.0)).tolist(), strict=True):
            sums.setdefault(unit, []).append(score)
    return {unit: float(np.mean(scores)) for unit, scores in sums.items()}


def masked_units(structure: Structure, model: nn.Module) -> set[int]:
    """Return the units that may go and that masks hold at zero: all weights, biases and scales that make them."""
    present = masks.current(model)
    alive: set[int] = set()
    for slot in structure.makers():
        mask = present.get(slot.path)
        if mask is None:
            alive.update(slot.units.tolist())
        else:
            shows = mask.movedim(slot.dim, 0).reshape(mask.shape[slot.dim], -1).any(1).cpu().numpy()
            alive.update(slot.units[shows].tolist())
    groups = [set(group.units) - alive for group in structure.groups]
    return {
        unit
        for group, units in zip(structure.groups, groups, strict=True)
        for unit in units
        if group.staying or len(units) < len(group.units)
    }


def _row_scores(
    structure: Structure, plain: nn.Module, params: Params, data: toolkit.Data
) -> Iterator[tuple[Slot, Tensor]]:
    """Yield the scores of the rows of every weight, or of the scales of batch norms where they count."""
    weights = [slot for slot in structure.slots if slot.role == "output" and structure.is_weight(slot.path)]
    if params.criterion == "taylor":
        yield from _taylor(weights, plain, params, data)
    elif params.criterion == "activation":
        yield from _activation(weights, plain, params, data)
    else:
        scaled: set[int] = set()
        if params.criterion == "batch-norm":
            for slot in _scales(structure, plain):
                scaled.update(slot.units.tolist())
                yield slot, scale_scores(plain.get_parameter(slot.path).detach())
        score = OF_ROWS[params.criterion]
        for slot in weights:
            if not scaled & set(slot.units.tolist()):
                yield slot, score(_rows(plain, slot))


def _rows(plain: nn.Module, slot: Slot) -> Tensor:
    return plain.get_parameter(slot.path).detach().movedim(slot.dim, 0)


def _scales(structure: Structure, plain: nn.Module) -> Iterator[Slot]:
    for slot in structure.slots:
        layer, _, name = slot.path.rpartition(".")
        if name == "weight" and isinstance(plain.get_submodule(layer), nn.modules.batchnorm._BatchNorm):
            yield slot


def _taylor(slots: list[Slot], plain: nn.Module, params: Params, data: toolkit.Data) -> Iterator[tuple[Slot, Tensor]]:
    rows = [_rows(plain, slot) for slot in slots]  # a weight of a recurrent layer has slots along both dimensions
    totals = [torch.zeros(len(weight), device=weight.device) for weight in rows]
    for gradients in criteria.gradients(plain, data, dict.fromkeys(slot.path for slot in slots), params.samples):
        for slot, weight, total in zip(slots, rows, totals, strict=True):
            if slot.path in gradients:
                total += taylor_scores(weight, gradients[slot.path].movedim(slot.dim, 0))
    yield from zip(slots, totals, strict=True)


def _activation(
    slots: list[Slot], plain: nn.Module, params: Params, data: toolkit.Data
) -> Iterator[tuple[Slot, Tensor]]:
    # Of recurrent layers, only the weights count.
    layers = {slot.path.rpartition(".")[0] for slot in slots if slot.path.endswith("weight")}
    norms = criteria.input_norms(plain, data, sorted(layers), params.samples)
    for slot in slots:
        weight = _rows(plain, slot)
        ones = torch.ones(weight.shape[1], device=weight.device)
        is_read = slot.path.endswith("weight")
        layer_norms = norms.get(slot.path.rpartition(".")[0], ones) if is_read else ones
        yield slot, activation_scores(weight, layer_norms)
