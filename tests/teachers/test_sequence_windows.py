"""Windows of histories: which items are read, and which contexts one pass answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teachers.sequence_passes import passes
from teachers.sequence_windows import first_read, latest, shared, windows

N = 50


def right_aligned(rows, extra=0):
    width = max(1, *(len(row) for row in rows)) + extra
    return np.array([[N] * (width - len(row)) + list(row) for row in rows], np.int64)


@pytest.mark.parametrize("longest", [2, 3, 4, 7, 50])
def test_the_latest_items_are_read_and_the_window_moves_in_steps(longest):
    lengths = np.arange(1, 60)
    first = first_read(lengths, longest)
    read = lengths - first
    assert (read <= longest).all() and (first % max(1, longest // 2) == 0).all()
    assert (read >= np.minimum(lengths, longest - max(1, longest // 2) + 1)).all()


@pytest.mark.parametrize("longest", [2, 3, 4, 7, 50])
def test_every_prefix_is_read_from_the_window_that_asks_for_its_next_item(longest):
    lengths = np.array([0, 1, 2, 5, 9, 11, 40])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    cuts = windows(indptr, longest)
    assert (cuts.lengths <= longest).all() and (cuts.lengths >= 1).all()
    fresh = [(begin, first, item) for begin, first, stop, new in zip(*vars(cuts).values(), strict=True)
             for item in range(new, stop)]  # fmt: skip
    assert sorted(item for *_, item in fresh) == list(range(indptr[-1])), "each item ends one prefix"
    for begin, first, item in fresh:
        assert first - begin == first_read(np.array([item + 1 - begin]), longest)[0]


def test_an_item_left_out_keeps_its_place_and_an_empty_history_is_one():
    rows, lengths = latest(right_aligned([[], [4, N, 6]]), 5, N, stepped=True)
    assert rows.tolist() == [[N, N + 1, N + 1], [4, N, 6]] and lengths.tolist() == [1, 3]


def test_windows_of_both_kinds_end_with_the_latest_item():
    history = list(range(11))
    for stepped, begins in ((True, 8), (False, 7)):
        rows, lengths = latest(right_aligned([history]), 4, N, stepped)
        assert rows[0, : lengths[0]].tolist() == history[begins:]


def test_a_beginning_of_another_history_needs_no_pass():
    histories = [[1, 2], [1, 2, 3], [2], [1], [1, 2, 4], [2, 1], [1, 2, 3]]
    rows, lengths = latest(right_aligned(histories), 9, N, stepped=True)
    ends, answered_by = shared(rows, lengths)
    assert sorted(tuple(histories[e]) for e in ends) == [(1, 2, 3), (1, 2, 4), (2, 1)]
    for history, number in zip(histories, answered_by, strict=True):
        assert histories[ends[number]][: len(history)] == history


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=12), st.booleans(), st.integers(0, 3))
def test_passes_answer_each_history_once_at_the_right_place(histories, causal, extra):
    answered = {}
    for history, which, places in passes(right_aligned(histories, extra), 4, N, causal):
        for number, (row, place) in zip(which, places, strict=True):
            assert number not in answered
            answered[number] = history[row, : place + 1].tolist()
    assert len(answered) == len(histories)
    for number, read in answered.items():
        whole = histories[number]
        if causal:
            first = first_read(np.array([len(whole)]), 4)[0]
            assert read == (whole[first:] or [N])
        else:
            assert read == ([*whole[-4:], N] if whole else [N, N])


def test_one_pass_answers_all_prefixes_of_a_user():
    prefixes = [list(range(n)) for n in range(1, 41)]
    found = list(passes(right_aligned(prefixes), 40, N, True))
    assert sum(len(history) for history, *_ in found) == 1
    found = list(passes(right_aligned(prefixes), 10, N, True))
    assert sum(len(history) for history, *_ in found) == 7, "a step of five items a window, after the first ten"
