"""Lines and direct labels on a chart: what the charts of plots.py have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import IdentityTransform

from benchmarks.report.labels import place_labels
from benchmarks.report.shape import printable
from benchmarks.report.style import INK, MUTED, mark


@dataclass(frozen=True)
class Line:
    """A named curve: x and y, each (P,)."""

    label: str
    role: str
    x: np.ndarray
    y: np.ndarray


Stroke = tuple[tuple[float, float], tuple[float, float]]  # x and y of both ends, in data units


def draw_lines(figure: Figure, axes: Axes, lines: Sequence[Line], guides: Sequence[Stroke] = ()) -> None:
    """Draws the curves and writes each one's name beside it, where it is far from the others and from the guides."""
    for line in lines:
        look = mark(line.role)
        axes.plot(line.x, line.y, color=look.colour, linestyle=look.dashes, linewidth=2)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # settles the limits: labels are placed in pixels
    paths = [_path(axes, line) for line in lines]
    anchors = [path[8:192:6] for path in paths]
    # A label is clearest where its own curve is far from the others.
    crowding = [
        sum((np.clip(40 - _distance(own, other), 0, None) for other in paths if other is not path), np.zeros(len(own)))
        for own, path in zip(anchors, paths, strict=True)
    ]
    obstacles = np.concatenate([*(path[::2] for path in paths), *(along(axes, *guide) for guide in guides)])
    colours = [mark(line.role).colour for line in lines]
    write_labels(figure, axes, [line.label for line in lines], anchors, obstacles, crowding, colours)


def write_labels(
    figure: Figure,
    axes: Axes,
    names: Sequence[str],
    anchors: Sequence[np.ndarray],
    obstacles: np.ndarray,
    anchor_costs: Sequence[np.ndarray] | None = None,
    colours: Sequence[str] = (),
) -> None:
    """Writes each name beside its anchor, with a thin leader where it had to go further away.

    With `colours`, those of the curves, every label has a leader in its colour that ends in a dot on its curve.
    """
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    pixels = IdentityTransform()
    style: dict[str, Any] = {
        "transform": pixels,
        "fontsize": 12,
        "color": INK,
        "va": "bottom",
        "ha": "left",
        "zorder": 5,
    }
    texts = [axes.text(0, 0, shorten(name), **style) for name in names]
    extents = [text.get_window_extent(renderer) for text in texts]
    sizes = [(extent.width, extent.height) for extent in extents]
    frame = axes.get_window_extent(renderer)
    bounds = (frame.x0 + 2, frame.y0 + 2, figure.bbox.x1 - 2, frame.y1 - 1)
    places = place_labels(sizes, anchors, obstacles, bounds, anchor_costs)
    inks = colours or [MUTED] * len(names)
    for text, extent, (corner, anchor), ink in zip(texts, extents, places, inks, strict=True):
        # The extent starts below the given position by the depth of letters such as g.
        text.set_position((corner[0] - extent.x0, corner[1] - extent.y0))
        nearest = np.clip(anchor, corner, corner + np.array([extent.width, extent.height]))
        if colours or np.hypot(*(nearest - anchor)) > 11:
            axes.plot(*np.stack([anchor, nearest]).T, color=ink, linewidth=0.8, transform=pixels, zorder=2)
        if colours:
            axes.plot(*anchor[:, None], "o", color=ink, markersize=4.5, transform=pixels, zorder=4)


def shorten(name: str, longest: int = 40) -> str:
    """A label that fits into a chart; the tables have the whole name."""
    text = " ".join(printable(name).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def merge(names: Sequence[str], places: np.ndarray, reach: float = 5.0) -> tuple[list[str], np.ndarray]:
    """Gives markers that lie on each other one common label.

    Args:
        names: Label of each marker.
        places: Where they are in pixels, (P, 2).
        reach: Markers nearer than this are taken for one.

    Returns:
        The labels that remain, each with the names of a group, and the first place of each group, (G, 2).
    """
    groups: list[list[int]] = []
    for i, place in enumerate(places):
        near = [group for group in groups if np.hypot(*(places[group[0]] - place)) < reach]
        if near:
            near[0].append(i)
        else:
            groups.append([i])
    return [" / ".join(names[i] for i in group) for group in groups], places[[group[0] for group in groups]]


def along(axes: Axes, x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
    """Points every five pixels on a straight stroke, in pixels, (P, 2)."""
    start, end = axes.transData.transform(np.column_stack([x, y]))
    return np.linspace(start, end, 2 + int(np.hypot(*(end - start)) / 5))


def _path(axes: Axes, line: Line) -> np.ndarray:
    """A curve as 200 points in pixels, (200, 2)."""
    grid = np.linspace(line.x[0], line.x[-1], 200)
    return axes.transData.transform(np.column_stack([grid, np.interp(grid, line.x, line.y)]))


def _distance(points: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Distance of each point (P, 2) from the nearest point of a path (Q, 2), (P,)."""
    return np.sqrt(((points[:, None] - path[None]) ** 2).sum(-1)).min(1)
