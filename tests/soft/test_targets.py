"""Targets: a live teacher and the store give the same answers; caches ask once; mistakes are named."""

import numpy as np
import pytest
import torch

from distill.data.contexts import Kind, from_lists
from distill.data.dataset import Lists
from distill.errors import UserError
from distill.soft.store import Store, StoreHeader, StoreWriter
from distill.soft.target import SoftTarget
from distill.soft.targets import LiveTargets, StoreTargets, Targets, unit_weights

N, ROWS, K = 40, 25, 6
TEMPERATURES = (1.0, 2.5)


def contexts(seed=0):
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(N)[: rng.integers(0, 9)] for _ in range(ROWS - 1)] + [np.arange(N - 3)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return from_lists(Lists(indptr, np.concatenate(rows).astype(np.int32)), N, Kind.REAL, np.arange(ROWS))


CONTEXTS = contexts()


class Teacher:
    """Scores that depend on the history; counts what it was asked."""

    def __init__(self, seed=0):
        self.table = torch.randn(N + 1, N, generator=torch.Generator().manual_seed(seed))
        self.table[N] = 0.0  # padding
        self.asked = []

    def __call__(self, batch):
        self.asked += batch.row_id.tolist()
        return self.table[torch.from_numpy(batch.seen)].sum(1) + torch.linspace(0, 1, N)


def stored(folder, live):
    """The live answers, written to a store."""
    found = live.lookup(np.arange(ROWS))
    header = StoreHeader(K, list(TEMPERATURES), 0, N, "v", "d", "t", hidden=live.hidden)
    writer = StoreWriter(folder, header)
    arrays = {name: value.numpy() for name, value in found.items() if name != "dense"}
    for shard, first in enumerate(range(0, ROWS, 10)):
        rows = np.arange(first, min(first + 10, ROWS))
        writer.write(shard, rows, {name: value[rows] for name, value in arrays.items()})
    writer.close(list(range(0, ROWS, 10)), ROWS)
    return StoreTargets(Store.open(folder))


def test_store_and_live_teacher_agree(tmp_path):
    live = LiveTargets(Teacher(), CONTEXTS, K, TEMPERATURES, context_vectors=lambda b: torch.ones(len(b.row_id), 3))
    store: Targets = stored(tmp_path, live)
    assert (store.rows, store.temperatures, store.hidden) == (live.rows, live.temperatures, live.hidden)
    rows = np.array([7, 3, 7, 24, 0])
    mine, theirs = store.lookup(rows), live.lookup(rows)
    assert theirs.keys() - mine.keys() == {"dense"}
    for name, value in mine.items():
        assert value.dtype == theirs[name].dtype == (torch.int64 if name == "items" else torch.float32)
        tolerance = 0 if name == "items" else 2.0**-10
        torch.testing.assert_close(value, theirs[name], rtol=tolerance, atol=tolerance)
    SoftTarget(label=torch.full((5,), -1), temperatures=store.temperatures, **mine)


def test_answers_against_brute_force():
    teacher = Teacher()
    found = LiveTargets(teacher, CONTEXTS, K, TEMPERATURES).lookup(np.arange(ROWS))
    for row in range(ROWS):
        seen = CONTEXTS.items[CONTEXTS.start[row] : CONTEXTS.stop[row]]
        scores = teacher(CONTEXTS.batch(np.array([row]), 100))[0]
        allowed = np.setdiff1d(np.arange(N), seen)
        best = sorted(allowed, key=lambda i: -float(scores[i]))[:K]
        assert found["items"][row].tolist() == best + [-1] * (K - len(best))
        for column, temperature in enumerate(TEMPERATURES):
            wanted = torch.logsumexp(scores[allowed] / temperature, 0)
            torch.testing.assert_close(found["logz"][row, column], wanted, rtol=1e-5, atol=1e-5)
        assert torch.isneginf(found["dense"][row, seen]).all() and torch.isfinite(found["dense"][row, allowed]).all()


@pytest.mark.parametrize("room", [0, 1, 10, ROWS, 10_000])
def test_a_cache_changes_no_answer_and_asks_once(room):
    teacher = Teacher()
    plain, cached = LiveTargets(Teacher(), CONTEXTS, K), LiveTargets(teacher, CONTEXTS, K, cache_rows=room)
    for epoch in range(3):
        for part in np.array_split(np.random.default_rng(epoch).permutation(ROWS), 4):
            rows = np.concatenate([part, part[:2]])
            for name, value in plain.lookup(rows).items():
                torch.testing.assert_close(cached.lookup(rows)[name], value, rtol=1e-6, atol=1e-6)
    for epoch in range(3):
        teacher.asked.clear()
        cached.lookup(np.random.default_rng(epoch).permutation(ROWS))
        assert len(teacher.asked) == ROWS - min(room, ROWS)


def test_several_teachers_are_a_weighted_mean_of_log_probabilities():
    one, two = Teacher(1), Teacher(2)
    found = LiveTargets([one, two], CONTEXTS, K, weights=[1, 3]).lookup(np.array([2, 5]))
    for place, row in enumerate((2, 5)):
        batch = CONTEXTS.batch(np.array([row]), 100)
        allowed = np.setdiff1d(np.arange(N), batch.seen)
        parts = [torch.log_softmax(teacher(batch)[0, allowed], -1) for teacher in (one, two)]
        torch.testing.assert_close(found["dense"][place, allowed], parts[0] / 4 + parts[1] * 3 / 4)


def test_the_scale_of_one_teacher_alone_does_not_decide_a_mean():
    far = LiveTargets([Teacher(1), lambda b: Teacher(2)(b) + 1000], CONTEXTS, K).lookup(np.arange(5))
    near = LiveTargets([Teacher(1), Teacher(2)], CONTEXTS, K).lookup(np.arange(5))
    torch.testing.assert_close(far["dense"], near["dense"], rtol=1e-3, atol=1e-3)


def test_a_teachers_own_tensor_is_left_as_it_was():
    scores = torch.randn(ROWS, N)
    before = scores.clone()
    LiveTargets(lambda batch: scores, CONTEXTS, K).lookup(np.arange(ROWS))
    assert torch.equal(scores, before)


@pytest.mark.parametrize("k", [0, N, N + 1])
def test_a_k_that_reaches_the_catalogue_is_refused(k):
    with pytest.raises(UserError, match=rf"'scores.k' is {k}, expected 1 to {N - 1}"):
        LiveTargets(Teacher(), CONTEXTS, k)


@pytest.mark.parametrize("weights", [[1.0], [1, 2, 3], [-1, 2], [0, 0], [float("nan"), 1]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(UserError, match="eight"):
        unit_weights(weights, 2)


def test_hidden_vectors_wanted_but_not_stored(tmp_path):
    store = stored(tmp_path, LiveTargets(Teacher(), CONTEXTS, K, TEMPERATURES)).store
    with pytest.raises(UserError, match=r"holds no context vectors .*scores.hidden"):
        StoreTargets(store, ["items", "hidden"])
