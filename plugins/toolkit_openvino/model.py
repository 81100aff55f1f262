"""A model as OpenVINO's IR, from its program of `torch.export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openvino
import torch
from torch import nn

from toolkit import TechniqueError, tracing
from toolkit_openvino.translations import translations
from toolkit_openvino.zero_points import move_zero_points


def write_ir(model: nn.Module, example: Any, path: Path, free_sizes: Any = None) -> None:
    """Write `model` as XML and, next to it, its weights.

    Args:
        model: in eval mode, on the CPU.
        example: inputs of two samples or more.
        path: the XML file.
        free_sizes: as the hook `export` receives it.

    Raises:
        TechniqueError: the model cannot be exported; names what OpenVINO does not have.
    """
    program = tracing.trace(model, example, free_sizes)
    with tracing.quiet():
        try:
            converted = openvino.convert_model(program, extension=translations())
        except Exception as error:
            raise TechniqueError(_problem(error)) from error
        converted.reshape(_sizes(converted, program))
        move_zero_points(converted)
        keys = _keys(program)
        if keys is not None:
            converted.set_rt_info("\n".join(keys), "outputs")
        openvino.save_model(converted, path, compress_to_fp16=False)


def _sizes(converted: openvino.Model, program: torch.export.ExportedProgram) -> dict[str, openvino.PartialShape]:
    """Return the sizes of each input that the program has fixed.

    OpenVINO's conversion forgets them, and its convolutions of signed bytes need the number of channels.
    """
    values = {node.name: node.meta["val"] for node in program.graph.find_nodes(op="placeholder")}
    shapes = {port: values[port.node.friendly_name].shape for port in converted.inputs}
    return {
        port.any_name: openvino.PartialShape([size if isinstance(size, int) else -1 for size in shape])
        for port, shape in shapes.items()
    }


def _keys(program: torch.export.ExportedProgram) -> list[str] | None:
    """Return the keys of a dictionary of outputs; None for any other structure."""
    structure = program.call_spec.out_spec
    return list(map(str, structure.context)) if structure is not None and structure.type is dict else None


def _problem(error: Exception) -> str:
    """Return the reason for which OpenVINO could not convert a program, as one sentence."""
    marks = ("No conversion rule found for operations: ", "Conversion is failed for: ")
    lines = [line.partition(mark)[2] for mark in marks for line in str(error).splitlines() if mark in line]
    if lines:
        return f"the network uses {lines[0].strip()}, which OpenVINO does not have; replace this operation"
    return f"OpenVINO cannot convert the network: {str(error).strip().splitlines()[-1].strip()}"
