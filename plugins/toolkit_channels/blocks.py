"""Which residual blocks go, as a recipe asks."""

from __future__ import annotations

import torch
from torch import nn

import toolkit
from toolkit import masks, patterns, structure
from toolkit_channels.params import Params


def remove_least(model: nn.Module, params: Params, data: toolkit.Data) -> dict[str, float]:
    """Remove the share of the residual blocks that a recipe asks for, in place; return their scores by path.

    Raises:
        TechniqueError: the network has no residual blocks that can go, or its outputs would be others.
    """
    candidates = {
        path: block
        for path, block in structure.residual_blocks(model, data).items()
        if patterns.match([path], params.layers) and not patterns.match(structure.with_parents(path), params.exclude)
    }
    if not candidates:
        raise toolkit.TechniqueError("blocks needs a residual block that can go, found none; leave it out")
    count = round(params.blocks * len(candidates))
    if not count:
        raise toolkit.TechniqueError(
            f"blocks = {params.blocks:g} removes none of {len(candidates)} residual blocks; raise it or leave it out"
        )
    if params.criterion == "random":
        scores = dict(zip(candidates, torch.rand(len(candidates)).tolist(), strict=True))
    else:
        scores = structure.influence(masks.folded(model).eval(), candidates, data, params.samples)
    chosen = sorted(candidates, key=lambda path: scores[path])[:count]
    structure.remove_blocks(model, chosen, data)
    return {path: scores[path] for path in chosen}
