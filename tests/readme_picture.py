"""Draws the README's picture of a report from the charts of a real run, for light and dark backgrounds.

python tests/readme_picture.py runs/mnist
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from toolkit.report.charts import drawing
from toolkit.report.reader import read_report

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "report.svg"
# None of them depends on how busy the machine was.
CHARTS = {
    "stages-accuracy": "Errors, with 95 % intervals",
    "stages-bytes": "Size of the file",
    "layers-sparsity": "Zeros in each layer",
    "layers-bytes": "Bytes and precision of each layer",
}
COLUMNS, MARGIN, GAP, TITLE = 2, 18, 26, 26  # all but the first in points
PAPER, DARK_PAPER = "#ffffff", "#14171c"
# The colors of a chart on the dark background, where the browser asks for one.
DARK = {
    drawing.INK: "#e6e9ee",
    drawing.MUTED: "#9aa3b0",
    drawing.FAINT: "#343a44",
    drawing.BASE: "#7d8694",
    drawing.GOOD: "#3fb27c",
    drawing.BAD: "#e5705a",
    drawing.SERIES: "#6ea0ef",
    drawing.PRECISIONS[0]: "#6ea0f0",
    drawing.PRECISIONS[1]: "#d9a24a",
    drawing.PRECISIONS[2]: "#a98be0",
    drawing.PRECISIONS[3]: "#4bb3c2",
    PAPER: DARK_PAPER,
}


def svg_of(name: str, figure: Figure) -> str:
    """A figure as an `<svg>` element in the reader's own font, whose ids no other chart has."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"(?<=\d)pt(?=\")", "", svg)  # the card is measured in points already
    svg = re.sub(r"font-family: 'DejaVu Sans'[^;]*", "font-family: system-ui, sans-serif", svg)
    return re.sub(r'(id="|href="#|url\(#)(?=[\w-])', rf"\g<1>{name}-", re.sub(r"\s*\n\s*", "\n", svg))


def rule(light: str, dark: str) -> str:
    """A style for everything that is filled or drawn in the color `light`."""
    return "".join(f'[style*="{kind}: {light}"]{{{kind}:{dark}!important}}' for kind in ("fill", "stroke"))


def picture(figures: dict[str, Figure], text: str) -> str:
    """The charts of `CHARTS` side by side on a card of their own."""
    sizes = [figures[name].get_size_inches() * 72 for name in CHARTS]
    width = round(sizes[0][0])
    rows = [range(len(sizes))[place : place + COLUMNS] for place in range(0, len(sizes), COLUMNS)]
    heights = [round(max(sizes[place][1] for place in row)) + TITLE + GAP for row in rows]
    total = COLUMNS * width + GAP + 2 * MARGIN, sum(heights) - GAP + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="0 0 {total[0]} {total[1]}" width="{total[0]}" height="{total[1]}" role="img">',
        f"<title>{text}</title>",
        f"<style>@media (prefers-color-scheme: dark){{{''.join(rule(*colors) for colors in DARK.items())}}}</style>",
        f'<rect x="0.5" y="0.5" width="{total[0] - 1}" height="{total[1] - 1}" rx="10"'
        f' style="fill: {PAPER}; stroke: {drawing.FAINT}"/>',
    ]
    for place, (name, title) in enumerate(CHARTS.items()):
        x = MARGIN + place % COLUMNS * (width + GAP)
        y = MARGIN + sum(heights[: place // COLUMNS])
        parts.append(
            f'<text x="{x}" y="{y + 13}" font-family="system-ui, sans-serif" font-size="14" font-weight="600"'
            f' style="fill: {drawing.INK}">{title}</text>'
        )
        parts.append(svg_of(name, figures[name]).replace("<svg", f'<svg x="{x}" y="{y + TITLE}"', 1))
    return "\n".join([*parts, "</svg>\n"])


def main(run: Path) -> None:
    report = read_report(run)
    stages = ", ".join(f"{row.stage} {row['accuracy']:.2%} {row['size_bytes']:,} bytes" for row in report.rows)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(picture(report.plot(), f"The report of {report.name}: {stages}"), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
