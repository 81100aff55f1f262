"""Counts the imports between the folders of `toolkit/`, and lists those that run against their order.

    python tests/imports.py

A folder may import only what stands to its left in `ORDER`; folders of one group do not import each other unless the
group is one of flat modules. Imports inside functions and under `TYPE_CHECKING` count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ORDER = [
    [
        "errors",
        "eval_mode",
        "params",
        "rows",
        "patterns",
        "masks",
        "replacements",
        "seeding",
        "interruption",
        "statistics",
        "timing",
    ],
    ["tasks"],
    ["data"],
    ["scoring"],
    ["training"],
    ["hooks"],
    ["model_files"],
    ["models"],
    ["sources"],
    ["recipe"],
    ["metrics"],
    ["promises"],
    ["exports"],
    ["storage"],
    ["report"],
    ["runner"],
    ["scaffold", "testing"],
    ["cli"],
]
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}
TOOLKIT = Path(__file__).parent.parent / "toolkit"


def imported(module: Path) -> Iterator[str]:
    """The full names of what a module imports of the toolkit."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def crossings() -> Iterator[tuple[str, str, Path]]:
    """Every import from one room into another: from, into, and the module that does it."""
    for module in sorted(TOOLKIT.rglob("*.py")):
        room = module.relative_to(TOOLKIT).with_suffix("").parts[0]
        targets = {name.split(".")[1] for name in imported(module) if name.startswith("toolkit.")}
        yield from ((room, target, module) for target in sorted(targets & FLOOR.keys()) if target != room)


def backward() -> list[tuple[str, str, Path]]:
    """The imports that run against the order."""
    return [(room, target, module) for room, target, module in crossings() if FLOOR.get(room, 99) < FLOOR[target]]


if __name__ == "__main__":
    rooms = {(room, target) for room, target, _ in crossings()}
    print(f"{len(rooms)} imports between rooms, {len({pair[:2] for pair in backward()})} of them against the order:")
    for room, target, module in backward():
        print(f"  {room} imports {target}: {module.relative_to(TOOLKIT.parent)}")
