"""One YAML an experiment, read into frozen dataclasses: a file a section, `load` for all of them."""

from distill.config.benchmark import Benchmark
from distill.config.data import Columns, Data, Split
from distill.config.experiment import Config
from distill.config.export import Export
from distill.config.load import PROVIDED, apply_override, from_tree, load, parse, to_tree
from distill.config.run import Run, Spec
from distill.config.scores import Scores
from distill.config.student import Fit, Loss
from distill.config.teacher import Fusion, Teacher

__all__ = [
    "PROVIDED",
    "Benchmark",
    "Columns",
    "Config",
    "Data",
    "Export",
    "Fit",
    "Fusion",
    "Loss",
    "Run",
    "Scores",
    "Spec",
    "Split",
    "Teacher",
    "apply_override",
    "from_tree",
    "load",
    "parse",
    "to_tree",
]
