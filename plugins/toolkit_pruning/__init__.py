"""Pruning: sets the least important weights of the model to zero, and keeps them zero.

By magnitude, as in Han et al., "Learning both weights and connections for efficient neural networks", 2015;
by layer-adaptive magnitude, as in Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", 2021;
by the change of the loss, as in Molchanov et al., "Importance estimation for neural network pruning", 2019;
by weights times inputs, as in Sun et al., "A simple and effective pruning approach for large language models", 2024;
by movement, as in Sanh et al., "Movement pruning: adaptive sparsity by fine-tuning", 2020;
gradually, as in Zhu and Gupta, "To prune, or not to prune", 2017; N of every M weights, as in Mishra et al.,
"Accelerating sparse deep neural networks", 2021. Zeros alone make a dense model neither smaller nor faster: they pay
off where weights are stored compressed, or multiplied by kernels that skip zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

import toolkit
from toolkit import hookimpl, masks
from toolkit_pruning.mask_choice import choose
from toolkit_pruning.movement import learning_scores
from toolkit_pruning.params import Params, n_of_m
from toolkit_pruning.prunable import check_patterns, inputs_of, kind_of, match, only_weight, prunable_names
from toolkit_pruning.scan import scan_note
from toolkit_pruning.schedule import sparsity_due
from toolkit_pruning.scores import scores_of

__all__ = ["Params", "Selection", "choose", "finetune", "measure", "numbers", "optimize", "prepare", "select"]

numbers = {
    "sparsity": toolkit.Number(
        "zeros", "fraction of the weights in all pruned layers that are zero", "fraction", "higher"
    )
}


class Selection(NamedTuple):
    """What to prune, by one name per tensor.

    A layer with one weight goes by the layer's name, such as `fc`; in other layers each weight goes by its own, such as
    `lstm.weight_hh_l0`. `left_alone` has the reason for each layer that was asked for and is not pruned, `never` the
    kind of layer for each weight that pruning never touches, `scan` the sensitivity scan if the recipe asks for one.
    """

    layers: tuple[str, ...]
    left_alone: dict[str, str]
    never: dict[str, str]
    scan: toolkit.Note | None = None


def select(model: nn.Module, params: Params) -> Selection:
    """Select the layers to prune, in the model's order.

    A weight that several layers share counts as one: the name of any of them selects it, and it is left alone if one of
    them is excluded, or is of a kind that is never pruned, such as an embedding. The name of a recurrent or attention
    layer selects all its weights, but not its biases.

    Raises:
        TechniqueError: a pattern matches nothing, or nothing is left to prune.
    """
    sharing: dict[int, list[masks.Weight]] = {}
    for weight in masks.named_weights(model):
        sharing.setdefault(id(weight.parameter), []).append(weight)
    candidates = [(shared, prunable_names(shared)) for shared in sharing.values()]
    never = {
        shared[0].path: kind_of(shared[0])
        for shared, layers in candidates
        if not layers and shared[0].parameter.ndim > 1
    }
    check_patterns([layer for _, layers in candidates for layer in layers], [*params.layers, *params.exclude])
    asked = [(shared, layers) for shared, layers in candidates if match(layers, params.layers)]
    reasons = {layers[0]: _reason_against(shared, layers, params) for shared, layers in asked}
    left_alone = {layer: reason for layer, reason in reasons.items() if reason}
    if left_alone == reasons:
        raise toolkit.TechniqueError(_none_left(reasons))
    return Selection(tuple(layer for layer in reasons if layer not in left_alone), left_alone, never)


@hookimpl
def prepare() -> list[Selection]:
    """Return an empty list for the selection: `optimize` selects, because another technique may replace the model."""
    return []


@hookimpl
def optimize(model: nn.Module, params: Params, data: toolkit.Data, prepared: list[Selection]) -> nn.Module:
    """Mask the weights; on a gradual schedule, start with masks of ones, which `finetune` tightens."""
    selected = select(model, params)
    scores = scores_of(model, selected.layers, params, data)
    selected = _with_scores(selected, scores, params)
    prepared.append(selected._replace(scan=scan_note(model, scores, params, data)) if params.scan else selected)
    sparsity = 0.0 if params.schedule == "gradual" else params.sparsity
    masks.apply(model, choose(model, scores, params, sparsity))
    return model


@hookimpl
def finetune(
    model: nn.Module, params: Params, data: toolkit.Data, prepared: list[Selection], training: toolkit.Training
) -> toolkit.Training:
    """On a gradual schedule, prune more every few steps, and reach the sparsity asked for at `schedule_end`."""
    if params.schedule == "one-shot":
        return training
    layers = prepared[0].layers
    rows = _rows(model, layers)
    # With a sparsity per layer, start from the least pruned layer, so that none of them jumps.
    initial = _sparsity(rows) if params.scope == "global" else min(row["sparsity"] for row in rows)
    if params.criterion == "movement":
        return learning_scores(model, layers, params, initial, training)

    def tighten(step: int, steps: int) -> None:
        sparsity = sparsity_due(step, steps, initial, params)
        if sparsity is not None:
            masks.apply(model, choose(model, scores_of(model, layers, params, data), params, sparsity))

    return training.using(after_step=tighten)


@hookimpl
def measure(model: nn.Module, prepared: list[Selection]) -> dict[str, float | toolkit.Note]:
    """Count the zeros as they are now: a share over all layers, and a table by layer."""
    layers, left_alone, never, scan = prepared[0]
    scanned = {} if scan is None else {"scan": scan}
    rows = _rows(model, layers)
    told = [f"{layer} is left alone: {reason}" for layer, reason in left_alone.items()]
    text = "; ".join(
        told + [f"{path} is never pruned, because it belongs to a layer of kind {kind}" for path, kind in never.items()]
    )
    if not rows:  # a later technique of the stage replaced the model
        return {"layers": toolkit.Note("none of the pruned layers is left"), **scanned}
    return {"sparsity": _sparsity(rows), "layers": toolkit.Note(text, rows), **scanned}


def _with_scores(selected: Selection, scores: Mapping[str, Tensor], params: Params) -> Selection:
    """Return the selection without the layers that have no scores."""
    reason = f"criterion {params.criterion} needs its inputs, which only its own forward sees"
    blind = {layer: reason for layer in selected.layers if layer not in scores}
    left_alone = {**selected.left_alone, **blind}
    if not scores:
        raise toolkit.TechniqueError(_none_left(left_alone))
    return selected._replace(layers=tuple(scores), left_alone=left_alone)


def _none_left(reasons: Mapping[str, str]) -> str:
    told = "; ".join(f"{layer}: {reason}" for layer, reason in reasons.items())
    return f"no layer is left to prune ({told})"


def _rows(model: nn.Module, layers: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    weights, modules = {weight.path: weight for weight in masks.named_weights(model)}, dict(model.named_modules())
    for layer in layers:
        weight = weights.get(layer, weights.get(only_weight(layer)))
        module: Any = modules.get(layer)
        if weight is None and not hasattr(module, "dense_weight"):
            continue
        value: Tensor = module.dense_weight() if weight is None else weight.value
        zeros, size = int((value == 0).sum()), value.numel()
        rows.append({"layer": layer, "weights": size, "zeros": zeros, "sparsity": zeros / size})
    return rows


def _sparsity(rows: Sequence[Mapping[str, Any]]) -> float:
    return sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows)


def _reason_against(shared: Sequence[masks.Weight], layers: Sequence[str], params: Params) -> str:
    if len(layers) < len(shared):
        return f"it shares its weight with a layer that is never pruned ({' and '.join(w.path for w in shared)})"
    if match(layers, params.exclude):
        return "excluded"
    _, size = inputs_of(shared[0])
    _, m = n_of_m(params.pattern) or (1, 1)
    return f"its input size {size} is not divisible by {m}" if size % m else ""
