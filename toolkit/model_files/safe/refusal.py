"""Why a file is not opened, by the names in it that are not known to be safe."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from toolkit.stored_names import MARK

MAX_LISTED = 20  # names in a sentence


def refusal(names: Sequence[str]) -> str:
    """One sentence about names that are not allowed, with what to do; `names` is not empty."""
    for name in suspect(names):
        advice = "no network of the toolkit's consists of it, so ask where the file comes from"
        return f"it needs '{name}', which is not known to be safe: {advice}"
    listed = ", ".join(f"'{name.removeprefix(MARK)}'" for name in names[:MAX_LISTED])
    if len(names) > MAX_LISTED:
        listed += f" and {len(names) - MAX_LISTED} more"
    are = "which is" if len(names) == 1 else "which are"
    return f"it needs {listed}, {are} not known to be safe: {_advice(names)}"


def suspect(names: Sequence[str]) -> list[str]:
    """Return the names of Python's standard library and of torch, which no class of a user's has."""
    return [name for name in names if name.partition(".")[0] in {*sys.stdlib_module_names, "torch"}]


def _advice(names: Sequence[str]) -> str:
    own = ", ".join(name.rpartition(".")[2] for name in names[:MAX_LISTED])
    it_is, source = ("it is", "its source") if len(names) == 1 else ("they are", "the source of each")
    allow = f"if {it_is} yours, pass allow=[{own}], or --allow with {source} on the command line"
    techniques = sorted({name.removeprefix(MARK).partition(".")[0] for name in names if name.startswith(MARK)})
    if not techniques:
        return allow
    missing = " and ".join(f"'{technique}'" for technique in techniques)
    return f"install or upgrade the technique {missing}; {allow}"
