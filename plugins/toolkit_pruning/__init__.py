"""Pruning: the least important weights of layers that multiply become zero, and stay zero.

By magnitude, as in Han et al., "Learning both weights and connections for efficient neural networks", 2015;
gradually, as in Zhu and Gupta, "To prune, or not to prune", 2017; N of every M weights, as in Mishra et al.,
"Accelerating sparse deep neural networks", 2021. Zeros alone make a dense model neither smaller nor faster:
they pay where weights are stored compressed, or multiplied by kernels that skip them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

import toolkit
from toolkit import hookimpl, masks
from toolkit_pruning.prunable import check_patterns, inputs_of, kind_of, match, only_weight, prunable_names
from toolkit_pruning.ranking import Scope, cubic_sparsity, n_of_m_mask, smallest_masks

Criterion = Literal["magnitude", "random"]


class Params(toolkit.Params):
    """Which weights become zero, how many of them, and when."""

    sparsity: float = Field(default=0.5, ge=0, lt=1, description="fraction of zeros, earlier ones included")
    scope: Scope = Field(default="global", description="rank and count all layers together, or each alone")
    criterion: Criterion = Field(default="magnitude", description="the smallest go, or any (as a control)")
    schedule: Literal["one-shot", "gradual"] = Field(default="one-shot", description="gradual: during finetune")
    schedule_end: float = Field(default=0.75, gt=0, le=1, description="gradual: fraction of steps until done")
    steps_between: int = Field(default=20, ge=1, description="gradual: training steps between prunings")
    pattern: str = Field(
        default="unstructured",
        description="'unstructured' for single weights, or 'N:M' with 0 < N < M such as '2:4': of every M "
        "consecutive weights along a layer's inputs N stay, whatever the scope; implies sparsity 1 - N/M",
    )
    layers: list[str] = Field(default=["*"], min_length=1, description="names as patterns such as 'fc*'")
    exclude: list[str] = Field(default=[], description="names of layers to leave alone, as patterns")

    @property
    def needs_finetune(self) -> bool:
        """A gradual schedule prunes only while the stage trains."""
        return self.schedule == "gradual"

    @model_validator(mode="before")
    @classmethod
    def _imply_sparsity(cls, values: Any) -> Any:
        # Filled in rather than computed when needed, so that a recipe written with all its values reads back.
        kept = _n_of_m(values.get("pattern")) if isinstance(values, Mapping) else None
        return {"sparsity": 1 - kept[0] / kept[1], **values} if kept else values

    @field_validator("pattern")
    @classmethod
    def _agrees(cls, pattern: str, info: ValidationInfo) -> str:
        kept = _n_of_m(pattern)
        if kept is None:
            if pattern != "unstructured":
                raise ValueError(f"must be 'unstructured' or N:M with 0 < N < M, found '{pattern}'")
            return pattern
        if info.data.get("schedule") == "gradual":
            raise ValueError(f"{pattern} cannot be reached on a gradual schedule: leave out one of the two")
        implied = 1 - kept[0] / kept[1]
        if abs(info.data.get("sparsity", implied) - implied) >= 0.005:  # 0.67 may stand for 2/3
            raise ValueError(f"{pattern} means sparsity {implied:.4g}, found {info.data['sparsity']:g}")
        return pattern


class Selection(NamedTuple):
    """What to prune, one name for each tensor, why others that were asked for are left alone, and what never is.

    A layer with one weight goes by its own name, such as `fc`; of others each weight does, `lstm.weight_hh_l0`.
    """

    layers: tuple[str, ...]
    left_alone: dict[str, str]
    never: dict[str, str]


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
    check_patterns([*params.layers, *params.exclude], [layer for _, layers in found for layer in layers])
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
def optimize(model: nn.Module, params: Params, prepared: list[Selection]) -> nn.Module:
    """Mask the weights; on a gradual schedule with masks of ones, which `finetune` tightens."""
    prepared.append(select(model, params))
    layers = prepared[0].layers
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
    layers, left_alone, never = prepared[0]
    rows = _rows(model, layers)
    told = [f"{layer} is left alone: {reason}" for layer, reason in left_alone.items()]
    text = "; ".join(told + [f"{path} is never pruned: it is the {kind}'s" for path, kind in never.items()])
    if not rows:  # a technique after this one put in another model
        return {"layers": toolkit.Note("no layer that was pruned is left")}
    return {"sparsity": _sparsity(rows), "layers": toolkit.Note(text, rows)}


def choose(model: nn.Module, layers: Sequence[str], params: Params, sparsity: float) -> dict[str, Tensor]:
    """Masks for `masks.apply`, ranked on the present weights, of which those that are masked go first."""
    weights = {weight.path: weight for weight in masks.named_weights(model)}
    chosen = [weights[layer if layer in weights else only_weight(layer)] for layer in layers]
    present = masks.current(model)
    scores = [_score(weight.value, present.get(weight.path), params.criterion) for weight in chosen]
    kept = _n_of_m(params.pattern)
    if kept is None:
        found = smallest_masks(scores, sparsity, params.scope)
    else:
        found = [n_of_m_mask(s, *kept, inputs_of(w)[0]) for s, w in zip(scores, chosen, strict=True)]
    return {weight.path: mask for weight, mask in zip(chosen, found, strict=True)}


def _score(weight: Tensor, kept: Tensor | None, criterion: Criterion) -> Tensor:
    # Drawn on the processor, so that a seed means the same weights on every device.
    score = weight.abs() if criterion == "magnitude" else torch.rand(weight.shape).to(weight.device)
    return score if kept is None else score.masked_fill_(~kept, -1.0)


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
    _, m = _n_of_m(params.pattern) or (1, 1)
    return f"its input size {size} is not divisible by {m}" if size % m else ""


def _n_of_m(pattern: Any) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", pattern) if isinstance(pattern, str) else None
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    return (n, m) if 0 < n < m else None
