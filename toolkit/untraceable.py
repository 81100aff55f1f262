"""What keeps a network from becoming a program of `torch.export`, in a sentence."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from toolkit import operators
from toolkit.errors import TechniqueError

NOT_OF_THE_NETWORK = ("/site-packages/torch/", f"{Path(__file__).parent}/")


def problem(error: BaseException) -> str:
    """Return the reason for which PyTorch could not trace a network, as one sentence."""
    errors = list(causes(error))
    text = "\n".join(map(str, errors))
    if any(type(cause).__name__ == "GuardOnDataDependentSymNode" for cause in errors) or "data-dependent" in text:
        return (
            f"the network's control flow depends on the values of its inputs{_line(text, errors)}; "
            f"use tensor operations such as torch.where instead of `if` and `while`"
        )
    first_line = str(errors[-1]).strip().partition("\n")[0].strip()
    return f"cannot trace the network{_line(text, errors)}: {first_line or type(errors[-1]).__name__}"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def _line(text: str, errors: Sequence[BaseException]) -> str:
    """Return the last line of the network's own code that a message quotes, or that was running, in parentheses."""
    quoted = re.findall(r'File "([^"]+)", line (\d+), in \w+\s*\n\s*(\S.*)', text)
    ran = [
        (at.filename, at.lineno, at.line or "") for error in errors for at in traceback.extract_tb(error.__traceback__)
    ]
    for lines in (quoted, ran):
        if own := [line for line in lines if not any(part in line[0] for part in NOT_OF_THE_NETWORK)]:
            path, number, code = own[-1]
            return f" ({path.rpartition('/')[2]}, line {number}: {code.strip()})"
    return ""


def require_plain_lstms(program: ExportedProgram) -> None:
    """Refuse LSTMs of integers: in operators of PyTorch, each would be a copy of its operations for every step."""
    for node in program.graph.nodes:
        if node.target is operators.int8_lstm._opoverload:
            stack = list(node.meta.get("nn_module_stack", {}).values())
            place = f"layer '{stack[-1][0] if stack else node.name}'"
            what = "is an LSTM that multiplies integers, which this runtime does not have"
            raise TechniqueError(f"{place} {what}; give the layer float arithmetic")


def check_free_sizes(program: ExportedProgram, free_sizes: Any) -> None:
    """Refuse a program that was traced for one size of a dimension whose size is free."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    for name, free in zip(program.graph_signature.user_inputs, tree_leaves(free_sizes), strict=False):
        for dimension in sorted(free - {0}) if isinstance(free, frozenset) else ():
            size = values[name].shape[dimension]
            size = size if isinstance(size, int) else size.node.maybe_as_int()
            if size is not None:
                raise TechniqueError(
                    f"PyTorch traces the network for size {size} of dimension {dimension} of '{name}' alone, as it "
                    f"does with recurrent layers, but batches differ in it; pad all samples to one length"
                )
