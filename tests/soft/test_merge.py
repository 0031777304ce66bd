"""Merged stores: against brute force over the whole catalogue, and what can't be merged."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from distill.data.contexts import Kind, from_lists
from distill.data.dataset import Lists
from distill.errors import UserError
from distill.soft.merge import HOWS, merge, positions, union
from distill.soft.store import ABSENT, CONTEXTS, INDEX, Store, StoreHeader, StoreWriter, unanswered

N, ROWS, K = 30, 17, 5


def contexts(seed=0):
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(N)[: rng.integers(1, 8)] for _ in range(ROWS)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return from_lists(Lists(indptr, np.concatenate(rows).astype(np.int32)), N, Kind.REAL, np.arange(ROWS))


def dense(seed):
    """Masked scores of a teacher (ROWS, N), representable in half precision."""
    scores = np.random.default_rng(seed).normal(0, 2, (ROWS, N)).astype(np.float16).astype(np.float64)
    rows = contexts()
    for row in range(ROWS):
        scores[row, rows.items[rows.start[row] : rows.stop[row]]] = -np.inf
    return scores


def write(folder, scores, k=K, about=None, without=(), rows=None):
    """A store of a teacher's masked scores, in shards of 6; rows `without` are unanswered."""
    folder.mkdir()
    header = StoreHeader(
        k, [1.0, 2.0], 0, N, **{"item_vocabulary": "v", "data": "d", "teacher": folder.name, **(about or {})}
    )
    order = np.argsort(-scores, axis=1)[:, :k]
    best = np.take_along_axis(scores, order, 1)
    missing = np.isneginf(best)
    arrays = {"items": np.where(missing, -1, order), "scores": np.where(missing, ABSENT, best)}
    arrays["logz"] = np.stack([logsumexp(scores / t, axis=1) for t in (1.0, 2.0)], 1)
    blank = unanswered(ROWS, header)
    for name, value in arrays.items():
        value[list(without)] = blank[name][list(without)]
    writer, starts = StoreWriter(folder, header), list(range(0, ROWS, 6))
    for shard, first in enumerate(starts):
        part = np.arange(first, min(first + 6, ROWS))
        writer.write(shard, part, {name: value[part] for name, value in arrays.items()})
    writer.close(starts, ROWS)
    (rows or contexts()).write(folder / CONTEXTS)
    return folder


def merged(tmp_path, how, weights=None, k=K, **changes):
    folders = [write(tmp_path / name, dense(seed), k, **changes) for seed, name in enumerate(("a", "b"))]
    out = tmp_path / "out"
    out.mkdir()
    return merge(folders, out, how, weights)


def test_with_whole_lists_a_merge_of_scores_is_exact(tmp_path):
    """K of 29 of 30 items leaves at least every unseen item in the lists."""
    store = merged(tmp_path, "scores", [1, 3], k=N - 1)
    found = store.lookup(np.arange(ROWS))
    one, two = (log_softmax(dense(seed), 1) for seed in (0, 1))
    for row in range(ROWS):
        allowed = np.flatnonzero(np.isfinite(one[row]))
        wanted = one[row, allowed] / 4 + two[row, allowed] * 3 / 4
        items = found["items"][row][found["items"][row] >= 0]
        np.testing.assert_array_equal(np.sort(items), allowed)
        full = np.full(N, -np.inf)
        full[allowed] = wanted
        np.testing.assert_allclose(found["scores"][row, : len(items)], full[items], atol=0.02)
        for column, temperature in enumerate((1.0, 2.0)):
            assert found["logz"][row, column] == pytest.approx(logsumexp(wanted / temperature), abs=1e-3)


def test_a_merge_of_probabilities_is_their_mean_and_adds_to_one(tmp_path):
    found = merged(tmp_path, "probabilities", k=N - 1).lookup(np.arange(ROWS))
    mean = (np.exp(log_softmax(dense(0), 1)) + np.exp(log_softmax(dense(1), 1))) / 2
    np.testing.assert_allclose(found["logz"][:, 0], 0.0, atol=2e-3)
    for row in range(ROWS):
        items = found["items"][row][found["items"][row] >= 0]
        np.testing.assert_allclose(
            np.exp(found["scores"][row, : len(items)].astype(float)), mean[row, items], rtol=0.01
        )
        assert (np.diff(mean[row, items]) <= 1e-3 * mean[row, items][:-1]).all()


@pytest.mark.parametrize("how", ["scores", "probabilities"])
def test_an_item_that_a_store_does_not_list_gets_the_mean_of_its_rest(tmp_path, how):
    found = merged(tmp_path, how).lookup(np.arange(ROWS))
    probabilities = [np.exp(log_softmax(dense(seed), 1)) for seed in (0, 1)]
    for row in range(ROWS):
        floored = []
        for p in probabilities:
            listed = np.argsort(-p[row])[:K]
            rest = np.flatnonzero((p[row] > 0) & ~np.isin(np.arange(N), listed))
            floored.append(p[row].copy())
            floored[-1][rest] = p[row, rest].mean()  # the mass outside the list over the items outside it
        with np.errstate(divide="ignore"):
            wanted = (np.log(floored[0]) + np.log(floored[1])) / 2 if how == "scores" else np.log(sum(floored) / 2)
        items = found["items"][row]
        np.testing.assert_allclose(found["scores"][row], wanted[items], atol=0.02)
        best = np.sort(wanted)[::-1][:K]
        np.testing.assert_allclose(np.sort(wanted[items])[::-1], best, atol=0.02)
        assert found["logz"][row, 0] == pytest.approx(logsumexp(wanted), abs=0.01)


def test_ranks_do_not_see_the_scale(tmp_path):
    one = merged(tmp_path, "ranks").lookup(np.arange(ROWS))
    folders = [write(tmp_path / "c", dense(0)), write(tmp_path / "e", dense(1) * 9 + 100)]
    out = tmp_path / "scaled"
    out.mkdir()
    two = merge(folders, out, "ranks").lookup(np.arange(ROWS))
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])
    first = np.argmax(dense(0), 1)
    both = first == np.argmax(dense(1), 1)
    assert both.any()
    np.testing.assert_array_equal(one["items"][both, 0], first[both])
    np.testing.assert_allclose(one["scores"][both, 0], 0.0)


@pytest.mark.parametrize("how", HOWS)
def test_the_scale_of_the_weights_does_not_matter_and_zero_leaves_a_store_out(tmp_path, how):
    store = merged(tmp_path, how, [2, 0], k=N - 1)
    found, own = store.lookup(np.arange(ROWS)), Store.open(tmp_path / "a").lookup(np.arange(ROWS))
    np.testing.assert_array_equal(
        found["items"], np.where(np.isfinite(dense(0)).sum(1)[:, None] > np.arange(N - 1), own["items"], -1)
    )


@pytest.mark.parametrize("how", HOWS)
def test_rows_that_one_store_left_unanswered_come_from_the_other(tmp_path, how):
    folders = [write(tmp_path / "a", dense(0), without=[2, 4]), write(tmp_path / "b", dense(1), without=[4])]
    out = tmp_path / "out"
    out.mkdir()
    found = merge(folders, out, how).lookup(np.arange(ROWS))
    np.testing.assert_array_equal(found["items"][2], np.argsort(-dense(1)[2])[:K])
    assert (found["items"][4] == -1).all() and (found["logz"][4] == 0).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"about": {"data": "x"}}, "was made for another data"),
        ({"about": {"item_vocabulary": "x"}}, "was made for another item vocabulary"),
        ({"rows": contexts(1)}, "answers other contexts"),
    ],
)
def test_stores_that_do_not_belong_together(tmp_path, change, words):
    folders = [write(tmp_path / "a", dense(0)), write(tmp_path / "b", dense(1), **change)]
    with pytest.raises(UserError, match=f"b {words}"):
        merge(folders, tmp_path)


def test_one_store_an_unknown_way_and_too_few_weights(tmp_path):
    one, two = write(tmp_path / "a", dense(0)), write(tmp_path / "b", dense(1))
    with pytest.raises(UserError, match="expected at least two"):
        merge([one], tmp_path)
    with pytest.raises(UserError, match="expected one of scores, ranks, probabilities"):
        merge([one, two], tmp_path, "votes")
    with pytest.raises(UserError, match="1 weights for 2 teachers"):
        merge([one, two], tmp_path, weights=[1])


def test_a_damaged_store_is_not_merged(tmp_path):
    one, two = write(tmp_path / "a", dense(0)), write(tmp_path / "b", dense(1))
    path = two / json.loads((two / INDEX).read_text())["shards"][1]["file"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"shard-00001.safetensors was altered"):
        merge([one, two], tmp_path)


def test_union_and_positions():
    items = np.array([[3, 1, -1, 3, 7], [-1, -1, -1, -1, -1]])
    found = union(items, 10)
    assert found.tolist() == [[1, 3, 7], [-1, -1, -1]]
    assert positions(np.array([[7, 1, -1], [2, 5, 9]]), np.array([[1, 3, 7], [9, -1, 2]]), 10).tolist() == [
        [1, -1, 0],
        [2, -1, 0],
    ]
