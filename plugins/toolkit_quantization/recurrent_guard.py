"""Decides which stacked layers of LSTMs and GRUs multiply integers: as many as the bounds allow, if that is faster."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from toolkit import Note, TechniqueError, masks, replace_layers
from toolkit_quantization.arithmetic import Choice
from toolkit_quantization.conversion_cost import Cost, CostMeter
from toolkit_quantization.float_fallback import GuardedModel, Layers, guard, sensitivity
from toolkit_quantization.params import Params
from toolkit_quantization.recurrent import can_multiply, multiplying


class RecurrentConversion:
    """A model in which any of the stacked layers of its recurrent layers can multiply integers, in copies.

    Args:
        model: holds the recurrent layers in int8 with float arithmetic.
        before: the model with the layers as they were, at the same paths.
        paths: those of the recurrent layers.
        overflow_safe: whether integer products must be exact on processors without VNNI.
    """

    def __init__(self, model: nn.Module, before: nn.Module, paths: Sequence[str], overflow_safe: bool) -> None:
        self.model, self.before, self.choices = model, before, {path: Choice("int8") for path in paths}
        self.overflow_safe = overflow_safe
        self.places = {name: place for path in paths for name, place in _stacked(path, before).items()}
        self.groups: list[Layers] = [(name,) for name in self.places]

    def of(self, names: Collection[str]) -> nn.Module:
        """Return a copy in which these stacked layers multiply integers."""
        integer: dict[str, list[int]] = {}
        for path, number in map(self.places.__getitem__, names):
            integer.setdefault(path, []).append(number)
        twin = masks.clone(self.model)
        successors = {
            twin.get_submodule(path): multiplying(self.before.get_submodule(path), self.overflow_safe, numbers)
            for path, numbers in integer.items()
        }
        return replace_layers(twin, successors).eval()


def with_integers(guarded: GuardedModel, before: nn.Module, params: Params, meter: CostMeter) -> GuardedModel:
    """Return the model with integer products in as many recurrent layers as the bounds allow, and a note on the cost.

    Args:
        guarded: the model with int8 layers, and the arithmetic chosen for each.
        before: the model before the stage.
        params: those of the stage.
        meter: compares with the model before the stage.
    """
    paths = [path for path in guarded.layers if _is_chosen(before.get_submodule(path), guarded.choices.get(path))]
    if not paths:
        return guarded
    conversion = RecurrentConversion(guarded.model, before, paths, params.overflow_safe)
    try:
        made = guard(conversion, meter)
    except TechniqueError:
        return replace(guarded, recurrent=_note(conversion, sensitivity(conversion, meter), [], meter))
    costs = dict(made.scan) or sensitivity(conversion, meter)
    note = _note(conversion, costs, made.layers, meter)
    return replace(guarded, model=made.model, cost=made.cost, recurrent=note)


def all_in_integers(model: nn.Module, before: nn.Module, choices: Mapping[str, Choice], params: Params) -> nn.Module:
    """Return the model with integer products in all recurrent layers for which they are chosen, whatever that costs."""
    paths = [path for path, choice in choices.items() if _is_chosen(before.get_submodule(path), choice)]
    conversion = RecurrentConversion(model, before, paths, params.overflow_safe)
    return conversion.of(list(conversion.places)) if paths else model


def _is_chosen(layer: nn.Module, choice: Choice | None) -> bool:
    return choice is not None and choice.arithmetic == "int8" and can_multiply(layer)


def _stacked(path: str, model: nn.Module) -> dict[str, tuple[str, int]]:
    """Return path and number of the stacked layers of a recurrent layer, by a name for each."""
    count: Any = model.get_submodule(path).num_layers
    if count == 1:
        return {path: (path, 0)}
    return {f"{path}, layer {number}": (path, number) for number in range(count)}


def _note(
    conversion: RecurrentConversion, costs: Mapping[Layers, Cost], integer: Collection[str], meter: CostMeter
) -> Note:
    """Return what each stacked layer costs alone, in the order of the network, and which arithmetic it has."""
    rows = []
    for group in conversion.groups:
        drop = {} if meter.metric is None else {f"drop of {meter.metric} ({meter.unit})": costs[group].drop}
        arithmetic = "int8" if group[0] in integer else "float"
        rows.append({"layer": group[0], **drop, "output error": costs[group].error, "arithmetic": arithmetic})
    text = f"{len(integer)} of {len(rows)} recurrent layers with integer products; each row has the cost of one alone"
    return Note(text, rows)
