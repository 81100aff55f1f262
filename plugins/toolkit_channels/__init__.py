"""Channels: removes whole channels and heads; a smaller dense network is left, with less to compute everywhere.

A channel goes with everything that depends on it: the inputs of following layers, norms, groups of convolutions, the
other terms of residual sums, masks of earlier stages. The network then computes exactly what it would compute with
these channels masked to zero, and this is checked. Channels stay where that cannot be: inputs and outputs of the
network, means over channels such as a layer norm's, numbers of channels that `forward` states, operations without a
rule. The report names them with the reason.

The least important channels of the whole network go first, as many as `amount` asks for. A share of the time of a call
is found by timing cut networks. `taylor` follows Molchanov et al. 2019, `activation` Sun et al. 2023,
`geometric-median` He et al. 2019, `batch-norm` Liu et al. 2017; `l1` and `l2` count all weights that go with a channel,
as in Fang et al. 2023. With `blocks`, whole residual blocks go first. With `steps` channels go gradually: the first
part is cut out before the training, the others are masked while the stage trains, and cut out at the end. With
`shrink` all of them are drawn towards zero while the stage trains, and cut out at the end (`shrinking.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

import toolkit
from toolkit import hookimpl, masks
from toolkit.structure import Structure, analyze, drop_idle_masks, remove
from toolkit.timing import Timer
from toolkit_channels.blocks import remove_least
from toolkit_channels.latency import ByTime, find
from toolkit_channels.params import Params
from toolkit_channels.ranking import Before, choose
from toolkit_channels.scoring import masked_units, unit_scores
from toolkit_channels.shrinking import Shrinking, cut_shrunk

__all__ = [
    "Findings",
    "Params",
    "Structure",
    "analyze",
    "finetune",
    "finish",
    "measure",
    "numbers",
    "optimize",
    "prepare",
    "remove",
    "resolve",
]

numbers = {
    "removed": toolkit.Number(
        "removed",
        "share of the network that is gone, as `of` counts it; more than `amount` where `round_to` takes more with it",
        "fraction",
        "higher",
    ),
    "drop": toolkit.Number(
        "drop by the cut",
        "drop of the primary metric on the selection split by the cut after a training with `shrink`: in points, or in "
        "percent of a value that is no fraction",
        better="lower",
    ),
    "norm_left": toolkit.Number(
        "norm left",
        "norm of the channels that `shrink` draws towards zero, at the cut over that when the training began",
        better="lower",
    ),
}


@dataclass
class Findings:
    """What the stage began with.

    Attributes:
        before: the number of what `of` counts, and the channels of each layer that can be cut.
        kept: the reason for each layer whose channels stay.
        gone: share that has gone.
        blocks: paths of the residual blocks that have gone, with what they changed of their inputs.
        timer: times the network next to the one that the stage began with.
        by_time: what was found for a share of the time; None where `of` counts something else.
        shrinking: the units that go at the end of the training, until they have gone.
        values: what is measured where they go.
    """

    before: Before = field(default_factory=lambda: Before(0.0, {}))
    kept: dict[str, str] = field(default_factory=dict)
    gone: float = 0.0
    blocks: dict[str, float] = field(default_factory=dict)
    timer: Timer | None = None
    by_time: ByTime | None = None
    shrinking: Shrinking | None = None
    values: dict[str, float] = field(default_factory=dict)

    def settled(self, params: Params) -> Params:
        """Return the params with a share of the MACs in place of one of the time."""
        return params if self.by_time is None else self.by_time.params


@hookimpl
def prepare(timer: Timer) -> Findings:
    """Return empty findings: `optimize` looks at the model, because another technique may replace it first."""
    return Findings(timer=timer)


@hookimpl
def optimize(model: nn.Module, params: Params, data: toolkit.Data, prepared: Findings) -> nn.Module:
    """Remove channels, in steps the first of them; the others are masked in training, and begin with masks of ones.

    With `shrink`, none go yet.
    """
    structure = _analyzed(model, params, data)
    widths = {path: structure.width(path) for group in structure.groups for path in group.layers}
    prepared.before = Before(structure.cost("macs" if params.asks_timer else params.of), widths)
    if params.blocks:
        prepared.blocks = remove_least(model, params, data)
        structure = _analyzed(model, params, data)
    prepared.kept = structure.kept
    scores = unit_scores(structure, model, params, data)
    if params.asks_timer:
        assert prepared.timer is not None
        prepared.by_time = find(model, structure, scores, params, prepared.before, data, prepared.timer)
        params = prepared.by_time.params
    if params.shrink:
        return model
    if params.steps > 1:  # refuse now what the last step could not do
        choose(structure, scores, params, params.amount, prepared.before)
    chosen = choose(structure, scores, params, params.amount / params.steps, prepared.before)
    prepared.gone = 1 - structure.cost(params.of, chosen) / prepared.before.cost
    remove(model, structure, chosen, data)
    if params.reestimate:
        toolkit.reestimate(model, data)
    if params.steps > 1:
        masks.apply(model, _analyzed(model, params, data).masks(()))
    return model


@hookimpl
def finetune(
    model: nn.Module, params: Params, data: toolkit.Data, prepared: Findings, training: toolkit.Training
) -> toolkit.Training:
    """In steps, mask more channels after each part of the training but the last; with `shrink`, draw them to zero."""
    params = prepared.settled(params)
    if params.shrink:
        structure = _analyzed(model, params, data)
        scores = unit_scores(structure, model, params, data)
        units = choose(structure, scores, params, params.amount, prepared.before)
        prepared.shrinking = Shrinking(model, structure, units)
        return prepared.shrinking.added_to(training, params.shrink)
    if params.steps == 1:
        return training

    def tighten(step: int, steps: int) -> None:
        ends = [max(1, round(part * steps / params.steps)) for part in range(1, params.steps)]
        if step in ends:
            structure = _analyzed(model, params, data)
            amount = params.amount * (sum(end <= step for end in ends) + 1) / params.steps
            scores = unit_scores(structure, model, params, data)
            masks.apply(model, structure.masks(choose(structure, scores, params, amount, prepared.before)))

    return training.using(after_step=tighten)


@hookimpl
def finish(model: nn.Module, params: Params, data: toolkit.Data, prepared: Findings) -> nn.Module:
    """Cut out the channels that were masked in training, in steps, or drawn to zero, with `shrink`."""
    params = prepared.settled(params)
    if prepared.shrinking is not None:
        shrinking, prepared.shrinking = prepared.shrinking, None
        prepared.gone = 1 - shrinking.structure.cost(params.of, shrinking.units) / prepared.before.cost
        prepared.values = cut_shrunk(model, shrinking, params, data)
    if params.steps > 1:
        structure = _analyzed(model, params, data)
        masked = masked_units(structure, model)
        prepared.gone = 1 - structure.cost(params.of, masked) / prepared.before.cost
        remove(model, structure, masked, data)
        drop_idle_masks(model)
        if prepared.by_time is not None:
            prepared.by_time.check(model, prepared.gone)
    return model


@hookimpl
def resolve(params: Params, prepared: Findings) -> Params:
    """Return params that ask for the share of the MACs with which the share of the time went."""
    return prepared.settled(params)


@hookimpl
def measure(model: nn.Module, prepared: Findings) -> dict[str, float | toolkit.Note]:
    """Return the share that has gone, the channels of each layer before and after, and the layers that keep theirs."""
    layers = dict(model.named_modules())
    rows: list[dict[str, Any]] = [
        {"layer": path, "channels": now, "before": before}
        for path, before in prepared.before.widths.items()
        if (now := _width(layers.get(path))) is not None
    ]
    kept = [{"layer": path, "reason": reason} for path, reason in prepared.kept.items()]
    blocks = [{"block": path, "change": change} for path, change in prepared.blocks.items()]
    notes = {"blocks": toolkit.Note("residual blocks that are gone, and how they changed their inputs", blocks)}
    time = prepared.by_time
    return {
        **(notes if blocks else {}),
        **({"time": time.note} if time is not None else {}),
        "removed": prepared.gone if time is None else 1 - time.time.ratio,
        **prepared.values,
        "layers": toolkit.Note("channels of each layer after and before", rows),
        "kept": toolkit.Note("layers whose channels stay, and why", kept),
    }


def _width(layer: Any) -> int | None:
    for name in ("in_proj_weight", "q_proj_weight"):  # of an attention
        if getattr(layer, name, None) is not None:
            return len(getattr(layer, name))
    sizes = ("out_channels", "out_features", "hidden_size")
    return next((getattr(layer, name) for name in sizes if hasattr(layer, name)), None)


def _analyzed(model: nn.Module, params: Params, data: toolkit.Data) -> Structure:
    structure = analyze(model, data, params.layers, params.exclude)
    if not structure.groups:
        told = toolkit.patterns.reasons_text(structure.kept) or "the model has none"
        raise toolkit.TechniqueError(f"no layer is left whose channels can go ({told})")
    return structure
