"""Repairs a conversion that costs too much: returns the layers that hurt most to float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import nn

from toolkit import Note, TechniqueError
from toolkit_quantization.arithmetic import Choice
from toolkit_quantization.conversion_cost import Cost, CostMeter

Layers = tuple[str, ...]  # layers that share a weight; usually only one


@dataclass(frozen=True)
class GuardedModel:
    """A model within the bounds, the layers that are quantized in it, and what they cost.

    `returned` are the layers that went back to float; `scan` has the cost of each layer quantized alone, the most
    harmful first, and is empty unless it was needed or asked for; `choices` has the arithmetic of every candidate;
    `recurrent` says which recurrent layers multiply integers, if any may.
    """

    model: nn.Module
    layers: Layers
    cost: Cost
    returned: Layers = ()
    scan: Mapping[Layers, Cost] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)
    recurrent: Note | None = None


class Convertible(Protocol):
    """Layers that can be quantized: `of` returns a copy of their model in which some of them are."""

    @property
    def groups(self) -> Sequence[Layers]: ...
    @property
    def choices(self) -> Mapping[str, Choice]: ...
    def of(self, names: Collection[str]) -> nn.Module: ...


def guard(conversion: Convertible, meter: CostMeter, scan: bool = False) -> GuardedModel:
    """Quantize all layers, except for as few as possible that have to stay in float.

    Args:
        conversion: the layers that can be quantized.
        meter: measures what a model costs.
        scan: measure every layer alone, even if no layer has to return to float.

    Raises:
        TechniqueError: the cost exceeds the bounds whichever layers return to float.
    """
    every = _names(conversion.groups)
    model = conversion.of(every)
    cost = meter(model)
    if meter.accepts(cost):
        costs = sensitivity(conversion, meter) if scan else {}
        return GuardedModel(model, every, cost, scan=costs, choices=conversion.choices)
    costs = sensitivity(conversion, meter) if len(conversion.groups) > 1 else {}
    order = list(costs)
    accepted: list[GuardedModel] = []

    def fits(count: int) -> bool:
        layers = _names(order[count:])
        model = conversion.of(layers)
        cost = meter(model)
        if meter.accepts(cost):
            accepted[:] = [GuardedModel(model, layers, cost, _names(order[:count]), costs, conversion.choices)]
        return meter.accepts(cost)

    if fewest(len(order) - 1, fits) is None:
        raise TechniqueError(f"{meter.complaint(cost)}{_remedy(len(order))}")
    return accepted[0]


def sensitivity(conversion: Convertible, meter: CostMeter) -> dict[Layers, Cost]:
    """Return the cost of each layer quantized alone, the most harmful first."""
    costs = {layers: meter(conversion.of(layers)) for layers in conversion.groups}
    return dict(sorted(costs.items(), key=lambda item: -meter.severity(item[1])))


def fewest(most: int, fits: Callable[[int], bool]) -> int | None:
    """Return the smallest number from 1 to `most` that fits, None if `most` does not.

    Searches by doubling, then by bisection. If some number fits and a larger one does not, the result may not be the
    smallest, but the number before it does not fit.
    """
    low, high = 0, 1
    while high < most and not fits(high):
        low, high = high, min(2 * high, most)
    if high > most or (high == most and not fits(most)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def scan_note(guarded: GuardedModel, meter: CostMeter) -> Note:
    """Return the sensitivity scan as a table: drop and output error of each layer, and whether it stays in float."""
    drop = f"drop of {meter.metric} ({meter.unit})"
    rows = []
    for layers, cost in guarded.scan.items():
        of_drop = {} if meter.metric is None else {drop: cost.drop}
        kept = layers[0] in guarded.returned
        rows.append({"layer": ", ".join(layers), **of_drop, "output error": cost.error, "kept in float": kept})
    text = f"each layer quantized alone, on {meter.samples} samples of {meter.data.selection_split}"
    if guarded.returned:
        text = f"{text}; {len(guarded.returned)} returned to float, the most harmful first"
    return Note(text, rows)


def _names(groups: Iterable[Layers]) -> Layers:
    return tuple(name for group in groups for name in group)


def _remedy(layers: int) -> str:
    tried = ", and returning layers to float, even all but one, does not help" if layers else ""
    return f"{tried}: exclude layers, give them another dtype (overrides), or raise max_drop or max_error"
