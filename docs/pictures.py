"""Follows the tutorial from beginning to end; puts the charts of its report, and what its commands print, into it.

    python docs/pictures.py

takes a minute or two. Times are measured: run it where nothing else runs.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks as small as this one gain nothing from more threads
os.environ["COLUMNS"] = "80"

from examples import BLOCK, follow

DOCS = Path(__file__).parent
TUTORIAL, PICTURES = DOCS / "tutorial.md", DOCS / "pictures"
# The charts that the tutorial shows, by their titles on the page.
SHOWN = {
    "Accuracy": "accuracy",
    "Size": "size",
    "Zeros by layer": "zeros",
    "Precision and bytes by layer": "bytes",
    "1 distillation": "learning-curve",
}


def main() -> None:
    """Write the pictures and the tutorial anew."""
    page = TUTORIAL.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TOOLKIT_CACHE"] = f"{folder}/cache"
        printed = [output for _, output in follow(page, Path(folder))]
        report = (Path(folder) / "runs" / "shapes" / "report.html").read_text(encoding="utf-8")
    TUTORIAL.write_text(with_outputs(page, printed), encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    for name, svg in pictures_of(report).items():
        (PICTURES / f"{name}.svg").write_text(svg, encoding="utf-8")


def with_outputs(page: str, printed: list[str]) -> str:
    """The page with what each block of commands prints in the `text` block right below it."""
    outputs = iter(["", *printed])

    def replaced(found: re.Match[str]) -> str:
        before = next(outputs)
        return f"```text\n{shortened(before)}\n```" if found[1] == "text" and before else found[0]

    return BLOCK.sub(replaced, page)


def shortened(output: str) -> str:
    """What a run prints without the notes of its techniques, and a comparison without what has no interval."""
    rest = r"(^\d+ [\w-]+: [\w-]+\.\w+$|^Other numbers without an interval$)|\Z"
    kept, notes, _ = re.split(rest, output, maxsplit=1, flags=re.MULTILINE)
    return f"{kept.rstrip()}\n…" if notes else kept.rstrip()


def pictures_of(report: str) -> dict[str, str]:
    """The charts of a page as files of their own, by name, in the colors that the page gives them in light."""
    colors = re.search(r":root\s*{[^}]*}", report)
    assert colors is not None
    style = f"<style>{colors[0]} svg {{ background: white }}</style>"
    charts = re.findall(r"<svg\b.*?</svg>", report, flags=re.DOTALL)
    return {
        name: re.sub(r"(<svg\b[^>]*>)", rf"\1{style}", chart, count=1)
        for chart in charts
        if (name := SHOWN.get(_title(chart))) is not None
    }


def _title(chart: str) -> str:
    found = re.search(r"<title\b[^>]*>(.*?)</title>", chart)
    return found[1] if found else ""


if __name__ == "__main__":
    main()
