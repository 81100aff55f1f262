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


def unnamed_logits(outputs: Any) -> tuple[str, int] | None:
    """Return which of several outputs `logits_of` takes and their number; None for one output or named logits."""
    if isinstance(outputs, Tensor) or hasattr(outputs, "logits"):
        return None
    if isinstance(outputs, Mapping):
        names = [*outputs]
    elif is_dataclass(outputs):
        names = [field.name for field in fields(outputs)]
    elif isinstance(outputs, (tuple, list)):
        names = [*getattr(outputs, "_fields", ["", *outputs[1:]])]
    else:
        return None
    if "logits" in names or len(names) < 2:
        return None
    return (f"'{names[0]}'" if names[0] else "the first", len(names))


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
