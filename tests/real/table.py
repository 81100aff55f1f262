"""Runs the recipes of all real models and puts the table of what comes of them into the README beside this file.

    python tests/real/table.py [MODEL…]

Models whose packages are not installed are left out. With the names of models the table is printed only.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from comparison import MODELS, Measured, Run, measured_dynamic, measured_ours, run
from installed import missing, why_skipped
from tabulate import tabulate

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- table: .* -->\n", "<!-- end of table -->"
BUDGET_S = 20.0  # for the latencies of one model
HEADERS = ["model", "metric", "by", "value", "drop, points", "same answers", "size", "latency @1", "latency @N"]


def rows(name: str, folder: Path) -> list[list[str]]:
    """Three lines of the table: float, the recipe's result, and `quantize_dynamic`'s, or that it fails."""
    real = MODELS[name]
    found = run(real, folder, {"measure.budget": 2.0})  # for time is taken again, beside the others
    before = found.report.baseline
    sides = {
        "toolkit": measured_ours(real, found, BUDGET_S),
        "`quantize_dynamic`": measured_dynamic(real, found, BUDGET_S),
    }
    for side, measured in sides.items():
        if measured.failure:
            print(f"{name}, {side}: {measured.failure}", file=sys.stderr)
    size = f"{before['size_bytes'] / 1e6:.3g} MB"
    value = _percent(before[found.metric])
    first = [name, found.metric, "float", value, "", "", size, "×1", f"×1 (N = {real.batch_size})"]
    return [first, *(["", "", side, *_cells(found, measured)] for side, measured in sides.items())]


def _cells(run: Run, measured: Measured) -> list[str]:
    if measured.failure:
        return ["fails", *[""] * 5]
    row = measured.row
    ratio = measured.size_bytes / run.report.baseline["size_bytes"]
    same = _percent(row["agreement"]) if "agreement" in row else ""
    times = [f"×{value:.2f}" for value in measured.latency_ratio.values()]
    return [_percent(row[run.metric]), f"{run.drop(row):+.2f}", same, f"×{ratio:.2f}", *times]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def main() -> None:
    """Run, print, and write."""
    names = sys.argv[1:] or list(MODELS)
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            if missing(*MODELS[name].packages):
                print(f"{name} is left out: {why_skipped(*MODELS[name].packages)}", file=sys.stderr)
            else:
                table += rows(name, Path(folder) / str(number))
    text = tabulate(table, HEADERS, tablefmt="github", disable_numparse=True)
    print(text)
    if not sys.argv[1:]:
        _write(text)


def _write(table: str) -> None:
    text = README.read_text(encoding="utf-8")
    replaced, count = re.subn(
        f"({BEGIN}).*?({END})", lambda match: match[1] + table + "\n" + match[2], text, flags=re.S
    )
    assert count == 1, f"{README} has lost the marks around its table"
    README.write_text(replaced, encoding="utf-8")


if __name__ == "__main__":
    main()
