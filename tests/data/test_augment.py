"""Synthetic contexts: what each kind is made of, that seeds decide everything, and that real rows keep their ids."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data.augment import appends, crop, keep_entries, last_real_rows, mixed, rollouts, static_contexts
from distill.data.contexts import Kind, concatenate, train_contexts
from distill.data.dataset import TRAIN, VALID, Dataset, Lists

N = 40


def dataset(users=60, seed=0, longest=12):
    """Train sequences without repeats (a few of them empty), and a validation event that must never appear."""
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(N - 1)[: rng.integers(0, longest + 1)] for _ in range(users)]
    items = np.concatenate([np.append(row, N - 1) for row in rows]).astype(np.int32)
    parts = np.concatenate([np.append(np.full(len(row), TRAIN), VALID) for row in rows]).astype(np.uint8)
    indptr = np.concatenate([[0], np.cumsum([len(row) + 1 for row in rows])]).astype(np.int64)
    names = np.array([f"i{i}" for i in range(N)])
    return Dataset(np.array([f"u{u}" for u in range(users)]), names, list(names), list(names), indptr, items, parts)


DATA = dataset()
TRAIN_LISTS = DATA.lists(TRAIN, TRAIN)


def make(drops=2, crops=2, singles=True, max_prefixes=3, seed=0):
    return static_contexts(DATA, seed, drops, crops, singles, max_prefixes)


def histories(contexts, kind=None):
    """(user, history) of every context, of one kind where it is given."""
    return [
        (int(u), contexts.items[a:b].tolist())
        for u, a, b, k in zip(contexts.user, contexts.start, contexts.stop, contexts.kind, strict=True)
        if kind is None or k == kind
    ]


def is_subsequence(short, long):
    rest = iter(long)
    return all(item in rest for item in short)


def is_piece(short, long):
    return any(long[i : i + len(short)] == short for i in range(len(long) - len(short) + 1))


def test_the_seed_decides_everything():
    assert histories(make(seed=1)) == histories(make(seed=1))
    assert histories(make(seed=1), Kind.DROP) != histories(make(seed=2), Kind.DROP)
    assert histories(make(seed=1), Kind.CROP) != histories(make(seed=2), Kind.CROP)


@pytest.mark.parametrize(
    "settings", [{}, {"drops": 0}, {"crops": 5}, {"singles": False}, {"seed": 9}, {"max_prefixes": 1}]
)
def test_row_ids_of_real_contexts_never_change(settings):
    real = train_contexts(DATA)
    found = make(**settings)
    rows = np.arange(len(real))
    batch, wanted = found.batch(rows, 50), real.batch(rows, 50)
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(batch, name), value)
    assert (found.kind[len(real) :] != Kind.REAL).all()


def test_synthetic_contexts_have_no_label_and_only_train_items():
    contexts = make()
    assert (contexts.target[contexts.kind != Kind.REAL] == -1).all()
    real = [i for _, history in histories(contexts, Kind.REAL) for i in history]
    assert N - 1 not in real
    assert all(N - 1 not in h for k in (Kind.DROP, Kind.CROP) for _, h in histories(contexts, k))


def test_drops_are_subsequences_and_crops_are_pieces():
    contexts = make()
    for user, history in histories(contexts, Kind.DROP):
        assert history and is_subsequence(history, TRAIN_LISTS[user].tolist())
    for user, history in histories(contexts, Kind.CROP):
        assert history and is_piece(history, TRAIN_LISTS[user].tolist())


def test_mixes_interleave_the_latest_halves_of_two_users():
    contexts = static_contexts(DATA, 0, 0, 0, False, 3, mixes=2)
    found = [history for _, history in histories(contexts, Kind.MIX)]
    halves = [TRAIN_LISTS[u].tolist()[len(TRAIN_LISTS[u]) // 2 :] for u in range(60)]
    halves = [half for half in halves if half]
    assert len(found) == 2 * len(halves)
    for history in found:
        assert len(set(history)) == len(history)
        assert any(
            set(one) | set(two) == set(history) and (is_subsequence(one, history) or is_subsequence(two, history))
            for a, one in enumerate(halves)
            for two in halves[:a]
        )
    assert {user for user, _ in histories(contexts, Kind.MIX)} == {-1}
    again = static_contexts(DATA, 0, 0, 0, False, 3, mixes=2)
    assert histories(again) == histories(contexts)
    assert histories(static_contexts(DATA, 1, 0, 0, False, 3, mixes=2), Kind.MIX) != histories(contexts, Kind.MIX)


def test_both_halves_of_a_mix_keep_their_order_and_are_shuffled_together():
    lists = Lists(np.array([0, 200, 400], np.int64), np.arange(400, dtype=np.int32))
    contexts = mixed(lists, 400, np.random.default_rng(0))
    for _, history in histories(contexts):
        low, high = [i for i in history if i < 200], [i for i in history if i >= 200]
        assert low == list(range(100, 200)) and high == list(range(300, 400))
        assert history not in (low + high, high + low)
        changes = sum((a < 200) != (b < 200) for a, b in itertools.pairwise(history))
        assert 60 < changes < 140, "about every second item changes the owner"


def test_nothing_is_mixed_for_a_single_user():
    assert len(mixed(Lists(np.array([0, 3]), np.arange(3, dtype=np.int32)), 9, np.random.default_rng(0))) == 0


def test_about_a_quarter_is_dropped():
    big = dataset(users=2000, seed=3)
    contexts = static_contexts(big, 0, 1, 0, False, 10**6)
    kept = np.count_nonzero(contexts.kind == Kind.DROP)  # every prefix: one context an item that was kept
    total = len(big.lists(TRAIN, TRAIN).items)
    assert abs(kept / total - 0.75) < 4 * np.sqrt(0.25 * 0.75 / total)


def test_at_most_so_many_prefixes_of_a_sequence_and_the_longest():
    contexts = make(drops=1, crops=0, max_prefixes=3)
    by_user = {}
    for user, history in histories(contexts, Kind.DROP):
        by_user.setdefault(user, []).append(history)
    for found in by_user.values():
        lengths = [len(h) for h in found]
        longest = max(lengths)
        assert lengths == list(range(max(1, longest - 2), longest + 1))
        assert all(h == found[-1][: len(h)] for h in found)


def test_singles_are_the_whole_catalogue():
    assert histories(make(), Kind.SINGLE) == [(-1, [i]) for i in range(N)]
    assert histories(make(singles=False), Kind.SINGLE) == []


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 100))
def test_crops_keep_at_least_half(lengths, seed):
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    lists = Lists(indptr, np.arange(indptr[-1], dtype=np.int32))
    found = crop(lists, np.random.default_rng(seed))
    for row, length in enumerate(lengths):
        assert length / 2 <= len(found[row]) <= length
        assert is_piece(found[row].tolist(), lists[row].tolist())


@given(st.lists(st.lists(st.booleans(), max_size=6), min_size=1, max_size=6))
def test_keep_entries(rows):
    indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    lists = Lists(indptr, np.arange(indptr[-1], dtype=np.int32))
    kept = keep_entries(lists, np.array([x for r in rows for x in r], bool))
    for row, keep in enumerate(rows):
        assert kept[row].tolist() == [i for i, k in zip(lists[row].tolist(), keep, strict=True) if k]


def test_rollouts_start_at_whole_train_sequences():
    rows = last_real_rows(make())
    found = histories(make())
    assert [found[r] for r in rows] == [(u, TRAIN_LISTS[u].tolist()) for u in range(60) if len(TRAIN_LISTS[u])]


def teacher_answers(contexts, rows, k=6, seed=0):
    """Distinct unseen items and their scores for each row."""
    rng = np.random.default_rng(seed)
    found = histories(contexts)
    items = np.array([rng.permutation(np.setdiff1d(np.arange(N), found[r][1]))[:k] for r in rows], np.int32)
    return items, -np.sort(-rng.normal(0, 2, (len(rows), k)), 1).astype(np.float16)


def test_rollouts_extend_by_items_of_the_teacher_without_replacement():
    contexts = make()
    rows = last_real_rows(contexts)
    items, scores = teacher_answers(contexts, rows)
    items[0, 2:] = -1  # a row for which the teacher ranks two items only
    found = rollouts(contexts, rows, items, scores, 4, 0.7, seed=3)
    assert histories(found) == histories(rollouts(contexts, rows, items, scores, 4, 0.7, seed=3))
    assert histories(found) != histories(rollouts(contexts, rows, items, scores, 4, 0.7, seed=4))
    assert (found.kind == Kind.ROLLOUT).all() and (found.target == -1).all()
    by_user = {}
    for user, history in histories(found):
        assert history[:-1] == TRAIN_LISTS[user].tolist()
        by_user.setdefault(user, []).append(history[-1])
    for row, allowed in zip(rows, items, strict=True):
        drawn = by_user[int(contexts.user[row])]
        assert len(set(drawn)) == len(drawn) == min(4, np.count_nonzero(allowed >= 0))
        assert set(drawn) <= set(allowed[allowed >= 0].tolist())


def test_more_rollouts_than_items_take_each_item_once():
    contexts = make()
    rows = last_real_rows(contexts)
    items, scores = teacher_answers(contexts, rows, k=3)
    assert len(rollouts(contexts, rows, items, scores, 9, 1.0, seed=0)) == 3 * len(rows)


@pytest.mark.parametrize("power", [0.0, 0.7, 2.0])
def test_rollouts_are_drawn_with_probability_p_to_the_power(power):
    contexts = make()
    draws = 20_000
    rows = np.full(draws, last_real_rows(contexts)[0])
    scores = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    items = np.tile(np.array([3, 1, 4, 0], np.int32), (draws, 1))
    found = rollouts(contexts, rows, items, np.tile(scores + 5, (draws, 1)), 1, power, seed=0)
    counts = np.bincount(found.items[found.stop - 1], minlength=5)[[3, 1, 4, 0]]
    expected = np.exp(power * scores) / np.exp(power * scores).sum() * draws
    assert ((counts - expected) ** 2 / expected).sum() < 16.3  # chi-square with 3 degrees of freedom: p = 0.001


def test_appends_never_repeat_the_history():
    contexts = make()
    rows = last_real_rows(contexts)
    found = appends(contexts, rows, 30, seed=0)
    assert histories(found) == histories(appends(contexts, rows, 30, seed=0))
    assert (found.kind == Kind.APPEND).all()
    for user, history in histories(found):
        assert history[:-1] == TRAIN_LISTS[user].tolist() and history[-1] not in history[:-1]
    # Of each user's 30 draws only the repeats are left out.
    share = 1 - TRAIN_LISTS.lengths[contexts.user[rows]] / N
    assert abs(len(found) - 30 * share.sum()) < 4 * np.sqrt(30 * (share * (1 - share)).sum())
    drawn = {history[-1] for _, history in histories(found)}
    assert drawn == set(range(N)), "every item can be drawn"


def test_extensions_follow_the_static_contexts():
    contexts = make()
    both = concatenate([contexts, appends(contexts, last_real_rows(contexts), 2, seed=0)])
    assert histories(both)[: len(contexts)] == histories(contexts)
    assert last_real_rows(both).tolist() == last_real_rows(contexts).tolist()


def test_a_data_set_whose_users_have_nothing_in_train():
    nothing = dataset(users=3, longest=0)
    contexts = static_contexts(nothing, 0, 1, 1, True, 3)
    assert histories(contexts) == [(-1, [i]) for i in range(N)]
    assert len(appends(contexts, last_real_rows(contexts), 2, 0)) == 0
