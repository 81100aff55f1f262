"""Pruning: the least important weights of linear and convolutional layers become zero, and stay zero.

By magnitude, as in Han et al., "Learning both weights and connections for efficient neural networks", 2015;
gradually, as in Zhu and Gupta, "To prune, or not to prune", 2017; N of every M weights, as in Mishra et al.,
"Accelerating sparse deep neural networks", 2021. Zeros alone make a dense model neither smaller nor faster:
they pay where weights are stored compressed, or multiplied by kernels that skip them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

import toolkit
from toolkit import hookimpl, masks
from toolkit_pruning.ranking import Scope, cubic_sparsity, n_of_m_mask, smallest_masks

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)

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
    """The layers to prune, one for each tensor, and why others that were asked for are left alone."""

    layers: tuple[str, ...]
    left_alone: dict[str, str]


def select(model: nn.Module, params: Params) -> Selection:
    """Select the layers, in the model's order; a `TechniqueError` where a pattern or a whole model has none.

    A weight that layers share is one weight: the name of any of them selects it, and it is left alone where
    one of them is excluded, or of a kind that is never pruned, such as an embedding.
    """
    sharing: dict[int, list[masks.Weight]] = {}
    for weight in masks.named_weights(model):
        sharing.setdefault(id(weight.parameter), []).append(weight)
    found = [(shared, _prunable(shared)) for shared in sharing.values()]
    _check_patterns([*params.layers, *params.exclude], [layer for _, layers in found for layer in layers])
    asked = [(shared, layers) for shared, layers in found if _match(layers, params.layers)]
    reasons = {layers[0]: _reason_against(shared, layers, params) for shared, layers in asked}
    left_alone = {layer: reason for layer, reason in reasons.items() if reason}
    if left_alone == reasons:
        told = "; ".join(f"{layer}: {reason}" for layer, reason in reasons.items())
        raise toolkit.TechniqueError(f"no layer is left to prune ({told})")
    return Selection(tuple(layer for layer in reasons if layer not in left_alone), left_alone)


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
    layers, left_alone = prepared[0]
    rows = _rows(model, layers)
    text = "; ".join(f"{layer} is left alone: {reason}" for layer, reason in left_alone.items())
    if not rows:  # a technique after this one put in another model
        return {"layers": toolkit.Note("no layer that was pruned is left")}
    return {"sparsity": _sparsity(rows), "layers": toolkit.Note(text, rows)}


def choose(model: nn.Module, layers: Sequence[str], params: Params, sparsity: float) -> dict[str, Tensor]:
    """Masks for `masks.apply`, ranked on the present weights, of which those that are masked go first."""
    weights = {weight.path: weight for weight in masks.named_weights(model)}
    chosen = [weights[f"{layer}.weight".lstrip(".")] for layer in layers]
    present = masks.current(model)
    scores = [_score(weight.value, present.get(weight.path), params.criterion) for weight in chosen]
    kept = _n_of_m(params.pattern)
    if kept is None:
        found = smallest_masks(scores, sparsity, params.scope)
    else:
        found = [n_of_m_mask(s, *kept, _inputs(w.module)[0]) for s, w in zip(scores, chosen, strict=True)]
    return {weight.path: mask for weight, mask in zip(chosen, found, strict=True)}


def _score(weight: Tensor, kept: Tensor | None, criterion: Criterion) -> Tensor:
    # Drawn on the processor, so that a seed means the same weights on every device.
    score = weight.abs() if criterion == "magnitude" else torch.rand(weight.shape).to(weight.device)
    return score if kept is None else score.masked_fill_(~kept, -1.0)


def _rows(model: nn.Module, layers: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    modules: dict[str, Any] = dict(model.named_modules())
    for layer in layers:
        module: Any = modules.get(layer)
        if not hasattr(module, "weight") and not hasattr(module, "dense_weight"):
            continue
        weight = module.dense_weight() if hasattr(module, "dense_weight") else module.weight
        zeros, size = int((weight == 0).sum()), weight.numel()
        rows.append({"layer": layer, "weights": size, "zeros": zeros, "sparsity": zeros / size})
    return rows


def _sparsity(rows: Sequence[Mapping[str, Any]]) -> float:
    return sum(row["zeros"] for row in rows) / sum(row["weights"] for row in rows)


def _prunable(shared: Sequence[masks.Weight]) -> list[str]:
    found = [w for w in shared if w.attribute == "weight" and isinstance(w.module, PRUNABLE)]
    return [weight.path.rpartition(".")[0] for weight in found]


def _match(layers: Sequence[str], patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(layer, pattern) for layer in layers for pattern in patterns)


def _reason_against(shared: Sequence[masks.Weight], layers: Sequence[str], params: Params) -> str:
    if len(layers) < len(shared):
        return f"its weight is also one that is never pruned, in {' and '.join(w.path for w in shared)}"
    if _match(layers, params.exclude):
        return "excluded"
    _, size = _inputs(shared[0].module)
    _, m = _n_of_m(params.pattern) or (1, 1)
    return f"its input size {size} is not divisible by {m}" if size % m else ""


def _inputs(module: Any) -> tuple[int, int]:
    """The dimension of a weight that runs over the inputs, and the number of inputs within a group."""
    if isinstance(module, TRANSPOSED):
        return 0, module.in_channels // module.groups
    return 1, module.weight.shape[1]


def _check_patterns(patterns: Sequence[str], layers: Sequence[str]) -> None:
    if not layers:
        raise toolkit.TechniqueError("the model has no linear or convolutional layer to prune")
    for pattern in patterns:
        if not _match(layers, [pattern]):
            close = get_close_matches(pattern, layers, n=5) or layers[:10]
            raise toolkit.TechniqueError(f"'{pattern}' matches no prunable layer; known: {', '.join(close)}")


def _n_of_m(pattern: Any) -> tuple[int, int] | None:
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", pattern) if isinstance(pattern, str) else None
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    return (n, m) if 0 < n < m else None
