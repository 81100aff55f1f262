"""Channels: removes whole channels and heads; a smaller dense network is left, with less to compute everywhere.

A channel goes with everything that depends on it: the inputs of following layers, norms, groups of convolutions, the
other terms of residual sums, masks of earlier stages. The network then computes exactly what it would compute with
these channels masked to zero, and this is checked. Channels stay where that cannot be: inputs and outputs of the
network, means over channels such as a layer norm's, numbers of channels that `forward` states, operations without a
rule. The report names them with the reason.

The least important channels of the whole network go first, as many as `amount` asks for. `taylor` follows Molchanov et
al. 2019, `activation` Sun et al. 2023, `geometric-median` He et al. 2019, `batch-norm` Liu et al. 2017, `l1` Li et al.
2017. With `blocks`, whole residual blocks go first. With `steps` channels go gradually: the first part is cut out
before the training, the others are masked while the stage trains, and cut out at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

import toolkit
from toolkit import hookimpl, masks
from toolkit.structure import Structure, analyze, drop_idle_masks, remove
from toolkit_channels.blocks import remove_least
from toolkit_channels.params import Params
from toolkit_channels.ranking import Before, choose
from toolkit_channels.scoring import masked_units, unit_scores

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
]

numbers = {
    "removed": toolkit.Number("removed", "share of the network that is gone, as `of` counts it", "fraction", "higher"),
}


@dataclass
class Findings:
    """What the stage began with.

    Attributes:
        before: the number of what `of` counts, and the channels of each layer that can be cut.
        kept: the reason for each layer whose channels stay.
        gone: share that has gone.
        blocks: paths of the residual blocks that have gone, with what they changed of their inputs.
    """

    before: Before = field(default_factory=lambda: Before(0.0, {}))
    kept: dict[str, str] = field(default_factory=dict)
    gone: float = 0.0
    blocks: dict[str, float] = field(default_factory=dict)


@hookimpl
def prepare() -> Findings:
    """Return empty findings: `optimize` looks at the model, because another technique may replace it first."""
    return Findings()


@hookimpl
def optimize(model: nn.Module, params: Params, data: toolkit.Data, prepared: Findings) -> nn.Module:
    """Remove channels, in steps the first of them; the others are masked in training, and begin with masks of ones."""
    structure = _analyzed(model, params, data)
    widths = {path: structure.width(path) for group in structure.groups for path in group.layers}
    prepared.before = Before(structure.cost(params.of), widths)
    if params.blocks:
        prepared.blocks = remove_least(model, params, data)
        structure = _analyzed(model, params, data)
    prepared.kept = structure.kept
    scores = unit_scores(structure, model, params, data)
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
    """In steps, mask more channels after each part of the training but the last."""
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
    """In steps, cut out the channels that were masked in training."""
    if params.steps > 1:
        structure = _analyzed(model, params, data)
        masked = masked_units(structure, model)
        prepared.gone = 1 - structure.cost(params.of, masked) / prepared.before.cost
        remove(model, structure, masked, data)
        drop_idle_masks(model)
    return model


@hookimpl
def measure(model: nn.Module, params: Params, prepared: Findings) -> dict[str, float | toolkit.Note]:
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
    return {
        **(notes if blocks else {}),
        "removed": prepared.gone,
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
        told = "; ".join(f"{path}: {reason}" for path, reason in structure.kept.items())
        raise toolkit.TechniqueError(f"no layer is left whose channels can go ({told or 'the model has none'})")
    return structure
