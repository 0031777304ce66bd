"""Scoring with a sequence body: a user's contexts in one pass, the same answers in any blocks, a price."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

import distill.score_teacher as stage
from distill.config import from_tree, parse
from distill.data.contexts import train_contexts
from distill.data.dataset import Dataset
from distill.prepare import main as prepare
from distill.runs import read_manifest, sha256
from distill.soft.store import Store
from distill.train_teacher import load_teacher
from distill.train_teacher import main as train_teacher
from teachers.fusion import FusedTeacher
from teachers.popularity import Popularity
from teachers.protocol import Inputs

CONFIG = """\
run: {name: small, tracker: none}
data: {path: demo, min_user_events: 30, min_item_events: 80}
teacher:
  members:
    gpt: {name: gpt, width: 16, hidden_size: 32, layers: 1, max_length: 20, epochs: 1, batch_size: 32}
scores: {k: 20, rollouts: 1, appends: 1, shard_rows: 3000, tail_samples: 4}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A config whose run has data and a teacher that asks a sequence body."""
    folder = tmp_path_factory.mktemp("runs")
    tree = parse(CONFIG)
    tree["run"]["folder"] = str(folder)
    config = dataclasses.replace(from_tree(tree), source="small.yaml")
    prepare(config)
    train_teacher(config)
    return config


def score(config):
    folder = stage.main(config)
    store = Store.open(folder, verify=True)
    return store.lookup(np.arange(store.rows), store.fields)


def test_any_block_gives_the_same_lists(run, monkeypatch):
    whole = score(run)
    blocks = []
    plain = stage.score_rows
    monkeypatch.setattr(stage, "BLOCK_SCORES", 64 * load_teacher(run).members["gpt"].item_vectors().shape[0])
    monkeypatch.setattr(stage, "score_rows", lambda *a, **k: (blocks.append(len(a[2])), plain(*a, **k))[1])
    again = dataclasses.replace(run, scores=dataclasses.replace(run.scores, shard_rows=2001))
    small = score(again)
    assert max(blocks) == 64
    same = (whole["items"] == small["items"]).mean()
    assert same > 0.999, "equal scores may change places"
    np.testing.assert_allclose(whole["scores"], small["scores"], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(whole["logz"], small["logz"], rtol=1e-4, atol=1e-4)


def test_neighbouring_contexts_share_passes(run):
    dataset, teacher = Dataset.read(run.folder / "data"), load_teacher(run)
    contexts, passes = train_contexts(dataset), []
    teacher.members["gpt"].model.register_forward_pre_hook(lambda _, args: passes.append(len(args[0]["history"])))
    ready = stage.answering(teacher, contexts, np.arange(1000))
    assert 0 < sum(passes) < 1000 / 5
    ready.score(contexts.batch(np.arange(500, 600), stage.WHOLE))
    assert sum(passes) < 1000 / 5, "blocks of scores take no more passes"


def test_members_that_answer_one_by_one_stay_as_they_are(run):
    dataset = Dataset.read(run.folder / "data")
    teacher, contexts = load_teacher(run), train_contexts(dataset)
    popularity = Popularity()
    popularity.prepare(Inputs(dataset, {}, 0, torch.device("cpu")))
    weights = {"popularity": 0.5, "gpt": 2.0}
    mixed = FusedTeacher({"popularity": popularity, **teacher.members}, weights, 1.5)
    rows = np.arange(300)
    ready = stage.answering(mixed, contexts, rows)
    assert ready.members["popularity"] is popularity and ready.members["gpt"] is not teacher.members["gpt"]
    batch = contexts.batch(rows[100:130], stage.WHOLE)
    torch.testing.assert_close(ready.score(batch), mixed.score(batch), rtol=1e-4, atol=1e-4)


def test_a_price_changes_no_answer(run, monkeypatch, capsys):
    score(run)
    before = sha256(run.folder / "scores" / "manifest.json")
    priced = dataclasses.replace(run, scores=dataclasses.replace(run.scores, price_per_hour=3600.0))
    score(priced)
    assert sha256(run.folder / "scores" / "manifest.json") == before, "the store is up to date"
    monkeypatch.setattr(stage, "WORTH_ESTIMATING", 10)
    score(dataclasses.replace(priced, scores=dataclasses.replace(priced.scores, k=10)))
    cost = read_manifest(run.folder / "scores")["result"]["cost"]
    assert cost["price"] == pytest.approx(cost["seconds"], rel=0.01, abs=0.01)
    said = re.search(r"about ([\d,]+) contexts: estimated time [\d.,]+ s, cost", capsys.readouterr().out)
    assert said and cost["contexts"] <= int(said[1].replace(",", "")) < 1.02 * cost["contexts"]
