"""The layers that a recipe selects by patterns, with their weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

from toolkit import patterns
from toolkit.errors import TechniqueError
from toolkit.masks import Weight, named_weights


class Layer(NamedTuple):
    """One selected weight with its layer: `path` is the layer's, `weight.path` the weight's."""

    path: str
    module: nn.Module
    weight: Weight


def layers(
    model: nn.Module,
    kinds: type[nn.Module] | tuple[type[nn.Module], ...] = nn.Module,
    layers: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> list[Layer]:
    """Return the selected layers, one tuple `(path, module, weight)` per weight, in the model's order.

    A pattern matches a layer, such as `fc*`, or one weight, such as `lstm.weight_hh_l0`. Biases and other tensors with
    fewer than two dimensions are no weights here, and neither are integers. A weight that several layers share comes
    once, under its first name. It is left out if one of these layers is excluded or of another kind, because a change
    would change that layer too.

    Args:
        model: may have masked layers; replaced ones have no weights to select.
        kinds: the classes of the layers, such as `(nn.Linear, nn.Conv2d)`; any layer unless given.
        layers: the patterns of the layers to select.
        exclude: the patterns of the layers to leave out.

    Raises:
        TechniqueError: a pattern matches nothing, the model has no layer of these kinds, or none is left.
        TypeError: `layers` or `exclude` is a string, not a list of strings.
    """
    groups = [shared for shared in _by_tensor(model) if all(isinstance(weight.module, kinds) for weight in shared)]
    if not groups:
        raise TechniqueError(f"the model has no {_described(kinds)} with a float weight of two or more dimensions")
    paths = [weight.path for shared in groups for weight in shared]
    shown = list(dict.fromkeys(_layer(path) or path for path in paths))
    for asked in (layers, exclude):  # each by itself, because either may be a string
        patterns.require_match(_names(paths), asked, shown)
    chosen = [shared[0] for shared in groups if _matches(shared, layers) and not _matches(shared, exclude)]
    if not chosen:
        raise TechniqueError("every selected layer is excluded, so that none is left; change layers or exclude")
    return [Layer(_layer(weight.path), weight.module, weight) for weight in chosen]


def _by_tensor(model: nn.Module) -> list[list[Weight]]:
    """Return the weights of each float tensor with two or more dimensions."""
    sharing: dict[int, list[Weight]] = {}
    for weight in named_weights(model):
        parameter = weight.parameter
        if parameter.is_floating_point() and not is_lazy(parameter) and weight.value.dim() > 1:
            sharing.setdefault(id(parameter), []).append(weight)
    return list(sharing.values())


def _matches(shared: Iterable[Weight], asked: Sequence[str]) -> bool:
    return patterns.match(_names(weight.path for weight in shared), asked)


def _names(paths: Iterable[str]) -> list[str]:
    """Return the names that a pattern can match: the weights' paths, and those of their layers."""
    return [name for path in paths for name in (path, _layer(path))]


def _layer(path: str) -> str:
    return path.rpartition(".")[0]


def _described(kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> str:
    classes = kinds if isinstance(kinds, tuple) else (kinds,)
    named = " or ".join(kind.__name__ for kind in classes)
    return "layer" if nn.Module in classes else f"layer of kind {named}"
