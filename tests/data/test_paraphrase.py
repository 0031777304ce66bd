"""Paraphrases: words left out and replaced, translation by rules, and what the settings may be."""

import shutil
import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.data.paraphrase import apertium, check_paraphrase, paraphrases, read_synonyms, word_dropout
from distill.errors import UserError

TEXTS = ["red desk lamp with bulb", "", "green tea", "  ", "lamp", "a, b. c"]


def reverse(texts, seed, mark=""):
    """A user's own paraphrase."""
    return [f"{text[::-1]}{mark}" for text in texts]


def lossy(texts, seed):
    return texts[1:]


def is_subsequence(short, long):
    rest = iter(long)
    return all(word in rest for word in short)


LINES = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)  # control characters are no text


@given(st.lists(LINES, max_size=8), st.integers(0, 100), st.floats(0, 1))
def test_word_dropout_leaves_words_in_their_order_and_never_an_empty_text(texts, seed, share):
    for text, said in zip(texts, word_dropout(texts, seed, share), strict=True):
        assert is_subsequence(said.split(), text.split())
        assert bool(said) == bool(text.split())


def test_about_the_share_is_left_out_and_the_seed_decides_what():
    texts = ["one two three four five six seven eight nine ten"] * 1000
    said = word_dropout(texts, 0, 0.15)
    left = 1 - sum(len(text.split()) for text in said) / 10_000
    assert abs(left - 0.15) < 4 * np.sqrt(0.15 * 0.85 / 10_000)
    assert said == word_dropout(texts, 0, 0.15) != word_dropout(texts, 1, 0.15)
    assert word_dropout(TEXTS, 0, 0.0) == ["red desk lamp with bulb", "", "green tea", "", "lamp", "a, b. c"]


@pytest.fixture
def synonyms(tmp_path):
    path = tmp_path / "synonyms.tsv"
    path.write_text("Lamp\tlight, lantern\n\ntea\t brew ,\nlamp\tnever\n", encoding="utf-8")
    return path


def test_synonyms_take_the_place_of_words(synonyms):
    assert read_synonyms(synonyms).rows() == [("lamp", ["light", "lantern"]), ("tea", ["brew"])]
    said = word_dropout(["LAMP with tea"] * 2000, 0, 0.0, str(synonyms), replace=0.5)
    lamps = [text.split()[0] for text in said]
    assert set(lamps) == {"LAMP", "light", "lantern"}
    assert {text.split()[1] for text in said} == {"with"} and {text.split()[2] for text in said} == {"tea", "brew"}
    for word, share in (("LAMP", 0.5), ("light", 0.25)):
        assert abs(lamps.count(word) / 2000 - share) < 4 * np.sqrt(share * (1 - share) / 2000)


@pytest.mark.parametrize("content", ["lamp light\n", "lamp\t\n", "a\tb\tc\n"])
def test_files_that_hold_no_synonyms(tmp_path, content):
    path = tmp_path / "x.tsv"
    path.write_text(content)
    with pytest.raises(UserError, match="is no line of synonyms"):
        word_dropout(["lamp"], 0, synonyms=str(path))
    with pytest.raises(UserError, match="no file of synonyms"):
        word_dropout(["lamp"], 0, synonyms=str(tmp_path / "nothing.tsv"))


def test_copies_follow_each_other_and_differ():
    texts = ["one two three four five six"] * 20
    found = paraphrases(texts, {"name": "word_dropout", "copies": 2, "share": 0.4}, seed=5)
    assert len(found) == 40 and found[:20] != found[20:]
    assert found[:20] == word_dropout(texts, 5, 0.4)


def test_a_function_of_the_users_own():
    settings = {"name": f"{__name__}:reverse", "mark": "!"}
    check_paraphrase(settings)
    assert paraphrases(["ab", ""], settings, 0) == ["ba!", "!"]
    with pytest.raises(UserError, match="made 1 texts out of 2"):
        paraphrases(["ab", ""], {"name": f"{__name__}:lossy"}, 0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "expected {name: word_dropout"),
        ({"name": "word_droput"}, "did you mean 'word_dropout'"),
        ({"name": "word_dropout", "shares": 0.1}, "has no setting 'shares'"),
        ({"name": "word_dropout", "share": "much"}, "'share' is 'much', expected float"),
        ({"name": "word_dropout", "copies": 0}, "'copies' is 0"),
        ({"name": "word_dropout", "seed": 1}, "supplied by the program"),
        ({"name": "back_translation", "there": "x"}, "needs the setting"),
    ],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(UserError, match=words):
        check_paraphrase(settings)


def test_probabilities_are_from_0_to_1():
    with pytest.raises(UserError, match=r"'share' is 1\.5"):
        word_dropout(["a"], 0, 1.5)


@pytest.fixture
def shouting(tmp_path):
    """A program that is called as apertium is and answers in capitals; it knows one pair."""
    path = tmp_path / "apertium"
    path.write_text(
        '#!/bin/sh\n[ "$1 $2" = "-u up-up" ] || { echo "Mode $2 does not exist" >&2; exit 1; }\ntr a-z A-Z\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_apertium_is_given_each_text_as_its_own_paragraph(shouting):
    said = apertium(["one  two", "", "three\n\nfour"], 0, there="up-up", back="up-up", command=shouting)
    assert said == ["ONE TWO", "", "THREE FOUR"]
    assert apertium(["", " "], 0, there="no-no", command=shouting) == ["", ""]


def test_a_pair_or_a_command_that_is_not_there_names_the_package(shouting):
    with pytest.raises(UserError, match=r"Mode xx-yy does not exist.*apertium-xx-yy"):
        apertium(["one"], 0, there="xx-yy", command=shouting)
    with pytest.raises(UserError, match="apt install apertium apertium-eng-spa"):
        apertium(["one"], 0, command=f"{shouting}-nowhere")


@pytest.mark.skipif(shutil.which("apertium") is None, reason="the command apertium is not installed")
def test_apertium_itself():
    texts = ["The house is red.", "", "Desk lamp with bulb", "5 & 7 <b>*x* [ok]"]
    try:
        said = apertium(texts, 0)
    except UserError as error:
        pytest.skip(str(error))
    assert len(said) == 4 and said[1] == "" and "house" in said[0].lower() and "lamp" in said[2].lower()
