"""Selects the layers to quantize and their dtypes, and says why others stay in float."""

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
from toolkit_quantization.reading import read_layers


def weights_by_layer(model: nn.Module) -> dict[str, dict[str, masks.Weight]]:
    """Return the weights of every layer, by the layer's first name and by their path within it."""
    by_layer: dict[str, dict[str, masks.Weight]] = {}
    wholes = layers.wholes(model)
    for weight in masks.named_weights(model):
        layer = wholes.get(weight.module, weight.path.rpartition(".")[0])
        by_layer.setdefault(layer, {})[weight.path.removeprefix(f"{layer}.")] = weight
    return by_layer


def dtype_of(layer: str, params: Params) -> Dtype:
    """Return the dtype that the recipe gives a layer."""
    return patterns.most_exact([layer], params.overrides, "overrides") or params.dtype


def arithmetic_of(layer: str, params: Params) -> Arithmetic | Literal["auto"]:
    """Return the arithmetic that the recipe gives a layer."""
    if isinstance(params.arithmetic, str):
        return params.arithmetic
    return patterns.most_exact([layer], params.arithmetic, "arithmetic") or "int8"


def why_not_asked(layer: str, params: Params) -> str | None:
    """Return the reason why the recipe leaves a layer in float, None if it does not."""
    if excluded := [pattern for pattern in params.exclude if patterns.match([layer], [pattern])]:
        return f"excluded by '{excluded[0]}'"
    if not patterns.match([layer], params.layers):
        return "not selected by layers"
    return None


def reasons(model: nn.Module, params: Params, engine: Engine) -> dict[str, str | None]:
    """Return the reason why each layer with weights stays in float, None if it is quantized."""
    why: dict[str, str | None] = {}
    read = read_layers(model)
    for layer in weights_by_layer(model):
        module = model.get_submodule(layer)
        why_float = engine.why_float(module, dtype_of(layer, params), is_read=module in read)
        why[layer] = why_not_asked(layer, params) or why_float
    return why


def select(model: nn.Module, params: Params, engine: Engine) -> dict[str, Dtype]:
    """Return the dtype of each layer to quantize, by name.

    Raises:
        TechniqueError: a pattern matches nothing, no layer is left, or a weight is not initialized or not finite.
    """
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
    """Return the layers in the model's order, grouped by shared weights: all layers of a group are float, or none."""
    known = weights_by_layer(model)
    made: list[tuple[set[int], list[str]]] = []
    for layer in names:
        parameters = {id(weight.parameter) for weight in known[layer].values()}
        sharing = [group for group in made if group[0] & parameters]
        for group in sharing:
            made.remove(group)
        others = [name for group in sharing for name in group[1]]
        made.append((parameters.union(*(group[0] for group in sharing)), [*others, layer]))
    order = {layer: position for position, layer in enumerate(known)}
    return sorted((tuple(group) for _, group in made), key=lambda group: order[group[0]])


def _require_usable(weights: Mapping[str, masks.Weight]) -> None:
    for weight in weights.values():
        if is_lazy(weight.parameter):
            raise TechniqueError(f"'{weight.path}' is not initialized yet; run the lazy model on a batch first")
        if not weight.value.isfinite().all():
            raise TechniqueError(f"'{weight.path}' is not finite")
