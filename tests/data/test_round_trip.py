"""Properties: what is written in any form is read back the same, with the same ids, whatever the ids look like."""

import gzip
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.config import Data, Split
from distill.data.load import build_dataset
from distill.data.readers import locate, read
from distill.data.values import MISSING, clean_ids, clean_order

# Anything that is printed, without the blanks around it that reading takes off and the words that mean "missing".
words = (
    st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), include_characters=" "), min_size=1, max_size=8)
    .map(str.strip)
    .filter(lambda word: word not in MISSING and not word.endswith(".0"))
)
# Separators, quotes and brackets are what readers stumble over.
ids = words | st.sampled_from(
    ["a,b", 'q"q', "x;y", "p|q", "a::b", "'", "007", "-1", str(2**64), "é", "李", "[1]", "{a}"]
)
events = st.lists(st.tuples(ids, ids, st.integers(1, 5), st.integers(0, 2**40)), min_size=1, max_size=12)
quick = settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def csv(frame: pl.DataFrame, separator: str = ",") -> bytes:
    return frame.write_csv(separator=separator, quote_style="always").encode()


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def json_lines(frame: pl.DataFrame) -> bytes:
    return "\n".join(json.dumps(row) for row in frame.to_dicts()).encode()


FORMS = {
    "interactions.csv": csv,
    "interactions.tsv": lambda frame: csv(frame, "\t"),
    "interactions.txt": lambda frame: csv(frame, "|"),
    "interactions.csv.gz": lambda frame: gzip.compress(csv(frame)),
    "interactions.csv.zst": lambda frame: pa.compress(csv(frame), codec="zstd", asbytes=True),
    "interactions.parquet": parquet,
    "interactions.jsonl": json_lines,
}


def as_frame(rows) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")


def read_back(folder: Path) -> pl.DataFrame:
    data = Data(path=str(folder))
    found = read(locate(data), data.columns, {}).events
    return found.with_columns(pl.col("user_id", "item_id").cast(pl.String))  # columns of integers stay integers


@quick
@given(events, st.sampled_from(sorted(FORMS)))
def test_reading_gives_back_what_was_written_in_every_form(rows, form):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / form).write_bytes(FORMS[form](as_frame(rows)))
        found = read_back(Path(folder))
    assert found["user_id"].to_list() == [row[0] for row in rows]
    assert found["item_id"].to_list() == [row[1] for row in rows]
    assert found["rating"].to_list() == [row[2] for row in rows]
    kept = clean_order(pl.Series([row[3] for row in rows]), "memory").values
    assert found["order"].to_list() == kept.to_list()


@quick
@given(st.dictionaries(st.integers(-99, 99), st.lists(ids, min_size=1, max_size=6), min_size=1, max_size=5))
def test_lists_of_items_are_read_as_their_events_in_order(lists):
    rows = [{"user": user, "items": items} for user, items in lists.items()]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "interactions.jsonl").write_text("\n".join(map(json.dumps, rows)))
        from_json = read_back(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        pl.DataFrame(rows).write_parquet(Path(folder) / "interactions.parquet")
        from_parquet = read_back(Path(folder))
    assert from_json.rows() == [(str(user), item) for user, items in lists.items() for item in items]
    assert from_parquet.equals(from_json)


@quick
@given(events)
def test_id_maps_are_bijections_and_every_event_is_found_again(rows):
    pairs = dict.fromkeys((user, item) for user, item, _, _ in rows)
    with tempfile.TemporaryDirectory() as folder:
        frame = as_frame(rows).select("user_id", "item_id")
        frame.write_parquet(Path(folder) / "interactions.parquet")
        dataset = build_dataset(Data(path=folder, split=Split("user_ratio", [1.0, 0.0, 0.0])))
    for names, expected in ((dataset.user_ids, {u for u, _ in pairs}), (dataset.item_ids, {i for _, i in pairs})):
        assert len(set(names.tolist())) == len(names)
        assert set(names.tolist()) == expected
    users = np.repeat(dataset.user_ids, np.diff(dataset.indptr)).tolist()
    assert sorted(zip(users, dataset.item_ids[dataset.items].tolist(), strict=True)) == sorted(pairs)


@quick
@given(
    st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=20), st.sampled_from([pl.String, pl.Float64, pl.Int64])
)
def test_an_integer_id_is_the_same_id_in_every_type_of_column(numbers, kind):
    column = pl.Series(numbers, dtype=pl.Int64).cast(kind)
    assert clean_ids(column).to_list() == [str(number) for number in numbers]
    assert clean_ids(clean_ids(column)).to_list() == clean_ids(column).to_list()
