"""A model as an ONNX file, by the exporter of PyTorch and with operators of integers where the model has them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from onnxscript.optimizer import optimize_ir
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from toolkit import operators
from toolkit_onnxruntime.translations import TRANSLATIONS, is_decoding


def write_onnx(model: nn.Module, example: Any, path: Path, opset: int) -> None:
    """Write `model` as ONNX with a dynamic batch dimension.

    Args:
        model: in eval mode, on the CPU.
        example: inputs of two samples or more: a tensor, a tuple of them, or a dictionary by argument.
        path: the file.
        opset: version of the operators.

    Raises:
        TechniqueError: the model cannot be exported; names the operation where that is known.
    """
    args, kwargs = ((), dict(example)) if isinstance(example, Mapping) else (_tuple(example), {})
    batch = torch.export.Dim("batch", min=1)
    shapes = tree_map_only(Tensor, lambda _: {0: batch}, kwargs or args)
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    with operators.exporting(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            args,
            kwargs=kwargs,
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=shapes,
            custom_translation_table=TRANSLATIONS,
            verbose=False,
            optimize=False,
        )
    assert program is not None
    optimize_ir(program.model, should_fold=lambda node: False if is_decoding(node) else None)
    _strip(program.model)
    program.save(path)


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


def _tuple(example: Any) -> tuple[Any, ...]:
    return tuple(example) if isinstance(example, (tuple, list)) else (example,)
