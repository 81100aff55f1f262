"""Residual blocks: modules that return their input once all of their parameters are zero, so that they can go."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from toolkit import cutting, masks
from toolkit.data.splits import Data
from toolkit.structure.removal import check_same, outputs_of
from toolkit.structure.slots import SAMPLES

MAX_CHANGE = 1e-6  # of the largest input of a block whose branch is zero


def residual_blocks(model: nn.Module, data: Data) -> dict[str, nn.Module]:
    """Return the innermost residual blocks by path: what is left without their branches is the identity.

    Args:
        model: in eval mode; not changed.
        data: its task runs the model on two samples.
    """
    inputs: dict[str, Tensor | None] = {}
    with ExitStack() as hooks, torch.no_grad():
        for path, module in _with_parameters(model).items():
            hooks.callback(module.register_forward_hook(_remembering(inputs, path), with_kwargs=True).remove)
        data.task.forward(model, data.example(SAMPLES))
    blocks = {path: model.get_submodule(path) for path, value in inputs.items() if value is not None}
    found = {path: block for path, block in blocks.items() if _is_residual(block, inputs[path])}
    return {path: block for path, block in found.items() if not any(each.startswith(f"{path}.") for each in found)}


def remove_blocks(model: nn.Module, chosen: Iterable[str], data: Data) -> None:
    """Put the identity in place of blocks, in place.

    Raises:
        TechniqueError: the network computes something else than with the branches of these blocks at zero.
    """
    masked = masks.folded(model).eval()
    for path in chosen:
        _zero(masked.get_submodule(path))
    expected = outputs_of(masked, data)
    cutting.bypass(model, chosen)
    check_same(outputs_of(masks.folded(model), data), expected, "the branches of blocks at zero")


def _with_parameters(model: nn.Module) -> dict[str, nn.Module]:
    return {
        path: module
        for path, module in model.named_modules()
        if path and ".parametrizations" not in path and any(True for _ in module.parameters()) and _is_compound(module)
    }


def _is_compound(module: nn.Module) -> bool:
    return any(".parametrizations" not in f".{path}" for path, _ in module.named_modules() if path)


def _remembering(inputs: dict[str, Tensor | None], path: str) -> Any:
    """Remember what a module is called with: None unless it has one input, one call and an output like it."""

    def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        is_plain = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        is_usable = is_plain and path not in inputs and args[0].shape == output.shape
        inputs[path] = args[0].clone() if is_usable else None

    return hook


@torch.no_grad()
def _is_residual(block: nn.Module, inputs: Tensor | None) -> bool:
    assert inputs is not None
    zero = masks.folded(block).eval()
    _zero(zero)
    change = (zero(inputs.clone()) - inputs).abs().max()
    return bool(change <= MAX_CHANGE * inputs.abs().max())


@torch.no_grad()
def _zero(block: nn.Module) -> None:
    for parameter in block.parameters():
        parameter.zero_()
