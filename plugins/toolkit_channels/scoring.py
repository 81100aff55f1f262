"""The scores of a network's units, by the criterion that a recipe names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit_channels.criteria import (
    activation_scores,
    geometric_median_scores,
    l1_scores,
    l2_scores,
    random_scores,
    scale_scores,
    taylor_scores,
)
from toolkit_channels.params import Criterion, Params
from toolkit_channels.slots import Slot
from toolkit_channels.structure import Structure

OF_WEIGHTS: Mapping[Criterion, Callable[[Tensor], Tensor]] = {
    "l1": l1_scores,
    "l2": l2_scores,
    "batch-norm": l2_scores,  # where a channel has no batch norm
    "geometric-median": geometric_median_scores,
    "random": random_scores,
}


def unit_scores(structure: Structure, model: nn.Module, params: Params, data: toolkit.Data) -> dict[int, float]:
    """Return the score of every unit that may go.

    Scores are relative to the mean of their layer, so that layers can be ranked together, except for `taylor`, whose
    scores are changes of the loss. A unit of several layers has the mean of its scores; units that are masked already
    rank below all others.
    """
    rows = _row_scores(structure, masks.folded(model).eval(), params, data)
    sums: dict[int, list[float]] = {}
    is_relative = params.criterion != "taylor"
    for slot, scores in rows:
        scale = float(scores.mean()) if is_relative else 1.0
        for unit, score in zip(slot.units.tolist(), (scores / (scale or 1.0)).tolist(), strict=True):
            sums.setdefault(unit, []).append(score)
    means = {unit: float(np.mean(scores) if is_relative else np.sum(scores)) for unit, scores in sums.items()}
    dead = masked_units(structure, model)
    return {unit: -1.0 if unit in dead else means[unit] for group in structure.groups for unit in group.units}


def masked_units(structure: Structure, model: nn.Module) -> set[int]:
    """Return the units that may go and that masks hold at zero: all weights, biases and scales that make them."""
    present = masks.current(model)
    alive: set[int] = set()
    for slot in structure.slots:
        if slot.role == "input" or not structure.is_parameter(slot.path):
            continue
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
        score = OF_WEIGHTS[params.criterion]
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
    weights = [plain.get_parameter(slot.path).requires_grad_() for slot in slots]
    totals = [
        torch.zeros(weight.shape[slot.dim], device=weight.device) for slot, weight in zip(slots, weights, strict=True)
    ]
    # In eval mode, cuDNN has no gradients of recurrent layers.
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for batch in _batches(params, data):
            loss = data.task.loss(data.task.forward(plain, batch), batch)
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            for slot, weight, gradient, total in zip(slots, weights, gradients, totals, strict=True):
                if gradient is not None:
                    total += taylor_scores(weight.detach().movedim(slot.dim, 0), gradient.movedim(slot.dim, 0))
    yield from zip(slots, totals, strict=True)


def _activation(
    slots: list[Slot], plain: nn.Module, params: Params, data: toolkit.Data
) -> Iterator[tuple[Slot, Tensor]]:
    squares: dict[str, Tensor] = {}
    layers = {slot.path.rpartition(".")[0]: plain.get_submodule(slot.path.rpartition(".")[0]) for slot in slots}
    for path, layer in layers.items():
        layer.register_forward_pre_hook(_adding(squares, path), with_kwargs=True)
    with torch.no_grad():
        for batch in _batches(params, data):
            data.task.forward(plain, batch)
    for slot in slots:
        path = slot.path.rpartition(".")[0]
        weight = _rows(plain, slot)
        is_read = slot.path.endswith("weight") and path in squares  # of recurrent layers only the weights count
        norms = squares[path].sqrt() if is_read else torch.ones(weight.shape[1], device=weight.device)
        blocks = norms.view(-1, weight.shape[1])  # the inputs of each group
        yield slot, activation_scores(weight, blocks.repeat_interleave(len(weight) // len(blocks), 0))


def _adding(squares: dict[str, Tensor], path: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(layer: nn.Module, args: Any, kwargs: Any) -> None:
        values = (args[0] if args else kwargs["input"]).detach().float()
        channels = values.dim() - 1 if isinstance(layer, nn.Linear) else values.dim() - 1 - _spatial(layer)
        total = values.movedim(channels, 0).flatten(1).square().sum(1)
        squares[path] = squares[path] + total if path in squares else total

    return hook


def _spatial(layer: nn.Module) -> int:
    sizes = getattr(layer, "kernel_size", ())
    return len(sizes) if isinstance(sizes, tuple) else 0


def _batches(params: Params, data: toolkit.Data) -> Iterator[toolkit.Batch]:
    order = torch.arange(min(params.samples, data.samples("train")))
    yield from data.batches("train", order=order)
