"""The evaluator: cases from data, ranking by any scorer, clear errors for whatever can be wrong with lists."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ranking_worlds import long_tailed, small_dataset

from distill.data.dataset import TEST, TRAIN, VALID, Lists
from distill.errors import UserError
from distill.ranking.cases import cases_of
from distill.ranking.evaluator import evaluate, rank, rank_array
from distill.ranking.metrics import METRICS, STANDARD, Parsed, UserMetric, deepest, parse


def test_cases_mask_what_came_before_and_count_train_only() -> None:
    dataset = small_dataset()
    valid, test = cases_of(dataset, VALID), cases_of(dataset, TEST)
    assert len(valid) == len(test) == 29  # the last user has no later event
    assert valid.seen.lengths.tolist() == [7] * 29 and test.seen.lengths.tolist() == [8] * 29
    assert test.seen[3].tolist() == dataset.items[30:38].tolist()
    assert test.truth[3].tolist() == dataset.items[38:40].tolist()
    assert test.popularity.sum() == 29 * 7 + 10 and test.n_train_users == 30
    assert test.activity.tolist() == [7] * 29 and test.fingerprint == dataset.fingerprint


def test_empty_part_and_wrong_part_are_refused() -> None:
    dataset = small_dataset()
    train_only = dataclasses.replace(dataset, parts=np.full_like(dataset.parts, TRAIN))
    with pytest.raises(UserError, match="No user has an item in the test part"):
        cases_of(train_only, TEST)
    with pytest.raises(UserError, match="'train' can't be evaluated"):
        cases_of(dataset, TRAIN)


def test_a_pair_in_two_parts_is_refused_by_name() -> None:
    dataset = small_dataset()
    items = dataset.items.copy()
    items[29] = items[20]  # user u2: the last test item was also trained on
    leaking = dataclasses.replace(dataset, items=items)
    with pytest.raises(UserError, match=rf"1 user-item pairs of the test part.*'u2', item 'i{items[20]}'"):
        cases_of(leaking, TEST)


@pytest.mark.parametrize("batch_size", [1, 7, 1024])
def test_batches_do_not_change_lists_and_scores_are_only_read(batch_size: int) -> None:
    cases = long_tailed()
    scores = np.random.default_rng(3).normal(size=(200, 120)).astype(np.float32)
    before = scores.copy()
    ranked = rank(lambda rows: scores[rows[0] : rows[-1] + 1], cases, 10, batch_size=batch_size)
    np.testing.assert_array_equal(scores, before)
    np.testing.assert_array_equal(ranked, rank_array(scores, cases, 10))
    assert not any(np.isin(ranked[u], cases.seen[u]).any() for u in range(200))


def test_any_scorer_any_number_type() -> None:
    torch = pytest.importorskip("torch")
    cases = long_tailed()
    scores = np.random.default_rng(3).integers(-50, 50, (200, 120))
    expected = rank_array(scores.astype(np.float64), cases, 10)
    for form in (scores, scores.astype(np.float16), scores.astype(np.int32), torch.tensor(scores, dtype=torch.float32)):
        np.testing.assert_array_equal(rank(lambda rows, form=form: form[rows], cases, 10), expected)


def test_float64_scores_keep_their_precision() -> None:
    cases = long_tailed(users=2)
    scores = np.zeros((2, 120))
    open_items = [i for i in range(120) if i not in cases.seen[0]]
    scores[0, open_items[-1]] = 1e-12
    assert rank_array(1.0 + scores, cases, 1)[0, 0] == open_items[-1]


def test_a_large_catalogue_is_asked_for_in_small_batches() -> None:
    n_items, asked = 3_000_000, []
    cases = dataclasses.replace(long_tailed(users=60), n_items=n_items, popularity=np.zeros(n_items, np.int64))

    def score(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return np.broadcast_to(np.float32(0.0), (len(rows), n_items))

    ranked = rank(score, cases.take(np.arange(30)), 5)
    assert max(asked) * n_items <= 2**26
    assert ranked[0].tolist() == [i for i in range(120) if i not in cases.seen[0]][:5]


@pytest.mark.parametrize("k", [0, -1, 121])
def test_impossible_list_lengths(k: int) -> None:
    with pytest.raises(UserError, match="expected 1 to 120"):
        rank_array(np.zeros((200, 120)), long_tailed(), k)


def test_scorers_mistakes_are_named() -> None:
    cases = long_tailed()
    with pytest.raises(UserError, match=r"shape \(200, 121\).*expected \(200, 120\).*without a padding column"):
        rank(lambda rows: np.zeros((len(rows), 121)), cases, 5)
    scores = np.zeros((200, 120))
    scores[150, 119] = np.nan
    cases = dataclasses.replace(cases, seen=Lists(np.zeros(201, np.int64), np.zeros(0, np.int32)))
    with pytest.raises(UserError, match="nan at row 150, item 119"):
        rank(lambda rows: scores[rows], cases, 5, batch_size=64)


def lists_with(change) -> np.ndarray:
    ranked = rank_array(np.random.default_rng(0).normal(size=(200, 120)), long_tailed(), 10)
    change(ranked)
    return ranked


def put(row: int, place: int, value: int):
    def change(ranked: np.ndarray) -> None:
        ranked[row, place] = ranked[row, -value - 100] if value < -50 else value

    return change


@pytest.mark.parametrize(
    ("ranked", "message"),
    [
        (lists_with(put(7, 3, 120)), "row 7 holds item 120 at place 4"),
        (lists_with(put(7, 3, -2)), "row 7 holds item -2 at place 4"),
        (lists_with(put(9, 3, -1)), "row 9 has a gap"),
        (lists_with(put(11, 3, -101)), "1 lists hold an item more than once; the first is row 11"),
        (np.zeros((200, 0), np.int32), "no places"),
        (np.zeros((199, 10), np.int32), r"expected integers \(U, K\) with U = 200"),
        (np.zeros((200, 10)), "type float64"),
        (np.arange(5)[None].repeat(200, 0), "'ndcg@10' needs lists of 10 items, these have 5"),
    ],
)
def test_bad_lists_are_refused(ranked: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate(ranked, long_tailed(), ["ndcg@10"])


def test_no_users_are_refused() -> None:
    with pytest.raises(UserError, match="cases are empty"):
        evaluate(np.zeros((0, 10), np.int32), long_tailed().take(np.arange(0)), ["ndcg@10"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ngcd@10", r"did you mean 'ndcg@10'"),
        ("tail_ngcd@20", r"did you mean 'tail_ndcg@20'"),
        ("zzzzzz@10", "known: .*ndcg@10"),
        ("ndcg", "needs a cutoff"),
        ("ndcg@0", "at least 1"),
        ("ndcg@ten", "at least 1"),
        ("ndcg@-5", "at least 1"),
        ("no_such_module:metric@5", "there is no module"),
    ],
)
def test_metric_names_are_checked(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(name)


def first_place(judged, k: int) -> np.ndarray:
    return judged.hits[:, 0].astype(np.float64)


def test_a_users_own_metric_by_dotted_path() -> None:
    ranked = lists_with(lambda r: None)
    name = f"{__name__}:first_place@3"
    values = evaluate(ranked, long_tailed(), [name, "precision@1"])
    assert isinstance(parse(name), Parsed) and values.values[name] == values.values["precision@1"]


def test_standard_metrics_exist_and_the_deepest_cutoff_is_found() -> None:
    assert all(parse(name).k for name in STANDARD) and deepest(STANDARD) == 20
    assert len(set(METRICS)) >= 25


def test_values_are_means_over_those_who_take_part() -> None:
    cases = long_tailed()
    evaluation = evaluate(
        lists_with(lambda r: None), cases, [f"{name}@10" for name in METRICS if name != "calibration"]
    )
    for name, values in evaluation.per_user.items():
        assert isinstance(parse(name).metric, UserMetric) and values.shape == (200,)
        assert evaluation.values[name] == pytest.approx(np.nanmean(values), abs=1e-15)
        assert evaluation.counts[name] == np.count_nonzero(~np.isnan(values))
    assert evaluation.counts["tail_ndcg@10"] < evaluation.counts["ndcg@10"] == 200
    with pytest.raises(UserError, match="needs item categories"):
        evaluate(lists_with(lambda r: None), cases, ["calibration@10"])


def test_tail_can_be_another_set() -> None:
    cases, ranked = long_tailed(), lists_with(lambda r: None)
    everything = evaluate(ranked, cases, ["tail_ndcg@10", "ndcg@10"], tail=np.ones(120, bool))
    assert everything.values["tail_ndcg@10"] == everything.values["ndcg@10"]
    nothing = evaluate(ranked, cases, ["tail_ndcg@10", "tail_coverage@10"], tail=np.zeros(120, bool))
    assert np.isnan(list(nothing.values.values())).all() and nothing.counts["tail_ndcg@10"] == 0
