"""Data sets of the package `datasets`: saved folders, splits, shuffled ones; hub addresses without a hub."""

import sys
from dataclasses import replace

import polars as pl
import pytest

from distill.config import Data
from distill.data import download
from distill.data.load import build_dataset
from distill.data.readers import locate, read
from distill.errors import UserError

datasets = pytest.importorskip("datasets")

EVENTS = {"user_id": [1, 1, 1, 2], "item_id": ["a", "b", "c", "a"], "timestamp": [1, 2, 3, 4]}
ITEMS = {"item_id": ["a", "b", "c"], "title": ["Heat", "Up", "Alien"]}


def load(path, **settings):
    data = Data(path=str(path), **settings)
    raw = read(locate(data), data.columns, {})
    return replace(raw, events=raw.events.with_columns(pl.col("user_id", "item_id").cast(pl.String)))


def saved(folder, content):
    one = datasets.Dataset.from_dict
    made = one(content) if "user_id" in content else datasets.DatasetDict({k: one(v) for k, v in content.items()})
    made.save_to_disk(str(folder))
    return folder


def test_a_saved_data_set_is_read_in_its_order(tmp_path):
    folder = saved(tmp_path / "log", EVENTS)
    raw = load(folder)
    assert raw.events.rows() == [("1", "a", 1), ("1", "b", 2), ("1", "c", 3), ("2", "a", 4)]
    assert raw.items is None
    assert any(p.suffix == ".arrow" for p in locate(Data(path=str(folder))).files)


def test_a_shuffled_data_set_keeps_its_own_order(tmp_path):
    made = datasets.Dataset.from_dict(EVENTS).select([3, 1, 0])
    made.save_to_disk(str(tmp_path / "log"))
    assert load(tmp_path / "log").events["item_id"].to_list() == ["a", "b", "a"]


def test_splits_called_interactions_items_and_users(tmp_path):
    users = {"user_id": [1, 2], "plan": ["gold", "free"]}
    raw = load(saved(tmp_path / "all", {"interactions": EVENTS, "items": ITEMS, "users": users}))
    assert raw.events.height == 4
    assert raw.items["title"].to_list() == ["Heat", "Up", "Alien"]
    assert raw.users.rows() == [("1", "gold"), ("2", "free")]


def test_other_splits_follow_one_another_and_items_may_lie_elsewhere(tmp_path):
    first, second = ({k: v[i : i + 2] for k, v in EVENTS.items()} for i in (0, 2))
    folder = saved(tmp_path / "log", {"train": first, "test": second})
    items = tmp_path / "items.parquet"
    pl.DataFrame(ITEMS).write_parquet(items)
    raw = load(folder, items=str(items))
    assert raw.events["order"].to_list() == [1, 2, 3, 4]
    assert raw.items.height == 3
    dataset = build_dataset(Data(path=str(folder), items=str(items)))
    assert (dataset.n_users, dataset.n_items) == (2, 3)


def test_lists_of_items_in_a_saved_data_set(tmp_path):
    folder = saved(tmp_path / "log", {"train": {"user": ["u", "v"], "sequence": [[3, 1], [2]]}})
    assert load(folder).events.rows() == [("u", "3"), ("u", "1"), ("v", "2")]


def test_damaged_folders_are_refused(tmp_path):
    folder = saved(tmp_path / "log", EVENTS)
    next(folder.glob("*.arrow")).write_bytes(b"nothing")
    with pytest.raises(UserError, match="log is no whole data set"):
        load(folder)
    (folder / "dataset_dict.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset_dict.json is damaged"):
        load(folder)
    with pytest.raises(UserError, match="only the splits items"):
        load(saved(tmp_path / "other", {"items": ITEMS}))


def test_a_hub_address_is_fetched_only_when_asked_and_says_what_else_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv(download.VARIABLE, str(tmp_path))
    with pytest.raises(UserError, match=r"hf://owner/name isn't here.*data.download=true.*hub/owner--name"):
        load("hf://owner/name")
    for address in ("hf://name", "hf://a/b/c/d", "hf://../x"):
        with pytest.raises(UserError, match="expected hf://owner/name"):
            load(address)
    saved(tmp_path / "hub" / "owner--name", EVENTS)
    assert load("hf://owner/name").events.height == 4


def test_a_hub_out_of_reach_is_an_error_with_a_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv(download.VARIABLE, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(UserError, match=r"could not be fetched.*save_to_disk and copy the folder to"):
        load("hf://owner/name", download=True)
    assert not (tmp_path / "hub" / "owner--name").exists()


def test_without_the_package_the_message_names_it(tmp_path, monkeypatch):
    folder = saved(tmp_path / "log", EVENTS)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="pip install datasets"):
        load(folder)
