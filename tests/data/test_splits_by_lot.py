"""Random splits, held-out users, cold items, cuts by date; and that every split is disjoint and complete."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import Data, Split
from distill.data.dataset import HISTORY, TEST, TRAIN, VALID, Dataset
from distill.data.load import build_dataset
from distill.data.split import check_leaks, split_events
from distill.data.times import cut_at, ticks_per_second, to_seconds
from distill.errors import UserError
from distill.ranking.cases import cases_of
from distill.ranking.leaks import split_report

NAMES = ("user_ratio", "leave_one_out", "temporal", "random", "user_holdout", "item_cold_start")
DAY = 86400


def log(folder, rows):
    text = "user,item,time\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows)
    (folder / "interactions.csv").write_text(text)
    return folder


def people(users=40, items=30, seed=0):
    """Rows of a log whose times are days since January 2020."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        chosen = rng.permutation(items)[: rng.integers(1, 15)]
        times = 1_577_836_800 + np.sort(rng.integers(0, 300, len(chosen))) * DAY
        rows += [(f"u{user}", f"i{item}", int(time)) for item, time in zip(chosen, times, strict=True)]
    return rows


EVENTS = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 12), st.integers(0, 50)),
    unique_by=lambda event: event[:2],
    min_size=1,
    max_size=60,
)


@settings(max_examples=500, deadline=None)
@given(EVENTS, st.sampled_from(NAMES), st.integers(0, 3), st.integers(1, 3))
def test_every_event_is_in_one_part(rows, name, seed, history):
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    users, items, order = np.array(rows, np.int64).T
    counts = np.bincount(users)[np.unique(users)]
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    split = Split(name, [0.6, 0.2, 0.2], history=history, seed=seed)
    try:
        parts = split_events(indptr, order, split, items)
    except UserError as error:
        assert "leaves no" in str(error)  # too few events, users or items for one of the parts
        return
    assert parts.shape == (len(rows),) and parts.dtype == np.uint8
    assert set(parts.tolist()) <= {TRAIN, VALID, TEST} | ({HISTORY} if name == "user_holdout" else set())
    assert (parts == split_events(indptr, order, split, items)).all()
    owner = np.repeat(np.arange(len(counts)), counts)
    if name == "user_holdout":
        for user in range(len(counts)):
            own = parts[owner == user]
            asked = np.isin(own, (VALID, TEST))
            if asked.any():
                assert not (own == TRAIN).any() and len(set(own[asked].tolist())) == 1
                assert (own == HISTORY).tolist() == [k < history for k in range(len(own))]
            else:
                assert (own == TRAIN).all()
    if name == "item_cold_start":
        assert all(len(set(parts[items == item].tolist())) == 1 for item in np.unique(items))


@settings(max_examples=500, deadline=None)
@given(EVENTS, st.sampled_from(NAMES), st.integers(0, 3))
def test_a_prepared_split_has_every_event_once(tmp_path_factory, rows, name, seed):
    folder = log(tmp_path_factory.mktemp("log"), [(f"u{u}", f"i{i}", 1_600_000_000 + t) for u, i, t in rows])
    try:
        dataset = build_dataset(Data(path=str(folder), split=Split(name, [0.6, 0.2, 0.2], history=1, seed=seed)))
    except UserError as error:
        assert "leaves no" in str(error)
        return
    users = dataset.user_ids[dataset.event_users()]
    stored = sorted(zip(users, dataset.item_ids[dataset.items], (dataset.times - 1_600_000_000).tolist(), strict=True))
    assert stored == sorted((f"u{u}", f"i{i}", t) for u, i, t in rows)
    parts = [dataset.lists(part, part) for part in (TRAIN, VALID, TEST, HISTORY)]
    assert sum(len(lists.items) for lists in parts) == len(rows)
    for user in range(dataset.n_users):
        seen = [set(lists[user].tolist()) for lists in parts]
        assert sum(map(len, seen)) == len(set.union(*seen))
    for ids in (dataset.user_ids, dataset.item_ids):
        assert len(set(ids.tolist())) == len(ids)
    assert check_leaks(dataset) == []


def build(tmp_path, split, **settings):
    return build_dataset(Data(path=str(log(tmp_path, people())), split=split, **settings))


def test_random_shares_and_seed(tmp_path):
    dataset = build(tmp_path, Split("random", [0.5, 0.2, 0.3]))
    counts = np.diff(dataset.indptr)
    train = dataset.activity
    assert (np.abs(train - counts * 0.5) <= 0.5).all()
    other = build(tmp_path, Split("random", [0.5, 0.2, 0.3], seed=1))
    assert other.rows_digest != dataset.rows_digest
    for user in range(dataset.n_users):
        row = slice(dataset.indptr[user], dataset.indptr[user + 1])
        assert (np.diff(dataset.parts[row].astype(int)) >= 0).all()
        for part in (TRAIN, VALID, TEST):
            assert (np.diff(dataset.times[row][dataset.parts[row] == part]) >= 0).all()


def test_held_out_users_fold_in(tmp_path):
    dataset = build(tmp_path, Split("user_holdout", [0.5, 0.25, 0.25], history=3))
    cases = cases_of(dataset, TEST)
    assert (cases.activity == 0).all() and (cases.seen.lengths == 3).all()
    asked = dataset.lists(TEST, TEST)
    assert all(asked[user].tolist() == cases.truth[row].tolist() for row, user in enumerate(cases.users))
    able = np.count_nonzero(np.diff(dataset.indptr) > 3)
    assert len(cases_of(dataset, VALID)) == len(cases) == round(able / 4)
    assert dataset.summary["history events of held-out users"] == (dataset.parts == HISTORY).sum()
    report = split_report(dataset)
    assert report["test"]["cold_users"] == 0  # they have a history


def test_cold_items_have_no_train_event(tmp_path):
    dataset = build(tmp_path, Split("item_cold_start", [0.6, 0.2, 0.2]))
    cases = cases_of(dataset, TEST)
    assert (dataset.popularity[cases.truth.items] == 0).all()
    report = split_report(dataset)
    assert report["test"]["share_of_targets"] == 1.0 and report["test"]["cold_items"] == 6
    assert any("older than a train event" in finding for finding in report["findings"])


def test_dates_cut_in_time(tmp_path):
    split = Split("temporal", valid_from="2020-06-01", test_from="2020-08-15T00:00:00+00:00")
    dataset = build(tmp_path, split)
    valid, test = 1_590_969_600, 1_597_449_600
    assert dataset.times[dataset.parts == TRAIN].max() < valid <= dataset.times[dataset.parts == VALID].min()
    assert dataset.times[dataset.parts == VALID].max() < test <= dataset.times[dataset.parts == TEST].min()
    assert split_report(dataset)["findings"] == []
    one = build(tmp_path, Split("temporal", test_from=str(test)))
    assert ((one.times >= test) == (one.parts == TEST)).all()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Split("temporal", test_from="next week"), "data.split.test_from is 'next week', expected a date"),
        (Split("temporal", valid_from="2020-09-01", test_from="2020-06-01"), "validation comes before test"),
        (Split("temporal", test_from="2031-01-01"), "leaves no test event"),
        (Split("user_holdout", history=0), "needs at least 1 event"),
        (Split("user_holdout", history=99), "leaves no test event"),
    ],
)
def test_mistakes(tmp_path, split, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path, split)


def test_a_date_needs_times():
    with pytest.raises(UserError, match=r"is the date '2020-01-01', but the order column holds positions"):
        cut_at("2020-01-01", np.arange(50), "data.split.test_from")
    assert cut_at("17", np.arange(50), "data.split.test_from") == 17


@pytest.mark.parametrize("ticks", [1, 1_000, 1_000_000, 1_000_000_000])
def test_units_of_time(ticks):
    times = np.array([978_300_000, 1_600_000_000, 1_700_000_000]) * ticks
    assert ticks_per_second(times) == ticks
    assert to_seconds(times, ticks).tolist() == [978_300_000, 1_600_000_000, 1_700_000_000]
    assert cut_at("2001-01-01T00:00:00+02:00", times, "k") == 978_300_000 * ticks


def test_positions_are_no_times():
    assert ticks_per_second(np.arange(1000)) is None and ticks_per_second(np.zeros(0)) is None
    assert to_seconds(np.arange(1000), 0) is None and to_seconds(None, 1) is None


def test_report_of_a_split_per_user(tmp_path):
    report = split_report(build(tmp_path, Split()))
    assert any("train events lie after the cut" in finding for finding in report["findings"])
    dataset = build(tmp_path, Split("temporal", [0.2, 0.2, 0.6]))
    clean = split_report(dataset)
    assert clean["findings"] == []
    users = dataset.event_users()
    before = {int(user) for user, part in zip(users, dataset.parts, strict=True) if part < TEST}
    cold = {int(user) for user, part in zip(users, dataset.parts, strict=True) if part == TEST} - before
    assert clean["test"]["cold_users"] == len(cold) > 0


def test_history_of_a_part_is_what_came_before():
    dataset = Dataset(
        np.array(["a", "b"]), np.array(list("wxyz")), [""] * 4, [""] * 4, np.array([0, 3, 6]),
        np.array([0, 1, 2, 3, 2, 1], np.int32), np.array([TRAIN, VALID, TEST, HISTORY, VALID, TEST], np.uint8),
    )  # fmt: skip
    assert [dataset.history(VALID)[u].tolist() for u in (0, 1)] == [[0], [3]]
    assert [dataset.history(TEST)[u].tolist() for u in (0, 1)] == [[0, 1], [3, 2]]
