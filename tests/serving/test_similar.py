"""`distill similar`: exact neighbours by the exported vectors, from any variant, without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from distill.errors import UserError
from distill.serving.item_vectors import item_vectors
from distill.serving.runtime import read_about
from distill.similar import diversified, neighbours, similar_command, unit_rows
from students.checkpoint import load_student

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_TORCH = """
import sys
from distill.similar import similar_command
code = similar_command(sys.argv[1:])
heavy = {"torch", "transformers", "accelerate", "onnx", "polars"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.fixture(scope="module")
def table(exported_run):
    with torch.no_grad():
        return load_student(exported_run / "student").item_table().numpy()


def ask(capsys, *arguments):
    assert similar_command([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["items"]


def only(about, word):
    return {**about, "variants": {word: about["variants"][word]}}


@pytest.mark.parametrize(("word", "close"), [("fp32", 1e-6), ("int8", 0.02)])
def test_vectors_come_from_the_models_themselves(exported_run, table, word, close):
    folder = exported_run / "export"
    vectors, source = item_vectors(folder, only(read_about(folder), word))
    assert source == word and vectors.shape == table.shape
    np.testing.assert_allclose(vectors, table, atol=close)


def test_lists_are_the_exact_cosines(exported_run, table, capsys):
    cosine = unit_rows(table) @ unit_rows(table).T
    np.fill_diagonal(cosine, -np.inf)
    for one, item in zip(ask(capsys, exported_run, "i7", "Heat and Dust", "-k", 6), (7, 4), strict=True):
        best = np.argsort(-cosine[item], kind="stable")[:6]
        assert one["item_id"] == f"i{item}"
        assert [place["item_id"] for place in one["similar"]] == [f"i{i}" for i in best]
        found = [place["similarity"] for place in one["similar"]]
        np.testing.assert_allclose(found, cosine[item][best], atol=1e-5)


def test_the_whole_catalogue_goes_to_a_file(exported_run, tmp_path, capsys):
    for name in ("similar.parquet", "deep/similar.csv"):
        assert similar_command([str(exported_run), "--all", "--output", str(tmp_path / name), "-k", "3"]) == 0
    capsys.readouterr()
    frame = pl.read_parquet(tmp_path / "similar.parquet")
    assert frame.columns == ["item_id", "rank", "similar_id", "similarity"]
    assert len(frame) == 900 and frame["item_id"].n_unique() == 300
    assert not (frame["item_id"] == frame["similar_id"]).any()
    one = ask(capsys, exported_run, "i42", "-k", 3)[0]["similar"]
    assert frame.filter(pl.col("item_id") == "i42")["similar_id"].to_list() == [place["item_id"] for place in one]
    assert pl.read_csv(tmp_path / "deep/similar.csv")["similar_id"].to_list() == frame["similar_id"].to_list()


def test_blocks_change_nothing(monkeypatch):
    units = unit_rows(np.random.default_rng(0).normal(size=(50, 8)))
    for share in (0.0, 0.4):
        whole = list(neighbours(units, np.arange(50), 5, share))
        monkeypatch.setattr("distill.similar.AT_ONCE", 400)
        pieces = list(neighbours(units, np.arange(50), 5, share))
        monkeypatch.undo()
        assert len(whole) == 1 and len(pieces) > 5
        for one, other in zip(zip(*whole, strict=True), zip(*pieces, strict=True), strict=True):
            np.testing.assert_allclose(one[0], np.concatenate(other), atol=1e-6)


def test_a_diversified_list_leaves_out_near_copies():
    units = unit_rows(np.array([[1, 0, 0], [1, 0.10, 0], [1, 0.11, 0], [1, 0, 0.3]], np.float64))
    relevance = (units[1:] @ units[0])[None]
    assert diversified(units[None, 1:], relevance, 2, 0.0).tolist() == [[0, 1]]
    assert diversified(units[None, 1:], relevance, 2, 0.6).tolist() == [[0, 2]]


def test_more_places_than_items_and_one_item_alone():
    units = unit_rows(np.eye(3))
    (block,) = neighbours(units, np.array([0]), 9)
    assert block[1].tolist() == [[1, 2]]
    (block,) = neighbours(units[:1], np.array([0]), 9)
    assert block[1].shape == (1, 0)


def test_torch_and_polars_are_never_imported(exported_run):
    command = [sys.executable, "-c", WITHOUT_TORCH, str(exported_run), "heat"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "like Heat (fp32)" in done.stdout and done.stdout.count("Film") == 10 - done.stdout.count("Heat and Dust")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["i999"], r"no item with the id 'i999'.*Close ones.*No title fits"),
        (["Heet"], r"No title fits 'Heet'.*'Heat'"),
        (["Film 2"], r"fits \d+ items"),
        (["i3", "-k", "0"], "k = 0"),
        (["i3", "--diversify", "2"], "--diversify is 2.0"),
        (["--all", "--output", "x.txt"], "ends in .parquet or .csv"),
    ],
)
def test_mistakes_are_explained(exported_run, arguments, message):
    with pytest.raises(UserError, match=message):
        similar_command([str(exported_run), *arguments])


@pytest.mark.parametrize(
    "arguments", [[], ["--all"], ["i3", "--all", "--output", "x.csv"], ["i3", "--output", "x.csv"]]
)
def test_what_to_do_must_be_clear(exported_run, arguments, capsys):
    with pytest.raises(SystemExit):
        similar_command([str(exported_run), *arguments])
    assert "--all" in capsys.readouterr().err


def test_a_bundle_without_readable_vectors_says_what_to_export(exported_run):
    about = {**read_about(exported_run / "export"), "variants": {"int4": {"file": "model.int4.onnx"}}}
    with pytest.raises(UserError, match=r"export.graphs"):
        item_vectors(exported_run / "export", about)
