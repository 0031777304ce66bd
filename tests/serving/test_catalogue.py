import json

import numpy as np
import pytest

from distill.errors import UserError
from distill.serving.catalogue import Catalogue

TITLES = ["Toy Story (1995)", "Heat (1995)", "Heat and Dust (1983)", "Heat (1995)", "Das Boot", "Amélie"]


@pytest.fixture()
def items():
    return Catalogue([f"id{i}" for i in range(6)], TITLES, np.array([3, 9, 0, 9, 1, 3]))


def test_popular_items_come_first_and_ties_in_item_order(items):
    assert items.by_popularity.tolist() == [1, 3, 0, 5, 4, 2]


def test_ids_are_found_exactly(items):
    assert items.index_of_id("id4") == 4
    with pytest.raises(UserError, match=r"no item with the id 'id44'.*Close ones: id4"):
        items.index_of_id("id44")
    with pytest.raises(UserError, match=r"Ids look like 'id0'"):
        items.index_of_id("#")


@pytest.mark.parametrize(("words", "index"), [("toy story (1995)", 0), (" DAS BOOT ", 4), ("toy", 0), ("dust", 2)])
def test_titles_are_found_whole_or_by_a_part_in_any_case(items, words, index):
    assert items.index_of_title(words) == index


def test_upper_case_beyond_ascii(items):
    assert items.index_of_title("AMÉLIE") == 5


def test_two_items_of_one_title_are_both_named(items):
    with pytest.raises(UserError, match=r"fits 2 items: .*id1.*id3.*or the item's id"):
        items.index_of_title("heat (1995)")


def test_a_part_of_several_titles_lists_them(items):
    with pytest.raises(UserError, match=r"'heat' fits 3 items"):
        items.index_of_title("heat")


def test_a_misspelt_title_suggests_the_nearest(items):
    with pytest.raises(UserError, match=r"No title fits 'das bot'. Did you mean: 'Das Boot'"):
        items.index_of_title("das bot")
    with pytest.raises(UserError, match=r"None is close"):
        items.index_of_title("xyzzy 42 plugh")
    with pytest.raises(UserError, match="empty title"):
        items.index_of_title("  ")


def test_lists_of_different_length_are_refused(tmp_path):
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"ids": ["a", "b"], "titles": ["A"], "popularity": [1, 2]}))
    with pytest.raises(UserError, match=r"2 ids, 1 titles, 2 counts"):
        Catalogue.read(path)
