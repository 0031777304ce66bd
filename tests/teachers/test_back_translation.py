"""Translating there and back with small models of random weights, and a text tower that learns from paraphrases."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

sys.path.insert(0, str(Path(__file__).parent))
from texts_and_users import topical

from distill.data.paraphrase import paraphrases, word_dropout
from distill.engine.local import Local
from distill.engine.loop import fit
from distill.errors import UserError
from teachers.back_translation import back_translation
from teachers.protocol import Inputs
from teachers.text_tower import TextTower

WORDS = ["ink", "toner", "desk", "chair", "paper", "ream", "pen", "gel", "blue", "white"]
TEXTS = ["ink toner", "", "blue desk chair paper", " ", "pen"]
SMALL = {"hidden_size": 32, "vocabulary": 100, "max_tokens": 12, "batch_size": 32, "precision": "fp32"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders, each with a T5 of random weights and a tokenizer that knows WORDS."""
    found = []
    for number in range(2):
        folder = tmp_path_factory.mktemp(f"t5-{number}")
        vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
        inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
        )
        torch.manual_seed(number)
        sizes = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 1}
        config = T5Config(vocab_size=len(vocabulary), decoder_start_token_id=0, initializer_factor=20.0, **sizes)
        T5ForConditionalGeneration(config).save_pretrained(folder, safe_serialization=True)
        tokenizer.save_pretrained(folder)
        found.append(str(folder))
    return found


def test_every_text_comes_back_as_words_of_the_model_and_empty_ones_stay(folders):
    said = back_translation(TEXTS, 0, *folders, batch_size=2, max_tokens=6)
    assert len(said) == len(TEXTS) and said[1] == "" and said[3] == " "
    assert all(set(said[row].split()) <= {*WORDS, *TEXTS[row].split()} and said[row] for row in (0, 2, 4))
    assert said == back_translation(TEXTS, 9, *folders, batch_size=2, max_tokens=6), "the likeliest answer has no seed"


def test_the_batch_size_does_not_matter(folders):
    one, all_at_once = (back_translation(TEXTS, 0, *folders, batch_size=size, max_tokens=6) for size in (1, 8))
    assert one == all_at_once


def test_above_temperature_0_the_seed_decides_and_copies_differ(folders):
    settings = {"name": "back_translation", "there": folders[0], "back": folders[1], "temperature": 50.0}
    state = torch.get_rng_state()
    found = paraphrases(TEXTS, {**settings, "copies": 2, "max_tokens": 6}, seed=1)
    assert torch.equal(torch.get_rng_state(), state), "the draws of training stay what they were"
    assert found[:5] != found[5:]
    assert found == paraphrases(TEXTS, {**settings, "copies": 2, "max_tokens": 6}, seed=1)


def test_folders_that_hold_no_translation_model(folders, tmp_path):
    with pytest.raises(UserError, match=r"'nowhere' \(there\) holds no model"):
        back_translation(["ink"], 0, "nowhere", folders[1])
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match=r"\(back\) can't be opened as a translation model"):
        back_translation(["ink"], 0, folders[0], str(tmp_path))


def prepared(**settings) -> TextTower:
    tower = TextTower(**SMALL | settings)
    tower.prepare(Inputs(topical(empty=1), {}, 0, torch.device("cpu")))
    return tower


def test_training_sees_own_texts_and_paraphrases_alike_and_the_catalogue_own_texts_alone():
    tower = prepared(paraphrase={"name": "word_dropout", "copies": 2, "share": 0.5})
    texts = [text.strip() for text in topical(empty=1).texts]
    said = word_dropout(texts, 0, 0.5)
    assert len(tower.wordings) == 3 * len(texts) == 3 * len(tower.texts)
    again = TextTower(**SMALL)
    again.prepare(Inputs(topical(empty=1), {}, 0, torch.device("cpu")))
    torch.testing.assert_close(tower.texts.tokens, again.texts.tokens)
    shown = np.bincount(np.concatenate([tower.batches.wording(np.arange(n, n + 9), 50).numpy() for n in range(200)]))
    assert len(shown) == 3 and np.abs(shown / shown.sum() - 1 / 3).max() < 0.03
    numbers = np.arange(20)
    batch, other = tower.batches.collate(numbers), tower.batches.collate(numbers)
    for name, value in batch.items():
        torch.testing.assert_close(value, other[name])
    which = tower.batches.wording(numbers, len(batch["item"]))
    place = int(torch.nonzero(which == 1)[0])
    row = batch["tokens"][place][batch["mask"][place]]
    wanted = tower.tokenizer(said[int(batch["item"][place])], truncation=True, max_length=12)["input_ids"]
    assert row.tolist() == wanted


def test_without_paraphrases_batches_are_as_they_were():
    tower = prepared()
    batch = tower.batches.collate(np.arange(10))
    torch.testing.assert_close(batch["tokens"], tower.texts.batch(batch["item"])["tokens"])


def test_a_tower_trains_on_paraphrases(tmp_path):
    tower = prepared(paraphrase={"name": "word_dropout"}, epochs=1, max_steps=3)

    def validate(model):
        tower.refresh(model, Local())
        return float(tower.item_vectors().std())

    fit(tower.job(), Local(), tmp_path, validate, "tower")
    assert tower.item_vectors().shape[0] == len(topical(empty=1).texts)


def test_settings_are_checked_when_the_member_is_made():
    with pytest.raises(UserError, match="did you mean 'word_dropout'"):
        TextTower(paraphrase={"name": "word_dropuot"})
