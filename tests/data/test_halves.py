"""Halves of users: every event once the label, the others of its user the history."""

import numpy as np
import torch

from distill.data.ragged import Lists
from distill.windows.halves import Halves

LENGTHS = [0, 1, 2, 3, 40, 7]


def lists():
    rng = np.random.default_rng(0)
    items = np.concatenate([rng.permutation(50)[:n] for n in LENGTHS]).astype(np.int32)
    return Lists(np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64), items)


def parts_of(halves, epoch=0, size=9, most=0):
    """User, history and labels of each half of an epoch."""
    for numbers in halves.batches(size, 3, epoch, most):
        batch = halves.batch(numbers)
        for place, user in enumerate(batch["user"].tolist()):
            read = batch["history"][batch["set_row"] == place]
            yield user, read.tolist(), batch["label"][batch["label_row"] == place].tolist()


def test_every_event_is_a_label_once_and_what_is_left_is_the_history():
    halves, data = Halves(lists(), 50, 100), lists()
    found = list(parts_of(halves))
    assert halves.contexts == sum(n for n in LENGTHS if n > 1) == sum(len(asked) for _, _, asked in found)
    for user, read, asked in found:
        assert read and asked, "no history and no half is empty"
        assert sorted(read + asked) == sorted(data[user].tolist())
    assert sorted(user for user, _, _ in found) == [2, 2, 3, 3, 4, 4, 5, 5]
    assert sorted(i for user, _, asked in found if user == 4 for i in asked) == sorted(data[4].tolist())


def test_rows_ascend_as_sums_over_runs_need():
    halves = Halves(lists(), 50, 100)
    for numbers in halves.batches(20, 0, 0):
        batch = halves.batch(numbers)
        for name in ("set_row", "label_row"):
            assert bool((batch[name].diff() >= 0).all())


def test_halves_are_drawn_anew_in_every_epoch_and_the_same_for_a_seed():
    first, again, other = (Halves(lists(), 50, 100, seed) for seed in (0, 0, 1))
    draws = [{(u, tuple(r)) for u, r, _ in parts_of(made, epoch)} for made in (first, again, other) for epoch in (0, 1)]
    assert draws[0] == draws[2] and draws[1] == draws[3]
    assert draws[0] != draws[1] and draws[0] != draws[4]


def test_long_histories_are_cut_at_random_and_their_labels_are_not():
    halves, data = Halves(lists(), 50, 5), lists()
    found = list(parts_of(halves))
    assert max(len(read) for _, read, _ in found) == 5
    assert sum(len(asked) for _, _, asked in found) == halves.contexts
    for user, read, asked in found:
        assert set(read) <= set(data[user].tolist()) - set(asked)


def test_an_epoch_may_be_a_sample():
    halves = Halves(lists(), 50, 100)
    assert len(list(parts_of(halves, most=13))) == 2  # of a mean of 6.5 labels
    assert Halves(Lists(np.array([0, 1]), np.array([4], np.int32)), 50, 10).batches(8, 0, 0) == []


def test_a_batch_is_int64():
    halves = Halves(lists(), 50, 100)
    batch = halves.batch(halves.batches(100, 0, 0)[0])
    assert {values.dtype for values in batch.values()} == {torch.int64}


def test_an_item_of_the_own_history_is_no_label():
    repeats = Lists(np.array([0, 6, 9, 11], np.int64), np.array([1, 2, 1, 3, 1, 4, 5, 5, 5, 6, 7], np.int32))
    halves, seen = Halves(repeats, 10, 100), set()
    for epoch in range(20):
        for user, read, asked in parts_of(halves, epoch, size=100):
            assert not set(read) & set(asked)
            whole = repeats[user].tolist()
            left = sorted(i for i in whole if i not in read)
            assert sorted(asked) == left, "nothing else is left out"
            seen.update((user, i) for i in asked)
    assert {(0, 2), (0, 3), (0, 4), (2, 6), (2, 7)} <= seen and (1, 5) not in seen
