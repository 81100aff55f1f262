"""The table of networks in the manual is what its script writes."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    return importlib.import_module("channel_coverage")


def cells(row: str) -> list[str]:
    """Return the cells of a row, except for the difference, which depends on the processor."""
    texts = [text.strip() for text in row.strip("|").split("|")]
    return [*texts[:3], *texts[4:]]


def test_the_table_has_every_network_and_what_is_cut_of_the_small_ones(script: Any) -> None:
    lines = script.PAGE.read_text(encoding="utf-8").partition("<!-- table: made by")[2].splitlines()
    rows = {cells(line)[0]: line for line in lines if line.startswith("| ")}
    networks = {name: (make, data) for name, make, data in script.networks()}
    assert list(rows) == ["network", *networks]
    for name in [*(name for name in networks if name.startswith("toy")), "LeNet-5", "a U-Net"]:
        assert cells(rows[name]) == cells(script.row(name, *networks[name]))


def test_no_network_of_the_table_computes_something_else(script: Any) -> None:
    lines = script.PAGE.read_text(encoding="utf-8").splitlines()
    differences = [
        float(line.split("|")[4]) for line in lines if line.startswith("| ") and line.count("|") == 6 and "%" in line
    ]
    assert len(differences) == len(list(script.networks()))
    assert max(differences) <= 1e-5
