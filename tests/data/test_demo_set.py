"""The bundled demo set is whole, small, and carries its terms."""

from importlib import resources

import numpy as np

from distill.config import Data, Split
from distill.data.load import build_dataset

DEMO = resources.files("distill.data.demo")


def test_counts():
    dataset = build_dataset(Data())
    assert (dataset.n_users, dataset.n_items, len(dataset.items)) == (671, 9066, 100_004)
    assert np.bincount(dataset.parts).tolist() == [69_965, 10_036, 20_003]
    assert dataset.titles[0] == "Toy Story (1995)"
    assert dataset.texts[0] == "Toy Story (1995). Adventure|Animation|Children|Comedy|Fantasy"
    assert sum(title == item for title, item in zip(dataset.titles, dataset.item_ids, strict=True)) == 5
    assert (np.diff(dataset.indptr) >= 20).all()


def test_other_splits_work():
    temporal = build_dataset(Data(split=Split("temporal")))
    assert np.abs(np.bincount(temporal.parts) / 100_004 - [0.7, 0.1, 0.2]).max() < 0.001
    loo = build_dataset(Data(split=Split("leave_one_out")))
    assert np.bincount(loo.parts).tolist() == [100_004 - 2 * 671, 671, 671]


def test_positive_ratings_in_a_core():
    dataset = build_dataset(Data(min_rating=4, min_user_events=5, min_item_events=5))
    assert np.diff(dataset.indptr).min() >= 5
    assert np.bincount(dataset.items, minlength=dataset.n_items).min() >= 5


def test_files_are_small_and_the_notice_names_source_and_terms():
    for name in ("interactions.parquet", "items.parquet"):
        assert len((DEMO / name).read_bytes()) < 1_500_000
    notice = (DEMO / "NOTICE").read_text()
    for part in (
        "GroupLens",
        "10.1145/2827872",
        "not the licence of this project",
        "same conditions",
        "Commercial",
        "warranty",
    ):
        assert part in notice
