"""Which layers are quantized, to which dtype, and why others are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.parameter import is_lazy

from toolkit import TechniqueError, masks
from toolkit_quantization.engines import Engine
from toolkit_quantization.layers import Dtype
from toolkit_quantization.params import Params


def weights_by_layer(model: nn.Module) -> dict[str, dict[str, masks.Weight]]:
    """For every module with weights of its own, under its first name: these weights by attribute."""
    layers: dict[str, dict[str, masks.Weight]] = {}
    for weight in masks.named_weights(model):
        layers.setdefault(weight.path.rpartition(".")[0], {})[weight.attribute] = weight
    return layers


def dtype_of(layer: str, params: Params) -> Dtype:
    """The dtype that a layer is to have: of the override with the most characters that are no wildcards."""
    # Not the first one that matches: the order of a table's keys is nothing that two equal recipes must share.
    found = sorted((-_literals(pattern), pattern) for pattern in params.overrides if fnmatchcase(layer, pattern))
    if not found:
        return params.dtype
    best = [pattern for length, pattern in found if length == found[0][0]]
    if len({params.overrides[pattern] for pattern in best}) > 1:
        raise TechniqueError(f"'{best[0]}' and '{best[1]}' in overrides disagree about '{layer}': make one more exact")
    return params.overrides[best[0]]


def _literals(pattern: str) -> int:
    return sum(character not in "*?[]" for character in pattern)


def why_not_asked(layer: str, params: Params) -> str | None:
    """The reason for which the recipe leaves a layer in float, None if it does not."""
    if excluded := [pattern for pattern in params.exclude if fnmatchcase(layer, pattern)]:
        return f"excluded by '{excluded[0]}'"
    if not any(fnmatchcase(layer, pattern) for pattern in params.layers):
        return "not among the layers asked for"
    return None


def reasons(model: nn.Module, params: Params, engine: Engine) -> dict[str, str | None]:
    """For every layer with weights the reason for which it stays in float, None if it is quantized."""
    found: dict[str, str | None] = {}
    for layer, weights in weights_by_layer(model).items():
        module = next(iter(weights.values())).module
        found[layer] = why_not_asked(layer, params) or engine.why_float(module, dtype_of(layer, params))
    return found


def select(model: nn.Module, params: Params, engine: Engine) -> dict[str, Dtype]:
    """The dtype of each layer to quantize, by name; a `TechniqueError` if there are none or if they cannot be."""
    layers = weights_by_layer(model)
    _require_matches([*params.layers, *params.exclude, *params.overrides], layers)
    why = reasons(model, params, engine)
    chosen = {layer: dtype_of(layer, params) for layer, reason in why.items() if reason is None}
    if not chosen:
        listed = "; ".join(sorted({str(reason) for reason in why.values()}))
        raise TechniqueError(f"nothing to quantize: {listed or 'no layer has float weights'}")
    for layer in chosen:
        _require_usable(layers[layer])
    return chosen


def groups(model: nn.Module, layers: Iterable[str]) -> list[tuple[str, ...]]:
    """The layers in the model's order, those that share a weight together: of them all are float, or none."""
    known = weights_by_layer(model)
    found: list[tuple[set[int], list[str]]] = []
    for layer in layers:
        parameters = {id(weight.parameter) for weight in known[layer].values()}
        sharing = [group for group in found if group[0] & parameters]
        for group in sharing:
            found.remove(group)
        names = [name for group in sharing for name in group[1]]
        found.append((parameters.union(*(group[0] for group in sharing)), [*names, layer]))
    order = {layer: position for position, layer in enumerate(known)}
    return sorted((tuple(names) for _, names in found), key=lambda names: order[names[0]])


def _require_matches(patterns: Iterable[str], layers: Mapping[str, object]) -> None:
    for pattern in patterns:
        if layers and not any(fnmatchcase(name, pattern) for name in layers):
            close = get_close_matches(pattern, layers, n=5) or list(layers)[:10]
            raise TechniqueError(f"no layer matches '{pattern}'; known: {', '.join(close)}")


def _require_usable(weights: Mapping[str, masks.Weight]) -> None:
    for weight in weights.values():
        if is_lazy(weight.parameter):
            raise TechniqueError(f"'{weight.path}' is not there yet: run the lazy model on a batch first")
        if not weight.value.isfinite().all():
            raise TechniqueError(f"'{weight.path}' is not finite")
