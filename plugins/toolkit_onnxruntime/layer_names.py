"""Names of layers in an ONNX graph, written so that they survive the optimizations of ONNX Runtime."""

from __future__ import annotations

import ast
import re
from typing import Any

SCOPES = "pkg.torch.onnx.name_scopes"
SEPARATOR = "/"
# ONNX Runtime fuses these into the layer before them, and names the result after their output.
FUSED = ("BatchNormalization", "Relu", "Clip", "LeakyRelu", "HardSigmoid", "Sigmoid", "Tanh")

BRANCH = re.compile(r"_if_(else|then)_branch_(token_\d+_)?")  # put in front of the names of a branch that it takes


def write_layer_names(graph: Any) -> None:
    """Put the path of its module in front of the name of each node and of each value inside the graph."""
    outputs = {id(value) for value in graph.outputs}
    layer_of: dict[int, str] = {}
    for node in graph.all_nodes():
        layer = _layer(node)
        if node.op_type in FUSED:
            layer = layer_of.get(id(node.inputs[0]), layer)
        if not layer:
            continue
        node.name = f"{layer}{SEPARATOR}{node.name}"
        for value in node.outputs:
            layer_of[id(value)] = layer
            if id(value) not in outputs:
                value.name = f"{layer}{SEPARATOR}{value.name}"


def _layer(node: Any) -> str:
    """Return the path of the innermost module; a layer that wraps another one gives its name to both."""
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    return scopes[-2].removesuffix(".layer") if len(scopes) > 1 else ""


def read_layer_name(node: Any) -> str:
    """Return the path of the layer that a node belongs to, of an optimized graph; else the node's own name."""
    named = [name for name in (node.name, *node.output) if SEPARATOR in name]
    return BRANCH.sub("", named[0].rpartition(" ")[2]).partition(SEPARATOR)[0] if named else node.name
