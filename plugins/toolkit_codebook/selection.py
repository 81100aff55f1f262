"""Selects the weights that share values, and their bits."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.parameter import is_lazy

from toolkit import TechniqueError, masks, patterns
from toolkit_codebook.params import Params


def select(model: nn.Module, params: Params) -> dict[str, masks.Weight]:
    """The weights of two or more dimensions by path, in the model's order, each tensor once.

    A pattern matches a weight's layer, such as `fc`, or the weight itself, such as `lstm.weight_hh_l0`. A weight that
    layers share goes by its first name, and is left alone if any of its names is excluded.

    Raises:
        TechniqueError: a pattern matches nothing, no weight is left, or a weight is not finite.
    """
    sharing: dict[int, list[masks.Weight]] = {}
    for weight in masks.named_weights(model):
        sharing.setdefault(id(weight.parameter), []).append(weight)
    known = {shared[0].path: [weight.path for weight in shared] for shared in sharing.values() if _may_share(shared[0])}
    first = {shared[0].path: shared[0] for shared in sharing.values()}
    _require_matches([*params.layers, *params.exclude, *params.overrides], known.values())
    asked = [path for path, paths in known.items() if patterns.match(_names(paths), params.layers)]
    chosen = {path: first[path] for path in asked if not patterns.match(_names(known[path]), params.exclude)}
    if not chosen:
        raise TechniqueError(
            "every selected weight is excluded, so that none is left to share values: change layers or exclude"
        )
    for path, weight in chosen.items():
        if not weight.value.isfinite().all():
            raise TechniqueError(f"'{path}' is not finite")
    return chosen


def bits_by_path(weights: Iterable[str], params: Params) -> dict[str, int]:
    """The bits of each weight, by the most specific pattern that matches it."""
    return {path: patterns.most_exact(_names([path]), params.overrides, "overrides") or params.bits for path in weights}


def _names(paths: Iterable[str]) -> list[str]:
    """The names that patterns can match: the weights' paths, and those of their layers."""
    return [name for path in paths for name in (path, path.rpartition(".")[0])]


def _may_share(weight: masks.Weight) -> bool:
    parameter = weight.parameter
    return parameter.is_floating_point() and not is_lazy(parameter) and weight.value.dim() > 1


def _require_matches(asked: Iterable[str], known: Iterable[list[str]]) -> None:
    paths = [path for sharing in known for path in sharing]
    if not paths:
        raise TechniqueError("the model has no float weight of two or more dimensions whose entries could share values")
    layers = list(dict.fromkeys(path.rpartition(".")[0] or path for path in paths))
    patterns.require_match(_names(paths), asked, layers)
