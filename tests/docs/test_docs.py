"""README and docs say what is: commands parse, code runs, links lead somewhere, every file is named."""

import importlib
import re
import sys

import numpy as np
import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from markdown_pages import PAGES, ROOT, anchors, blocks, commands, links

from distill import cli
from distill.config import from_tree, load
from distill.runs import write_json

sys.path[:0] = [str(ROOT / "tests" / "export"), str(ROOT / "tests" / "benchmarks")]
PACKAGES = ("distill", "teachers", "students", "benchmarks", "scripts")
COMMANDS = [pytest.param(words, id=f"{place} {' '.join(words)}") for page in PAGES for place, words in commands(page)]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def check_experiment(words):
    """Config and overrides are those of a real experiment."""
    load(words[0], [word for word in words[1:] if "=" in word])
    assert all("=" in word for word in words[1:])


def check_distill(words):
    if words[0] in cli.OTHERS:
        module = importlib.import_module(cli.OTHERS[words[0]][0].partition(":")[0])
        chosen = module.make_parser().parse_known_args(words[1:])
        extra = [word for word in chosen[1] if "=" not in word]  # overrides may stand after options
        assert not extra, f"distill {words[0]} has no {extra}"
        if hasattr(chosen[0], "config"):
            load(chosen[0].config, [word for word in words[1:] if re.match(r"[a-z_.]+=", word)])
    else:
        chosen = cli.make_parser().parse_args(words)
        load(getattr(chosen, "config", cli.QUICKSTART), chosen.overrides)


def check_launch(words):
    assert words[0] == "launch"
    script = next(place for place, word in enumerate(words) if word.endswith(".py"))
    options = dict(zip(words[1:script:2], words[2:script:2], strict=True))
    assert set(options) <= set(launch_command_parser()._option_string_actions)
    launch = yaml.safe_load((ROOT / options["--config_file"]).read_text())
    assert "distributed_type" in launch
    assert "stage_main" in (ROOT / words[script]).read_text()
    check_experiment(words[script + 1 :])


def check_make(words):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert words and set(words) <= set(targets)


def check_python(words):
    assert words[:2] == ["-m", "pytest"]
    for word in words[2:]:
        assert not word.startswith("tests") or (ROOT / word).exists()


CHECKS = {
    "distill": check_distill,
    "accelerate": check_launch,
    "make": check_make,
    ".venv/bin/python": check_python,
}


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert words[0] in CHECKS, f"'{words[0]}' isn't known here; mark its block ```bash no-test"
    CHECKS[words[0]](words[1:])


def test_commands_are_found():
    found = {words[1] for page in PAGES for _, words in commands(page) if words[0] == "distill"}
    assert {"prepare", "run", "recommend", "evaluate", "doctor"} <= found


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """The folder that the pages talk about: my_folder with raw files, and finished runs."""
    from export_samples import make_run
    from sample_report import sample_report

    from distill.export_student import main

    place = tmp_path_factory.mktemp("workplace")
    write_raw_files(place / "my_folder")
    config = make_run(place)
    main(config)
    (place / "runs" / "films" / "report").mkdir(parents=True)
    config.folder.rename(place / "runs" / "quickstart")
    write_json(place / "runs" / "films" / "report" / "report.json", sample_report())
    return place


def write_raw_files(folder, users=30, items=40, events=10):
    folder.mkdir()
    rng = np.random.default_rng(0)
    titles = [f"{i},Film {i} ({1960 + i}),{('Drama', 'Comedy', 'Western')[i % 3]}" for i in range(items)]
    rows = [
        f"{user},{item},{1_260_759_000 + 60 * when}"
        for user in range(users)
        for when, item in enumerate(rng.choice(items, events, replace=False))
    ]
    (folder / "items.csv").write_text("\n".join(["item_id,title,genres", *titles, ""]))
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows, ""]))


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_code_runs(page, workplace, monkeypatch):
    """Modules first, then YAML (it may name them), then all other Python blocks in order."""
    python = [block for block in blocks(page, "python") if block.tested]
    modules = [block.file for block in python if block.file]
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(workplace))
    for block in python:
        if block.file:
            (workplace / block.file).write_text(block.text)
    importlib.invalidate_caches()
    try:
        for module in modules:
            importlib.import_module(module.removesuffix(".py"))
        for block in blocks(page, "yaml"):
            if block.tested:
                from_tree(yaml.safe_load(block.text), source=block.place)
        for block in python:
            if not block.file:
                exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})
    finally:
        for module in modules:
            sys.modules.pop(module.removesuffix(".py"), None)


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: there is no {link}"
        assert path.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(path), f"{page.name}: {target or page.name} has no heading '{anchor}'"


def tree_paths():
    """Paths of the README's tree, folders with a slash at their end."""
    text = re.search(r"<!-- tree:start -->(.*)<!-- tree:end -->", (ROOT / "README.md").read_text(), re.S)
    assert text, "README.md has no tree between its marks"
    folders, found = {}, []
    for line in filter(str.strip, text[1].splitlines()):
        depth = (len(line) - len(line.lstrip())) // 2 - 2
        name, words = line.split(maxsplit=1)
        assert words, f"{name} has no words in the README's tree"
        path = "".join(folders[level] for level in range(depth)) + name
        folders[depth] = name
        found.append(path)
    return found


def test_readme_tree_is_complete():
    listed = tree_paths()
    assert len(listed) == len(set(listed))
    files = {path for path in listed if path.endswith(".py")}
    real = {str(path.relative_to(ROOT)) for room in PACKAGES for path in (ROOT / room).rglob("*.py")}
    assert files == real
    for path in listed:
        assert (ROOT / path).exists(), f"the README's tree names {path}, which isn't there"


def test_docs_index_is_complete():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(links(ROOT / "docs" / "README.md"))


@pytest.mark.parametrize("config", CONFIGS, ids=names(CONFIGS))
def test_configs_begin_with_their_commands(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    head = []
    for line in config.read_text().splitlines():
        if not line.startswith("#"):
            break
        head.append(line.lstrip("# ").split("   ")[0])
    lines = [line.split() for line in head if line.split()[:1] and line.split()[0] in ("distill", "accelerate", "make")]
    assert lines, f"{config.name} doesn't begin with a comment that holds a command"
    for words in lines:
        CHECKS[words[0]](words[1:])
    assert any(str(config.relative_to(ROOT)) in words or words[0] == "make" for words in lines)


def test_no_machine_paths():
    for page in PAGES:
        found = re.search(r"(?<![\w.])/(work|tmp|root|home)/", page.read_text())
        assert not found, f"{page.name} holds the path {found[0]}"
