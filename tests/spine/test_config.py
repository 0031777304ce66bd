"""Configuration: bundled files, overrides, strict keys and types, plug-in arguments, round trips."""

import re
from pathlib import Path

import pytest

from distill.config import Fit, Loss, Spec, apply_override, from_tree, load, to_tree
from distill.errors import UserError

ROOT = Path(__file__).parents[2]
BUNDLED = sorted((ROOT / "configs").glob("*.yaml"))
PLUGINS = """
class Student:
    def __init__(self, n_items: int, item_vectors, width: int = 8, *, slope: float = 1.0):
        self.width = width


class Loose:
    def __init__(self, n_items, item_vectors=None, **anything):
        pass


class Needy:
    def __init__(self, n_items: int, item_vectors, depth: int):
        pass


def loss(scores, target, margin: float = 0.5):
    return scores.sum() * margin
"""


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """A module of the user's own, on the path."""
    (tmp_path / "my_plugins.py").write_text(PLUGINS)
    monkeypatch.syspath_prepend(tmp_path)


def write(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", BUNDLED, ids=lambda p: p.name)
def test_bundled_configs_load_and_begin_with_their_command(path):
    config = load(path)
    assert config.source == str(path)
    assert config.teacher.members
    comment = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        comment.append(line)
    assert any(f"distill run configs/{path.name}" in line for line in comment)


def test_there_are_bundled_configs():
    assert {"quickstart.yaml", "tiny.yaml"} <= {p.name for p in BUNDLED}


def test_commands_in_the_comments_name_files_that_exist():
    for path in BUNDLED:
        comments = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
        for name in re.findall(r"(?:configs|distill)/[\w/]+\.(?:yaml|py)", comments):
            assert (ROOT / name).is_file(), f"{path.name} names {name}"


def test_overrides_reach_nested_keys_lists_and_plugins(tmp_path):
    path = write(
        tmp_path,
        "teacher: {members: {ease: {name: ease, l2: 100}}}\n"
        "losses: [{name: cross_entropy}, {name: listwise_kl, weight: 0.5}]\n"
        "data:\n",
    )
    overrides = [
        "fit.epochs=9",
        "data.split.ratios=[0.8, 0.1, 0.1]",
        "teacher.members.ease.l2=7",
        "losses.1.weight=2",
        "losses.1.rest=0.1",
        "scores.singles=false",
        "data.min_rating=",
        "run.name=007",
        "run.name='007'",
        "fit.learning_rate=1e-4",
    ]
    config = load(path, overrides)
    assert config.fit.epochs == 9
    assert config.data.split.ratios == [0.8, 0.1, 0.1]
    assert config.teacher.members["ease"] == Spec("ease", {"l2": 7})
    assert config.losses[1] == Loss("listwise_kl", 2, {"rest": 0.1})
    assert config.scores.singles is False
    assert config.data.min_rating is None
    assert config.run.name == "007"
    assert config.fit.learning_rate == 1e-4
    assert config.overrides == tuple(overrides)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "0.001", "+1e-3", "10e-4"])
def test_numbers_with_an_exponent_are_numbers(tmp_path, text):
    assert load(write(tmp_path, f"fit: {{learning_rate: {text}}}")).fit.learning_rate == 0.001


def test_text_that_only_looks_like_an_exponent_stays_text(tmp_path):
    assert load(write(tmp_path, "run: {name: e5}\ndata: {path: 3e5a}")).data.path == "3e5a"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.epochs", "not of the form section.key=value"),
        ("=3", "not of the form section.key=value"),
        ("seed.deeper=1", "'seed' is a value, not a section"),
        ("losses.5.weight=1", "'5' is no place in a list of 1; expected 0 to 0"),
        ("losses.first.weight=1", "'first' is no place in a list of 1"),
        ("losses.-1=1", "'-1' is no place in a list of 1"),
        ("fit.epochs=[1", "not valid YAML"),
        ("fit.epoch=2", r"Unknown key 'fit.epoch' \(did you mean 'epochs'\?\)"),
        ("fits.epochs=2", r"Unknown key 'fits' \(did you mean 'fit'\?\)"),
        ("source=elsewhere", "Unknown key 'source'"),
    ],
)
def test_wrong_overrides_say_what_is_wrong(tmp_path, override, message):
    path = write(tmp_path, "seed: 1\nlosses: [{name: cross_entropy}]")
    with pytest.raises(UserError, match=message):
        load(path, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fit: {epochs: many}", "'fit.epochs' is 'many', expected int"),
        ("fit: {epochs: 1.5}", "'fit.epochs' is 1.5, expected int"),
        ("fit: {epochs: true}", "'fit.epochs' is True, expected int"),
        ("fit: {precision: fp16}", "'fit.precision' is 'fp16', expected one of 'fp32', 'bf16'"),
        ("fit: 3", "'fit' is 3, expected a section with keys"),
        ("export: {variants: [fp32, 8]}", r"'export.variants' is \['fp32', 8\], expected list\[str\]"),
        ("data: {min_rating: high}", "'data.min_rating' is 'high', expected float | None"),
        ("losses: {name: cross_entropy}", "expected a list of losses"),
        ("losses: [cross_entropy]", "'losses.0' is 'cross_entropy', expected a section"),
        ("losses: [{weight: 1}]", "'losses.0' needs a 'name'"),
        ("losses: [{name: cross_entropy, weight: x}]", "'losses.0.weight' is 'x', expected a number"),
        ("teacher: {members: [ease]}", "expected sections, each with a name"),
        ("teacher: {members: {../up: {name: ease}}}", "'../up' can't name a folder"),
        ("teacher: {members: {1: {name: ease}}}", "'1' can't name a folder"),
        ("data: {split: {ratios: [0.5, 0.1, 0.1]}}", "expected three shares"),
        ("scores: {temperatures: [2.0]}", "expected 1.0 among them"),
        ("- a\n- b", "expected sections such as 'data:'"),
        ("a: [", "not valid YAML"),
    ],
)
def test_wrong_values_name_place_and_expectation(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("student: {name: hybrid}", r"Unknown student 'hybrid' \(did you mean 'hybrid_cf'\?\)"),
        ("student: {name: hybrid_cf, dims: 3}", r"has no setting 'dims' \(did you mean 'dim'\?\)"),
        ("student: {name: hybrid_cf, dim: wide}", "'dim' is 'wide', expected int"),
        ("student: {name: hybrid_cf, n_items: 3}", "'n_items' is supplied by the program"),
        (
            "teacher: {members: {a: {name: eese}}}",
            r"teacher.members.a: Unknown teacher 'eese' \(did you mean 'ease'\?\)",
        ),
        (
            "teacher: {members: {a: {name: ease, l3: 1}}}",
            r"teacher.members.a: .* no setting 'l3' \(did you mean 'l2'\?\)",
        ),
        ("teacher: {members: {a: {name: popularity, args: 1}}}", r"no setting 'args' \(it has none\)"),
        ("teacher: {members: {a: {name: text_space}}}", r"needs the setting\(s\) vectors"),
        ("losses: [{name: cross_entropie}]", r"Unknown loss 'cross_entropie' \(did you mean 'cross_entropy'\?\)"),
        ("losses: [{name: listwise_kl, sharpenning: 1}]", r"did you mean 'sharpening'\?"),
        ("control_losses: [{name: listwise_kl, rest: some}]", "'rest' is 'some', expected float"),
    ],
)
def test_plugin_names_and_arguments_are_checked_at_once(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, text))


def test_a_users_own_classes_by_dotted_path(tmp_path, plugins):
    config = load(
        write(
            tmp_path,
            "student: {name: 'my_plugins:Student', width: 4, slope: 2}\nlosses: [{name: 'my_plugins:loss', margin: 1}]",
        )
    )
    assert config.student == Spec("my_plugins:Student", {"width": 4, "slope": 2})
    assert load(write(tmp_path, "student: {name: 'my_plugins:Loose', whatever: 1}")).student.arguments == {
        "whatever": 1
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_plugins:Studend", r"has no 'Studend' \(did you mean 'Student'\?\)"),
        ("my_plugin:Student", "no module 'my_plugin'. Is it installed or on PYTHONPATH"),
        ("my_plugins:Needy", r"needs the setting\(s\) depth"),
        ("my_plugins:", "no place to import from"),
        (":Student", "no place to import from"),
        (".my_plugins:Student", "no place to import from"),
        ("my_plugins:Student, wide: 2", "no setting 'wide'"),
    ],
)
def test_wrong_dotted_paths(tmp_path, plugins, name, message):
    head, _, rest = name.partition(",")
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, f"student: {{name: '{head}'{',' + rest if rest else ''}}}"))


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(UserError, match="no config file"):
        load(tmp_path / "absent.yaml")
    (tmp_path / "x.yaml").write_bytes(b"run: \xff\xfe")
    with pytest.raises(UserError, match="not valid YAML"):
        load(tmp_path / "x.yaml")


@pytest.mark.parametrize("path", BUNDLED, ids=lambda p: p.name)
def test_tree_round_trip(path):
    config = load(path)
    tree = to_tree(config)
    assert tree.pop("source") == str(path)
    assert tree.pop("overrides") == []
    again = from_tree(tree, source=str(path))
    assert again == config
    assert to_tree(again) == {**tree, "source": str(path), "overrides": []}


def test_the_control_trains_like_the_student_unless_it_has_a_section():
    assert from_tree({"fit": {"epochs": 3}}).control_fit == Fit(epochs=3)
    assert from_tree({"fit": {"epochs": 3}, "control_fit": {"epochs": 1}}).control_fit == Fit(epochs=1)


def test_overrides_make_the_sections_they_need():
    tree = {}
    apply_override(tree, "a.b.c=[1, two]")
    assert tree == {"a": {"b": {"c": [1, "two"]}}}
