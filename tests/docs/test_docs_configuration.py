"""docs/configuration.md has exactly the keys, types and defaults of the code."""

import dataclasses
import inspect
import re
import types
import typing

import pytest
import yaml
from markdown_pages import ROOT, table_rows

from distill.config import PROVIDED, Config, Fit, Loss, Spec, from_tree, to_tree
from distill.plugins import TABLES, resolve

PAGE = ROOT / "docs" / "configuration.md"
PLAIN = {int: "integer", float: "number", str: "text", bool: "true/false"}
LISTS = {str: "list of texts", float: "list of numbers", int: "list of integers", Loss: "list of losses"}
NOT_SETTABLE = {"source", "overrides"}
KINDS = {"Members": "teacher", "Students": "student", "Losses": "loss", "Paraphrases": "paraphrase"}
PLUGINS = [(kind, name) for kind, table in TABLES.items() for name in table]


def code(cell):
    """The text inside `…`."""
    assert re.fullmatch(r"`[^`]+`", cell), f"{cell} isn't in backticks"
    return cell[1:-1]


def in_words(hint):
    """A type hint as the page says it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" if choice else '`""`' for choice in arguments)
    if origin is types.UnionType:
        return " or ".join("null" if a is type(None) else PLAIN[a] for a in arguments)
    if origin is list:
        return LISTS[arguments[0]]
    return "sections" if origin is dict else "section" if hint is Spec else PLAIN[hint]


def keys(kind, prefix=""):
    """(key, hint, default) of every leaf of a config section."""
    hints, default = typing.get_type_hints(kind), kind()
    for field in dataclasses.fields(kind):
        if not prefix and field.name in NOT_SETTABLE | {"control_fit"}:
            continue
        hint, value = hints[field.name], getattr(default, field.name)
        if dataclasses.is_dataclass(hint) and hint is not Spec:
            yield from keys(hint, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hint, to_tree(value)


def test_every_key_with_its_type_and_default():
    documented = {code(row[0]): row[1:] for row in table_rows(PAGE) if len(row) == 4 and row[0] != "key"}
    control = documented.pop("control_fit")
    assert code(control[0]) == "fit"
    expected = {key: (in_words(hint), default) for key, hint, default in keys(Config)}
    assert list(documented) == list(expected)
    for key, (kind, default) in expected.items():
        shown, words, meaning = documented[key]
        assert yaml.safe_load(code(shown)) == default, key
        assert words == kind, key
        assert meaning.endswith("."), key


def test_control_fit_follows_fit_unless_it_is_given():
    assert from_tree({"fit": {"epochs": 9}}).control_fit.epochs == 9
    assert from_tree({"fit": {"epochs": 9}, "control_fit": {"clip": 2.0}}).control_fit == Fit(clip=2.0)


def plugin_tables():
    """Settings tables under "## Plug-ins", by the kind of their heading and the name that begins the line before."""
    found = {}
    text = PAGE.read_text().partition("## Plug-ins")[2]
    for heading, section in re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", text, re.M | re.S):
        for name, rest in re.findall(r"^`(\w+)`: (.*?)(?=^`\w+`: |\Z)", section, re.M | re.S):
            rows = [line.strip("|").split("|") for line in rest.splitlines() if line.startswith("| `")]
            found[KINDS[heading], name] = {code(row[0].strip()): row[1].strip() for row in rows}
    return found


def test_every_plugin_has_its_section():
    assert set(plugin_tables()) == set(PLUGINS)


@pytest.mark.parametrize(("kind", "name"), PLUGINS)
def test_every_setting_of_a_plugin(kind, name):
    parameters = inspect.signature(resolve(kind, name)).parameters.values()
    expected = {p.name: p.default for p in parameters if p.name not in PROVIDED.get(kind, ())}
    documented = plugin_tables()[kind, name]
    assert list(documented) == list(expected)
    for key, default in expected.items():
        if default is inspect.Parameter.empty:
            assert documented[key] == "needed"
        else:
            assert yaml.safe_load(code(documented[key])) == to_tree(default), key
