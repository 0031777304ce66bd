import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from distill.serving.rescore import EMPTY, exact_scores, first_keys, full_scan, keys_of, opened_keys

SCORES = st.floats(width=32, allow_nan=False)
ITEMS = st.integers(0, 2**31 - 1)


@given(st.lists(st.tuples(SCORES, ITEMS), min_size=1, max_size=30))
def test_keys_sort_by_score_and_then_by_item(pairs):
    scores, items = np.array([p[0] for p in pairs], np.float32), np.array([p[1] for p in pairs], np.int64)
    keys = np.sort(keys_of(scores, items))
    found, values = opened_keys(keys)
    order = np.lexsort((items, -scores))
    assert found.tolist() == items[order].tolist()
    assert values.tolist() == (scores[order] + 0).tolist()


def test_minus_zero_ties_with_zero():
    keys = keys_of(np.array([0.0, -0.0], np.float32), np.array([2, 1]))
    assert opened_keys(np.sort(keys))[0].tolist() == [1, 2]


def test_rows_with_fewer_items_end_with_empty_places():
    keys = np.array([[*keys_of(np.array([1, 2], np.float32), np.array([7, 8])), EMPTY]])
    items, scores = opened_keys(first_keys(keys, 5))
    assert items.tolist() == [[8, 7, -1, -1, -1]]
    assert scores.tolist() == [[2, 1, -np.inf, -np.inf, -np.inf]]


def test_scores_are_rounded_once_whatever_cancels():
    rows = np.array([[1e8, 1.0, -1e8]], np.float32)
    assert exact_scores(rows, np.array([0.5], np.float32), np.ones(3)).tolist() == [1.5]


def test_a_full_scan_in_pieces_is_the_sorted_table(monkeypatch):
    random = np.random.default_rng(0)
    table, bias = random.integers(-2, 3, (50, 3)).astype(np.float32), random.integers(0, 2, 50).astype(np.float32)
    queries, items = random.integers(-2, 3, (4, 3)).astype(np.float32), random.permutation(50)
    hidden = np.array([[3, 49], [0, 0], [7, 8], [20, 30]])
    monkeypatch.setattr("distill.serving.rescore.ROWS_AT_ONCE", 7)
    found, _ = opened_keys(full_scan(table, bias, items, queries, hidden, 48))
    for row in range(4):
        places = np.setdiff1d(np.arange(50), hidden[row])
        scores = table[places] @ queries[row] + bias[places]
        expected = items[places][np.lexsort((items[places], -scores))][:48]
        assert found[row].tolist() == expected.tolist() + [-1] * (48 - len(expected))
