"""Scoring with a real small teacher: repair, budgets, context vectors, live against stored, and `distill scores`."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

from distill.cli import main as command_line
from distill.config import from_tree, parse
from distill.data.contexts import Contexts, Kind
from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.prepare import main as prepare
from distill.runs import open_stage, read_manifest, sha256
from distill.score_teacher import context_vectors
from distill.score_teacher import main as score_teacher
from distill.soft.store import CONTEXTS, Store
from distill.soft.targets import LiveTargets, StoreTargets
from distill.train_student import main as train_student
from distill.train_teacher import load_teacher
from distill.train_teacher import main as train_teacher

CONFIG = """\
run: {name: small, tracker: none}
data: {path: demo, min_user_events: 5, min_item_events: 120}
teacher:
  members:
    tower:
      name: text_tower
      backbone: scratch
      max_tokens: 12
      hidden_size: 32
      layers: 1
      vocabulary: 300
      tfidf_width: 16
      batch_size: 32
      max_steps: 2
    space: {name: text_space, vectors: tower, epochs: 1, batch_size: 1024}
    ease: {name: ease, l2: 50, decay: 10}
scores: {k: 20, rollouts: 1, appends: 1, shard_rows: 1500}
student: {name: hybrid_cf, dim: 8, hidden: 16}
losses:
  - {name: cross_entropy, weight: 0.1}
  - {name: listwise_kl}
fit: {epochs: 1, batch_size: 512, learning_rate: 0.01}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A config whose run has data, a teacher and scores."""
    folder = tmp_path_factory.mktemp("runs")
    path = folder / "small.yaml"
    path.write_text(CONFIG)
    tree = parse(CONFIG)
    tree["run"]["folder"] = str(folder)
    config = dataclasses.replace(from_tree(tree), source=str(path))
    prepare(config)
    train_teacher(config)
    score_teacher(config)
    return config


@pytest.fixture
def copy(run, tmp_path):
    """The same run in a folder of its own, free to be damaged."""
    folder = tmp_path / "runs"
    shutil.copytree(run.folder, folder / "small")
    return dataclasses.replace(run, run=dataclasses.replace(run.run, folder=str(folder)))


def with_scores(config, **changes):
    return dataclasses.replace(config, scores=dataclasses.replace(config.scores, **changes))


def opened(config):
    folder = config.folder / "scores"
    dataset = Dataset.read(config.folder / "data")
    return Store.open(folder, verify=True), Contexts.read(folder / CONTEXTS, dataset.n_items), dataset


def shards(config):
    return sorted((config.folder / "scores").glob("shard-*.safetensors"))


def alter(path):
    data = bytearray(path.read_bytes())
    data[-7] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "altered": alter,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("number", [1, -1])
def test_only_the_damaged_shard_is_scored_again(copy, damage, number):
    """Number -1 holds roll-outs, which are drawn from the answers in other shards."""
    before = {path: (sha256(path), path.stat().st_mtime_ns) for path in shards(copy)}
    fingerprint = read_manifest(copy.folder / "scores")["fingerprint"]
    path = shards(copy)[number]
    rows = sum(len(s["items"]) for s, p in zip(opened(copy)[0].shards, shards(copy), strict=True) if p == path)
    DAMAGE[damage](path)
    score_teacher(copy)
    for other, (digest, time) in before.items():
        assert sha256(other) == digest
        assert (other.stat().st_mtime_ns == time) == (other != path)
    manifest = open_stage(copy.folder / "scores")
    assert manifest["fingerprint"] == fingerprint
    assert manifest["result"]["cost"]["contexts_in_this_run"] == rows
    assert not copy.folder.joinpath("scores.partial").exists()


def test_an_untouched_store_is_up_to_date(copy):
    times = {path: path.stat().st_mtime_ns for path in (copy.folder / "scores").iterdir()}
    score_teacher(copy)
    assert times == {path: path.stat().st_mtime_ns for path in (copy.folder / "scores").iterdir()}


def test_other_settings_keep_no_old_shard(copy):
    score_teacher(with_scores(copy, k=10))
    assert opened(copy)[0].header.k == 10


def test_a_live_teacher_answers_as_the_store_does(run):
    store, contexts, _ = opened(run)
    live = LiveTargets(load_teacher(run).score, contexts, run.scores.k, run.scores.temperatures)
    rows = np.random.default_rng(0).integers(0, len(contexts), 300)
    mine, theirs = StoreTargets(store).lookup(rows), live.lookup(rows)
    assert (mine["items"] == theirs["items"]).float().mean() > 0.999  # equal scores may change places
    torch.testing.assert_close(mine["scores"], theirs["scores"], rtol=2.0**-10, atol=2.0**-10)
    torch.testing.assert_close(mine["logz"], theirs["logz"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("member", "unit"), [("space", False), ("tower", True)])
def test_context_vectors_are_stored_with_their_rows(copy, member, unit):
    config = with_scores(copy, hidden=member, rollouts=1)
    score_teacher(config)
    store, contexts, _ = opened(config)
    rows = np.array([5, 2, len(contexts) - 1])
    found = StoreTargets(store).lookup(rows)["hidden"]
    wanted = context_vectors(config, load_teacher(config))(contexts.batch(rows, 1000))
    assert store.header.hidden == found.shape[1] == wanted.shape[1] > 0
    torch.testing.assert_close(found, wanted.float(), rtol=2.0**-10, atol=2.0**-10)
    if unit:
        torch.testing.assert_close(found.norm(dim=1), torch.ones(3), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden": "towel"}, r"'scores.hidden' is 'towel'.*did you mean 'tower'"),
        ({"hidden": "ease"}, r"a member \(ease\) without vectors of contexts"),
        ({"k": 100_000}, r"'scores.k' is 100000, expected 1 to"),
        ({"budget": -0.5}, r"'scores.budget' is -0.5"),
    ],
)
def test_settings_that_cannot_be(copy, changes, words):
    before = sha256(copy.folder / "scores" / "manifest.json")
    with pytest.raises(UserError, match=words):
        score_teacher(with_scores(copy, **changes))
    assert sha256(copy.folder / "scores" / "manifest.json") == before


@pytest.mark.parametrize("how", ["uniform", "uncertainty", "tail_first", "diversity"])
def test_a_budget_bounds_what_the_teacher_is_asked(copy, how):
    whole, _, _ = opened(copy)
    config = with_scores(copy, budget=0.1, select=how, mixes=1)
    score_teacher(config)
    store, contexts, dataset = opened(config)
    answered = (store.lookup(np.arange(store.rows))["items"] >= 0).any(1)
    cost = read_manifest(copy.folder / "scores")["result"]["cost"]
    assert answered.sum() == cost["contexts"] == cost["contexts_in_this_run"] and cost["select"] == how
    assert answered.sum() <= round(0.1 * (whole.rows + 2 * dataset.n_users)) and answered.sum() > 0.05 * whole.rows
    real = contexts.kind == Kind.REAL
    assert real.sum() == dataset.popularity.sum(), "every train prefix keeps its row, answered or not"
    assert answered[~real].all(), "an unanswered synthetic row would teach nothing"
    answers = LiveTargets(load_teacher(config).score, contexts, config.scores.k, dense=False)
    rows = np.flatnonzero(answered)[:200]
    torch.testing.assert_close(
        StoreTargets(store).lookup(rows)["scores"], answers.lookup(rows)["scores"], rtol=1e-3, atol=1e-3
    )


def test_a_student_learns_from_a_budgeted_store(copy):
    config = with_scores(copy, budget=500)
    score_teacher(config)
    train_student(config)
    assert read_manifest(config.folder / "student")["result"]["validation"]["ndcg@10"] > 0


class TestCommand:
    """`distill scores`, through the real command line."""

    def test_info(self, run, capsys):
        assert command_line(["scores", "info", str(run.folder), "--json"]) == 0
        printed = capsys.readouterr().out
        about = json.loads(printed[printed.index("{") :])
        store, contexts, dataset = opened(run)
        found = store.lookup(np.arange(store.rows))
        mass = np.exp(found["scores"].astype(float) - found["logz"]).sum(1).clip(max=1).mean()
        assert about["mass"] == pytest.approx(mass, abs=1e-6)
        assert about["rows"] == about["answered"] == len(contexts) == sum(about["kinds"].values())
        assert about["bytes_per_row"] < 700
        assert sum(part["items"] for part in about["reach"].values()) == dataset.n_items
        assert sum(part["share"] for part in about["reach"].values()) == pytest.approx(1)
        assert command_line(["scores", "info", str(run.folder)]) == 0

    def test_verify_and_repair(self, copy, capsys):
        words = [copy.source, f"run.folder={copy.run.folder}"]
        assert command_line(["scores", "verify", *words]) == 0
        alter(shards(copy)[2])
        assert command_line(["scores", "verify", *words]) == 1
        assert "shard-00002.safetensors was altered" in capsys.readouterr().out.replace("\n", "")
        assert command_line(["scores", "verify", str(copy.folder), "--repair"]) == 2
        assert command_line(["scores", "verify", *words, "scores.k=10", "--repair"]) == 2
        assert "other settings or inputs ('scores' or 'seed')" in capsys.readouterr().out.replace("\n", " ")
        assert command_line(["scores", "verify", *words, "--repair"]) == 0
        assert command_line(["scores", "verify", *words]) == 0

    def test_verify_names_another_teachers_store(self, copy, capsys):
        manifest = copy.folder / "teacher" / "manifest.json"
        about = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(about | {"fingerprint": "f" * 64}))
        assert command_line(["scores", "verify", str(copy.folder)]) == 1
        assert "holds another teacher's answers" in capsys.readouterr().out.replace("\n", " ")

    def test_merge_and_import_make_stores_that_students_learn_from(self, copy, tmp_path):
        config = with_scores(copy, rollouts=0, appends=0)
        score_teacher(config)
        other = tmp_path / "other"
        shutil.copytree(config.folder / "scores", other)
        place = config.folder / "scores"
        taken = ["scores", "merge", str(place), str(other), "--out", str(place)]
        assert command_line(taken) == 2, "never over what a teacher was asked"
        shutil.move(place, tmp_path / "own")
        stores = [str(tmp_path / "own"), str(other)]
        assert command_line(["scores", "merge", *stores, "--weights", "2", "1", "--out", str(place)]) == 0
        one, both = Store.open(other), Store.open(place)
        rows = np.arange(one.rows)
        items = [np.sort(store.lookup(rows)["items"], axis=1) for store in (one, both)]
        assert (items[0] == items[1]).mean() > 0.98, "a teacher merged with itself; equal last scores may be others"
        score_teacher(config)
        assert "made_by" in read_manifest(place)["settings"], "the stage keeps what it did not make"
        train_student(config)
        user = read_manifest(config.folder / "student")
        assert user["inputs"]["scores"] == read_manifest(place)["fingerprint"]

        dataset = Dataset.read(config.folder / "data")
        rng = np.random.default_rng(0)
        table = {
            "user_id": np.repeat(dataset.user_ids, 30),
            "item_id": rng.choice(dataset.item_ids, dataset.n_users * 30),
            "score": rng.normal(size=dataset.n_users * 30),
        }
        pl.DataFrame(table).write_parquet(tmp_path / "outside.parquet")
        words = ["--data", str(config.folder / "data"), "--k", "10", "--out", str(place)]
        assert command_line(["scores", "import", str(tmp_path / "outside.parquet"), *words]) == 0
        assert Store.open(place, dataset.item_vocabulary, dataset.fingerprint, verify=True).header.k == 10
        train_student(config)
        assert read_manifest(config.folder / "student")["inputs"]["scores"] == read_manifest(place)["fingerprint"]
        assert command_line(["scores", "verify", str(config.folder)]) == 0


def test_a_student_learns_from_edited_copies_alone(copy):
    config = with_scores(copy, masks=1, reorders=1, substitutes=1, similar="text")
    score_teacher(config)
    store, contexts, _ = opened(config)
    kinds = [Kind.MASK, Kind.REORDER, Kind.SUBSTITUTE]
    rows = np.flatnonzero(np.isin(contexts.kind, kinds))
    assert set(contexts.kind[rows]) == set(kinds)
    assert (store.lookup(rows)["items"] >= 0).any(1).all()
    fit = dataclasses.replace(config.fit, kinds=["mask", "reorder", "substitute"])
    train_student(dataclasses.replace(config, fit=fit))
    assert read_manifest(config.folder / "student")["result"]["validation"]["ndcg@10"] > 0


def test_kinds_that_are_off_do_not_outdate_a_store(copy):
    settings = read_manifest(copy.folder / "scores")["settings"]["scores"]
    assert "drops" in settings and not {"masks", "reorders", "substitutes", "similar"} & set(settings)
    before = sha256(copy.folder / "scores" / "manifest.json")
    score_teacher(with_scores(copy, similar="text"))
    assert sha256(copy.folder / "scores" / "manifest.json") == before
