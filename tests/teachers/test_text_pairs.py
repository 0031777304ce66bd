"""Pairs of neighbours and the batches they come in."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distill.data.dataset import Lists
from teachers.text_pairs import length_batches, neighbour_pairs


def ragged(rows: list[list[int]]) -> Lists:
    flat = np.array([item for row in rows for item in row], np.int32)
    return Lists(np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64), flat)


def test_pairs_stay_within_a_user_and_skip_repeats():
    pairs = neighbour_pairs(ragged([[1, 2, 3], [], [4], [5, 5, 6]]))
    assert pairs.items[: pairs.near].tolist() == [[1, 2], [2, 3], [5, 6]]
    assert pairs.items[pairs.near :].tolist() == [[1, 3], [5, 6]]


@given(st.lists(st.lists(st.integers(0, 5), max_size=6), max_size=8))
def test_pairs_equal_a_double_loop(rows):
    pairs = neighbour_pairs(ragged(rows))
    for distance, found in ((1, pairs.items[: pairs.near]), (2, pairs.items[pairs.near :])):
        wanted = [[a, b] for row in rows for a, b in zip(row, row[distance:], strict=False) if a != b]
        assert found.tolist() == wanted


def test_an_epoch_has_every_near_pair_once_and_the_share_of_far_ones():
    pairs = neighbour_pairs(ragged([list(range(n, n + 12)) for n in range(0, 240, 12)]))
    epochs = [pairs.epoch(0.3, np.random.default_rng([0, epoch])) for epoch in (0, 1)]
    for numbers in epochs:
        assert sorted(numbers[numbers < pairs.near]) == list(range(pairs.near))
        assert len(set(numbers)) == len(numbers) == pairs.near + round(0.3 * pairs.near)
    assert set(epochs[0]) != set(epochs[1])  # far pairs are drawn anew


@given(st.integers(1, 2000), st.integers(1, 64), st.integers(0, 5))
def test_batches_hold_each_pair_once_and_have_the_wanted_size(count, size, seed):
    rng = np.random.default_rng(seed)
    batches = length_batches(rng.permutation(count), rng.integers(4, 48, count), size, rng)
    assert sorted(np.concatenate(batches)) == list(range(count))
    assert len(batches) == max(1, round(count / size))
    assert sum(len(batch) != size for batch in batches) <= 1
    assert max(map(len, batches)) <= 1.5 * size + 1


def test_batches_waste_less_padding_than_random_ones():
    rng = np.random.default_rng(0)
    numbers, lengths = rng.permutation(5000), rng.integers(4, 48, 5000)
    sorted_batches = length_batches(numbers, lengths[numbers], 50, rng)
    random_batches = np.split(rng.permutation(5000), 100)

    def padded(batches):
        return sum(lengths[batch].max() * len(batch) for batch in batches)

    assert padded(sorted_batches) < 1.1 * lengths.sum()
    assert padded(random_batches) > 1.5 * lengths.sum()
