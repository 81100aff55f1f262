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

from tabulate import tabulate

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "recipes" / "mnist.toml"
ROUNDS = 3


def timed(command: list[str]) -> tuple[float, str]:
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout


def by_toolkit(folder: Path) -> tuple[float, dict[str, float], dict[str, float]]:
    seconds, _ = timed([sys.executable, "-m", "toolkit", "run", str(RECIPE), "--output", str(folder)])
    rows = json.loads((folder / "report.json").read_text())["rows"]
    return seconds, rows[0], rows[-1]


def by_tutorial() -> tuple[float, list[str], list[str]]:
    seconds, output = timed([sys.executable, str(HERE / "tutorial.py")])
    first, last = output.splitlines()
    return seconds, first.split()[1:], last.split()[1:]


def main() -> None:
    ratios, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            ours, ours_first, ours_last = by_toolkit(Path(folder) / str(number))
            theirs, theirs_first, theirs_last = by_tutorial()
            ratios.append(ours / theirs)
            for name, first, last in (
                ("toolkit", *([row["accuracy"], row["size_bytes"]] for row in (ours_first, ours_last))),
                ("tutorial", theirs_first, theirs_last),
            ):
                rows.append([number, name, *map(float, (first[0], last[0])), int(first[1]), int(last[1])])
    headers = ["round", "chain", "baseline accuracy", "final accuracy", "baseline bytes", "final bytes"]
    print(tabulate(rows, headers=headers, floatfmt=".4f"))
    print(f"time of the toolkit / time of the tutorial: {statistics.median(ratios):.3f} {sorted(ratios)}")


if __name__ == "__main__":
    main()
