"""The cache of text vectors: what is encoded again, and what a damaged or foreign file does."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from texts_and_users import topical

from teachers.backbone import open_backbone, scratch_backbone
from teachers.protocol import Inputs
from teachers.text_cache import TextCache, cached_vectors, model_digest
from teachers.text_tower import TextTower


@pytest.fixture
def backbone(tmp_path) -> str:
    body, tokenizer = scratch_backbone(topical().texts, 100, 32, 3, 12, seed=1)
    body.save_pretrained(tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    return str(tmp_path / "backbone")


@pytest.fixture(autouse=True)
def encoded(tmp_path, monkeypatch) -> list[int]:
    """How many texts each call of the encoder got; the cache is this test's own."""
    from teachers import text_tower

    counts: list[int] = []
    plain = text_tower.encode

    def counting(model, texts, *rest):
        counts.append(len(texts))
        return plain(model, texts, *rest)

    monkeypatch.setattr(text_tower, "encode", counting)
    monkeypatch.setenv("TAILDISTILL_CACHE", str(tmp_path / "cache"))
    return counts


def prepared(backbone: str, dataset=None, **settings) -> TextTower:
    settings = {"max_tokens": 12, "precision": "fp32", "epochs": 0} | settings
    tower = TextTower(backbone=backbone, **settings)
    tower.prepare(Inputs(topical() if dataset is None else dataset, {}, 0, torch.device("cpu")))
    return tower


def test_a_second_run_encodes_nothing_and_a_new_item_costs_one(backbone, encoded, capsys):
    first = prepared(backbone).item_vectors()
    dataset = topical(empty=1)
    dataset.texts[-1] = "a laser printer of oak"
    assert torch.equal(prepared(backbone).item_vectors(), first)
    assert encoded == [len(set(topical().texts))]  # equal texts are encoded once
    added = prepared(backbone, dataset)
    assert encoded[1:] == [1]
    assert "40 of 41 from" in capsys.readouterr().out
    without = prepared(backbone, dataset, cache=False).item_vectors()
    torch.testing.assert_close(added.item_vectors(), without, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"pooling": "cls"}, {"max_tokens": 6}, {"precision": "bf16"}])
def test_other_settings_share_nothing(backbone, encoded, settings):
    prepared(backbone)
    prepared(backbone, **settings)
    assert encoded[0] == encoded[1]


def test_other_weights_or_words_share_nothing(backbone):
    body, tokenizer = open_backbone(backbone)
    before = model_digest(body, tokenizer, [1])
    assert before == model_digest(*open_backbone(backbone), [1])
    with torch.no_grad():
        next(body.parameters())[0, 0] += 1
    assert model_digest(body, tokenizer, [1]) != before
    body, tokenizer = open_backbone(backbone)
    tokenizer.add_tokens(["zebra"])
    assert model_digest(body, tokenizer, [1]) != before


def test_training_leaves_the_cache_alone(backbone, tmp_path):
    prepared(backbone, epochs=1)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_is_left_out_and_an_unwritable_folder_is_said(tmp_path, capsys):
    cache = TextCache("model", tmp_path)
    vectors = torch.randn(3, 4)
    cache.put(["a", "b", "a"], vectors)
    cache.put(["c"], vectors[2:])
    found, known = cache.get(["b", "x", "c", "a"])
    assert known.tolist() == [True, False, True, True]
    torch.testing.assert_close(found, torch.stack([vectors[1], torch.zeros(4), vectors[2], vectors[0]]))
    for file in cache.folder.glob("*"):
        file.write_bytes(file.read_bytes()[:40])
    assert not cache.get(["a"])[1].any()
    (tmp_path / "taken").write_text("")
    TextCache("model", tmp_path / "taken").put(["a"], vectors[:1])
    assert "Set TAILDISTILL_CACHE to a folder" in capsys.readouterr().out


def test_keys_are_compared_whole(tmp_path):
    cache = TextCache("model", tmp_path)
    texts = [f"text {number}" for number in range(5000)]
    table = torch.arange(5000.0)[:, None]
    assert torch.equal(cached_vectors(cache, texts, lambda rows: table[rows]), table)
    order = np.random.default_rng(0).permutation(5000)
    again = cached_vectors(cache, [texts[row] for row in order], lambda rows: pytest.fail("all are known"))
    assert torch.equal(again, table[order])
