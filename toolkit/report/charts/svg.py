"""A chart as an inline SVG of flexible size, with the colors and the font of the page, a title and a description."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from toolkit.report.charts import drawing
from toolkit.report.charts.drawing import Chart, style

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# Colors of the drawings, with the variable of the page that replaces each.
COLORS = {
    drawing.INK: "ink",
    drawing.MUTED: "muted",
    drawing.FAINT: "faint",
    drawing.BASE: "base",
    drawing.SERIES: "series",
    drawing.GOOD: "good",
    drawing.BAD: "bad",
    **{color: f"precision-{number}" for number, color in enumerate(drawing.PRECISIONS)},
}
_REFERENCE = re.compile(r"(?<=url\(#)|(?<=^#)")


def inline_svg(chart: Chart) -> str:
    """Return the figure of a chart as an `<svg>` element with ids that are unique on the page."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(_drawn(chart.figure))
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    _prefix_ids(root, f"{_identifier(chart.name)}-")
    _describe(root, chart)
    return _with_variables(ElementTree.tostring(root, encoding="unicode"))


def _drawn(figure: Figure) -> bytes:
    file = io.BytesIO()
    with style(), matplotlib.rc_context({"svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()


def _prefix_ids(root: ElementTree.Element, prefix: str) -> None:
    for element in root.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, prefix + value)
            elif "#" in value:
                element.set(name, _REFERENCE.sub(prefix, value))


def _describe(root: ElementTree.Element, chart: Chart) -> None:
    """Add a role, a title and a description for screen readers."""
    identifier = _identifier(chart.name)
    for attribute in ("width", "height"):
        root.attrib.pop(attribute, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{identifier}-title {identifier}-text")
    for place, (tag, text) in enumerate((("title", chart.title), ("desc", chart.text))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{identifier}-{'text' if place else 'title'}"})
        element.text = text
        root.insert(place, element)


def _with_variables(svg: str) -> str:
    for color, variable in COLORS.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg.replace("'DejaVu Sans', sans-serif", "system-ui, sans-serif")


def _identifier(name: str) -> str:
    """Return an id that differs for different names."""
    return "chart-" + re.sub(r"[^A-Za-z0-9-]", lambda match: f"_{ord(match[0]):x}_", name)
