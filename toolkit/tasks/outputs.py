"""What a network returns: a tensor, or tensors in a tuple, a dictionary, a dataclass."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map


def logits_of(outputs: Any) -> Tensor:
    """The tensor that answers are read from: `outputs` itself, what it calls `logits`, or its first element."""
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
    raise TypeError(f"no logits are found in a {type(outputs).__name__}: give the data a task whose logits() does")


def to_float32(outputs: Any) -> Any:
    """Outputs of autocast in float32, whatever their structure; gradients pass."""
    if isinstance(outputs, Tensor):  # which it nearly always is, and a tree costs more than a small layer
        return outputs.float() if outputs.is_floating_point() else outputs
    if is_dataclass(outputs) and not isinstance(outputs, Mapping):  # which a tree takes for one leaf
        converted = copy.copy(outputs)
        for field in fields(outputs):
            object.__setattr__(converted, field.name, to_float32(getattr(outputs, field.name)))
        return converted
    return tree_map(lambda leaf: to_float32(leaf) if isinstance(leaf, Tensor) or is_dataclass(leaf) else leaf, outputs)
