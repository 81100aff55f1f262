"""Counts of the code: folders and the imports between them, and the longest modules and functions.

    python tests/imports.py [CHECKOUT]

A room is a folder of `toolkit/`, or a module directly in it. Imports inside functions and under `TYPE_CHECKING` count;
names that `toolkit` itself offers do not, because they are public. A room stands one floor above the highest room
that it imports; rooms in one circle share a floor. CHECKOUT is the root of another checkout, by default of this one.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import networkx as nx

SOURCES = ("toolkit", "plugins")
LONGEST = 10
MAX_SENTENCE = 92  # characters


def rooms(package: Path) -> dict[str, Path]:
    """The file that describes each room, by the room's name."""
    files = [*package.glob("*/__init__.py"), *package.glob("[!_]*.py")]
    return {(file.parent.name if file.stem == "__init__" else file.stem): file for file in sorted(files)}


def imported_names(module: Path) -> Iterator[str]:
    """Full names of everything that a module imports."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_graph(package: Path) -> nx.DiGraph:
    """Rooms as nodes, imports between them as edges, each with the modules that import."""
    graph = nx.DiGraph()
    graph.add_nodes_from(rooms(package))
    for module in sorted(package.rglob("*.py")):
        room = module.relative_to(package).with_suffix("").parts[0]
        targets = {name.split(".")[1] for name in imported_names(module) if name.startswith(f"{package.name}.")}
        for target in sorted(targets & graph.nodes - {room}) if room in graph else ():
            modules = graph.edges[room, target]["modules"] if graph.has_edge(room, target) else []
            graph.add_edge(room, target, modules=[*modules, module])
    return graph


def floor_count(graph: nx.DiGraph) -> int:
    """Rooms on the longest chain of imports, a circle counted as one."""
    return nx.dag_longest_path_length(nx.condensation(graph)) + 1


def circles(graph: nx.DiGraph) -> list[list[str]]:
    """Rooms that import each other, directly or by way of others."""
    return [sorted(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]


def contract_floors(checkout: Path) -> dict[str, int]:
    """The floor of each room according to the layers contract in `pyproject.toml`; empty if there is none."""
    settings = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contracts = settings.get("importlinter", {}).get("contracts", [])
    layers: list[str] = next((contract["layers"] for contract in contracts if contract["type"] == "layers"), [])
    return {room: floor for floor, group in enumerate(reversed(layers)) for room in re.split(r"\s*[:|]\s*", group)}


def greedy_floors(graph: nx.DiGraph) -> dict[str, int]:
    """An order of the rooms in which few imports run upwards (Eades, Lin and Smyth, 1993)."""
    rest, top, bottom = graph.copy(), [], []
    while rest:
        free = next((room for room in rest if not rest.out_degree(room)), None)
        if free is not None:
            bottom.append(free)
        else:
            free = max(rest, key=lambda room: rest.out_degree(room) - rest.in_degree(room))
            top.append(free)
        rest.remove_node(free)
    return {room: floor for floor, room in enumerate([*bottom, *reversed(top)])}


def upward(graph: nx.DiGraph, floors: dict[str, int]) -> list[tuple[str, str]]:
    """Imports from a room into one that stands higher."""
    return [(room, target) for room, target in graph.edges if floors.get(room, 0) < floors.get(target, 0)]


def lengths(checkout: Path) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Lines of every module and of every function, the longest first."""
    modules, functions = [], []
    for path in (path for source in SOURCES for path in (checkout / source).rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(checkout))
        modules.append((len(text.splitlines()), name))
        functions += [(lines, f"{name}:{function}") for lines, function in _functions(text)]
    return sorted(modules, reverse=True), sorted(functions, reverse=True)


def _functions(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1, node.name


def _print_rooms(package: Path) -> None:
    for room, file in rooms(package).items():
        sentence = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "-").splitlines()[0]
        print(f"  {room:<14}{sentence if len(sentence) <= MAX_SENTENCE else sentence[: MAX_SENTENCE - 1] + '…'}")


def _print_imports(graph: nx.DiGraph, declared: dict[str, int], package: Path) -> None:
    against = upward(graph, declared or greedy_floors(graph))
    kind = "against the layers contract" if declared else "upwards in the best order found (there is no contract)"
    print(f"{len(graph)} rooms, {floor_count(graph)} floors, {graph.number_of_edges()} imports between rooms")
    print(f"{len(against)} imports {kind}")
    for room, target in against:
        modules = [str(module.relative_to(package)) for module in graph.edges[room, target]["modules"]]
        print(f"  {room} imports {target}: {', '.join(modules)}")
    print(f"{len(circles(graph))} circles")
    for circle in circles(graph):
        within = graph.subgraph(circle).number_of_edges()
        print(f"  {len(circle)} rooms with {within} imports among them: {', '.join(circle)}")


def _print_longest(title: str, sizes: list[tuple[int, str]]) -> None:
    middle = sizes[len(sizes) // 2][0]
    print(f"{len(sizes)} {title}, {middle} lines in the median; the longest:")
    for lines, name in sizes[:LONGEST]:
        print(f"  {lines:>4}  {name}")


def main(checkout: Path) -> None:
    package = checkout / "toolkit"
    _print_rooms(package)
    _print_imports(import_graph(package), contract_floors(checkout), package)
    modules, functions = lengths(checkout)
    _print_longest("modules", modules)
    _print_longest("functions", functions)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
