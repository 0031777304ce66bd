"""Edited contexts: what each edit changes and what it leaves, that seeds decide everything, and that nothing leaks."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data.behaviour import behaviour_features
from distill.data.contexts import Kind
from distill.data.dataset import TEST, TRAIN, Dataset, Lists
from distill.data.edits import SIMILAR, changed, edited_contexts, mask, reorder, similar_items, substitute
from distill.data.similar import alike_texts, text_vectors

N = 60
GROUPS = 6  # items of a group go together in histories and in texts
ROWS = st.lists(st.integers(0, 9), min_size=1, max_size=12)


def group_of(item):
    return np.asarray(item) % GROUPS


def dataset(users=300, seed=0, longest=9):
    """Each user keeps to one group of items, without repeats; item N - 1 occurs in the test part alone."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        own = np.flatnonzero(group_of(np.arange(N - 1)) == user % GROUPS)
        rows.append(rng.permutation(own)[: rng.integers(0, longest + 1)])
    items = np.concatenate([np.append(row, N - 1) for row in rows]).astype(np.int32)
    parts = np.concatenate([np.append(np.full(len(row), TRAIN), TEST) for row in rows]).astype(np.uint8)
    indptr = np.concatenate([[0], np.cumsum([len(row) + 1 for row in rows])]).astype(np.int64)
    texts = [f"group{i % GROUPS} kind{i % GROUPS} common word{i}" for i in range(N)]
    names = np.array([f"i{i}" for i in range(N)])
    return Dataset(np.array([f"u{u}" for u in range(users)]), names, texts, texts, indptr, items, parts)


DATA = dataset()
LISTS = DATA.lists(TRAIN, TRAIN)
KINDS = (Kind.MASK, Kind.REORDER, Kind.SUBSTITUTE)


def lists_of(lengths):
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Lists(indptr, np.arange(indptr[-1], dtype=np.int32))


def spelled(parts):
    return [
        (int(user), part.items[a:b].tolist(), Kind(kind))
        for part in parts
        for user, a, b, kind in zip(part.user, part.start, part.stop, part.kind, strict=True)
    ]


def make(seed=0, copies=1, similar="cooccurrence", count=3, data=DATA):
    return edited_contexts(data, seed, dict.fromkeys(KINDS, copies), similar, count)


@pytest.mark.parametrize("similar", ["cooccurrence", "text"])
def test_the_seed_decides_everything(similar):
    assert spelled(make(1, similar=similar)) == spelled(make(1, similar=similar))
    for kind in KINDS:
        one, two = ([c for c in spelled(make(seed, similar=similar)) if c[2] == kind] for seed in (1, 2))
        assert one and one != two


def test_copies_differ():
    first, second = make(copies=2)[:2]
    assert spelled([first]) != spelled([second])
    assert spelled(make(copies=0)) == []


def test_every_context_has_the_length_of_a_real_prefix_but_is_none():
    real = {(u, tuple(LISTS[u][:k])) for u in range(len(LISTS)) for k in range(1, len(LISTS[u]) + 1)}
    for part in make():
        assert len(part) and (part.target == -1).all()
        for user, history, _ in spelled([part]):
            longest = len(LISTS[user])
            assert longest - 3 < len(history) <= longest
            assert (user, tuple(history)) not in real


def test_all_prefixes_that_the_edit_changed_are_there():
    lists = lists_of([4, 0, 3])
    edited = Lists(lists.indptr, np.array([0, 9, 2, 3, 4, 5, 9], np.int32))
    assert changed(lists, edited).tolist() == [False, True, True, True, False, False, True]


@given(ROWS, st.integers(0, 1000))
@settings(max_examples=60)
def test_masks_leave_the_latest_and_the_places_of_all_others(lengths, seed):
    lists = lists_of(lengths)
    found = mask(lists, 999, np.random.default_rng(seed))
    hidden = found.items == 999
    assert (found.items[~hidden] == lists.items[~hidden]).all()
    assert all(row[-1] != 999 for row in (found[r] for r in range(len(found))) if len(row))


def test_about_a_quarter_is_masked_and_no_prefix_ends_with_a_masked_item():
    lists = lists_of([1001] * 10)
    hidden = mask(lists, 10**6, np.random.default_rng(0)).items == 10**6
    assert abs(hidden.sum() / 10_000 - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 10_000)
    masked = make()[0]
    assert (masked.items[masked.stop - 1] < N).all()
    assert (masked.items == N).any()


@given(ROWS, st.integers(0, 1000))
@settings(max_examples=60)
def test_reordering_shuffles_one_piece_of_half_the_row(lengths, seed):
    lists = lists_of(lengths)
    found = reorder(lists, np.random.default_rng(seed))
    for row, length in enumerate(lengths):
        old, new = lists[row], found[row]
        assert sorted(old) == sorted(new)
        moved = np.flatnonzero(old != new)
        assert not len(moved) or moved[-1] - moved[0] < max((length + 1) // 2, 2)


def test_any_order_of_the_piece_is_as_likely():
    lists = lists_of([4] * 12_000)
    found = reorder(lists, np.random.default_rng(0)).items.reshape(-1, 4) % 4
    first_two = found[(found[:, 2:] == [2, 3]).all(1) & (found[:, 0] != found[:, 1])]
    swapped = (first_two[:, 0] == 1).sum()
    # A third of the pieces are the first two places, half of those swapped.
    assert abs(swapped - 2000) < 4 * np.sqrt(12_000 / 6 * 5 / 6)


@given(st.integers(0, 200))
@settings(max_examples=20)
def test_substitutes_are_similar_and_never_repeat_an_item(seed):
    table = similar_items(DATA, "cooccurrence", 0)
    found = substitute(LISTS, table, N, np.random.default_rng(seed))
    for row in range(len(LISTS)):
        old, new = LISTS[row], found[row]
        assert len(set(new.tolist())) == len(new)
        assert all(a == b or b in table[a] for a, b in zip(old, new, strict=True))


def test_about_a_quarter_is_replaced_where_all_have_fresh_neighbours():
    lists = Lists(np.array([0, 4000], np.int64), np.arange(4000, dtype=np.int32))
    table = (np.arange(4000)[:, None] + 4000).astype(np.int32)
    found = substitute(lists, np.concatenate([table, table]), 8000, np.random.default_rng(0))
    assert abs((found.items >= 4000).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)


@pytest.mark.parametrize("how", ["cooccurrence", "text"])
def test_similar_items_are_of_the_same_group_and_have_train_events(how):
    table = similar_items(DATA, how, 0)
    assert table.shape == (N, SIMILAR)
    found = table >= 0
    assert found[DATA.popularity > 0].any(1).all()
    assert not found[N - 1].any() and not (table == N - 1).any()
    assert (group_of(table[found]) == group_of(np.nonzero(found)[0])).all()
    assert not (table == np.arange(N)[:, None]).any()
    assert (found[:, :-1] >= found[:, 1:]).all(), "padding is behind"


@pytest.mark.parametrize("how", ["cooccurrence", "text"])
def test_only_the_train_part_matters(how):
    """Other test events, and other texts of items without train events, change nothing."""
    items = DATA.items.copy()
    items[DATA.parts == TEST] = 0
    other = dataclasses.replace(DATA, items=items, texts=[*DATA.texts[:-1], DATA.texts[0]])
    assert spelled(make(similar=how, data=other)) == spelled(make(similar=how))


def test_a_data_set_without_train_events_or_texts():
    nothing = dataset(users=4, longest=0)
    for how in ("cooccurrence", "text"):
        assert spelled(make(similar=how, data=nothing)) == []
    silent = dataclasses.replace(DATA, texts=[""] * N)
    assert (similar_items(silent, "text", 0) == -1).all()
    assert len(make(similar="text", data=silent)[2]) == 0


def test_random_coordinates_keep_the_cosines_of_tfidf():
    from sklearn.feature_extraction.text import TfidfVectorizer

    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(80)]
    texts = [" ".join(rng.choice(words, 12)) for _ in range(200)]
    counts = TfidfVectorizer(sublinear_tf=True, min_df=2, smooth_idf=False, norm=None).fit_transform(texts)
    df = np.asarray((counts > 0).sum(0)).ravel()
    idf = np.log(len(texts) / df)
    exact = counts.toarray() / (idf + 1) * idf  # sklearn's idf has 1 added
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    vectors = text_vectors(texts, 0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.abs(vectors @ vectors.T - exact @ exact.T).std() < 0.07


def test_the_nearest_text_comes_first():
    texts = ["red desk lamp", "red desk lamp bulb", "desk chair", "green tea", "green tea", ""]
    table = alike_texts(texts, np.ones(6, bool), 3, 0)
    assert table[0][0] == 1 and table[3].tolist() == [4, -1, -1] and (table[5] == -1).all()


def test_masked_items_say_nothing_of_behaviour():
    part = make()[0]
    rows = np.arange(len(part))
    values = behaviour_features(DATA, part, rows)
    assert np.isfinite(values).all() and len(values) == len(part)
