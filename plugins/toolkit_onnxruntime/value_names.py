"""What the inputs and outputs of an ONNX file are called, for programs that pass them by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx


def value_names(file: Path) -> str:
    """Return the names as a sentence."""
    graph = onnx.load(file, load_external_data=False).graph
    return f"In `{file.name}`, {_listed('input', graph.input)} and {_listed('output', graph.output)}."


def _listed(kind: str, values: Iterable[Any]) -> str:
    names = [f"`{value.name}`" for value in values]
    return f"the {kind} is {names[0]}" if len(names) == 1 else f"the {kind}s are {', '.join(names)}"
