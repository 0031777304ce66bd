"""`distill evaluate` and the files it reads: the same numbers as the library, and a clear word for every bad file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from ranking_worlds import small_dataset

from distill.data.dataset import TEST, Dataset
from distill.errors import UserError
from distill.evaluate import evaluate_command, read_data
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import evaluate, rank_array
from distill.ranking.recommendations import read_recommendations, write_recommendations

K = 10


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    dataset = small_dataset()
    (tmp_path / "data").mkdir()
    dataset.write(tmp_path / "data")
    return dataset


@pytest.fixture
def cases(data: Dataset) -> Cases:
    return cases_of(data, TEST)


@pytest.fixture
def ranked(cases: Cases) -> np.ndarray:
    return rank_array(np.random.default_rng(0).normal(size=(len(cases), cases.n_items)), cases, K)


def frame_of(ranked: np.ndarray, data: Dataset, cases: Cases) -> pl.DataFrame:
    rows, places = np.nonzero(ranked >= 0)
    return pl.DataFrame(
        {
            "user_id": data.user_ids[cases.users[rows]],
            "item_id": data.item_ids[ranked[rows, places]],
            "score": 100.0 - places,
        }
    )


def test_written_lists_come_back(tmp_path: Path, data: Dataset, cases: Cases, ranked: np.ndarray) -> None:
    ranked[4, 7:] = -1
    path = tmp_path / "recs.parquet"
    write_recommendations(path, ranked, data, cases.users)
    np.testing.assert_array_equal(read_recommendations(path, data, cases, K), ranked)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def test_shuffled_scores_of_any_library(tmp_path: Path, data: Dataset, cases: Cases, ranked: np.ndarray) -> None:
    frame = frame_of(ranked, data, cases).sample(fraction=1.0, shuffle=True, seed=1)
    stranger = pl.DataFrame({"user_id": ["u29"], "item_id": ["i0"], "score": [1.0]})  # trains only: left out
    pl.concat([frame, stranger]).write_csv(tmp_path / "recs.csv")
    np.testing.assert_array_equal(read_recommendations(tmp_path / "recs.csv", data, cases, K), ranked)
    np.testing.assert_array_equal(read_recommendations(tmp_path / "recs.csv", data, cases, 3), ranked[:, :3])


def test_ties_in_scores_go_by_item_index(tmp_path: Path, data: Dataset, cases: Cases, ranked: np.ndarray) -> None:
    frame_of(ranked, data, cases).with_columns(score=pl.lit(1)).write_parquet(tmp_path / "recs.parquet")
    np.testing.assert_array_equal(
        read_recommendations(tmp_path / "recs.parquet", data, cases, K), np.sort(ranked, axis=1)
    )


def test_numbers_as_ids(tmp_path: Path, data: Dataset) -> None:
    numbered = Dataset(
        np.array([str(u) for u in range(30)]),
        np.array([str(100 + i) for i in range(40)]),
        data.titles,
        data.texts,
        data.indptr,
        data.items,
        data.parts,
    )
    cases = cases_of(numbered, TEST)
    ranked = rank_array(np.random.default_rng(0).normal(size=(29, 40)), cases, 5)
    frame = frame_of(ranked, numbered, cases)
    for kind in (pl.Int32, pl.Float64):
        frame.with_columns(pl.col("user_id", "item_id").cast(pl.Int64).cast(kind)).write_parquet(tmp_path / "r.parquet")
        np.testing.assert_array_equal(read_recommendations(tmp_path / "r.parquet", numbered, cases, 5), ranked)


def test_users_without_rows_count_as_misses(tmp_path: Path, data: Dataset, cases: Cases, ranked: np.ndarray) -> None:
    frame_of(ranked, data, cases).filter(pl.col("user_id") != "u3").write_parquet(tmp_path / "recs.parquet")
    read = read_recommendations(tmp_path / "recs.parquet", data, cases, K)
    assert read[3].tolist() == [-1] * K
    found = evaluate(read, cases, ["recall@10"])
    assert found.counts["recall@10"] == 29 and found.per_user["recall@10"][3] == 0.0


def test_seen_items_as_asked(tmp_path: Path, data: Dataset, cases: Cases, ranked: np.ndarray) -> None:
    before = ranked[2].copy()
    ranked[2, 1:] = ranked[2, :-1]
    ranked[2, 0] = cases.seen[2][0]
    path = tmp_path / "recs.parquet"
    write_recommendations(path, ranked, data, cases.users)
    with pytest.raises(UserError, match=r"1 rows recommend items that the user already had.*'u2'.*--seen drop"):
        read_recommendations(path, data, cases, K)
    assert read_recommendations(path, data, cases, K, "drop")[2].tolist() == [*before[:-1].tolist(), -1]
    np.testing.assert_array_equal(read_recommendations(path, data, cases, K, "keep"), ranked)


def first(column: str, value: object):
    return pl.when(pl.int_range(pl.len()) == 0).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f.with_columns(first("score", float("nan"))),
            "1 values of 'score' are missing, NaN.*row 1",
        ),
        (lambda f: f.with_columns(first("score", float("inf"))), "1 values of 'score'"),
        (lambda f: f.with_columns(first("score", None)), "1 values of 'score'"),
        (lambda f: f.with_columns(score=pl.lit("high")), "'score' holds String, expected numbers"),
        (lambda f: pl.concat([f, f[:2]]), "2 rows repeat an item of the same user.*'u0'"),
        (
            lambda f: f.with_columns(first("item_id", "i999")),
            "1 items in 1 rows are not in .* 'i999'",
        ),
        (lambda f: f.with_columns(first("user_id", "nobody")), "1 users in 1 rows are not in the data"),
        (lambda f: f.with_columns(first("user_id", None)), "1 users in 1 rows"),
        (lambda f: f.rename({"user_id": "user"}), r"no column 'user_id' \(did you mean 'user'\?\)"),
        (lambda f: f.rename({"score": "points"}), "no column 'rank' or 'score'"),
        (lambda f: f.rename({"score": "rank"}).with_columns(rank=pl.lit(1)), "ranks occur twice"),
        (lambda f: f.clear(), "no rows"),
        (
            lambda f: f[:1].with_columns(user_id=pl.lit("u29")),
            "any of the 29",
        ),
    ],
)
def test_bad_files(tmp_path: Path, data: Dataset, cases: Cases, ranked: np.ndarray, change, message: str) -> None:
    change(frame_of(ranked, data, cases)).write_parquet(tmp_path / "recs.parquet")
    with pytest.raises(UserError, match=message):
        read_recommendations(tmp_path / "recs.parquet", data, cases, K)


def test_files_that_are_not_there_not_tables_or_of_other_data(
    tmp_path: Path, data: Dataset, cases: Cases, ranked: np.ndarray
) -> None:
    with pytest.raises(UserError, match="There is no recommendations file"):
        read_recommendations(tmp_path / "none.parquet", data, cases, K)
    (tmp_path / "bad.parquet").write_text("not a table")
    with pytest.raises(UserError, match=r"can't be read as \.parquet"):
        read_recommendations(tmp_path / "bad.parquet", data, cases, K)
    write_recommendations(tmp_path / "other.parquet", ranked, small_dataset(seed=1), cases.users)
    with pytest.raises(UserError, match=r"made for data with fingerprint .* but this data has"):
        read_recommendations(tmp_path / "other.parquet", data, cases, K)
    for k in (0, 41):
        with pytest.raises(UserError, match="expected 1 to 40"):
            read_recommendations(tmp_path / "other.parquet", data, cases, k)


def test_the_command_prints_and_writes_what_the_library_computes(
    tmp_path: Path, data: Dataset, cases: Cases, ranked: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recommendations(tmp_path / "mine.parquet", ranked, data, cases.users)
    best = rank_array(np.isin(np.arange(40), [0])[None] + np.eye(29, 40), cases, K)
    frame_of(best, data, cases).write_csv(tmp_path / "theirs.csv")
    output = tmp_path / "report.json"
    arguments = ["--recommendations", str(tmp_path / "mine.parquet"), str(tmp_path / "theirs.csv")]
    arguments += [
        "--data",
        str(tmp_path / "data"),
        "--metrics",
        "ndcg@10,coverage@10, tail_ndcg@5",
        "--resamples",
        "50",
    ]
    assert evaluate_command([*arguments, "--output", str(output)]) == 0
    report = json.loads(output.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    expected = evaluate(ranked, cases, ["ndcg@10", "coverage@10", "tail_ndcg@5"])
    intervals = expected.intervals(50)
    for name, value in expected.values.items():
        row = report["results"]["mine"]["metrics"][name]
        assert (row["value"], row["low"], row["high"]) == (value, *intervals[name])
    assert report["data"] == {"fingerprint": data.fingerprint, "part": "test", "users": 29, "items": 40}
    assert set(report["comparison"]["models"]) == {"mine", "theirs"}
    assert report["tails"]["outside_80_percent"]["items"] > 0
    printed = capsys.readouterr().out
    assert re.search(rf"ndcg@10\s+\S+\s+{expected.values['ndcg@10']:.4f}", printed)
    assert "letters: better than that model" in printed and "head" in printed


def test_altered_or_missing_data_is_refused(tmp_path: Path, data: Dataset) -> None:
    with pytest.raises(UserError, match="not a prepared data set"):
        read_data(tmp_path)
    about = json.loads((tmp_path / "data" / "dataset.json").read_text())
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({**about, "fingerprint": "0" * 64}))
    with pytest.raises(UserError, match="says fingerprint 000000000000, its files have"):
        read_data(tmp_path / "data")


def test_empty_metrics(tmp_path: Path, data: Dataset) -> None:
    with pytest.raises(UserError, match="--metrics is empty"):
        evaluate_command(["--recommendations", "x.parquet", "--data", str(tmp_path / "data"), "--metrics", " , "])
