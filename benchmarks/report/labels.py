"""Where to write the labels of a chart so that they overlap neither each other nor the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

ANGLES = np.deg2rad(np.arange(0, 360, 22.5))
ROUNDS = 4
# Costs of a place, in pixels of distance that one would rather accept.
OVERLAP, COVERED_POINT, CROSSED_LINE, MISLEADING, OUTSIDE = 60.0, 12.0, 16.0, 60.0, 500.0


def place_labels(
    sizes: Sequence[tuple[float, float]],
    anchors: Sequence[np.ndarray],
    obstacles: np.ndarray,
    bounds: tuple[float, float, float, float],
    anchor_costs: Sequence[np.ndarray] | None = None,
    gaps: Sequence[float] = (6, 14, 24, 36, 52, 70),
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Finds a box for every label near one of its anchors.

    Each label takes the cheapest of its candidate boxes (all anchors × distances × directions), given the others; a few
    rounds are enough for the dozens of labels of a chart.

    Args:
        sizes: Width and height of each label in pixels.
        anchors: For each label the points it may stand at, (A_i, 2) in pixels: one for a marker, many for a line.
        obstacles: Points that shouldn't be covered, (M, 2); a line is given as points about five pixels apart.
        bounds: Left, bottom, right and top that a box may not cross.
        anchor_costs: For each label how bad each anchor is, (A_i,) in pixels of distance; none is better by default.
        gaps: Distances between anchor and box to try.

    Returns:
        For each label its lower left corner (2,) and the anchor (2,) it belongs to.
    """
    # Strokes that lie on each other are no more in the way than one.
    obstacles = 3 * np.unique(np.round(np.asarray(obstacles) / 3), axis=0)
    markers = np.concatenate([np.zeros((0, 2)), *(a for a in anchors if len(a) == 1)])
    costs = anchor_costs or [np.zeros(len(a)) for a in anchors]
    candidates = [_candidates(np.asarray(a, float), s, gaps) for a, s in zip(anchors, sizes, strict=True)]
    fixed = [
        _fixed_cost(boxes, distance, obstacles, bounds)
        + CROSSED_LINE * _crossings(boxes, owner, obstacles)
        + MISLEADING * _nearer_to_another(boxes, owner, distance, markers)
        + np.repeat(cost, len(distance) // len(cost))
        for (boxes, owner, distance), cost in zip(candidates, costs, strict=True)
    ]
    # Labels with the fewest good places choose first.
    order = np.argsort([-np.sort(cost)[:8].mean() for cost in fixed], kind="stable")
    chosen: dict[int, np.ndarray] = {}
    picks = np.zeros(len(sizes), int)
    for _ in range(ROUNDS):
        for i in order:
            others = [box for j, box in chosen.items() if j != i]
            cost = fixed[i] + OVERLAP * sum(
                (_overlap(candidates[i][0], box) for box in others), np.zeros(len(fixed[i]))
            )
            picks[i] = int(np.argmin(cost))
            chosen[i] = candidates[i][0][picks[i]]
    return [(candidates[i][0][pick, :2], candidates[i][1][pick]) for i, pick in enumerate(picks)]


def _candidates(anchors: np.ndarray, size: tuple[float, float], gaps: Sequence[float]) -> tuple[np.ndarray, ...]:
    """Boxes (C, 4) as left, bottom, right, top; their anchors (C, 2); their distances (C,)."""
    half = np.asarray(size) / 2
    direction = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
    reach = np.asarray(gaps, float)[:, None, None] * direction + half * np.clip(direction * 1.4, -1, 1)
    centres = anchors[:, None, None, :] + reach
    owner = np.broadcast_to(anchors[:, None, None, :], centres.shape).reshape(-1, 2)
    distance = np.broadcast_to(np.asarray(gaps, float)[None, :, None], centres.shape[:3]).reshape(-1)
    centres = centres.reshape(-1, 2)
    return np.concatenate([centres - half, centres + half], axis=1), owner, distance


def _fixed_cost(
    boxes: np.ndarray, distance: np.ndarray, obstacles: np.ndarray, bounds: tuple[float, ...]
) -> np.ndarray:
    """Cost of each box by itself, (C,): its distance, the points it covers, and what of it lies outside."""
    padded = boxes + np.array([-3, -2, 3, 2])
    inside = np.ones((len(boxes), len(obstacles)), bool)
    for axis in (0, 1):
        inside &= (obstacles[:, axis] > padded[:, axis, None]) & (obstacles[:, axis] < padded[:, axis + 2, None])
    left, bottom, right, top = bounds
    outside = np.maximum([left, bottom] - boxes[:, :2], 0).sum(1) + np.maximum(boxes[:, 2:] - [right, top], 0).sum(1)
    return distance + COVERED_POINT * inside.sum(1) + OUTSIDE * outside


def _crossings(boxes: np.ndarray, owner: np.ndarray, obstacles: np.ndarray) -> np.ndarray:
    """How often the leader from anchor to box comes upon a line, (C,)."""
    nearest = np.clip(owner, boxes[:, :2], boxes[:, 2:])
    crossed = np.zeros(len(boxes))
    for share in (0.4, 0.6, 0.8):
        place = owner + share * (nearest - owner)
        close = np.ones((len(boxes), len(obstacles)), bool)
        for axis in (0, 1):
            close &= np.abs(place[:, axis, None] - obstacles[:, axis]) < 3
        # Close to its own anchor a leader meets its own line, which doesn't count.
        crossed += close.any(axis=1) & (np.hypot(*(place - owner).T) > 5)
    return crossed


def _nearer_to_another(boxes: np.ndarray, owner: np.ndarray, gap: np.ndarray, markers: np.ndarray) -> np.ndarray:
    """Whether a reader would take a box for the label of another marker (P, 2) than its own, (C,)."""
    if not len(markers):
        return np.zeros(len(boxes), bool)
    nearest = np.clip(markers, boxes[:, None, :2], boxes[:, None, 2:])
    away = np.hypot(*np.moveaxis(nearest - markers, -1, 0))
    away[(owner[:, None] == markers).all(axis=-1)] = np.inf
    return away.min(axis=1) < gap + 4


def _overlap(boxes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how many pixels each box would have to move to clear `other`, (C,)."""
    width = np.minimum(boxes[:, 2], other[2] + 4) - np.maximum(boxes[:, 0], other[0] - 4)
    height = np.minimum(boxes[:, 3], other[3] + 2) - np.maximum(boxes[:, 1], other[1] - 2)
    return np.where((width > 0) & (height > 0), np.minimum(width, height), 0.0)
