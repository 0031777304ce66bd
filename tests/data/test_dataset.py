"""The prepared data set: round trip, lists of parts, fingerprint."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data.dataset import TEST, TRAIN, VALID, Dataset, Lists


def make(rows, n_items=6):
    """A data set from one list of (item, part) a user."""
    events = [event for row in rows for event in row]
    return Dataset(
        user_ids=np.array([f"user {i}" for i in range(len(rows))]),
        item_ids=np.array([f"item {i}" for i in range(n_items)]),
        titles=[f"Title {i}" for i in range(n_items)],
        texts=["", *(f"Text é {i}" for i in range(1, n_items))],
        indptr=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        items=np.array([item for item, _ in events], np.int32),
        parts=np.array([part for _, part in events], np.uint8),
        summary={"rows read": len(events), "form": "tables"},
    )


ROWS = st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=6), min_size=1, max_size=8)
EXAMPLE = [[(0, TRAIN), (1, VALID), (2, TEST)], [], [(3, TRAIN), (0, TRAIN)]]


@given(ROWS, st.integers(0, 2), st.integers(0, 2))
def test_lists_of_parts_are_the_definition(rows, first, last):
    lists = make(rows).lists(first, last)
    assert [lists[i].tolist() for i in range(len(rows))] == [
        [item for item, part in row if first <= part <= last] for row in rows
    ]
    assert lists.indptr.dtype == np.int64 and lists.items.dtype == np.int32


@given(ROWS, st.data())
def test_take_picks_rows_in_order(rows, data):
    lists = make(rows).lists(TRAIN, TEST)
    chosen = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)), dtype=np.int64)
    taken = lists.take(chosen)
    assert [taken[i].tolist() for i in range(len(chosen))] == [lists[row].tolist() for row in chosen]
    assert taken.row_numbers().tolist() == [i for i, row in enumerate(chosen) for _ in rows[row]]


def test_popularity_counts_train_events():
    assert make(EXAMPLE).popularity.tolist() == [2, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("rows", [EXAMPLE, [[], [], [(1, TRAIN)], []]])
def test_round_trip(tmp_path, rows):
    dataset = make(rows)
    dataset.write(tmp_path)
    back = Dataset.read(tmp_path)
    for name in ("user_ids", "item_ids", "indptr", "items", "parts"):
        assert getattr(back, name).tolist() == getattr(dataset, name).tolist()
    assert (back.titles, back.texts, back.summary) == (dataset.titles, dataset.texts, dataset.summary)
    assert (back.fingerprint, back.item_vocabulary) == (dataset.fingerprint, dataset.item_vocabulary)
    assert json.loads((tmp_path / "dataset.json").read_text())["fingerprint"] == dataset.fingerprint


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def test_fingerprint_depends_on_ids_events_order_and_parts():
    base = make(EXAMPLE)
    versions = [
        base,
        dataclasses.replace(base, user_ids=changed(base.user_ids, 1, "other")),
        dataclasses.replace(base, item_ids=base.item_ids[::-1]),
        dataclasses.replace(base, items=changed(base.items, 0, 5)),
        dataclasses.replace(base, items=changed(changed(base.items, 3, 0), 4, 3)),
        dataclasses.replace(base, parts=changed(base.parts, 2, VALID)),
        dataclasses.replace(base, indptr=changed(base.indptr, 1, 2)),
    ]
    assert len({version.fingerprint for version in versions}) == len(versions)
    assert make(EXAMPLE).fingerprint == base.fingerprint


def test_lists_of_nothing():
    empty = Lists(np.zeros(1, np.int64), np.zeros(0, np.int32))
    assert len(empty) == 0 and len(empty.take(np.zeros(0, np.int64))) == 0
