"""Puts the table of a run of `recipes/mnist.toml` into the README. Make the run on a quiet machine.

toolkit run recipes/mnist.toml && python tests/readme_table.py runs/mnist
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from toolkit.report.reader import read_report

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- table: .* -->\n", "<!-- end of table -->"


def with_table(text: str, table: str) -> str:
    """The text with the table between its two marks replaced."""
    block = f"```\n{table}\n```\n"
    replaced, count = re.subn(f"({BEGIN}).*?({END})", lambda match: match[1] + block + match[2], text, flags=re.DOTALL)
    assert count == 1, "the README has lost the marks around its table"
    return replaced


def main(run: Path) -> None:
    table = str(read_report(run)).partition("\n\n")[0]  # without the verdicts and notes below it
    README.write_text(with_table(README.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
