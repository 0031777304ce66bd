"""Prompts from tokenised pieces: the same tokens as the tokenizer's own, and nothing longer than the window."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from teachers.backbone import wordpiece
from teachers.item_prompts import ItemPrompts, begin_tokens
from teachers.pair_texts import PairTexts
from teachers.prompts import NONE, Pieces, pair_template, token_lists

TITLES = ["red pen", "blue desk lamp", "", "oak chair", "paper"]
TEXTS = ["red pen fine", "blue desk lamp bright", "", "oak chair old", "paper white ream"]
N = len(TITLES)


@pytest.fixture(scope="module")
def tokenizer():
    return wordpiece([*TITLES, *TEXTS, "; what came - next"] * 3, 300)


def pairs(tokenizer, max_tokens=64, max_items=4):
    return PairTexts.of(TITLES, TEXTS, tokenizer, max_items, max_tokens, 8, 8)


def test_joined_pieces_are_the_lists_one_after_the_other():
    lists = [[1, 2, 3], [], [4], [5, 6]]
    rows = np.array([[0, 1, 3], [2, NONE, NONE], [NONE, NONE, NONE]])
    wanted = [[1, 2, 3, 5, 6], [4], []]
    tokens, length = Pieces.of(lists).join(rows, 9)
    assert tokens.tolist() == [row + [9] * (5 - len(row)) for row in wanted]
    assert length.tolist() == [5, 1, 0]
    tokens, _ = Pieces.of(lists).join(rows, 9, left=True)
    assert tokens.tolist() == [[9] * (5 - len(row)) + row for row in wanted]


def test_the_oldest_pieces_give_way_and_are_counted():
    pieces = Pieces.of([[1, 2, 3], [4], [5, 6]])
    history = np.array([[NONE, 0, 1, 2], [2, 1, 0, 1], [NONE, NONE, NONE, 0]])
    kept, lost = pieces.latest(history, np.array([3, 4, 2]))
    assert kept.tolist() == [[NONE, NONE, 1, 2], [NONE, NONE, 0, 1], [NONE] * 4]
    assert lost.tolist() == [1, 2, 1]


def test_a_pair_has_the_tokens_and_types_that_the_tokenizer_gives(tokenizer):
    history, items = np.array([[N, N, 0], [3, 2, 1]]), np.array([4, 0])
    batch = pairs(tokenizer).batch(history, items)
    for row, (first, second) in enumerate([("red pen;", TEXTS[4]), ("oak chair; blue desk lamp;", TEXTS[0])]):
        wanted = tokenizer(first, second)
        length = len(wanted["input_ids"])
        assert batch["tokens"][row, :length].tolist() == wanted["input_ids"]
        assert batch["types"][row, :length].tolist() == wanted["token_type_ids"]
        assert batch["mask"][row].sum() == length
    assert pairs(tokenizer).lengths(history, items).tolist() == batch["mask"].sum(1).tolist()


def test_no_pair_is_longer_than_the_window_and_the_latest_title_stays(tokenizer):
    texts = pairs(tokenizer, max_tokens=14)
    history = np.tile(np.array([[0, 3, 4, 1]]), (N, 1))
    batch = texts.batch(history, np.arange(N))
    assert batch["tokens"].shape[1] <= 14
    told, lost = texts.fit(history, np.arange(N))
    assert (told[:, -1] == 1).all() and lost.min() > 0


def test_the_template_is_what_the_tokenizer_puts_around_a_pair(tokenizer):
    before, between, after = pair_template(tokenizer)
    assert (before, between, after) == ([tokenizer.cls_token_id], [tokenizer.sep_token_id], [tokenizer.sep_token_id])


def test_where_a_tokenizer_puts_nothing_the_end_token_parts_the_two():
    core = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2, "[END]": 3}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    bare = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="[END]", pad_token="[END]")
    assert pair_template(bare) == ([], [3], [])
    assert begin_tokens(bare) == []


def test_very_long_texts_are_cut_before_they_are_tokenised(tokenizer):
    assert token_lists(["pen " * 100_000], tokenizer, 5) == token_lists(["pen " * 5], tokenizer, 5)


def test_item_prompts_read_as_a_list_that_the_title_continues(tokenizer):
    prompts = ItemPrompts.of(TITLES, tokenizer, "what came", "next", 4, 64, 8)
    tokens, mask = prompts.prefixes(np.array([[N, 0, 1], [N, N, N]]))
    words = [tokenizer.decode(row[m]) for row, m in zip(tokens, mask, strict=True)]
    assert words == ["[CLS] what came - red pen - blue desk lamp next -", "[CLS] what came next -"]
    assert mask[:, -1].all() and not mask[1, 0]
    assert begin_tokens(tokenizer) == [tokenizer.cls_token_id]
    ends, _ = prompts.ends(np.array([3, 2]))
    assert tokenizer.decode(ends[0]) == "oak chair"
    assert prompts.told.tolist() == [True, True, False, True, True]
    whole, mask, target = prompts.examples(np.array([[N, 0]]), np.array([3]))
    assert tokenizer.decode(whole[0][target[0]]) == "oak chair"
    assert tokenizer.decode(whole[0][mask[0]]) == "[CLS] what came - red pen next - oak chair"


def test_prompts_leave_room_for_every_title(tokenizer):
    prompts = ItemPrompts.of(TITLES, tokenizer, "what came", "", 4, 16, 8)
    assert prompts.least <= 16
    history = np.array([[0, 1, 3, 1]])
    whole, _, _ = prompts.examples(history, np.array([1]))
    assert whole.shape[1] <= 16
    assert prompts.rows(history)[1].tolist() == [2]
