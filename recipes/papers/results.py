"""The file of results: every run as it was measured, one after another, kept as they come."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import toolkit
from toolkit.recipe.shipped import locate
from toolkit.storage.files import write_file

FILE = Path(__file__).parent / "results.json"


@dataclass(frozen=True)
class Result:
    """One run: of which recipe, variation and seed, what each row measured, and when, where and by what.

    `speeds` has, for some recipes, what depends on the machine and on the runtime: `speed_of` each row.
    """

    recipe: str
    variation: str
    seed: int
    text_sha256: str
    rows: dict[str, dict[str, float]]
    minutes: float
    date: str = field(default_factory=lambda: date.today().isoformat())
    processor: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    speeds: dict[str, dict[str, Any]] = field(default_factory=dict)

    def is_of(self, recipe: str, variation: str, seed: int, text_sha256: str) -> bool:
        """Whether it is what this run would give."""
        return (self.recipe, self.variation, self.seed, self.text_sha256) == (recipe, variation, seed, text_sha256)


def text_of(recipe: str, overrides: Mapping[str, Any]) -> str:
    """A hash of what a run does: the text of its recipe without comments, and what replaces parts of it."""
    lines = (line.partition(" #")[0].rstrip() for line in locate(recipe).read_text().splitlines())
    said = [line for line in lines if line and not line.startswith("#")]
    return hashlib.sha256(json.dumps([said, dict(overrides)], sort_keys=True).encode()).hexdigest()[:16]


def of_report(
    report: toolkit.Report, recipe: str, variation: str, text_sha256: str, minutes: float, with_speeds: bool = False
) -> Result:
    """What is kept of a report."""
    environment = report.environment
    return Result(
        recipe,
        variation,
        report.seed,
        text_sha256,
        rows={row.stage: _numbers(row) for row in report.rows},
        minutes=round(minutes, 2),
        processor=f"{environment['processor']}, {environment['capability']}",
        versions={name: environment[name] for name in ("python", "torch", "toolkit")},
        speeds={row.stage: speed_of(row) for row in report.rows} if with_speeds else {},
    )


def _numbers(row: toolkit.Row) -> dict[str, float]:
    """Errors, size, zeros, and what techniques measured."""
    names = ("samples", "size_bytes", "parameters", "nonzero", "sparsity")
    kept = {name: row[name] for name in names if name in row.values}  # a file of a runtime has no parameters
    if (change := row.values.get("accuracy_change_interval")) is not None:
        kept |= {"change_low": change[0], "change_high": change[1]}
    own = {name: value for name, value in row.values.items() if "." in name and isinstance(value, (int, float))}
    return {"errors": round((1 - row["accuracy"]) * row["samples"]), **kept, **own}


def speed_of(row: toolkit.Row) -> dict[str, Any]:
    """MACs, the runtime, and by batch size times with their 95 % intervals.

    They are shares of the baseline's time in PyTorch (`latency_ratio`) and in the row's runtime (`runtime_ratio`).
    """
    ratios = {name: _with_intervals(row, name) for name in ("latency_ratio", "runtime_ratio")}
    return {"macs": row.values.get("macs"), "runtime": row.runtime, **ratios}


def _with_intervals(row: toolkit.Row, name: str) -> dict[str, list[float]]:
    intervals = row.values.get(f"{name}_interval", {})
    return {size: [ratio, *intervals[size]] for size, ratio in row.values.get(name, {}).items() if size in intervals}


def read(file: Path = FILE) -> list[Result]:
    """All results of a file; none if there is no file."""
    if not file.is_file():
        return []
    return [Result(**entry) for entry in json.loads(file.read_text())]


def write(results: Iterable[Result], file: Path = FILE) -> None:
    """Replace the file, whole or not at all; in the order of recipes, variations and seeds."""
    ordered = sorted(results, key=lambda result: (result.recipe, result.variation, result.seed))
    write_file(file, (json.dumps([asdict(result) for result in ordered], indent=1) + "\n").encode())
