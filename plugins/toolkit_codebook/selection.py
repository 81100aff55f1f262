"""Selects the weights that share values, and their bits."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

import toolkit
from toolkit import TechniqueError, masks, patterns
from toolkit_codebook.params import Params


def select(model: nn.Module, params: Params) -> dict[str, masks.Weight]:
    """Return the weights of two or more dimensions by path, as `toolkit.layers` selects them.

    Raises:
        TechniqueError: a pattern matches nothing, no weight is left, or a weight is not finite.
    """
    patterns.require_match(_names(layer.weight.path for layer in toolkit.layers(model)), params.overrides)
    layers = toolkit.layers(model, nn.Module, params.layers, params.exclude)
    chosen = {layer.weight.path: layer.weight for layer in layers}
    for path, weight in chosen.items():
        if not weight.value.isfinite().all():
            raise TechniqueError(f"'{path}' is not finite")
    return chosen


def bits_by_path(weights: Iterable[str], params: Params) -> dict[str, int]:
    """Return the bits of each weight, by the most specific pattern that matches it."""
    return {path: patterns.most_exact(_names([path]), params.overrides, "overrides") or params.bits for path in weights}


def _names(paths: Iterable[str]) -> list[str]:
    """Return the names that patterns can match: the weights' paths, and those of their layers."""
    return [name for path in paths for name in (path, path.rpartition(".")[0])]
