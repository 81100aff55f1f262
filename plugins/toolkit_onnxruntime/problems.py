"""What keeps a model from being exported, in one sentence that names the layer and the operation."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from toolkit import tracing


def export_problem(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: BaseException) -> str:
    """Return the reason for which PyTorch's exporter failed, as one sentence."""
    text = "\n".join(map(str, tracing.causes(error)))
    if operation := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'", text):
        name = ".".join(operation.groups()).removesuffix(".default")
        place = _layer_with(model, args, kwargs, name)
        return f"{place} uses the operation {name}, which ONNX does not have; replace this operation"
    return tracing.problem(error)


def _layer_with(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], operation: str) -> str:
    """Return `layer 'path'` for the first one that computes `operation`, or `the network`."""
    try:
        graph = torch.export.export(model, args, kwargs, strict=False).graph
    except Exception:  # the exporter traced it in another way
        return "the network"
    for node in graph.nodes:
        if str(node.target).removesuffix(".default") == operation:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            path = str(stack[-1][0]) if stack else ""
            return f"layer '{path}'" if path else "the network"
    return "the network"
