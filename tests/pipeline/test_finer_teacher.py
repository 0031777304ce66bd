"""A teacher with weights by group and cross-fitted labels, through the stages that make and ask it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from distill.config import load
from distill.contracts.worlds import checkerboard
from distill.data.contexts import Contexts, train_contexts
from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.prepare import main as prepare
from distill.score_teacher import main as score_teacher
from distill.soft.store import CONTEXTS, Store
from distill.tensors import mask_seen
from distill.train_teacher import load_teacher
from distill.train_teacher import main as train_teacher
from teachers.cross_fit import CrossFitted

CONFIG = """\
run: {{name: small, tracker: none, folder: {folder}}}
data: {{path: {folder}/data, split: {{name: leave_one_out}}}}
teacher:
  cross_fit: 3
  fusion: {{by: auto}}
  members:
    ease: {{name: ease, l2: 5}}
    knn: {{name: itemknn}}
    sequence: {{name: sasrec, dim: 8, epochs: 1}}
scores: {{k: 10, drops: 0, rollouts: 1, appends: 0}}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finer")
    world = checkerboard(n_users=90, events=8)
    lines = [f"{u},{i},{t}" for t, (u, i) in enumerate(zip(world.event_users(), world.items, strict=True))]
    (folder / "data").mkdir()
    (folder / "data" / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    (folder / "small.yaml").write_text(CONFIG.format(folder=folder))
    config = load(folder / "small.yaml")
    for stage in (prepare, train_teacher, score_teacher):
        stage(config)
    return config


def test_fusion_says_what_it_tried(config):
    fusion = json.loads((config.folder / "teacher" / "fusion.json").read_text())
    assert set(fusion["tried"]) == {"item_stratum", "user_activity"}
    for found in fusion["tried"].values():
        assert set(found) == {"gain", "standard_error", "accepted"}
    assert (fusion["groups"] is not None) == any(found["accepted"] for found in fusion["tried"].values())


def test_only_closed_form_members_have_folds(config):
    home = config.folder / "teacher"
    assert {p.name for p in (home / "ease").glob("fold-*")} == {"fold-0", "fold-1", "fold-2"}
    assert not list((home / "sequence").glob("fold-*"))
    plain, labels = load_teacher(config), load_teacher(config, labels=True)
    assert not any(isinstance(member, CrossFitted) for member in plain.members.values())
    for name, member in labels.members.items():
        assert isinstance(member, CrossFitted) == (name != "sequence")


def test_the_store_holds_the_cross_fitted_answers(config):
    dataset = Dataset.read(config.folder / "data")
    contexts = Contexts.read(config.folder / "scores" / CONTEXTS, dataset.n_items)
    store = Store.open(config.folder / "scores", dataset.item_vocabulary, dataset.fingerprint)
    rows = np.flatnonzero(contexts.kind == 0)[:50]
    stored = store.lookup(rows)
    batch = contexts.batch(rows, 1_000_000)
    answers = [
        mask_seen(load_teacher(config, labels).score(batch), torch.from_numpy(batch.seen)) for labels in (True, False)
    ]
    cross, plain = (answer.topk(10).values.numpy() for answer in answers)
    assert np.allclose(stored["scores"], cross, atol=0.02)
    assert not np.allclose(stored["scores"], plain, atol=0.02)


def test_another_number_of_folds_keeps_the_members(config):
    before = (config.folder / "teacher" / "sequence" / "model.safetensors").stat().st_mtime_ns
    other = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, cross_fit=0))
    train_teacher(other)
    assert (config.folder / "teacher" / "sequence" / "model.safetensors").stat().st_mtime_ns == before
    batch = train_contexts(Dataset.read(config.folder / "data")).batch(np.arange(20), 99)
    one, two = (load_teacher(other, labels).score(batch) for labels in (True, False))
    assert torch.equal(one, two), "without folds labels are the teacher's own answers"


def test_one_fold_is_refused(config):
    with pytest.raises(UserError, match="expected 0 or at least 2 folds"):
        train_teacher(dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, cross_fit=1)))
