"""`toolkit run recipes/mnist.toml`, with all its measuring, against the chain of a tutorial: whole processes.

    python tests/benchmarks/chain.py

Prints the ratio of times (below 1 the toolkit is faster), and accuracy and size of both results.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "recipes" / "mnist.toml"
ROUNDS = 3


def timed(command: list[str]) -> tuple[float, str]:
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout


class Outcome(NamedTuple):
    """One run of one chain."""

    seconds: float
    accuracies: tuple[float, float]
    sizes_bytes: tuple[int, int]


def by_toolkit(folder: Path) -> Outcome:
    seconds, _ = timed([sys.executable, "-m", "toolkit", "run", str(RECIPE), "--output", str(folder)])
    rows = json.loads((folder / "report.json").read_text())["rows"]
    first, last = rows[0], rows[-1]
    return Outcome(seconds, (first["accuracy"], last["accuracy"]), (first["size_bytes"], last["size_bytes"]))


def by_tutorial() -> Outcome:
    seconds, output = timed([sys.executable, str(HERE / "tutorial.py")])
    first, last = (line.split() for line in output.splitlines())
    return Outcome(seconds, (float(first[1]), float(last[1])), (int(first[2]), int(last[2])))


def main() -> None:
    ratios, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, ROUNDS + 1):
            ours, theirs = by_toolkit(Path(folder) / str(number)), by_tutorial()
            ratios.append(ours.seconds / theirs.seconds)
            for name, outcome in (("toolkit", ours), ("tutorial", theirs)):
                rows.append([number, name, *outcome.accuracies, *outcome.sizes_bytes])
    headers = ["round", "chain", "baseline accuracy", "final accuracy", "baseline bytes", "final bytes"]
    print(tabulate(rows, headers=headers, floatfmt=".4f"))
    listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"time of the toolkit / time of the tutorial: {statistics.median(ratios):.3f} ({listed})")


if __name__ == "__main__":
    main()
