"""From raw files to a data set: numbering, order, cleaning and split together, and what goes wrong."""

import numpy as np
import polars as pl
import pytest

from distill.config import Columns, Data, Split
from distill.data.dataset import TEST, TRAIN, VALID
from distill.data.load import build_dataset
from distill.errors import UserError

LOO = Split("leave_one_out")
ITEMS = "item_id,title,brand\n5,Five,x\n4,,\n3,Three,\n2,Two,y\n1,One,z\n"


def build(folder, interactions, items=ITEMS, **settings):
    (folder / "interactions.csv").write_text(interactions)
    if items:
        (folder / "items.csv").write_text(items)
    return build_dataset(Data(path=str(folder), **{"split": LOO} | settings))


def sequences(dataset):
    return {
        str(user): [str(dataset.item_ids[i]) for i in dataset.lists(TRAIN, TEST)[row]]
        for row, user in enumerate(dataset.user_ids)
    }


LOG = "user_id,item_id,rating,timestamp\nb,1,5,30\na,2,5,9\nb,2,3,10\nb,7,4,20\na,1,1,2\na,3,4,5\na,9,4,1\n"


def test_users_items_and_order(tmp_path):
    dataset = build(tmp_path, LOG)
    assert dataset.user_ids.tolist() == ["b", "a"]
    assert dataset.item_ids.tolist() == ["5", "4", "3", "2", "1", "7", "9"]
    assert dataset.titles == ["Five", "4", "Three", "Two", "One", "7", "9"]
    assert dataset.texts == ["Five. x", "", "Three", "Two. y", "One. z", "", ""]
    assert sequences(dataset) == {"b": ["2", "7", "1"], "a": ["9", "1", "3", "2"]}
    assert dataset.parts.tolist() == [TRAIN, VALID, TEST, TRAIN, TRAIN, VALID, TEST]
    assert dataset.summary["items that are not in the items file (kept, title = id)"] == 2
    assert dataset.summary["events of items that are not in the items file"] == 2
    assert dataset.summary["items without an event (kept)"] == 2
    assert dataset.summary["items without text"] == 3
    assert dataset.summary["order within a user"] == "by the order column, ties in file order"
    assert dataset.ordered


def test_without_an_order_column_the_rows_are_the_order(tmp_path):
    dataset = build(tmp_path, "user,item\na,3\nb,1\na,1\nb,2\na,2\nb,3\n")
    assert sequences(dataset) == {"a": ["3", "1", "2"], "b": ["1", "2", "3"]}
    assert dataset.summary["order within a user"] == "rows of the file (no order column)"
    assert not dataset.ordered


def test_ties_in_time_keep_the_order_of_the_file(tmp_path):
    rows = [f"u{i % 7},{i},{i % 3}" for i in range(300)]
    dataset = build(tmp_path, "user,item,time\n" + "\n".join(rows) + "\n", items="")
    for user, items in sequences(dataset).items():
        own = [i for i in range(300) if f"u{i % 7}" == user]
        assert items == [str(i) for i in sorted(own, key=lambda i: i % 3)]


def test_without_an_items_file_the_ids_are_the_titles(tmp_path):
    dataset = build(tmp_path, LOG, items="")
    assert dataset.titles == dataset.item_ids.tolist() == ["1", "2", "7", "3", "9"]
    assert set(dataset.texts) == {""}


def test_ids_match_between_files_whatever_their_spelling(tmp_path):
    dataset = build(tmp_path, "user,item\n1.0, 3 \n1.0,2\n1.0,1\n", items="item,title\n1.0,a\n2.0,b\n3.0,c\n")
    assert sequences(dataset) == {"1": ["3", "2", "1"]}
    assert dataset.summary["items that are not in the items file (kept, title = id)"] == 0


def test_files_that_share_no_item_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"None of the 3 items .*\['i3'.*\['3', '2', '1'\]"):
        build(tmp_path, "user,item\na,3\na,2\na,1\n", items="item,title\ni3,a\ni2,b\ni1,c\n")


def test_cleaning_steps_work_together_and_are_counted(tmp_path):
    log = LOG + ",1,5,1\na,,5,1\nc,5,nan,1\nc,5,good,2\na,2,2,99\nb,1,5,\n"
    dataset = build(tmp_path, log, min_rating=2, duplicates="last", min_user_events=2)
    assert sequences(dataset) == {"b": ["2", "7", "1"], "a": ["9", "3", "2"]}
    assert dataset.summary["rows read"] == 13
    assert dataset.summary["rows without a user or item id (dropped)"] == 2
    assert dataset.summary["rows without a time (dropped)"] == 1
    assert dataset.summary["repeated user-item pairs (kept the last)"] == 2
    assert dataset.summary["missing or non-numeric ratings (dropped)"] == 1
    assert dataset.summary["ratings below 2 (dropped)"] == 1
    assert dataset.summary["events"] == 6
    assert build(tmp_path, log).summary["missing or non-numeric ratings (kept, no threshold set)"] == 1  # after repeats


def test_a_core_of_items_leaves_the_others_out_of_the_catalogue(tmp_path):
    log = "user,item\na,1\na,2\na,3\nb,1\nb,2\nb,3\nb,4\n"
    dataset = build(tmp_path, log, min_item_events=2)
    assert dataset.item_ids.tolist() == ["3", "2", "1"]
    assert dataset.summary["items without an event (dropped)"] == 2
    assert build(tmp_path, log, min_item_events=1).item_ids.tolist() == ["4", "3", "2", "1"]
    assert build(tmp_path, log).item_ids.tolist() == ["5", "4", "3", "2", "1"]


def test_users_with_few_events_train_only(tmp_path):
    dataset = build(tmp_path, "user,item\none,1\na,1\na,2\na,3\ntwo,1\ntwo,2\n")
    assert dataset.parts.tolist() == [TRAIN, TRAIN, VALID, TEST, TRAIN, TRAIN]
    assert dataset.summary["users with train events only"] == 2
    ratio = build(tmp_path, "user,item\none,1\na,1\na,2\na,3\n", split=Split("user_ratio"))
    assert ratio.parts.tolist() == [TRAIN, TRAIN, TRAIN, TEST]


def test_temporal_split_takes_iso_dates_and_refuses_positions(tmp_path):
    rows = [f"u{i % 3},{i},2024-01-{i + 1:02d}" for i in range(10)]
    temporal = Split("temporal", [0.6, 0.2, 0.2])
    dataset = build(tmp_path, "user,item,date\n" + "\n".join(rows) + "\n", items="", split=temporal)
    part = dict(zip(dataset.item_ids[dataset.items].tolist(), dataset.parts.tolist(), strict=True))
    assert [part[str(i)] for i in range(10)] == [TRAIN] * 6 + [VALID] * 2 + [TEST] * 2
    rows = [f"u{u},{i},{i}" for u in range(5) for i in range(4)]
    with pytest.raises(UserError, match=r"interactions.csv, column 'position' counts"):
        build(tmp_path, "user,item,position\n" + "\n".join(rows) + "\n", items="", split=temporal)
    with pytest.raises(UserError, match="no time column"):
        build(tmp_path, "user,item\na,1\na,2\n", items="", split=temporal)


def test_temporal_refuses_positions_also_where_cleaning_leaves_gaps(tmp_path):
    rows = [f"u{u},{i % 3},{i},{5 if i % 4 == 2 else 1}" for u in range(5) for i in range(12)]
    with pytest.raises(UserError, match="counts each user's own events"):
        build(
            tmp_path, "user,item,position,rating\n" + "\n".join(rows), items="", split=Split("temporal"), min_rating=4
        )


@pytest.mark.parametrize(
    ("interactions", "settings", "reason"),
    [
        ("user,item,time\na,1,1\na,2,soon\n", {}, r"column 'time': 1 of 2 values .*row 2: 'soon'"),
        ("user,item\n,1\n,2\n", {}, r"column 'user' \(user_id\) is empty in all 2 rows"),
        ("user,item\n,1\nu,\n", {}, r"Nothing is left .*rows without a user or item id \(dropped\): 2"),
        (
            "user,item,rating\na,1,1\na,2,2\na,3,3\n",
            {"min_rating": 4},
            r"Nothing is left .*ratings below 4 \(dropped\): 3",
        ),
        ("user,item\na,1\na,2\nb,1\n", {"min_item_events": 3}, r"Nothing is left .*outside the core"),
        ("user,item\na,1\nb,2\n", {}, "leaves no test event"),
        ("user,item\na,1\n", {"min_rating": 3}, "has no rating column"),
        ("user,item\na,1\n", {"columns": Columns(rating="stars")}, r"no column 'stars'"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, interactions, settings, reason):
    with pytest.raises(UserError, match=reason):
        build(tmp_path, interactions, items="", **settings)


def test_the_same_files_give_the_same_fingerprint_and_any_change_another(tmp_path):
    base = build(tmp_path, LOG)
    assert build(tmp_path, LOG).fingerprint == base.fingerprint
    other_order = build(tmp_path, LOG.replace("b,1,5,30", "b,1,5,3"))
    other_split = build(tmp_path, LOG, split=Split("user_ratio"))
    other_items = build(tmp_path, LOG, items=ITEMS + "77,More,x\n")
    other_user = build(tmp_path, LOG.replace("a,", "z,"))
    found = {d.fingerprint for d in (base, other_order, other_split, other_items, other_user)}
    assert len(found) == 5
    assert other_items.item_vocabulary != base.item_vocabulary == other_order.item_vocabulary


def test_every_array_has_the_declared_type(tmp_path):
    dataset = build(tmp_path, LOG)
    assert dataset.indptr.dtype == np.int64 and dataset.items.dtype == np.int32 and dataset.parts.dtype == np.uint8
    assert all(isinstance(t, str) for t in (*dataset.titles, *dataset.texts, *dataset.user_ids, *dataset.item_ids))
    assert {type(v) for v in dataset.summary.values()} <= {int, str}


@pytest.mark.parametrize("kind", [pl.Int64, pl.UInt32, pl.Int16])
def test_whole_numbers_of_parquet_give_the_data_set_that_their_texts_give(tmp_path, kind):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({name: rng.integers(1, 30, 400) for name in ("user_id", "item_id", "timestamp")})
    for folder, written in (("numbers", kind), ("texts", pl.String)):
        (tmp_path / folder).mkdir()
        ids = [pl.col(name).cast(written) for name in ("user_id", "item_id")]
        frame.with_columns(ids).write_parquet(tmp_path / folder / "interactions.parquet")
    numbers, texts = (build_dataset(Data(path=str(tmp_path / f), split=LOO)) for f in ("numbers", "texts"))
    assert numbers.fingerprint == texts.fingerprint and numbers.summary == texts.summary


def test_rows_without_a_whole_number_are_dropped_and_counted(tmp_path):
    frame = pl.DataFrame({"user_id": [1, None, 1, 1, 2], "item_id": [5, 5, None, 6, 5], "timestamp": [1, 2, 3, 4, 5]})
    frame.write_parquet(tmp_path / "interactions.parquet")
    dataset = build_dataset(Data(path=str(tmp_path), split=Split(ratios=[1.0, 0.0, 0.0])))
    assert sequences(dataset) == {"1": ["5", "6"], "2": ["5"]}
    assert dataset.summary["rows without a user or item id (dropped)"] == 2
