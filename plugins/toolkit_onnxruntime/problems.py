"""What keeps a model from being exported, in one sentence that names the layer and the operation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from toolkit import TechniqueError, operators


@torch.no_grad()
def exportable_outputs(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the model as it will be traced, and return its outputs.

    Raises:
        TechniqueError: a layer cannot be exported; names the layer.
    """
    called: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_pre_hook(lambda module, _: called.append(module))
    try:
        with operators.exporting():
            return model(*args, **kwargs)
    except TechniqueError as error:
        paths = {id(module): path for path, module in model.named_modules()}
        raise TechniqueError(f"layer '{paths.get(id(called[-1]), '')}' {error}") from error
    finally:
        handle.remove()


def export_problem(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: BaseException) -> str:
    """Return the reason for which PyTorch's exporter failed, as one sentence."""
    causes = list(_causes(error))
    text = "\n".join(map(str, causes))
    if operation := re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'", text):
        name = ".".join(operation.groups()).removesuffix(".default")
        place = _layer_with(model, args, kwargs, name)
        return f"{place} uses the operation {name}, which ONNX does not have; replace this operation"
    if any(type(cause).__name__ == "GuardOnDataDependentSymNode" for cause in causes) or "data-dependent" in text:
        return (
            f"the network's control flow depends on the values of its inputs{_line(text)}; "
            f"use tensor operations such as torch.where instead of `if` and `while`"
        )
    first_line = str(causes[-1]).strip().partition("\n")[0].strip()
    return f"cannot trace the network{_line(text)}: {first_line or type(causes[-1]).__name__}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _line(text: str) -> str:
    """Return the last line of the network's own code that a message quotes, in parentheses."""
    lines = re.findall(r'File "([^"]+)", line (\d+), in \w+\s*\n\s*(\S.*)', text)
    own = [(path, number, code) for path, number, code in lines if "/site-packages/torch/" not in path]
    return f" ({own[-1][0].rpartition('/')[2]}, line {own[-1][1]}: {own[-1][2].strip()})" if own else ""


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
