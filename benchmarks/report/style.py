"""Colours and marks of the roles: the Okabe–Ito palette, told apart by shape as well as by hue."""

from __future__ import annotations

from dataclasses import dataclass

INK = "#1b2430"
MUTED = "#566072"
GRID = "#e3e7ee"
NEUTRAL = "#6b7485"


@dataclass(frozen=True)
class Mark:
    """How a role is drawn: colour, Matplotlib marker, dash pattern of its lines, and whether the marker is hollow."""

    colour: str
    marker: str
    dashes: str | tuple[int, tuple[int, ...]] = "solid"
    hollow: bool = False


MARKS = {
    "teacher": Mark("#D55E00", "D"),
    "student": Mark("#0072B2", "o"),
    "export": Mark("#009E73", "^"),
    "control": Mark("#CC79A7", "o", (0, (5, 2)), hollow=True),
    "baseline": Mark(NEUTRAL, "s", (0, (1, 1))),
}
OTHER = Mark("#000000", "x")

# Stops of the heat maps, light enough for dark text at every step: one hue for values, two around white for
# differences.
HEAT = ((255, 255, 255), (86, 180, 233))
GAIN = ((240, 150, 96), (255, 255, 255), (86, 180, 233))


def mark(role: str) -> Mark:
    """The mark of a role; a role of the user's own gets a black cross."""
    return MARKS.get(role, OTHER)


def blend(stops: tuple[tuple[int, int, int], ...], share: float) -> str:
    """The colour at `share` (0 to 1) of the way through the stops, as #rrggbb."""
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    left = min(int(place), len(stops) - 2)
    mixed = (a + (b - a) * (place - left) for a, b in zip(stops[left], stops[left + 1], strict=True))
    return "#" + "".join(f"{round(c):02x}" for c in mixed)
