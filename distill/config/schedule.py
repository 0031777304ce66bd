"""Numbers that change during training: weights and settings of losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.errors import UserError
from distill.plugins import matches, nearest

SHAPES = ("linear", "cosine", "step")
KEYS = ("start", "stop", "begin", "end", "shape")


@dataclass(frozen=True)
class Schedule:
    """A number that goes from `start` to `stop` between two moments of the training.

    Attributes:
        start, stop: First and last value.
        begin, end: Shares of the training, 0 to 1; before and after them the value stands still.
        shape: "linear"; "cosine" for a soft start and end; "step" jumps half-way.
    """

    start: float
    stop: float
    begin: float = 0.0
    end: float = 1.0
    shape: str = "linear"

    def at(self, progress: float) -> float:
        """The value when a share `progress` of the training is done.

        Example:
            >>> Schedule(start=1.0, stop=0.0, end=0.5).at(0.25)
            0.5
        """
        width = self.end - self.begin
        done = min(1.0, max(0.0, (progress - self.begin) / width)) if width > 0 else float(progress >= self.end)
        if self.shape == "cosine":
            done = 0.5 * (1 - math.cos(math.pi * done))
        elif self.shape == "step":
            done = float(done >= 0.5)
        return self.start + (self.stop - self.start) * done


def is_schedule(value: Any) -> bool:
    """Whether a YAML value is meant as a schedule: a section with 'start' and 'stop'."""
    return isinstance(value, Mapping) and {"start", "stop"} <= set(value)


def read_schedule(value: Any, where: str) -> float | Schedule:
    """A number, or the schedule that a section describes.

    Raises:
        UserError: Neither; an unknown key or shape; moments outside 0 to 1 or in the wrong order.
    """
    if matches(value, float):
        return float(value)
    if not is_schedule(value):
        raise UserError(f"'{where}' is {value!r}, expected a number or a schedule such as {{start: 1, stop: 0.1}}.")
    for key in value:
        if key not in KEYS:
            raise UserError(f"'{where}' is a schedule and has no key '{key}'{nearest(str(key), KEYS)}.")
    wrong = [key for key in KEYS[:4] if key in value and not matches(value[key], float)]
    if wrong:
        raise UserError(f"'{where}.{wrong[0]}' is {value[wrong[0]]!r}, expected a number.")
    schedule = Schedule(**value)
    if schedule.shape not in SHAPES:
        raise UserError(f"'{where}.shape' is {schedule.shape!r}{nearest(str(schedule.shape), SHAPES)}.")
    if not 0 <= schedule.begin <= schedule.end <= 1:
        raise UserError(f"'{where}': expected 0 <= begin <= end <= 1, found {schedule.begin} and {schedule.end}.")
    return schedule


def value_at(value: Any, progress: float) -> Any:
    """A schedule's value at that moment; anything else as it is."""
    return value.at(progress) if isinstance(value, Schedule) else value
