"""Contexts: prefixes with labels, aligned and padded batches, row ids that stay."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data.contexts import Contexts, Kind, concatenate, from_lists, history_contexts, prefixes, train_contexts
from distill.data.dataset import TEST, VALID, Dataset, Lists

N = 9
SEQUENCES = st.lists(st.lists(st.integers(0, N - 1), max_size=6), min_size=1, max_size=6)


def lists_of(rows):
    indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    return Lists(indptr, np.array([i for r in rows for i in r], np.int32))


def spelled(contexts):
    """Every context as (user, history, target, kind)."""
    return [
        (int(u), contexts.items[a:b].tolist(), int(t), int(k))
        for u, a, b, t, k in zip(
            contexts.user, contexts.start, contexts.stop, contexts.target, contexts.kind, strict=True
        )
    ]


@given(SEQUENCES, st.sampled_from([Kind.REAL, Kind.DROP]))
def test_prefixes_are_all_prefixes_with_the_next_item(rows, kind):
    users = np.arange(len(rows)) + 10
    expected = [
        (10 + u, row[:k], row[k] if k < len(row) and kind == Kind.REAL else -1, kind)
        for u, row in enumerate(rows)
        for k in range(1, len(row) + 1)
    ]
    assert spelled(prefixes(lists_of(rows), N, kind, users)) == expected


@given(SEQUENCES)
def test_from_lists_takes_whole_rows(rows):
    contexts = from_lists(lists_of(rows), N, Kind.SINGLE, np.full(len(rows), -1))
    assert spelled(contexts) == [(-1, row, -1, Kind.SINGLE) for row in rows]
    assert contexts.lengths.tolist() == [len(row) for row in rows]


@given(SEQUENCES, st.integers(1, 8), st.data())
def test_batches_are_right_aligned_and_padded_on_the_left(rows, max_length, data):
    contexts = from_lists(lists_of(rows), N, Kind.REAL, np.arange(len(rows)))
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=8))
    batch = contexts.batch(np.array(chosen), max_length)
    longest = max(1, *(len(rows[r]) for r in chosen))
    assert batch.seen.shape == (len(chosen), longest)
    assert batch.history.shape == (len(chosen), min(max_length, longest))
    for line, row in enumerate(chosen):
        assert batch.seen[line].tolist() == [N] * (longest - len(rows[row])) + rows[row]
        length = batch.history.shape[1]
        assert batch.history[line].tolist() == ([N] * length + rows[row])[-length:]
    assert batch.row_id.tolist() == batch.user.tolist() == chosen
    assert {a.dtype for a in (batch.row_id, batch.user, batch.history, batch.seen, batch.target)} == {
        np.dtype(np.int64)
    }
    assert batch.history.flags.c_contiguous


def test_a_batch_of_empty_histories_is_all_padding():
    contexts = from_lists(lists_of([[], []]), N, Kind.REAL, np.arange(2))
    assert contexts.batch(np.array([1, 0]), 5).history.tolist() == [[N], [N]]


def test_row_ids_are_those_asked_for_in_any_order():
    contexts = prefixes(lists_of([[1, 2, 3], [4, 5]]), N, Kind.REAL, np.arange(2))
    order = np.array([4, 0, 2])
    batch = contexts.batch(order, 10)
    assert batch.row_id.tolist() == [4, 0, 2]
    assert batch.target.tolist() == [-1, 2, -1]
    assert batch.history.tolist() == [[N, 4, 5], [N, N, 1], [1, 2, 3]]


def test_concatenation_keeps_the_rows_of_the_first_and_shifts_the_others():
    first = prefixes(lists_of([[1, 2], [3]]), N, Kind.REAL, np.array([0, 1]))
    second = from_lists(lists_of([[4, 5], []]), N, Kind.CROP, np.array([1, -1]))
    third = prefixes(lists_of([[6, 7]]), N, Kind.DROP, np.array([0]))
    whole = concatenate([first, second, third])
    assert spelled(whole) == spelled(first) + spelled(second) + spelled(third)
    assert len(whole) == len(first) + len(second) + len(third)


def test_round_trip(tmp_path):
    contexts = concatenate(
        [
            prefixes(lists_of([[1, 2], [3]]), N, Kind.REAL, np.arange(2)),
            from_lists(lists_of([[4]]), N, Kind.SINGLE, np.array([-1])),
        ]
    )
    contexts.write(tmp_path / "contexts.parquet")
    back = Contexts.read(tmp_path / "contexts.parquet", N)
    assert spelled(back) == spelled(contexts) and back.n_items == N
    for field in dataclasses.fields(Contexts):
        if field.name != "n_items":
            assert getattr(back, field.name).dtype == getattr(contexts, field.name).dtype


@pytest.fixture
def dataset():
    parts = [0, 0, 1, 2, 0, 1, 0, 2, 2]
    return Dataset(
        np.array(["a", "b", "c"]),
        np.array([f"i{i}" for i in range(N)]),
        [""] * N,
        [""] * N,
        np.array([0, 4, 6, 9]),
        np.array([0, 1, 2, 3, 4, 5, 6, 7, 8], np.int32),
        np.array(parts, np.uint8),
    )


def test_train_contexts_hold_no_later_item(dataset):
    assert spelled(train_contexts(dataset)) == [(0, [0], 1, 0), (0, [0, 1], -1, 0), (1, [4], -1, 0), (2, [6], -1, 0)]


def test_history_contexts_hold_everything_before_their_part(dataset):
    users = np.array([2, 0])
    assert spelled(history_contexts(dataset, users, VALID)) == [(2, [6], -1, 0), (0, [0, 1], -1, 0)]
    assert spelled(history_contexts(dataset, users, TEST)) == [(2, [6], -1, 0), (0, [0, 1, 2], -1, 0)]
