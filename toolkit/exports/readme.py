"""The page next to an exported file: what the model takes and returns, and a script that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Example:
    """What a model takes and returns.

    `inputs` are a batch: a tensor, a tuple of arguments or a dictionary of keywords. `outputs` are what the model
    returns for it, `preparation` says how samples become inputs. `free` and `free_outputs` have, in place of each
    tensor, the dimensions whose size differs between batches.
    """

    inputs: Any
    outputs: Any
    preparation: str
    free: Any = None
    free_outputs: Any = None


def readme(
    runtime: str, files: Sequence[str], params: Mapping[str, Any], example: Example, note: str | None = None
) -> str:
    """Return the page as Markdown.

    Args:
        runtime: name of the runtime.
        files: names of the files that the runtime wrote.
        params: settings of the runtime, plain values.
        example: inputs and outputs of the model.
        note: a sentence of the runtime's.
    """
    arrays, call = _example(example.inputs)
    return "\n".join(
        [
            f"# Model for {runtime}",
            "",
            f"The model is in {', '.join(f'`{name}`' for name in files)}. `run.py` opens it with {runtime} alone, "
            f"without the toolkit. N is the batch size.",
            *([] if note is None else ["", str(note)]),
            "",
            f"Inputs, {example.preparation}:",
            *_listing(example.inputs, example.free),
            "",
            "Outputs:",
            *_listing(example.outputs, example.free_outputs),
            "",
            "To run the model from Python, in this folder:",
            "",
            "```python",
            "from types import SimpleNamespace",
            "",
            "import numpy",
            "import run",
            "",
            f"model = run.open('.', SimpleNamespace(**{dict(params)!r}), threads=1)",
            *arrays,
            f"outputs = model({call})",
            "```",
            "",
        ]
    )


def _example(inputs: Any) -> tuple[list[str], str]:
    """Return the lines that make inputs for one sample, and the arguments of the call."""
    if isinstance(inputs, Mapping):
        lines = [f"    {key!r}: {_zeros(value)}," for key, value in inputs.items()]
        return ["inputs = {", *lines, "}"], "**inputs"
    if isinstance(inputs, (list, tuple)):
        return ["inputs = [", *(f"    {_zeros(value)}," for value in inputs), "]"], "*inputs"
    return [f"inputs = {_zeros(inputs)}"], "inputs"


def _zeros(value: Any) -> str:
    return f"numpy.zeros({(1, *value.shape[1:])}, '{_dtype(value)}')"


def _listing(value: Any, free: Any) -> list[str]:
    """Return a line with shape and dtype for each tensor."""
    if isinstance(value, Mapping):
        return [f"- `{key}`: {_shape(item, free and free[key])}" for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [f"- {_shape(item, free and free[place])}" for place, item in enumerate(value)]
    return [f"- {_shape(value, free)}"]


def _shape(value: Any, free: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    lengths = free if isinstance(free, frozenset) else ()
    sizes = ["N", *("any" if place in lengths else str(size) for place, size in enumerate(value.shape) if place)]
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''}) {_dtype(value)}"


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
