"""Pruning: the least important weights of layers that multiply become zero, and stay zero.

By magnitude, as in Han et al., "Learning both weights and connections for efficient neural networks", 2015;
by layer-adaptive magnitude, as in Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", 2021;
gradually, as in Zhu and Gupta, "To prune, or not to prune", 2017; N of every M weights, as in Mishra et al.,
"Accelerating sparse deep neural networks", 2021. Zeros alone make a dense model neither smaller nor faster:
they pay where weights are stored compressed, or multiplied by kernels that skip them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

import toolkit
from toolkit import hookimpl, masks
from toolkit_pruning.mask_choice import choose
from toolkit_pruning.params import Params, n_of_m
from toolkit_pruning.prunable import check_patterns, inputs_of, kind_of, match, only_weight, prunable_names
from toolkit_pruning.ranking import cubic_sparsity
from toolkit_pruning.scan import scan_note

__all__ = ["Params", "Selection", "choose", "finetune", "measure", "optimize", "prepare", "select"]


class Selection(NamedTuple):
    """What to prune, one name for each tensor, why others that were asked for are left alone, and what never is.

    A layer with one weight goes by its own name, such as `fc`; of others each weight does, `lstm.weight_hh_l0`.
    """

    layers: tuple[str, ...]
    left_alone: dict[str, str]
    never: dict[str, str]
    scan: toolkit.Note | None = None
    """What each layer costs alone, where that was asked for."""


def select(model: nn.Module, params: Params) -> Selection:
    """Select the layers, in the model's order; a `TechniqueError` where a pattern or a whole model has none.

    A weight that layers share is one weight: the name of any of them selects it, and it is left alone where
    one of them is excluded, or of a kind that is never pruned, such as an embedding. The name of a recurrent or
    an attention layer selects all its weights; their biases are left alone.
    """
    sharing: dict[int, list[masks.Weight]] = {}
    for weight in masks.named_weights(model):
        sharing.setdefault(id(weight.parameter), []).append(weight)
    found = [(shared, prunable_names(shared)) for shared in sharing.values()]
    never = {
        shared[0].path: kind_of(shared[0]) for shared, layers in found if not layers and shared[0].parameter.ndim > 1
    }
    check_patterns([layer for _, layers in found for layer in layers], [*params.layers, *params.exclude])
    asked = [(shared, layers) for shared, layers in found if match(layers, params.layers)]
    reasons = {layers[0]: _reason_against(shared, layers, params) for shared, layers in asked}
    left_alone = {layer: reason for layer, reason in reasons.items() if reason}
    if left_alone == reasons:
        told = "; ".join(f"{layer}: {reason}" for layer, reason in reasons.items())
        raise toolkit.TechniqueError(f"no layer is left to prune ({told})")
    return Selection(tuple(layer for layer in reasons if layer not in left_alone), left_alone, never)


@hookimpl
def prepare() -> list[Selection]:
    """Room for what `optimize` selects: before it, another technique of the stage may put in a model of its own."""
    return []


@hookimpl
def optimize(model: nn.Module, params: Params, data: toolkit.Data, prepared: list[Selection]) -> nn.Module:
    """Mask the weights; on a gradual schedule with masks of ones, which `finetune` tightens."""
    selected = select(model, params)
    layers = selected.layers
    prepared.append(selected._replace(scan=scan_note(model, layers, params, data)) if params.scan else selected)
    sparsity = 0.0 if params.schedule == "gradual" else params.sparsity
    masks.apply(model, choose(model, layers, params, sparsity))
    return model


@hookimpl
def finetune(
    model: nn.Module, params: Params, prepared: list[Selection], training: toolkit.Training
) -> toolkit.Training:
    """On a gradual schedule, prune more every few steps, and exactly as much as asked at `schedule_end`."""
    if params.schedule == "one-shot":
        return training
    layers = prepared[0].layers
    rows = _rows(model, layers)
    # Ranked layer by layer, they begin where the least pruned one is, so that none of them makes a leap.
    initial = _sparsity(rows) if params.scope == "global" else min(row["sparsity"] for row in rows)

    def tighten(step: int, steps: int) -> None:
        last = max(1, round(params.schedule_end * steps))
        if step == last or (step < last and step % params.steps_between == 0):
            sparsity = cubic_sparsity(step / last, initial, params.sparsity)
            masks.apply(model, choose(model, layers, params, sparsity))

    return training.using(after_step=tighten)


@hookimpl
def measure(model: nn.Module, prepared: list[Selection]) -> dict[str, float | toolkit.Note]:
    """Count the zeros of the layers as they are now: of all together, and in a table of each."""
    layers, left_alone, never, scan = prepared[0]
    scanned = {} if scan is None else {"scan": scan}
    rows = _rows(model, layers)
    told = [f"{layer} is left alone: {reason}" for layer, reason in left_alone.items()]
    text = "; ".join(told + [f"{path} is never pruned: it is the {kind}'s" for path, kind in never.items()])
    if not rows:  # a technique after this one put in another model
        return {"layers": toolkit.Note("no layer that was pruned is left"), **scanned}
    return {"sparsity": _sparsity(rows), "layers": toolkit.Note(text, rows), **scanned}


def _rows(model: nn.Module, layers: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    weights, modules = {weight.path: weight for weight in masks.named_weights(model)}, dict(model.named_modules())
    for layer in layers:
        found = weights.get(layer, weights.get(only_weight(layer)))
        module: Any = modules.get(layer)
        if found is None and not hasattr(module, "dense_weight"):
            continue
        value: Tensor = module.dense_weight() if found is None else found.value
        zeros, size = int((value == 0).sum()), value.numel()
        rows.append({"layer": layer, "weights": size, "zeros": zeros, "sparsity": zeros / size})
    return rows


def _sparsity(rows: Sequence[Mapping[str, Any]]) -> float:
    return sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows)


def _reason_against(shared: Sequence[masks.Weight], layers: Sequence[str], params: Params) -> str:
    if len(layers) < len(shared):
        return f"its weight is also one that is never pruned, in {' and '.join(w.path for w in shared)}"
    if match(layers, params.exclude):
        return "excluded"
    _, size = inputs_of(shared[0])
    _, m = n_of_m(params.pattern) or (1, 1)
    return f"its input size {size} is not divisible by {m}" if size % m else ""
