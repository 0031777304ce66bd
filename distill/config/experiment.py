"""A whole experiment: one section a stage."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from distill.config.benchmark import Benchmark
from distill.config.data import Data
from distill.config.export import Export
from distill.config.run import Run, Spec
from distill.config.scores import Scores
from distill.config.student import Control, Fit, Loss
from distill.config.teacher import Teacher
from distill.config.tune import Tune
from distill.config.user_side import Head, UserSide


@dataclass(frozen=True)
class Config:
    """A whole experiment. See docs/configuration.md for every key."""

    run: Run = field(default_factory=Run)
    seed: int = 0
    data: Data = field(default_factory=Data)
    teacher: Teacher = field(default_factory=Teacher)
    scores: Scores = field(default_factory=Scores)
    student: Spec = field(default_factory=lambda: Spec("hybrid_cf"))
    control_student: Spec = field(default_factory=lambda: Spec(""))
    user_side: UserSide = field(default_factory=UserSide)
    heads: dict[str, Head] = field(default_factory=dict)
    losses: list[Loss] = field(default_factory=lambda: [Loss("cross_entropy")])
    control_losses: list[Loss] = field(default_factory=lambda: [Loss("cross_entropy")])
    fit: Fit = field(default_factory=Fit)
    control_fit: Fit = field(default_factory=Fit)
    control: Control = ""
    tune: Tune = field(default_factory=Tune)
    export: Export = field(default_factory=Export)
    benchmark: Benchmark = field(default_factory=Benchmark)
    source: str = ""
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run's folder, which holds one folder a stage."""
        return Path(self.run.folder) / self.run.name

    def command(self, stage: str) -> str:
        """The command line that runs a stage with these settings."""
        return shlex.join(["distill", stage, self.source or "CONFIG", *self.overrides])
