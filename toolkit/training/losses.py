"""What a loss must return, and losses that name the technique that added them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from toolkit.training.owners import Added, slot_error


class OwnedLoss(Added[Any]):
    """The loss of a technique; an error in it, or a return value that is not a loss, names the technique."""

    def __call__(self, *arguments: Any) -> Any:
        """Compute the loss, a scalar with a gradient if the outputs have one."""
        value = super().__call__(*arguments)
        problem = loss_problem(value, needs_gradient=_has_gradient(arguments[0]))
        if problem:
            raise slot_error(self.owner, self.slot, problem)
        return value


def loss_problem(value: Any, needs_gradient: bool = True) -> str:
    """Return why `value` is not a loss, as the end of a sentence; empty if it is one."""
    if not isinstance(value, Tensor):
        return f"must return a tensor, found {type(value).__name__}"
    if value.numel() != 1:
        return f"must return one number, found a tensor of shape {tuple(value.shape)}; return its mean"
    if needs_gradient and torch.is_grad_enabled() and not value.requires_grad:
        return "must return a tensor with a gradient; compute it from the outputs, without detach() and item()"
    return ""


def _has_gradient(outputs: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(outputs))
