"""Runs `recipes/mnist.toml` and puts the table that it prints into the README.

python tests/readme_table.py
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- table: .* -->\n", "<!-- end of table -->"


def printed() -> str:
    """What the command prints, up to the notes below the table."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "toolkit", "run", "recipes/mnist.toml", "--output", f"{folder}/mnist"]
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return output.partition("\n\n")[0]


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    table = f"```\n{printed()}\n```\n"
    replaced, count = re.subn(f"({BEGIN}).*?({END})", lambda match: match[1] + table + match[2], text, flags=re.DOTALL)
    assert count == 1, "the README has lost the marks around its table"
    readme.write_text(replaced, encoding="utf-8")


if __name__ == "__main__":
    main()
