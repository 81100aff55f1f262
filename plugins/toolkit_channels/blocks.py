"""Whole residual blocks that go: those that change their inputs least."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

import toolkit
from toolkit import masks, patterns
from toolkit.structure import remove_blocks, residual_blocks, with_parents
from toolkit_channels.params import Params


def influence(model: nn.Module, blocks: Iterable[str], data: toolkit.Data, samples: int) -> dict[str, float]:
    """Return by how much each block changes its input, relative to the input's norm, averaged over batches of train."""
    changes: dict[str, list[float]] = {path: [] for path in blocks}

    def adding(path: str) -> Any:
        def hook(_: nn.Module, args: Any, output: Tensor) -> None:
            changes[path].append(float((output - args[0]).norm() / args[0].norm().clamp(min=1e-12)))

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for path in changes:
            hooks.callback(model.get_submodule(path).register_forward_hook(adding(path)).remove)
        for batch in data.batches("train", order=torch.arange(min(samples, data.samples("train")))):
            data.task.forward(model, batch)
    return {path: sum(values) / len(values) for path, values in changes.items()}


def remove_least(model: nn.Module, params: Params, data: toolkit.Data) -> dict[str, float]:
    """Remove the share of the residual blocks that a recipe asks for, in place; return their scores by path.

    Raises:
        TechniqueError: the network has no residual blocks that can go, or its outputs would be others.
    """
    candidates = {
        path: block
        for path, block in residual_blocks(model, data).items()
        if patterns.match([path], params.layers) and not patterns.match(with_parents(path), params.exclude)
    }
    count = round(params.blocks * len(candidates))
    if not count:
        raise toolkit.TechniqueError(
            f"blocks = {params.blocks:g} removes none of {len(candidates)} residual blocks; raise it or leave it out"
        )
    if params.criterion == "random":
        scores = dict(zip(candidates, torch.rand(len(candidates)).tolist(), strict=True))
    else:
        scores = influence(masks.folded(model).eval(), candidates, data, params.samples)
    chosen = sorted(candidates, key=lambda path: scores[path])[:count]
    remove_blocks(model, chosen, data)
    return {path: scores[path] for path in chosen}
