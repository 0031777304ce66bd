"""What users really have: each case is an error that names file and place, or a repair that is counted."""

import gzip
import io
import random

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from distill.config import Columns, Data, Split
from distill.data.load import build_dataset
from distill.errors import UserError

LOG = "user_id,item_id,rating,timestamp\nu1,a,4,100\nu1,b,3,200\nu1,c,5,300\nu2,a,5,50\nu2,c,2,60\nu2,b,1,70\n"
ITEMS = "item_id,title\na,Heat\nb,Up\nc,Alien\n"
PLAIN = [("u1", "a"), ("u1", "b"), ("u1", "c"), ("u2", "a"), ("u2", "c"), ("u2", "b")]


def built(folder, files, **settings):
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return build_dataset(Data(path=str(folder), split=Split("user_ratio", [1.0, 0.0, 0.0]), **settings))


def pairs(dataset):
    users = np.repeat(dataset.user_ids, np.diff(dataset.indptr))
    return list(zip(users.tolist(), dataset.item_ids[dataset.items].tolist(), strict=True))


def parquet(**columns) -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


def log(*rows, header="user_id,item_id,rating,timestamp"):
    return {"interactions.csv": "\n".join([header, *rows]) + "\n"}


NOISE = random.Random(0).randbytes(4000).hex()
PACKED = gzip.compress((LOG + NOISE).encode())
ZSTD = pa.compress((LOG + NOISE).encode(), codec="zstd", asbytes=True)
WHOLE = parquet(user_id=["u"] * 5000, item_id=[NOISE[i : i + 9] for i in range(5000)])

# Name: files, settings, parts of the message.
ERRORS = {
    "no user column": (log("u,a", header="person,item_id"), {}, ["interactions.csv", "no user_id column", "person"]),
    "no item column": (log("u,a", header="user_id,thing"), {}, ["interactions.csv", "no item_id column", "thing"]),
    "a renamed column": (
        log("u,a,1,1"),
        {"columns": Columns(order="timestmp")},
        ["interactions.csv", "no column 'timestmp'", "did you mean 'timestamp'"],
    ),
    "no header": (log("u2,b,4,5", header="u1,a,3,4"), {}, ["interactions.csv", "first line must be a header"]),
    "two columns of one name": (log("u,a,b", header="user_id,item_id,item_id "), {}, ["two columns have one name"]),
    "rows with another separator than the header": (
        log("u1;a;4;1", "u2;b;3;2"),
        {},
        ["interactions.csv", "column 'item_id'", "empty in all 2 rows", "data.delimiter"],
    ),
    "a wrong data.delimiter": (log("u,a,1,1"), {"delimiter": ";"}, ["interactions.csv", "no user_id column"]),
    "rows that are too long": (
        log("u1,a,4,1", "u1,b,Good, the Bad,2", "u2,a,1,2"),
        {},
        ["interactions.csv", "Line(s) 3 have more than line 1's 4 fields", "quote"],
    ),
    "an open quote": (log('u1,"a,4,1', "u2,b,3,2"), {}, ["interactions.csv", "could not be read"]),
    "every user id empty": (log(",a,1,1", " ,b,1,1"), {}, ["interactions.csv", "'user_id'", "empty in all 2 rows"]),
    "every item id empty": (log("u,NaN,1,1", "v,null,1,1"), {}, ["interactions.csv", "'item_id'", "empty in all 2"]),
    "an empty file": ({"interactions.csv": ""}, {}, ["interactions.csv is empty"]),
    "an empty gzip file": ({"interactions.csv.gz": gzip.compress(b"")}, {}, ["interactions.csv.gz is empty"]),
    "blank lines only": ({"interactions.csv": "\n\n  \n"}, {}, ["interactions.csv is empty"]),
    "a header only": (log(), {}, ["interactions.csv has a header but no rows"]),
    "a Parquet file without rows": (
        {"interactions.parquet": parquet(user_id=[], item_id=[])},
        {},
        ["interactions.parquet has a header but no rows"],
    ),
    "a cut gzip file": ({"interactions.csv.gz": PACKED[:-900]}, {}, ["interactions.csv.gz is damaged gzip"]),
    "a cut zstd file": ({"interactions.csv.zst": ZSTD[:-900]}, {}, ["interactions.csv.zst is damaged zstd"]),
    "a flipped byte in gzip": (
        {"interactions.csv.gz": PACKED[:-6] + b"\x00\x00" + PACKED[-4:]},
        {},
        ["interactions.csv.gz is damaged gzip"],
    ),
    "a cut Parquet file": ({"interactions.parquet": WHOLE[:-200]}, {}, ["interactions.parquet", "complete"]),
    "a Parquet file's first half": ({"interactions.parquet": WHOLE[:2000]}, {}, ["interactions.parquet", "complete"]),
    "text called Parquet": ({"interactions.parquet": LOG}, {}, ["interactions.parquet is not a Parquet file"]),
    "a zip file": ({"interactions.csv": b"PK\x03\x04" + bytes(50)}, {}, ["interactions.csv is a zip archive"]),
    "a picture": ({"interactions.csv": b"\x89PNG" + bytes(100)}, {}, ["interactions.csv is binary data"]),
    "one JSON list": ({"interactions.json": '[{"user": 1}]'}, {}, ["interactions.json", "one JSON list", "jq"]),
    "a broken JSON line": (
        {"interactions.jsonl": '{"user": "u", "item": "a"}\n{"user": "u", "item"\n'},
        {},
        ["interactions.jsonl", "line 2 is not JSON"],
    ),
    "a broken JSON line far down": (
        {"interactions.jsonl": '{"user": "u", "item": "a"}\n' * 50_000 + '{"user": \n'},
        {},
        ["interactions.jsonl", "line 50001 is not JSON"],
    ),
    "a list of JSON numbers": ({"interactions.jsonl": '{"user": 1}\n17\n'}, {}, ["line 2 is a int"]),
    "a time in words": (
        log("u,a,1,1", "u,b,1,yesterday"),
        {},
        ["interactions.csv, column 'timestamp'", "row 2: 'yesterday'"],
    ),
    "a day that is none": (
        log("u,a,1,2024-02-28", "u,b,1,2024-02-30"),
        {},
        ["column 'timestamp'", "row 2: '2024-02-30'"],
    ),
    "an infinite time": (log("u,a,1,1", "u,b,1,inf"), {}, ["column 'timestamp'", "row 2: 'inf'"]),
    "no item of the log in the catalogue": (
        {"interactions.csv": LOG, "items.csv": "item_id,title\n1,x\n2,y\n"},
        {},
        ["None of the 3 items", "data.items"],
    ),
    "an empty catalogue": ({"interactions.csv": LOG, "items.csv": ""}, {}, ["items.csv is empty"]),
    "a catalogue without ids": (
        {"interactions.csv": LOG, "items.csv": "sort,title\n1,x\n"},
        {},
        ["items.csv: no item id column among: sort, title"],
    ),
    "a users file without ids": (
        {"interactions.csv": LOG, "users.csv": "age\n3\n"},
        {},
        ["users.csv: no user id column among: age"],
    ),
    "a threshold without ratings": (
        log("u,a", header="user_id,item_id"),
        {"min_rating": 3.0},
        ["data.min_rating", "interactions.csv has no rating column"],
    ),
    "an items file that isn't there": ({"interactions.csv": LOG}, {"items": "none.csv"}, ["'none.csv' (data.items)"]),
    "a folder where the items file was expected": (
        {"interactions.csv": LOG},
        {"items": "{folder}"},
        ["(data.items)", "it is a folder without Parquet files"],
    ),
    "an unknown form": ({"interactions.csv": LOG}, {"form": "tabels"}, ["data.form is 'tabels'", "'tables'"]),
    "an unknown folder": ({"notes.md": "x"}, {}, ["holds no known data set: found notes.md"]),
    "nothing left after cleaning": (log("u,a,1,1"), {"min_user_events": 5}, ["Nothing is left", "core"]),
    "a list of another length than its times": (
        {"interactions.parquet": parquet(user=["u"], items=[["a", "b"]], timestamp=[[1]])},
        {},
        ["interactions.parquet: row 1 has 2 items in 'items' but 1 values in 'timestamp'"],
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_names_the_file_the_place_and_the_remedy(tmp_path, name):
    files, settings, expected = ERRORS[name]
    settings = {key: str(tmp_path) if value == "{folder}" else value for key, value in settings.items()}
    with pytest.raises(UserError) as caught:
        built(tmp_path, files, **settings)
    for part in expected:
        assert part in str(caught.value)


def both(text, **also):
    return {"interactions.csv": text, "items.csv": ITEMS, **also}


MISSING = "rows without a user or item id (dropped)"
# Name: files, settings, pairs that are left (None: all of LOG), counts in the summary.
REPAIRS = {
    "a byte order mark": (both("\ufeff" + LOG), {}, None, {"rows read": 6}),
    "UTF-16": (both(LOG.encode("utf-16")), {}, None, {}),
    "Windows line ends": (both(LOG.replace("\n", "\r\n")), {}, None, {}),
    "no line end at the end": (both(LOG.rstrip("\n")), {}, None, {}),
    "blanks around everything": (both(LOG.replace(",", " , ")), {}, None, {}),
    "a semicolon": (both(LOG.replace(",", ";")), {}, None, {}),
    "mixed encodings": (
        both(b"user_id,item_id\nu\xe9,a\nu\xe9,b\nu\xc3\xa9,c\n"),
        {},
        [("ué", "a"), ("ué", "b"), ("ué", "c")],
        {"rows read": 3},
    ),
    "rows that are too short": (
        both(LOG + "u3,a\nu3\n"),
        {},
        None,
        {MISSING: 1, "rows without a time (dropped)": 1},
    ),
    "ids that are empty": (both(LOG + ",a,1,1\nu9,,1,1\nu9,nan,1,1\n"), {}, None, {MISSING: 3}),
    "ratings that are NaN, infinite or words": (
        both(LOG.replace("u1,a,4", "u1,a,NaN").replace("u2,a,5", "u2,a,inf").replace("u1,b,3", "u1,b,good")),
        {},
        None,
        {"missing or non-numeric ratings (kept, no threshold set)": 3},
    ),
    "negative ratings below a threshold": (
        both(LOG.replace("u2,c,2", "u2,c,-2")),
        {"min_rating": 0.0},
        [pair for pair in PLAIN if pair != ("u2", "c")],
        {"ratings below 0 (dropped)": 1},
    ),
    "huge and negative ids": (
        both("user_id,item_id\n9223372036854775808,a\n-7,b\n18446744073709551616,c\n"),
        {},
        [("9223372036854775808", "a"), ("-7", "b"), ("18446744073709551616", "c")],
        {},
    ),
    "huge ids in Parquet": (
        {"interactions.parquet": parquet(user_id=pl.Series([2**63, 2**64 - 1], dtype=pl.UInt64), item_id=[-1, -2])},
        {},
        [(str(2**63), "-1"), (str(2**64 - 1), "-2")],
        {},
    ),
    "ids with blanks and of all scripts": (
        both("user_id,item_id\n Ann Lee ,a\n李雷,b\n🙂 x,c\n"),
        {},
        [("Ann Lee", "a"), ("李雷", "b"), ("🙂 x", "c")],
        {},
    ),
    "ids with zeros in front stay apart": (
        both("user_id,item_id\n007,a\n7,b\n"),
        {},
        [("007", "a"), ("7", "b")],
        {"users": 2},
    ),
    "integers that were written as floats": (
        both("user_id,item_id\n7.0,a\n8.0,b\n"),
        {},
        [("7", "a"), ("8", "b")],
        {},
    ),
    "two catalogue rows of one item": (
        {"interactions.csv": LOG, "items.csv": ITEMS + "a,Other text\n,No id\n"},
        {},
        None,
        {"item rows with an id seen before (dropped)": 1, "item rows without an id (dropped)": 1},
    ),
    "items that the catalogue lacks": (
        both(LOG + "u2,z,1,80\n"),
        {},
        [*PLAIN, ("u2", "z")],
        {"items that are not in the items file (kept, title = id)": 1},
    ),
    "users with one event": (
        both(LOG + "u3,a,1,1\n"),
        {},
        [*PLAIN, ("u3", "a")],
        {"users": 3},
    ),
    "a user with every item": (both(LOG), {}, None, {"items in the catalogue": 3}),
    "repeated rows": (both(LOG + "u1,a,4,400\n"), {}, None, {"repeated user-item pairs (kept the first)": 1}),
    "time going backwards": (
        both("user_id,item_id,timestamp\nu1,c,300\nu1,a,100\nu1,b,200\n"),
        {},
        [("u1", "a"), ("u1", "b"), ("u1", "c")],
        {},
    ),
    "milliseconds": (
        both("user_id,item_id,timestamp\nu1,a,1600000000000\nu1,b,1600000000001\n"),
        {},
        [("u1", "a"), ("u1", "b")],
        {"unit of times": "milliseconds", "times before 1970 or after 2099 (read as missing)": 0},
    ),
    "one row in milliseconds among seconds": (
        both("user_id,item_id,timestamp\nu1,a,1600000000\nu1,b,1600000001\nu1,c,1600000002000\n"),
        {},
        [("u1", "a"), ("u1", "b")],
        {"times before 1970 or after 2099 (read as missing)": 1, "rows without a time (dropped)": 1},
    ),
    "times in the future": (
        both("user_id,item_id,timestamp\nu1,a,1600000000\nu1,b,1600000001\nu1,c,4000000000\n"),
        {},
        [("u1", "a"), ("u1", "b"), ("u1", "c")],
        {"times in the future (kept)": 1},
    ),
    "times of several zones": (
        both("user_id,item_id,time\nu1,a,2024-01-01T12:00:00+02:00\nu1,b,2024-01-01T09:00:00Z\n"),
        {},
        [("u1", "b"), ("u1", "a")],
        {"unit of times": "microseconds"},
    ),
    "users listed twice or without an id": (
        {**both(LOG), "users.csv": "user_id,age\nu1,3\nu1,4\n,5\n"},
        {},
        None,
        {"user rows without an id, or with one seen before (dropped)": 2},
    ),
    "hidden files and folders beside the data": (both(LOG, **{".DS_Store": b"\0\1", "README.md": "x"}), {}, None, {}),
}


@pytest.mark.parametrize("name", REPAIRS)
def test_a_repair_is_counted(tmp_path, name):
    files, settings, expected, counts = REPAIRS[name]
    dataset = built(tmp_path, files, **settings)
    assert sorted(pairs(dataset)) == sorted(PLAIN if expected is None else expected)
    if expected is not None:  # the order within each user, too
        for user in {user for user, _ in expected}:
            assert [i for u, i in pairs(dataset) if u == user] == [i for u, i in expected if u == user]
    assert {key: dataset.summary[key] for key in counts} == counts


def test_there_are_at_least_forty_cases():
    assert len(ERRORS) + len(REPAIRS) >= 40


def test_one_changed_row_changes_the_fingerprint(tmp_path):
    first = built(tmp_path, both(LOG)).fingerprint
    assert built(tmp_path, both(LOG)).fingerprint == first
    assert built(tmp_path, both(LOG.replace("u2,b", "u3,b"))).fingerprint != first
