"""PT2: one file of `torch.export` that PyTorch alone runs, without the source code of the network.

Weights stay in the bits in which the model stores them. Layers that round their inputs row by row multiply bytes where
the processor has instructions for that. A `.pt2` file may contain pickled objects: open only files that you trust.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch

import toolkit
from toolkit import tracing

FILE = "model.pt2"
FLOAT = {"addmm", "conv_transpose2d", "conv1d", "conv2d", "conv3d", "convolution", "gru", "linear", "lstm", "mm"}
INTEGER = {"_int_mm"}


class Params(tracing.ProgramParams):
    pass


@toolkit.hookimpl
def export(model: Any, params: Params, example: Any, free_sizes: Any, folder: Any) -> None:
    program = tracing.decompose(tracing.trace(model, example, free_sizes), params.in_integers)
    with tracing.quiet():
        torch.export.save(program, folder / FILE)


@toolkit.hookimpl
def measure(folder: Any) -> dict[str, Any]:
    return {"arithmetic": arithmetic_note(folder / FILE)}


def arithmetic_note(file: Path) -> toolkit.Note:
    """Return a note with the arithmetic of each layer, read from the program's JSON: nothing is unpickled."""
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        nodes = json.loads(archive.read(name))["graph_module"]["graph"]["nodes"]
    rows = [row for node in nodes if (row := _row(node)) is not None]
    integer = sum(row["arithmetic"] == "integers" for row in rows)
    layers = f"{len(rows)} layer" if len(rows) == 1 else f"{len(rows)} layers"
    verb = "multiplies" if integer == 1 else "multiply"
    return toolkit.Note(f"{integer} of {layers} {verb} in integers" if rows else "no layer with weights", rows)


def _row(node: Any) -> dict[str, str] | None:
    """Return layer, operation and arithmetic of a node that multiplies by weights."""
    operation = node["target"].removeprefix("torch.ops.aten.").partition(".")[0]
    if operation not in FLOAT | INTEGER:
        return None
    stack = node.get("metadata", {}).get("nn_module_stack", "").rpartition(";")[2].split(",")
    layer = stack[1].removesuffix(".layer") if len(stack) > 1 else ""
    return {"layer": layer, "operation": operation, "arithmetic": "integers" if operation in INTEGER else "float"}


@toolkit.hookimpl
def open(folder, params, threads):
    # Runs in a process that has neither the toolkit nor this module.
    import torch
    from torch.utils import _pytree

    torch.set_num_threads(threads)
    network = torch.export.load(f"{folder}/model.pt2").module()

    @torch.inference_mode()
    def run(*inputs, **named):
        inputs, named = _pytree.tree_map(torch.as_tensor, (inputs, named))
        return _pytree.tree_map(lambda output: output.numpy(), network(*inputs, **named))

    return run
