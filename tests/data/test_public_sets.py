"""Public data sets as their publishers give them: known sizes and splits. They lie beside the project, if at all."""

from pathlib import Path

import numpy as np
import pytest

from distill.config import Data, Split
from distill.data.dataset import TEST, TRAIN, VALID, Dataset
from distill.data.load import build_dataset
from distill.data.split import check_leaks

SHARED = Path(__file__).parents[2].parent / "shared" / "data"

# users, items in the catalogue, pairs
SIZES = {
    "ml-100k": (943, 1682, 100_000),
    "ml-latest-small": (671, 9125, 100_004),
    "ml-1m": (6018, 3018, 933_517),
    "amazon-office": (3231, 3459, 20_569),
    "amazon-industrial": (3285, 3686, 21_106),
    "lastfm-2k": (1892, 17_632, 92_834),
    "citeulike-a": (5551, 16_980, 204_986),
}


def prepared(name, split="user_ratio") -> Dataset:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the data set {name} is not in ../shared/data")
    return build_dataset(Data(path=str(SHARED / name), split=Split(split)))


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    dataset = prepared(name)
    assert (dataset.n_users, dataset.n_items, len(dataset.items)) == SIZES[name]
    assert check_leaks(dataset) == []
    lengths = np.diff(dataset.indptr)
    shares = [dataset.lists(part, part).lengths / lengths for part in (TRAIN, VALID, TEST)]
    for share, wanted in zip(shares, (0.7, 0.1, 0.2), strict=True):
        assert (abs(share - wanted) <= 1 / lengths + 1e-9).all()


def test_amazon_office_leave_one_out():
    dataset = prepared("amazon-office", "leave_one_out")
    assert np.bincount(dataset.parts).tolist() == [14_113, 3_228, 3_228]
    assert dataset.summary["users with train events only"] == 3
    assert dataset.texts[0].startswith(
        "HP 74 Black & 75 Tri-color Original Ink Cartridges, 2 Cartridges (CB335WN, CB337WN). HP. HP 74"
    )


def test_ml_100k_text_and_split_against_a_plain_reading():
    dataset = prepared("ml-100k")
    assert (dataset.titles[0], dataset.texts[0]) == ("Toy Story", "Toy Story. 1995. Animation Children's Comedy")
    rows = [line.split("\t") for line in (SHARED / "ml-100k" / "ml-100k.inter").read_text().splitlines()[1:]]
    for user in ("196", "1", "405"):
        own = sorted((row for row in rows if row[0] == user), key=lambda row: float(row[3]))
        row = dataset.user_ids.tolist().index(user)
        events = slice(dataset.indptr[row], dataset.indptr[row + 1])
        assert dataset.item_ids[dataset.items[events]].tolist() == [r[1] for r in own]
        n = len(own)
        expected = [
            TRAIN if 10 * (2 * k + 1) < 14 * n else VALID if 10 * (2 * k + 1) < 16 * n else TEST for k in range(n)
        ]
        assert dataset.parts[events].tolist() == expected
    assert dataset.user_ids[0] == "196"  # first in the file


def test_citeulike_keeps_items_without_tags_in_line_order():
    dataset = prepared("citeulike-a")
    assert dataset.item_ids.tolist() == [str(i) for i in range(16_980)]
    assert dataset.summary["items without text"] == 3461


def test_the_demo_set_equals_the_publishers_files():
    original = prepared("ml-latest-small")
    demo = build_dataset(Data())
    assert demo.user_ids.tolist() == original.user_ids.tolist()
    assert demo.indptr.tolist() == original.indptr.tolist()
    assert demo.item_ids[demo.items].tolist() == original.item_ids[original.items].tolist()
    assert demo.parts.tolist() == original.parts.tolist()
    titles = dict(zip(original.item_ids.tolist(), original.titles, strict=True))
    different = [
        i for i, title in zip(demo.item_ids.tolist(), demo.titles, strict=True) if titles[i].split() != title.split()
    ]
    assert len(different) == 5  # titles that the copy lacks
