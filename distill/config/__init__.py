"""One YAML an experiment, read into frozen dataclasses: a file a section, `load` for all of them."""

from distill.config.benchmark import Benchmark
from distill.config.data import Bots, Columns, Data, Privacy, Split
from distill.config.experiment import Config
from distill.config.export import Export
from distill.config.grid import Grid, GridStudent
from distill.config.load import (
    CONTROLS,
    PROVIDED,
    apply_override,
    build_section,
    check_loss_settings,
    from_tree,
    load,
    load_grid,
    parse,
    to_tree,
)
from distill.config.run import Run, Spec
from distill.config.schedule import Schedule, value_at
from distill.config.scores import Scores
from distill.config.student import Fit, Loss
from distill.config.teacher import Fusion, Teacher
from distill.config.tune import Tune
from distill.config.user_side import Head, UserSide

__all__ = [
    "CONTROLS",
    "PROVIDED",
    "Benchmark",
    "Bots",
    "Columns",
    "Config",
    "Data",
    "Export",
    "Fit",
    "Fusion",
    "Grid",
    "GridStudent",
    "Head",
    "Loss",
    "Privacy",
    "Run",
    "Schedule",
    "Scores",
    "Spec",
    "Split",
    "Teacher",
    "Tune",
    "UserSide",
    "apply_override",
    "build_section",
    "check_loss_settings",
    "from_tree",
    "load",
    "load_grid",
    "parse",
    "to_tree",
    "value_at",
]
