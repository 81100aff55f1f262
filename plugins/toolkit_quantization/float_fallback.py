"""A conversion that costs too much is repaired: the layers that hurt most are returned to float."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from torch import nn

from toolkit import Note, TechniqueError
from toolkit_quantization.arithmetic import Choice
from toolkit_quantization.conversion import Conversion
from toolkit_quantization.conversion_cost import Judge, Verdict

Layers = tuple[str, ...]  # those that share a weight: one, mostly


@dataclass(frozen=True)
class Guarded:
    """A model within the bounds, the layers that are quantized in it, and what they cost.

    `returned` are the layers that were returned to float; `scan` has the verdict on each quantized alone, those that
    hurt most first, and is empty where nobody needed it; `choices` are the arithmetic of all that could be quantized.
    """

    model: nn.Module
    layers: Layers
    verdict: Verdict
    returned: Layers = ()
    scan: Mapping[Layers, Verdict] = field(default_factory=dict)
    choices: Mapping[str, Choice] = field(default_factory=dict)


def guard(conversion: Conversion, judge: Judge, scan: bool = False) -> Guarded:
    """Quantize all layers, or all but those that have to be float; a `TechniqueError` where nothing helps.

    Args:
        conversion: what can be quantized.
        judge: says what a model costs.
        scan: judge every layer alone also where nothing has to be repaired.
    """
    every = _names(conversion.groups)
    model = conversion.of(every)
    verdict = judge(model)
    if judge.accepts(verdict):
        found = sensitivity(conversion, judge) if scan else {}
        return Guarded(model, every, verdict, scan=found, choices=conversion.choices)
    found = sensitivity(conversion, judge) if len(conversion.groups) > 1 else {}
    order = list(found)
    accepted: list[Guarded] = []

    def fits(count: int) -> bool:
        layers = _names(order[count:])
        model = conversion.of(layers)
        verdict = judge(model)
        if judge.accepts(verdict):
            accepted[:] = [Guarded(model, layers, verdict, _names(order[:count]), found, conversion.choices)]
        return judge.accepts(verdict)

    if fewest(len(order) - 1, fits) is None:
        raise TechniqueError(f"{judge.complaint(verdict)}{_remedy(len(order))}")
    return accepted[0]


def sensitivity(conversion: Conversion, judge: Judge) -> dict[Layers, Verdict]:
    """What it costs to quantize each layer alone, those first that use up most of what is accepted."""
    found = {layers: judge(conversion.of(layers)) for layers in conversion.groups}
    return dict(sorted(found.items(), key=lambda item: -judge.severity(item[1])))


def fewest(most: int, fits: Callable[[int], bool]) -> int | None:
    """The smallest number from 1 to `most` that fits, None if `most` does not.

    It is looked for by doubling and then halving. Where a number fits and a larger one does not, another one may be
    found than the smallest; the one before it was then seen not to fit.
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


def scan_note(guarded: Guarded, judge: Judge) -> Note:
    """The sensitivity scan as a table: by layer the drop, the output error, and whether it stays in float."""
    drop = f"drop of {judge.metric} ({judge.unit})"
    rows = []
    for layers, verdict in guarded.scan.items():
        cost = {} if judge.metric is None else {drop: verdict.drop}
        kept = layers[0] in guarded.returned
        rows.append({"layer": ", ".join(layers), **cost, "output error": verdict.error, "kept in float": kept})
    text = f"each layer quantized alone, on {judge.samples} samples of {judge.data.selection_split}"
    if guarded.returned:
        text = f"{text}; {len(guarded.returned)} returned to float, those that hurt most first"
    return Note(text, rows)


def _names(groups: Iterable[Layers]) -> Layers:
    return tuple(name for group in groups for name in group)


def _remedy(layers: int) -> str:
    tried = ", and returning layers to float, even all but one, does not help" if layers else ""
    return f"{tried}: exclude layers, take another dtype for them (overrides), or raise max_drop or max_error"
