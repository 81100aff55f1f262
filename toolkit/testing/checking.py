"""The check of `toolkit techniques NAME --contract`: the contract of an installed plugin, without pytest."""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.errors import TechniqueError, ToolkitError, described
from toolkit.hooks import loading as techniques
from toolkit.hooks.loading import Plugin
from toolkit.runner.technique_numbers import description_of
from toolkit.testing.author_lines import last_author_line
from toolkit.testing.contract import TechniqueContract
from toolkit.testing.observer_contract import ObserverContract
from toolkit.testing.runtime_contract import RuntimeContract


class Verdict(NamedTuple):
    """The result of one clause, for one toy model if the clause tries all of them.

    Attributes:
        clause: sentence of the clause.
        problem: error message, empty if the plugin keeps the clause.
        line: last line of the plugin in the error's traceback, empty if there is none.
    """

    clause: str
    problem: str
    line: str = ""

    def __str__(self) -> str:
        return f"broken  {self.clause}: {self.problem}" if self.problem else f"kept    {self.clause}"


class Bug(NamedTuple):
    """One defect of a plugin, and every clause that it breaks."""

    problem: str
    line: str
    clauses: tuple[str, ...]


def check_contract(name: str, params: Mapping[str, Any] | None = None, clause: str = "") -> Iterator[Verdict]:
    """Check an installed plugin against the contract of its kind; yield a verdict per clause.

    A plugin that only measures is checked as a run-wide plugin; it can be used in a stage, too.

    Args:
        name: name of the entry point.
        params: params as in a recipe; the defaults if None.
        clause: only clauses that contain this text.

    Raises:
        ToolkitError: the plugin does not exist or cannot be loaded, or Python runs with -O.
    """
    if sys.flags.optimize:
        raise ToolkitError("the contract requires assertions, which python -O skips; run Python without -O")
    plugin, contract = _contract_for(name)
    attributes = {"technique": name, "plugin": name, "params": dict(params or {})}
    instance = type("Contract", (contract,), attributes)()
    for test, method in inspect.getmembers(instance, inspect.ismethod):
        sentence = test.removeprefix("test_").replace("_", " ")
        if test.startswith("test_") and clause in sentence:
            parameters = inspect.signature(method).parameters
            for toy in instance.toys if "toy" in parameters else [""]:
                problem, line = _try(method, parameters, toy, plugin)
                yield Verdict(f"{sentence} [{toy}]" if toy else sentence, problem, line)


def bugs(verdicts: Iterable[Verdict]) -> list[Bug]:
    """Return the defects behind broken clauses: errors from one line of the plugin, or with one message, are one."""
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.problem:
            groups.setdefault(verdict.line or verdict.problem, []).append(verdict)
    return [
        Bug(group[0].problem, group[0].line, tuple(verdict.clause for verdict in group)) for group in groups.values()
    ]


def undescribed_numbers(name: str) -> str:
    """Return a hint on the numbers that a technique measures on a toy without describing them, or nothing."""
    plugin, contract = _contract_for(name)
    if contract is not TechniqueContract:
        return ""
    instance: Any = type("Contract", (contract,), {"technique": name})()
    try:
        measured = instance._measured()
    except (ToolkitError, AssertionError):  # a clause tells
        return ""
    names = {key.partition(".")[2] for key, value in measured.items() if isinstance(value, (int, float))}
    missing = sorted(name for name in names if description_of(plugin.numbers, name) is None)
    unused = sorted(plugin.numbers.keys() - names)
    found = f", which describes {', '.join(unused)} instead" if unused else ""
    return f"describe {', '.join(missing)} in `numbers`{found}" if missing else ""


def _contract_for(name: str) -> tuple[Plugin, type]:
    if techniques.find(name).roles == {"runtime"}:
        return techniques.load(name, "runtime"), RuntimeContract
    try:
        technique = techniques.load(name)
    except TechniqueError as error:
        return _load_observer(name, error), ObserverContract
    acts = any(technique.implements(hook) for hook in ("prepare", "optimize", "finetune", "finish"))
    return technique, TechniqueContract if acts else ObserverContract


def _load_observer(name: str, as_technique: TechniqueError) -> Plugin:
    """Return the run-wide plugin; if there is none, raise the error about the kind that the plugin is closer to."""
    try:
        return techniques.load(name, "observer")
    except TechniqueError as as_observer:
        other_use = techniques.NAMED["observer"]
        raise (as_observer if other_use in str(as_technique) else as_technique) from None


def _try(method: Any, parameters: Mapping[str, Any], toy: str, plugin: Plugin) -> tuple[str, str]:
    """Call a clause; return its error message and the line of the plugin that raised it, both empty if it is kept."""
    with tempfile.TemporaryDirectory() as folder:
        available = {"toy": toy, "tmp_path": Path(folder)}
        try:
            method(**{name: value for name, value in available.items() if name in parameters})
        except (Exception, SystemExit) as error:
            return _message(error), last_author_line(error, plugin.module)
    return "", ""


def _message(error: BaseException) -> str:
    """Return an error on one line, without the remedy of an error in a run, which refers to the run's log."""
    text = " ".join(str(error).split())
    if not isinstance(error, (AssertionError, ToolkitError)) or not text:  # a module's assertion may have no text
        return described(error)
    if isinstance(error, TechniqueError) and isinstance(error.__cause__, (Exception, SystemExit)):
        finding, cause, _ = text.partition(described(error.__cause__))
        if cause and not isinstance(error.__cause__, ToolkitError):
            return finding + cause
    return text
