"""Closed-form members against brute force: decayed sums, EASE, nearest neighbours, popularity, and the contract."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.closed_form.interactions import decayed_sum, interaction_matrix
from distill.contracts import check_member, check_reload
from distill.data.contexts import history_contexts
from distill.data.dataset import TRAIN, VALID, Dataset
from distill.errors import UserError
from distill.tensors import history_pools, mask_seen, shuffled
from teachers.ease import Ease
from teachers.itemknn import ItemKNN
from teachers.popularity import Popularity
from teachers.protocol import Inputs

N = 15
MEMBERS = [Ease, ItemKNN, Popularity]


def random_data(users=40, seed=0):
    """Sequences without repeats; the last event of each is validation; item N - 1 has no event at all."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(N - 1)[: rng.integers(2, 9)] for _ in range(users)]
    items = np.concatenate(rows).astype(np.int32)
    parts = np.concatenate([[TRAIN] * (len(row) - 1) + [VALID] for row in rows]).astype(np.uint8)
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    names = np.array([f"i{i}" for i in range(N)])
    return Dataset(np.array([f"u{u}" for u in range(users)]), names, list(names), list(names), indptr, items, parts)


DATA = random_data()
INPUTS = Inputs(DATA, {}, 0, torch.device("cpu"))
HISTORIES = st.lists(st.lists(st.integers(0, N - 1), max_size=7), min_size=1, max_size=4)


def train_matrix():
    """Dense binary train interactions (U, N), float64."""
    lists = DATA.lists(TRAIN, TRAIN)
    x = np.zeros((len(lists), N))
    for user in range(len(lists)):
        for item in lists[user]:
            x[user, item] = 1.0
    return x


def padded(rows):
    length = max(1, *(len(row) for row in rows))
    return torch.tensor([[N] * (length - len(row)) + list(row) for row in rows])


def fitted(member):
    member.prepare(INPUTS)
    return member


@pytest.mark.parametrize("kind", MEMBERS)
def test_the_contract(kind):
    member = kind()
    check_member(member, DATA)
    check_reload(member, kind(), DATA)


def test_interactions_are_binary_even_where_they_repeat():
    repeated = Dataset(
        np.array(["a"]), np.array(["x", "y"]), ["x", "y"], ["", ""], np.array([0, 3]), np.array([1, 1, 0], np.int32),
        np.zeros(3, np.uint8),
    )  # fmt: skip
    assert interaction_matrix(repeated).toarray().tolist() == [[1.0, 1.0]]
    np.testing.assert_array_equal(interaction_matrix(DATA).toarray(), train_matrix())


@given(HISTORIES, st.sampled_from([0.3, 1.5, 4.0, math.inf]))
def test_decayed_sum_against_loops(rows, decay):
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(N, 6)))
    expected = np.zeros((len(rows), 6))
    for line, row in enumerate(rows):
        for age, item in enumerate(reversed(row)):
            expected[line] += math.exp(-age / decay) * table[item].numpy()
    np.testing.assert_allclose(decayed_sum(padded(rows), table, decay).numpy(), expected, atol=2e-4)


def test_negligible_items_are_not_looked_at_but_the_sum_is_the_same():
    history = torch.arange(N).repeat(20)[None]
    table = torch.rand(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    age = torch.arange(history.shape[1] - 1, -1, -1, dtype=torch.float64)
    expected = (torch.exp(-age / 2.0)[:, None] * table[history[0]]).sum(0)
    np.testing.assert_allclose(decayed_sum(history, table, 2.0)[0].numpy(), expected.numpy(), rtol=3e-4)


@given(HISTORIES)
def test_history_pools_against_loops(rows):
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(N, 5)))
    decays = [0.7, 3.0]
    expected = np.zeros((len(rows), 2, 5))
    for line, row in enumerate(rows):
        for k, decay in enumerate(decays):
            weights = [math.exp(-age / decay) for age in range(len(row))]
            for weight, item in zip(weights, reversed(row), strict=True):
                expected[line, k] += weight / sum(weights) * table[item].numpy()
    found = history_pools(padded(rows), table, torch.tensor(decays, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_gradients_of_history_pools():
    history = padded([[1, 2, 3], [4], []])
    table = torch.rand(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    decays = torch.tensor([0.7, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t, d: history_pools(history, t, d), (table, decays))


def test_items_are_left_out_of_a_pool_at_random_but_never_all_of_them():
    history, table = padded([[0, 1, 2, 3], [4], []]).repeat(1000, 1), torch.eye(N)
    torch.manual_seed(0)
    pools = history_pools(history, table, torch.tensor([5.0]), dropped=0.5)[:, 0]
    long, single, empty = pools[0::3], pools[1::3], pools[2::3]
    assert torch.equal(single, table[4].expand(1000, -1)) and not empty.any()
    assert long.sum(1).numpy() == pytest.approx(np.ones(1000), abs=1e-5), "what stays is weighted anew"
    # An item is in 8 of the 16 equally likely subsets; the empty one of the others stands for the whole history.
    share = (long[:, :4] > 0).float().mean(0)
    assert (share - 9 / 16).abs().max() < 4 * math.sqrt(0.25 / 1000)


@given(st.lists(st.lists(st.integers(0, N - 1), max_size=4), min_size=1, max_size=5))
def test_mask_seen(rows):
    scores = torch.rand(len(rows), N, generator=torch.Generator().manual_seed(0))
    masked = mask_seen(scores.clone(), padded(rows))
    for line, row in enumerate(rows):
        for item in range(N):
            assert masked[line, item] == (-torch.inf if item in row else scores[line, item])


def test_mask_seen_lets_gradients_through():
    leaf = torch.zeros(2, 4, requires_grad=True)
    scores = mask_seen(leaf * 1.0, torch.tensor([[4, 1], [4, 4]]))
    scores.logsumexp(1).sum().backward()
    assert leaf.grad[0].tolist() == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3])
    assert leaf.grad[1].tolist() == pytest.approx([0.25] * 4)


def test_shuffled_batches_hold_every_row_once_and_follow_seed_and_epoch():
    rows = np.arange(100, 203)
    batches = shuffled(rows, 20, seed=1, epoch=2)
    assert sorted(np.concatenate(batches)) == list(rows)
    assert {len(b) for b in batches} == {20, 21}
    again, other = shuffled(rows, 20, 1, 2), shuffled(rows, 20, 1, 3)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert any((a != b).any() for a, b in zip(batches, other, strict=True))
    assert shuffled(rows[:0], 20, 1, 2) == []


def test_an_epoch_of_at_most_so_many_rows_is_another_sample_each_time():
    rows = np.arange(100, 203)
    first, second = (np.concatenate(shuffled(rows, 20, 1, epoch, most=40)) for epoch in (0, 1))
    assert len(first) == len(np.unique(first)) == 40 and set(first) <= set(rows)
    assert set(first) != set(second)


def test_ease_against_the_formula():
    x = train_matrix()
    inverse = np.linalg.inv(x.T @ x + 7.0 * np.eye(N))
    table = -inverse / np.diag(inverse)[None, :]
    np.fill_diagonal(table, 0.0)
    member = fitted(Ease(l2=7.0, decay=2.0, floor=0.01))
    np.testing.assert_allclose(member.table.numpy(), table, atol=1e-5)
    batch = history_contexts(DATA, np.arange(5), VALID).batch(np.arange(5), 99)
    lists = DATA.lists(TRAIN, TRAIN)
    for row in range(5):
        history = lists[row][::-1]
        summed = sum(math.exp(-age / 2.0) * table[item] for age, item in enumerate(history))
        expected = np.log(np.maximum(summed, 0) + 0.01)
        np.testing.assert_allclose(member.score(batch)[row].numpy(), expected, atol=2e-3)


def test_the_ease_solution_is_the_least_squares_one():
    """Column j of B minimises |x_j - X b|^2 + l2 |b|^2 under b_j = 0: a small change can only be worse."""
    x, table = train_matrix(), fitted(Ease(l2=7.0)).table.double().numpy()

    def cost(b):
        return ((x - x @ b) ** 2).sum() + 7.0 * (b**2).sum()

    rng = np.random.default_rng(0)
    for _ in range(10):
        step = rng.normal(0, 1e-2, table.shape)
        np.fill_diagonal(step, 0.0)
        assert cost(table + step) > cost(table)


def test_ease_refuses_a_catalogue_that_is_too_large(monkeypatch):
    monkeypatch.setattr("distill.closed_form.item_item.MAX_EASE_ITEMS", N - 1)
    with pytest.raises(UserError, match=r"catalogue has 15 items .* 'itemknn'"):
        fitted(Ease())


@pytest.mark.parametrize(("alpha", "shrink", "neighbours"), [(0.5, 0.0, N), (0.75, 10.0, N), (1.0, 2.0, 3)])
def test_nearest_neighbours_against_loops(alpha, shrink, neighbours):
    x = train_matrix()
    count = x.sum(0)
    table = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            together = sum(x[u, i] * x[u, j] for u in range(len(x)))
            if i != j and together:
                table[i, j] = together / ((count[i] * count[j]) ** alpha + shrink)
    kept = table.copy()
    for i in range(N):
        if neighbours < N:
            kept[i][table[i] < np.sort(table[i])[-neighbours]] = 0.0
    member = fitted(ItemKNN(alpha=alpha, shrink=shrink, neighbours=neighbours))
    np.testing.assert_allclose(member.table.numpy(), kept / kept.max(), atol=1e-5)


def test_popularity_is_the_same_for_everybody():
    member = fitted(Popularity())
    batch = history_contexts(DATA, np.arange(4), VALID).batch(np.arange(4), 99)
    expected = [math.log(1 + c) for c in train_matrix().sum(0)]
    assert member.score(batch).tolist() == [pytest.approx(expected)] * 4


@pytest.mark.parametrize("kind", MEMBERS)
def test_only_train_is_learned_from(kind):
    """Other validation events leave the tables as they are."""
    other = DATA.items.copy()
    other[DATA.parts == VALID] = N - 1
    changed = Dataset(DATA.user_ids, DATA.item_ids, DATA.titles, DATA.texts, DATA.indptr, other, DATA.parts)
    again = kind()
    again.prepare(Inputs(changed, {}, 0, torch.device("cpu")))
    assert torch.equal(fitted(kind()).table, again.table)


def test_weights_of_events_count_where_there_are_any():
    weights = np.random.default_rng(1).uniform(0.5, 3, len(DATA.items)).astype(np.float32)
    weighted = dataclasses.replace(DATA, weights=weights)
    lists, kept = DATA.lists(TRAIN, TRAIN), weights[DATA.parts == TRAIN]
    x = np.zeros((len(lists), N))
    x[lists.row_numbers(), lists.items] = kept
    np.testing.assert_allclose(interaction_matrix(weighted, weighted=True).toarray(), x)
    np.testing.assert_array_equal(interaction_matrix(weighted).toarray(), train_matrix())
    np.testing.assert_array_equal(interaction_matrix(DATA, weighted=True).toarray(), train_matrix())
    inputs = Inputs(weighted, {}, 0, torch.device("cpu"))
    ease, knn = Ease(l2=5.0), ItemKNN(alpha=0.5, shrink=2.0, neighbours=N)
    ease.prepare(inputs)
    knn.prepare(inputs)
    inverse = np.linalg.inv(x.T @ x + 5.0 * np.eye(N))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(ease.table, expected, atol=1e-4)
    gram = x.T @ x
    expected = gram / (np.sqrt(np.outer(np.diag(gram), np.diag(gram))) + 2.0)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(knn.table, expected / expected.max(), atol=1e-5)
