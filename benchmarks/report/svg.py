"""A Matplotlib figure as a small inline SVG: text stays text, ids stay unique in the page, nothing points outside."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.report.style import GRID, INK, MUTED

SVG = "{http://www.w3.org/2000/svg}"
# 72 dots an inch: points, pixels and SVG units are then the same thing.
DPI = 72
# Text that has to lie on a line stays readable.
HALO = {"paint-order": "stroke", "stroke": "#fff", "stroke-width": "3"}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "taildistill",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": "#b8c0cc",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


@contextmanager
def chart(
    width: int = 400, height: int = 300, margins: tuple[int, int, int, int] = (58, 46, 24, 10)
) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one set of axes in the report's style.

    Args:
        width, height: Size of the drawing in pixels. Small, so that a phone need not shrink the writing much.
        margins: Left, bottom, right and top in pixels. Fixed, so that label places can be computed before drawing.
    """
    left, bottom, right, top = margins
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # A title in a script that the measuring font lacks: the browser has its own fonts, so nothing is wrong.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        FigureCanvasAgg(figure)
        box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
        yield figure, figure.add_axes(box)


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an `<svg>` element for an HTML page.

    Args:
        figure: A finished figure.
        name: Unique in the page; prefix of every id inside.
        description: What the chart shows, for those who can't see it.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    source = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", source))
    for node in root.iter():
        node.tag = node.tag.removeprefix(SVG)
        node.attrib = {key.rpartition("}")[2]: value for key, value in node.attrib.items()}
        _tidy(node, name, used)
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "role": "img", "aria-labelledby": f"{name}-title", "class": "chart"}
    title = ElementTree.Element("title", {"id": f"{name}-title"})
    title.text = description
    root.insert(0, title)
    _drop_empty(root)
    return re.sub(r">\s*\n\s*<", "><", ElementTree.tostring(root, encoding="unicode"))


def _tidy(node: ElementTree.Element, name: str, used: set[str]) -> None:
    """Drops ids that nothing refers to, prefixes the others, rounds coordinates, leaves the font to the page."""
    identity = node.attrib.pop("id", None)
    if identity in used:
        node.set("id", f"{name}-{identity}")
    node.attrib = {key: _tidy_value(key, value, name) for key, value in node.attrib.items()}
    if node.tag == "text":
        node.attrib |= HALO


def _tidy_value(key: str, value: str, name: str) -> str:
    if key == "style":
        value = re.sub(r" ?font-family: [^;]*;?", "", value)
    if key in ("d", "x", "y", "transform", "points"):
        value = re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match.group()):.2f}".rstrip("0").rstrip("."), value)
    if key == "href":
        value = value.replace("#", f"#{name}-")
    return value.replace("url(#", f"url(#{name}-")


def _drop_empty(node: ElementTree.Element) -> None:
    for child in list(node):
        _drop_empty(child)
        if child.tag in ("g", "defs") and len(child) == 0:
            node.remove(child)
