"""Names to objects: every short name resolves, and YAML values are matched against type hints."""

import inspect
from typing import Any, Literal

import pytest

from distill.config import PROVIDED
from distill.errors import UserError
from distill.plugins import TABLES, check_arguments, describe, matches, nearest, resolve

NAMES = [(kind, name) for kind, table in TABLES.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_short_name_resolves_and_says_what_it_is(kind, name):
    target = resolve(kind, name)
    assert callable(target) and inspect.getdoc(target)
    hidden = {**PROVIDED, "teacher": ()}[kind]
    settings = [p for p in inspect.signature(target).parameters.values() if p.name not in hidden]
    assert all(p.annotation is not p.empty for p in settings), "an argument without a type can't be checked"
    for setting in settings:
        if setting.default is not setting.empty:
            check_arguments(kind, name, {**required(kind, name), setting.name: listed(setting.default)}, hidden)


def required(kind, name):
    needed = {"text_space": {"vectors": "tower"}, "back_translation": {"there": "en-fr", "back": "fr-en"}}
    return needed.get(name, {})


def listed(value):
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        ("a", str, True),
        (1, str, False),
        (True, bool, True),
        (1, bool, False),
        (None, float | None, True),
        (2, float | None, True),
        ("x", float | None, False),
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        (1, list[int], False),
        ([1.5], tuple[float, ...], True),
        ([1, 2], list[float] | tuple[float, ...], True),
        ([], list[str], True),
        ({"a": 1}, dict[str, int], True),
        ("b", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        (object(), Any, True),
    ],
)
def test_matches(value, hint, fits):
    assert matches(value, hint) is fits


def test_describe():
    assert describe(int) == "int"
    assert describe(list[float]) == "list[float]"
    assert describe(Literal["a", "b"]) == "one of 'a', 'b'"
    assert describe(float | None) == "float | None"


def test_nearest_names_the_closest_or_all():
    assert nearest("epoch", ["epochs", "seed"]) == " (did you mean 'epochs'?)"
    assert nearest("zzz", ["b", "a"]) == " (known: a, b)"


def test_a_plugin_whose_own_import_is_missing(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import surely_not_installed\nclass A: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="needs the package 'surely_not_installed', which is not installed"):
        resolve("student", "needs_more:A")


def test_a_fault_inside_a_plugin_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text("import math\nmath.no_such_function()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AttributeError, match="no_such_function"):
        resolve("student", "faulty:A")
