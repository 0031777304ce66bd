"""Which student takes which lever: docs/students.md says what the constructors say."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from student_samples import SMALL, N, vectors

from distill.plugins import resolve
from students.checkpoint import build_student

PAGE = (Path(__file__).parents[2] / "docs/students.md").read_text(encoding="utf-8")
TABLE = re.search(r"\| lever \|.*?\n\n", PAGE, re.DOTALL).group(0).splitlines()
STUDENTS = re.findall(r"`(\w+)`", TABLE[0])
ROWS = {re.search(r"\(`(\w+)`", row).group(1): row for row in TABLE[2:] if re.search(r"\(`(\w+)`", row)}
WORDS = {"on": True, "off": False, "init": "init", "events": "events", "random": "random"}


def defaults(name):
    return {key: p.default for key, p in inspect.signature(resolve("student", name).__init__).parameters.items()}


@pytest.mark.parametrize("setting", ROWS)
def test_the_table_of_levers_has_the_defaults(setting):
    cells = [cell.strip() for cell in ROWS[setting].strip("|").split("|")][1:]
    assert len(cells) == len(STUDENTS)
    for name, cell in zip(STUDENTS, cells, strict=True):
        known = defaults(name)
        if cell in ("–", "always") or cell.startswith("by its"):
            assert setting not in known, f"{name} can take {setting}"
        elif setting == "decays":
            assert list(known[setting]) == [float(x) for x in cell.split(",")]
        elif setting == "cosine":
            word, scale = cell.split(", ")
            assert (known["cosine"], known["scale"]) == (WORDS[word], float(scale))
        elif setting == "buckets":
            assert known[setting] == 0 and cell == "off"
        else:
            assert known[setting] == (WORDS[cell] if cell in WORDS else float(cell))


@pytest.mark.parametrize("name", STUDENTS)
def test_biases_start_at_zero_and_the_scale_is_learned(name):
    student = build_student(name, SMALL, N, vectors(), 0)
    assert not student.item_bias().any() or student.warm is not None
    assert not student.bias.any()
    assert student.log_scale.requires_grad and torch.isclose(student.log_scale.exp(), torch.tensor(16.0))
