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

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)

Scope = Literal["global", "layer"]
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


@hookimpl
def prepare(model: nn.Module, params: Params) -> Selection:
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
def optimize(model: nn.Module, params: Params) -> nn.Module:
    """Mask the weights; on a gradual schedule with masks of ones, which `finetune` tightens."""
    # Selected again: another technique of the stage may have replaced the model.
    layers = prepare(model, params).layers
    sparsity = 0.0 if params.schedule == "gradual" else params.sparsity
    masks.apply(model, choose(model, layers, params, sparsity))
    return model


@hookimpl
def finetune(model: nn.Module, params: Params, training: toolkit.Training) -> toolkit.Training:
    """On a gradual schedule, prune more every few steps, and exactly as much as asked at `schedule_end`."""
    if params.schedule == "one-shot":
        return training
    layers = prepare(model, params).layers
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
def measure(model: nn.Module, params: Params, prepared: Selection) -> dict[str, float | toolkit.Note]:
    """Count the zeros of the layers as they are now: of all together, and in a table of each."""
    if not {name for name, _ in model.named_modules()}.issuperset(prepared.layers):
        prepared = prepare(model, params)
    rows = _rows(model, prepared.layers)
    text = "; ".join(f"{layer} is left alone: {reason}" for layer, reason in prepared.left_alone.items())
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


def smallest_masks(scores: Sequence[Tensor], sparsity: float, scope: Scope = "global") -> list[Tensor]:
    """Bool masks, False for the `round(sparsity * n)` smallest scores; of equal ones, the first go.

    `scores` are tensors of any shapes on one device, such as the magnitudes of weights (Han et al. 2015);
    they are ranked and counted all together ("global"), or each tensor's alone ("layer").
    """
    groups = [[score] for score in scores] if scope == "layer" else [scores]
    return [mask for group in groups for mask in _ranked_together(group, sparsity)]


def _ranked_together(scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    flat = torch.cat([score.flatten() for score in scores])
    count = round(sparsity * len(flat))
    # A threshold takes a fraction of the time and the memory of sorted positions.
    threshold = flat.kthvalue(count).values if count else -torch.inf
    keep = flat > threshold
    surplus = len(flat) - int(keep.sum()) - count
    if surplus:
        keep[(flat == threshold).nonzero()[-surplus:]] = True
    parts = keep.split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def n_of_m_mask(scores: Tensor, n: int, m: int, dim: int = 1) -> Tensor:
    """Bool mask of the `n` largest of every `m` scores along `dim`, of a size that `m` divides."""
    groups = scores.movedim(dim, -1).unflatten(-1, (-1, m))
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, groups.topk(n).indices, True)
    return mask.flatten(-2).movedim(-1, dim).contiguous()


def cubic_sparsity(progress: float, initial: float, final: float) -> float:
    """The sparsity at `progress` (0 to 1): rising fast at first, slowly at last (Zhu and Gupta 2017)."""
    return final + (initial - final) * (1 - progress) ** 3


def _score(weight: Tensor, kept: Tensor | None, criterion: Criterion) -> Tensor:
    # Drawn on the processor, so that a seed means the same weights on every device.
    score = weight.abs() if criterion == "magnitude" else torch.rand(weight.shape).to(weight.device)
    return score if kept is None else score.masked_fill_(~kept, -1.0)


def _rows(model: nn.Module, layers: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for layer in layers:
        module: Any = model.get_submodule(layer)
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
    found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", str(pattern))
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    return (n, m) if 0 < n < m else None
