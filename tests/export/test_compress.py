import csv
import dataclasses
import json

import pytest
import yaml
from export_samples import make_run

from distill.compress import at_width, compress_command, numbers
from distill.errors import UserError
from distill.export.search import Candidate, beats, front, pick

ONE = Candidate("int8", 32, 1000, 0.05, 0.20, 0.10, 0.99, 0.98, 0.0, 0.97)


def other(**changes):
    return dataclasses.replace(ONE, **changes)


def test_the_front_holds_what_nothing_beats():
    smaller_and_worse = other(word="int4", bytes=500, ndcg=0.19)
    larger_and_worse = other(word="pq", bytes=2000, ndcg=0.19)
    larger_with_a_better_tail = other(word="fp16", bytes=2000, tail_ndcg=0.12)
    found = front([ONE, larger_and_worse, larger_with_a_better_tail, smaller_and_worse])
    assert [c.word for c in found] == ["int4", "int8", "fp16"]
    assert beats(ONE, larger_and_worse) and not beats(ONE, ONE)


def test_a_clearly_faster_file_is_on_the_front_and_a_little_faster_one_is_not():
    assert front([ONE, other(word="a", bytes=2000, p50=0.01)])[1].word == "a"
    assert len(front([ONE, other(word="a", bytes=2000, p50=0.048)])) == 1


def test_the_pick_is_the_smallest_that_keeps_enough_within_the_budget():
    small = other(word="int4", bytes=500, retention=0.95)
    lucky = other(word="pq", bytes=400, tail_retention=0.5)
    assert pick([ONE, small, lucky], 1500, 0.98, 0.9) == ONE
    assert pick([ONE, small, lucky], 1500, 0.9, 0.9) == small
    assert pick([ONE, small, lucky], 450, 0.9, 0.9) is None
    assert pick([dataclasses.replace(lucky, tail_noise=0.6)], 450, 0.9, 0.9) is not None


def test_words_and_widths():
    assert at_width("int8", 16) == "int8@16" and at_width("int8+static", 16) == "int8@16+static"
    assert numbers("64, 16,16") == [16, 64]
    for wrong in ("a,b", "0,4", ","):
        with pytest.raises(UserError, match="--dims is"):
            numbers(wrong)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A run, its YAML, and the folder of a finished search."""
    folder = tmp_path_factory.mktemp("runs")
    config = make_run(folder)
    path = folder / "sample.yaml"
    text = {"run": {"name": "sample", "folder": str(folder)}, "data": {"path": "demo"}, "fit": {"max_length": 6}}
    path.write_text(yaml.safe_dump(text))
    arguments = [str(path), "--variants", "fp32,int8,int4", "--dims", "16,32", "--min-retention", "0.9"]
    assert compress_command([*arguments, "--budget-mb", "0.1"]) == 0
    return arguments, config.folder / "compress"


def test_the_search_writes_its_results(searched):
    _, folder = searched
    about = json.loads((folder / "compress.json").read_text())
    rows = {row["word"]: row for row in about["candidates"]}
    assert set(rows) == {"fp32", "fp32@16", "int8", "int8@16", "int4", "int4@16"}
    picked = [row for row in rows.values() if row["picked"]]
    assert len(picked) == 1 and picked[0]["bytes"] <= 100_000 and picked[0]["retention"] >= 0.9
    assert rows["fp32"]["retention"] == 1 and rows["fp32"]["overlap"] == 1
    assert min(rows.values(), key=lambda row: row["bytes"])["front"]  # whatever the clock says of the others
    assert rows["int8@16"]["bytes"] < rows["int8"]["bytes"]
    assert rows["int4"]["bytes"] < rows["int8"]["bytes"] < rows["fp32"]["bytes"]
    assert all(row["p50"] > 0 for row in rows.values())
    with (folder / "compress.csv").open() as file:
        assert [row["word"] for row in csv.DictReader(file)] == [row["word"] for row in about["candidates"]]


def test_a_second_search_measures_only_what_is_new(searched, capsys):
    arguments, folder = searched
    before = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.onnx")}
    assert compress_command([*arguments[:2], "fp32,int8,int4,fp16", *arguments[3:], "--budget-mb", "0.0001"]) == 1
    shown = capsys.readouterr().out
    assert "No candidate has" in shown and ": fp16 of 32" in shown and ": int8 of 32" not in shown
    after = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.onnx")}
    assert {name: after[name] for name in before} == before and len(after) == len(before) + 2


def test_wrong_words_are_found_before_the_work(searched):
    arguments, _ = searched
    with pytest.raises(UserError, match="is no variant"):
        compress_command([*arguments[:2], "int8,in4"])
    with pytest.raises(UserError, match="--dims holds 64, but the student has 32"):
        compress_command([arguments[0], "--dims", "64"])
