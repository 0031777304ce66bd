"""Every loss is documented in one form, and the examples in docstrings run."""

import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import distill.objectives
from distill.objectives.popularity import adjust
from distill.objectives.reliability import reliability
from distill.objectives.strata import within_strata
from distill.plugins import TABLES, resolve
from distill.soft import target

MODULES = [name for _, name, _ in pkgutil.iter_modules(distill.objectives.__path__, "distill.objectives.")]
PARTS = ("References", "Requirements", "Inputs", "Relations", "Example")


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_examples_of_the_target_run():
    found = doctest.testmod(target)
    assert found.attempted > 0 and found.failed == 0


@pytest.mark.parametrize("name", TABLES["loss"])
def test_a_loss_is_documented(name):
    loss = resolve("loss", name)
    text = inspect.getdoc(loss)
    for part in PARTS:
        assert re.search(rf"^{part}:$", text, re.M), f"{name} has no section '{part}'"
    assert ">>>" in text
    arguments = inspect.getdoc(loss.__init__) if inspect.isclass(loss) else text
    settings = [p for p in inspect.signature(loss).parameters if p not in ("self", "scores", "target", "knowledge")]
    for setting in settings:
        assert re.search(rf"^ {{4}}(\w+, )*{setting}(, \w+)*: ", arguments, re.M), (
            f"{name}: '{setting}' isn't documented"
        )


@pytest.mark.parametrize("helper", [within_strata, reliability, adjust])
def test_a_helper_has_an_example(helper):
    assert ">>>" in helper.__doc__ and "References" in helper.__doc__
