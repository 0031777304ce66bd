"""Which contexts a budget pays for: what each way prefers, against brute force, and that seeds decide the rest."""

import numpy as np
import pytest

from distill.data.augment import static_contexts
from distill.data.contexts import train_contexts
from distill.data.dataset import TRAIN, Dataset
from distill.data.select import PRIOR, WINDOW, clusters, neighbours, select, turns, uncertainty, wanted_count

N = 30
WAYS = ("uniform", "uncertainty", "tail_first", "diversity")


def dataset(rows):
    items = np.concatenate([np.asarray(row, np.int32) for row in rows])
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    names = np.array([f"i{i}" for i in range(N)])
    users = np.array([f"u{u}" for u in range(len(rows))])
    return Dataset(users, names, list(names), list(names), indptr, items, np.full(len(items), TRAIN, np.uint8))


def random_rows(users=80, seed=0):
    rng = np.random.default_rng(seed)
    weight = 1 / np.arange(1, N + 1)
    return [rng.choice(N, rng.integers(1, 12), replace=False, p=weight / weight.sum()) for _ in range(users)]


DATA = dataset(random_rows())
CONTEXTS = static_contexts(DATA, 0, 1, 0, True, 3, 1)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("count", [0, 1, 50, len(CONTEXTS), len(CONTEXTS) + 5])
def test_as_many_as_asked_each_once_and_by_seed(how, count):
    found = select(DATA, CONTEXTS, count, how, 0)
    assert len(found) == min(count, len(CONTEXTS)) == len(np.unique(found))
    assert (np.diff(found) > 0).all()
    np.testing.assert_array_equal(found, select(DATA, CONTEXTS, count, how, 0))
    if how in ("uniform", "diversity") and count == 50:
        assert found.tolist() != select(DATA, CONTEXTS, count, how, 1).tolist()


def test_tail_first_takes_the_rarest_labels():
    contexts = train_contexts(DATA)
    item = np.where(contexts.target >= 0, contexts.target, contexts.items[contexts.stop - 1])
    popularity = DATA.popularity[item]
    found = select(DATA, contexts, 60, "tail_first", 0)
    others = np.setdiff1d(np.arange(len(contexts)), found)
    assert popularity[found].max() <= popularity[others].min()


def test_uncertainty_is_the_entropy_of_an_items_neighbours():
    together = np.zeros((N, N))
    for row in random_rows():
        for a in range(len(row)):
            for b in range(len(row)):
                together[row[a], row[b]] += 0 < abs(a - b) <= WINDOW
    left, right, counts = neighbours(DATA)
    dense = np.zeros((N, N))
    dense[left, right] = counts
    np.testing.assert_array_equal(dense, together)
    popular = (DATA.popularity + 1) / (DATA.popularity.sum() + N)
    p = (together + PRIOR * popular) / (together.sum(1, keepdims=True) + PRIOR)
    entropy = -(p * np.log(p)).sum(1)
    singles = static_contexts(DATA, 0, 0, 0, True, 1)
    found = uncertainty(DATA, singles)
    np.testing.assert_allclose(found[-N:], entropy, rtol=1e-9)
    history = singles.batch(np.array([3]), 50).seen[0]
    history = history[history < N][::-1]
    weights = np.exp(-np.arange(len(history)) / 3.0)
    assert found[3] == pytest.approx((weights * entropy[history]).sum() / weights.sum())


def test_diversity_reaches_small_groups_that_chance_leaves_out():
    rows = [[0, 1, 2, 3]] * 300 + [[20, 21, 22, 23]] * 3
    data = dataset(rows)
    contexts = train_contexts(data)
    rare = contexts.user >= 300
    assert len(np.unique(clusters(data, contexts, 0)[rare])) >= 1
    found = select(data, contexts, 20, "diversity", 0)
    assert rare[found].sum() >= 2 > rare[select(data, contexts, 20, "uniform", 0)].sum()


def test_turns_take_one_of_each_cluster():
    cluster = np.array([4, 4, 4, 7, 9, 9])
    found = turns(cluster, np.array([0.5, 0.1, 0.9, 0.3, 0.8, 0.2]))
    assert found.tolist() == [1, 0, 2, 0, 1, 0]


@pytest.mark.parametrize(
    ("budget", "count"), [(0, 1000), (1, 1000), (0.25, 250), (0.00001, 1), (300, 300), (5000, 1000)]
)
def test_budgets(budget, count):
    assert wanted_count(budget, 1000) == count


@pytest.mark.parametrize("how", WAYS)
def test_histories_without_items(how):
    data = dataset([[], [1], []])
    assert len(select(data, static_contexts(data, 0, 0, 0, True, 1), 4, how, 0)) == 4
