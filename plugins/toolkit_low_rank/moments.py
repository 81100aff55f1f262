"""The second moments of what layers receive, by which errors of their outputs are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import toolkit
from toolkit import masks
from toolkit_low_rank.layers import Candidate


def moments(model: nn.Module, found: Sequence[Candidate], samples: int, data: toolkit.Data) -> dict[str, Tensor]:
    """Return by layer the second moment (inputs, inputs) of its inputs on the first samples of train, in float64."""
    twin = masks.clone(model).eval()
    sums: dict[str, Tensor] = {}
    for candidate in found:
        twin.get_submodule(candidate.path).register_forward_pre_hook(_adding(sums, candidate.path), with_kwargs=True)
    with torch.no_grad():
        for batch in data.batches("train", order=torch.arange(min(samples, data.samples("train")))):
            data.task.forward(twin, batch)
    return sums


def rows_of(layer: Any, inputs: Tensor) -> Tensor:
    """Return what a layer receives as vectors (positions, inputs); of a kernel of one position, where it is applied."""
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2)
    spatial = len(layer.kernel_size)
    if set(layer.kernel_size) == {1}:
        padding = (0,) * spatial if isinstance(layer.padding, str) else layer.padding
        for dim, (pad, step) in enumerate(zip(padding, layer.stride, strict=True), -spatial):
            inputs = inputs.index_select(dim, torch.arange(-pad % step, inputs.shape[dim], step, device=inputs.device))
    return inputs.movedim(-spatial - 1, -1).flatten(0, -2)


def _adding(sums: dict[str, Tensor], path: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(layer: nn.Module, args: Any, kwargs: Any) -> None:
        rows = rows_of(layer, (args[0] if args else kwargs["input"]).detach()).double()
        sums[path] = sums.get(path, 0) + rows.T @ rows

    return hook
