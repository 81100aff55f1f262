"""Which layers are quantized, to which dtype, and why others are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from torch import nn
from torch.nn.parameter import is_lazy

from toolkit import TechniqueError, masks, patterns
from toolkit_quantization import layers
from toolkit_quantization.codecs import Dtype
from toolkit_quantization.engines import Engine
from toolkit_quantization.layers import Arithmetic
from toolkit_quantization.params import Params


def weights_by_layer(model: nn.Module) -> dict[str, dict[str, masks.Weight]]:
    """For every layer with weights, under its first name: these weights by their path within it."""
    found: dict[str, dict[str, masks.Weight]] = {}
    wholes = layers.wholes(model)
    for weight in masks.named_weights(model):
        layer = wholes.get(weight.module, weight.path.rpartition(".")[0])
        found.setdefault(layer, {})[weight.path.removeprefix(f"{layer}.")] = weight
    return found


def dtype_of(layer: str, params: Params) -> Dtype:
    """The dtype that a layer is to have."""
    return patterns.most_exact([layer], params.overrides, "overrides") or params.dtype


def arithmetic_of(layer: str, params: Params) -> Arithmetic | Literal["auto"]:
    """The arithmetic that a layer is to have, where it has a choice."""
    if isinstance(params.arithmetic, str):
        return params.arithmetic
    return patterns.most_exact([layer], params.arithmetic, "arithmetic") or "int8"


def why_not_asked(layer: str, params: Params) -> str | None:
    """The reason for which the recipe leaves a layer in float, None if it does not."""
    if excluded := [pattern for pattern in params.exclude if patterns.match([layer], [pattern])]:
        return f"excluded by '{excluded[0]}'"
    if not patterns.match([layer], params.layers):
        return "not among the layers asked for"
    return None


def reasons(model: nn.Module, params: Params, engine: Engine) -> dict[str, str | None]:
    """For every layer with weights the reason for which it stays in float, None if it is quantized."""
    found: dict[str, str | None] = {}
    for layer in weights_by_layer(model):
        why_not = engine.why_float(model.get_submodule(layer), dtype_of(layer, params))
        found[layer] = why_not_asked(layer, params) or why_not
    return found


def select(model: nn.Module, params: Params, engine: Engine) -> dict[str, Dtype]:
    """The dtype of each layer to quantize, by name; a `TechniqueError` if there are none or if they cannot be."""
    known = weights_by_layer(model)
    by_name = params.arithmetic if isinstance(params.arithmetic, dict) else {}
    asked = [*params.layers, *params.exclude, *params.overrides, *by_name]
    if known:
        patterns.require_match(known, asked)
    why = reasons(model, params, engine)
    chosen = {layer: dtype_of(layer, params) for layer, reason in why.items() if reason is None}
    if not chosen:
        listed = "; ".join(sorted({str(reason) for reason in why.values()}))
        raise TechniqueError(f"nothing to quantize: {listed or 'no layer has float weights'}")
    for layer in chosen:
        _require_usable(known[layer])
    return chosen


def groups(model: nn.Module, names: Iterable[str]) -> list[tuple[str, ...]]:
    """The layers in the model's order, those that share a weight together: of them all are float, or none."""
    known = weights_by_layer(model)
    found: list[tuple[set[int], list[str]]] = []
    for layer in names:
        parameters = {id(weight.parameter) for weight in known[layer].values()}
        sharing = [group for group in found if group[0] & parameters]
        for group in sharing:
            found.remove(group)
        others = [name for group in sharing for name in group[1]]
        found.append((parameters.union(*(group[0] for group in sharing)), [*others, layer]))
    order = {layer: position for position, layer in enumerate(known)}
    return sorted((tuple(group) for _, group in found), key=lambda group: order[group[0]])


def _require_usable(weights: Mapping[str, masks.Weight]) -> None:
    for weight in weights.values():
        if is_lazy(weight.parameter):
            raise TechniqueError(f"'{weight.path}' is not there yet: run the lazy model on a batch first")
        if not weight.value.isfinite().all():
            raise TechniqueError(f"'{weight.path}' is not finite")
