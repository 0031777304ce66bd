"""A grid for `distill ablate`: which students, objectives and controls are compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distill.config.student import Loss


@dataclass(frozen=True)
class GridStudent:
    """One student of a grid.

    Attributes:
        name: Plug-in; empty for the experiment's own student.
        arguments: Its settings. Without a name they are laid over the experiment's.
        fit, control_fit: Settings laid over the experiment's.
    """

    name: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    control_fit: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """One row of a grid: losses, and settings of the training laid over the experiment's."""

    losses: list[Loss] = field(default_factory=list)
    fit: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """Students x (objectives + controls) x seeds.

    Attributes:
        students: By a name of your own.
        objectives: By a name of your own; `default` stands for the experiment's own losses.
        controls: Words of `control`.
        seeds: Seeds of each cell.
        jobs: Cells trained at once; 0 for one a core.
        minutes: After so long no further cell is started; 0 for no limit. All cells of the first seed come first.
    """

    students: dict[str, GridStudent] = field(default_factory=dict)
    objectives: dict[str, Objective] = field(default_factory=dict)
    controls: list[str] = field(default_factory=list)
    seeds: int = 3
    jobs: int = 0
    minutes: float = 0.0
