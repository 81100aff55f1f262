"""The outputs of a network: a tensor, or tensors in a tuple, a dictionary or a dataclass."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map


def logits_of(outputs: Any) -> Tensor:
    """Return the logits: `outputs` itself if it is a tensor, else its `logits`, else its first element.

    Raises:
        TypeError: `outputs` is none of the supported types.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        return logits_of(outputs["logits"] if "logits" in outputs else next(iter(outputs.values())))
    if hasattr(outputs, "logits"):
        return logits_of(outputs.logits)
    if is_dataclass(outputs):
        return logits_of(getattr(outputs, fields(outputs)[0].name))
    if isinstance(outputs, (tuple, list)) and outputs:
        return logits_of(outputs[0])
    raise TypeError(f"outputs of type {type(outputs).__name__} have no logits; define a task with a `logits` method")


def to_float32(outputs: Any) -> Any:
    """Convert the floating-point tensors in `outputs`, of any structure, to float32; differentiable."""
    if isinstance(outputs, Tensor):  # the common case: traversing a tree costs more than a small layer
        return outputs.float() if outputs.is_floating_point() else outputs
    if is_dataclass(outputs) and not isinstance(outputs, Mapping):  # pytree treats a dataclass as a leaf
        converted = copy.copy(outputs)
        for field in fields(outputs):
            object.__setattr__(converted, field.name, to_float32(getattr(outputs, field.name)))
        return converted
    return tree_map(lambda leaf: to_float32(leaf) if isinstance(leaf, Tensor) or is_dataclass(leaf) else leaf, outputs)
