"""Which weights share values, and with how many bits."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.parameter import is_lazy

from toolkit import TechniqueError, masks, patterns
from toolkit_codebook.params import Params


def select(model: nn.Module, params: Params) -> dict[str, masks.Weight]:
    """The weights by path, in the model's order: matrices and more, each tensor once; a `TechniqueError` if none.

    A weight is asked for by its layer's name, `fc`, or its own, `lstm.weight_hh_l0`. One that layers share goes by the
    first name, and is left alone where one of its names is excluded.
    """
    sharing: dict[int, list[masks.Weight]] = {}
    for weight in masks.named_weights(model):
        sharing.setdefault(id(weight.parameter), []).append(weight)
    known = {found[0].path: [weight.path for weight in found] for found in sharing.values() if _may_share(found[0])}
    first = {found[0].path: found[0] for found in sharing.values()}
    _require_matches([*params.layers, *params.exclude, *params.overrides], known.values())
    asked = [path for path, paths in known.items() if patterns.match(_names(paths), params.layers)]
    chosen = {path: first[path] for path in asked if not patterns.match(_names(known[path]), params.exclude)}
    if not chosen:
        raise TechniqueError("no weight is left to share values: all that were asked for are excluded")
    for path, weight in chosen.items():
        if not weight.value.isfinite().all():
            raise TechniqueError(f"'{path}' is not finite")
    return chosen


def bits_by_path(weights: Iterable[str], params: Params) -> dict[str, int]:
    """The bits of each weight, by the most exact of the patterns that match it."""
    return {path: patterns.most_exact(_names([path]), params.overrides, "overrides") or params.bits for path in weights}


def _names(paths: Iterable[str]) -> list[str]:
    """What weights go by: their paths, and their layers'."""
    return [name for path in paths for name in (path, path.rpartition(".")[0])]


def _may_share(weight: masks.Weight) -> bool:
    parameter = weight.parameter
    return parameter.is_floating_point() and not is_lazy(parameter) and weight.value.dim() > 1


def _require_matches(asked: Iterable[str], known: Iterable[list[str]]) -> None:
    paths = [path for sharing in known for path in sharing]
    if not paths:
        raise TechniqueError("the model has no weight of two dimensions or more whose entries could share values")
    layers = list(dict.fromkeys(path.rpartition(".")[0] or path for path in paths))
    patterns.require_match(_names(paths), asked, layers)
