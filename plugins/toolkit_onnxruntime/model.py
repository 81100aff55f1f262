"""A model as an ONNX file, by the exporter of PyTorch and with operators of integers where the model has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn

from toolkit import TechniqueError, operators, tracing
from toolkit_onnxruntime.layer_names import write_layer_names
from toolkit_onnxruntime.padded_channels import pad_channels
from toolkit_onnxruntime.problems import export_problem
from toolkit_onnxruntime.recurrent import write_lstms
from toolkit_onnxruntime.signed_products import choose_products
from toolkit_onnxruntime.translations import is_decoding, translations

OUTPUTS = "outputs"  # key of the file's metadata that tells a dictionary from a tuple


def write_onnx(model: nn.Module, example: Any, path: Path, opset: int, free_sizes: Any = None) -> None:
    """Write `model` as ONNX with a dynamic batch dimension.

    Args:
        model: in eval mode, on the CPU.
        example: inputs of two samples or more: a tensor, a tuple of them, or a dictionary by argument.
        path: the file.
        opset: version of the operators.
        free_sizes: as the hook `export` receives it.

    Raises:
        TechniqueError: the model cannot be exported; names the operation where that is known.
    """
    args, kwargs = tracing.arguments(example)
    names = _output_names(tracing.checked_outputs(model, args, kwargs))
    model = tracing.without_shared_modules(model)
    with operators.exporting(), torch.no_grad(), tracing.quiet():
        try:
            program = torch.onnx.export(
                model,
                args,
                kwargs=kwargs,
                dynamo=True,
                opset_version=opset,
                output_names=names,
                dynamic_shapes=tracing.dynamic_batch(kwargs or args, model, free_sizes),
                custom_translation_table=translations(),
                verbose=False,
                optimize=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise TechniqueError(export_problem(model, args, kwargs, error)) from error
    assert program is not None
    choose_products(program.model)
    write_lstms(program.model)
    pad_channels(program.model)
    with tracing.quiet():  # it logs each expression that it cannot fold
        optimize_ir(program.model, should_fold=lambda node: False if is_decoding(node) else None)
    write_layer_names(program.model.graph)
    _strip(program.model)
    if names is not None:
        program.model.metadata_props[OUTPUTS] = "dictionary"
    if _has_calibrated_activations(program.model.graph):
        program.model.metadata_props["activations"] = "calibrated"  # which `open` looks for
    program.save(path)


def _has_calibrated_activations(graph: Any) -> bool:
    """Return whether activations are rounded with constant scales, not with one computed for each row."""
    scales = [node.inputs[1] for node in graph.all_nodes() if node.op_type == "QuantizeLinear"]
    return any(scale.const_value is not None for scale in scales)


def _strip(model: Any) -> None:
    """Remove what the exporter notes about where each operation comes from: stack traces with paths of this machine."""
    model.metadata_props.clear()
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()


def _output_names(outputs: Any) -> list[str] | None:
    """Return the keys of a dictionary of tensors as names of the outputs; None for any other structure."""
    if not isinstance(outputs, Mapping) or not all(isinstance(value, Tensor) for value in outputs.values()):
        return None
    return [str(key) for key in outputs]
