"""The contract of a teacher's member: every built-in one keeps it, and it catches what breaks it."""

import numpy as np
import pytest
import torch

from distill.ask import quality
from distill.contracts import check_member, check_reload
from distill.data.dataset import TRAIN, VALID, Dataset
from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.plugins import TABLES, resolve
from distill.ranking.cases import cases_of
from teachers.popularity import Popularity
from teachers.protocol import Earlier, Inputs

N = 20
WORDS = ["red", "blue", "lamp", "desk", "chair", "paper", "ink", "steel", "oak", "glass"]
SETTINGS = {
    "text_tower": {
        "max_tokens": 8, "hidden_size": 32, "layers": 1, "vocabulary": 200, "tfidf_width": 4, "batch_size": 16,
        "max_steps": 2, "precision": "fp32",
    },
    "text_space": {"vectors": "tower", "epochs": 1},
    "ease": {},
    "itemknn": {"neighbours": 5},
    "ials": {"dim": 4},
    "lightgcn": {"dim": 4, "epochs": 1},
    "sasrec": {"dim": 4, "epochs": 1},
    "popularity": {},
    "cross_encoder": {
        "retriever": "popular", "candidates": 5, "weight": 1.0, "hidden_size": 32, "layers": 1, "vocabulary": 200,
        "title_tokens": 4, "text_tokens": 4, "max_tokens": 32, "negatives": 2, "precision": "fp32",
        "tasks": {"next_item": 1.0, "click": 0.5, "similarity": 0.5},
    },
    "gpt_rerank": {
        "retriever": "popular", "candidates": 5, "weight": 1.0, "hidden_size": 32, "layers": 1, "vocabulary": 200,
        "title_tokens": 6, "max_tokens": 60, "epochs": 1, "precision": "fp32", "form": "pmi",
    },
    "bert": {"vectors": "tower", "hidden_size": 32, "layers": 1, "epochs": 1},
    "gpt": {"vectors": "tower", "hidden_size": 32, "layers": 1, "epochs": 1},
}  # fmt: skip


def data():
    rng = np.random.default_rng(0)
    rows = [rng.permutation(N)[: rng.integers(3, 8)] for _ in range(30)]
    texts = [" ".join(rng.choice(WORDS, 3)) for _ in range(N)]
    return Dataset(
        np.array([f"u{u}" for u in range(30)]),
        np.array([f"i{i}" for i in range(N)]),
        texts,
        texts,
        np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        np.concatenate(rows).astype(np.int32),
        np.concatenate([[TRAIN] * (len(row) - 1) + [VALID] for row in rows]).astype(np.uint8),
    )


DATA = data()


@pytest.mark.parametrize("name", TABLES["teacher"])
def test_every_built_in_member_keeps_the_contract(tmp_path, name):
    member, again = (resolve("teacher", name)(**SETTINGS[name]) for _ in range(2))

    def train(job):
        def validate(model):
            member.refresh(model, Local())
            return quality(member.score, cases_of(DATA, VALID)).values["ndcg@10"]

        fit(job, Local(), tmp_path, validate, name)
        return best_weights(tmp_path)

    text = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
    popular = Popularity()
    popular.prepare(Inputs(DATA, {}, 0, torch.device("cpu")))
    earlier = {"popular": Earlier("popularity", {}, popular)}
    check_member(member, DATA, Inputs(DATA, {"tower": text}, 0, torch.device("cpu"), earlier), train)
    check_reload(member, again, DATA)


class Narrow(Popularity):
    def score(self, batch):
        return super().score(batch)[:, :-1]


class Lending(Popularity):
    def score(self, batch):
        if not hasattr(self, "kept"):
            self.kept = super().score(batch)
        return self.kept


class Counting(Popularity):
    def score(self, batch):
        return super().score(batch) * batch.seen.shape[1]


class Sociable(Popularity):
    def score(self, batch):
        return super().score(batch) + float(batch.user.sum())


class Cold(Popularity):
    def score(self, batch):
        lengths = torch.from_numpy((batch.seen < N).sum(1, keepdims=True))
        return super().score(batch) / lengths


class Short(Popularity):
    def item_vectors(self):
        return torch.zeros(N - 1, 3)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Narrow, r"score\(\) is \(8, 19\), expected \(8, 20\)"),
        (Lending, "hands out its own memory"),
        (Counting, "more padding on the left"),
        (Sociable, "rest of the batch"),
        (Cold, "isn't finite for an empty history"),
        (Short, r"item_vectors\(\) is \(19, 3\)"),
    ],
)
def test_the_contract_catches(kind, message):
    with pytest.raises(AssertionError, match=message):
        check_member(kind(), DATA)


def test_a_member_to_train_needs_a_trainer():
    member = resolve("teacher", "text_space")(vectors="tower")
    inputs = Inputs(DATA, {"tower": torch.randn(N, 4)}, 0, torch.device("cpu"))
    with pytest.raises(AssertionError, match="pass `fit`"):
        check_member(member, DATA, inputs)


def test_a_reload_that_forgets_is_caught():
    class Forgetful(Popularity):
        def load(self, folder):
            self.table = torch.zeros(N)
            return self

    member = Forgetful()
    check_member(member, DATA)
    with pytest.raises(AssertionError, match="scores differ after saving and loading"):
        check_reload(member, Forgetful(), DATA)
