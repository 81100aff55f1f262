"""The contract of an installed plugin, checked without pytest: what `toolkit techniques NAME --contract` shows."""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.errors import TechniqueError, ToolkitError, described
from toolkit.hooks import loading as techniques
from toolkit.testing.contract import TechniqueContract
from toolkit.testing.observer_contract import ObserverContract
from toolkit.testing.runtime_contract import RuntimeContract


class Verdict(NamedTuple):
    """One clause, for one toy model where it tries all of them: kept where `problem` is empty."""

    clause: str
    problem: str

    def __str__(self) -> str:
        return f"{'broken' if self.problem else 'kept  '}  {self.clause}" + (
            f": {self.problem}" if self.problem else ""
        )


def check_contract(name: str, params: Mapping[str, Any] | None = None, clause: str = "") -> Iterator[Verdict]:
    """Check clause by clause whether an installed plugin keeps the contract of its kind.

    A plugin that does nothing but measure, which is welcome in a stage too, is checked as a run-wide one.

    Args:
        name: of the entry point.
        params: as a recipe would say them; the defaults if not given.
        clause: only clauses whose sentences contain it.

    Raises:
        ToolkitError: there is no such plugin, or it cannot be loaded, or Python was told to leave out assertions.
    """
    if sys.flags.optimize:
        raise ToolkitError("the contract consists of assertions, which python -O leaves out: check it without")
    contract = _contract_for(name)
    made = type("Contract", (contract,), {"technique": name, "plugin": name, "params": dict(params or {})})()
    for test, method in inspect.getmembers(made, inspect.ismethod):
        sentence = test.removeprefix("test_").replace("_", " ")
        if test.startswith("test_") and clause in sentence:
            takes = inspect.signature(method).parameters
            for toy in made.toys if "toy" in takes else [""]:
                yield Verdict(f"{sentence} [{toy}]" if toy else sentence, _problem(method, takes, toy))


def _contract_for(name: str) -> type:
    if techniques.find(name).roles == {"runtime"}:
        techniques.load(name, "runtime")
        return RuntimeContract
    try:
        technique = techniques.load(name)
    except TechniqueError as error:
        return _contract_of_an_observer(name, error)
    acts = any(technique.implements(hook) for hook in ("prepare", "optimize", "finetune", "finish"))
    return TechniqueContract if acts else ObserverContract


def _contract_of_an_observer(name: str, as_technique: TechniqueError) -> type:
    """Its contract; of what is neither, the error that is about the kind that it is meant to be."""
    try:
        techniques.load(name, "observer")
    except TechniqueError as as_observer:
        named_otherwise = techniques.NAMED["observer"]
        raise (as_observer if named_otherwise in str(as_technique) else as_technique) from None
    return ObserverContract


def _problem(method: Any, takes: Mapping[str, Any], toy: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        given = {"toy": toy, "tmp_path": Path(folder)}
        try:
            method(**{name: value for name, value in given.items() if name in takes})
        except (AssertionError, ToolkitError) as error:
            return " ".join(str(error).split()) or described(error)  # an assertion of a module need not say anything
        except (Exception, SystemExit) as error:
            return described(error)
    return ""
