"""The text tower as a teacher's member: training, encoding, scoring, saving."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from texts_and_users import PER_TOPIC, topical

from distill.data.contexts import history_contexts
from distill.data.dataset import VALID
from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.errors import UserError
from distill.plugins import check_arguments
from teachers.backbone import open_backbone, scratch_backbone
from teachers.protocol import Inputs
from teachers.text_encoder import encode, tokenise
from teachers.text_tower import TextTower

SMALL = {"hidden_size": 32, "vocabulary": 100, "max_tokens": 12, "batch_size": 32, "precision": "fp32"}


def prepared(dataset=None, **settings) -> TextTower:
    tower = TextTower(**SMALL | settings)
    tower.prepare(Inputs(topical() if dataset is None else dataset, {}, 0, torch.device("cpu")))
    return tower


def trained(folder: Path, dataset=None, **settings) -> TextTower:
    tower = prepared(dataset, **settings)
    torch.manual_seed(0)

    def validate(model):
        tower.refresh(model, Local())
        return topic_gap(tower)

    fit(tower.job(), Local(), folder, validate, "tower")
    tower.finish(best_weights(folder))
    return tower


def topic_gap(tower: TextTower) -> float:
    """How much nearer items of one topic are than items of different topics, in cosine."""
    vectors = tower.item_vectors()[: 4 * PER_TOPIC]
    vectors = torch.nn.functional.normalize(vectors - vectors.mean(0), dim=-1)
    topic = torch.arange(len(vectors)) // PER_TOPIC
    same = topic[:, None] == topic
    cosines = vectors @ vectors.T
    return float(cosines[same].mean() - cosines[~same].mean())


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    """A folder with a small three-layer encoder, standing in for pretrained weights."""
    folder = tmp_path_factory.mktemp("backbone")
    body, tokenizer = scratch_backbone(topical().texts, 100, 32, 3, 12, seed=1)
    body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_training_brings_items_of_one_topic_together(tmp_path):
    before = topic_gap(prepared(tfidf_share=0.0, epochs=0))
    after = topic_gap(trained(tmp_path, tfidf_share=0.0, epochs=6, learning_rate=2e-3))
    assert after > before + 0.3


def test_scores_find_items_of_the_users_topic(tmp_path):
    tower = trained(tmp_path, epochs=4, learning_rate=2e-3)
    dataset = topical()
    users = np.arange(dataset.n_users)
    batch = history_contexts(dataset, users, VALID).batch(users, 50)
    scores = tower.score(batch)
    assert scores.shape == (dataset.n_users, dataset.n_items)
    truth = dataset.items[dataset.parts == VALID]
    chosen = scores.argmax(1).numpy()
    assert (chosen // PER_TOPIC == truth // PER_TOPIC).mean() > 0.9


def test_score_is_the_decayed_sum_of_cosines():
    tower = prepared(epochs=0, decay=2.0)
    batch = history_contexts(topical(), np.array([3]), VALID).batch(np.array([0]), 50)
    vectors = tower.item_vectors()
    centred = torch.nn.functional.normalize(vectors - 0.5 * vectors.mean(0), dim=-1)
    history = batch.seen[0].tolist()
    expected = sum(np.exp(-age / 2.0) * centred @ centred[item] for age, item in enumerate(reversed(history)))
    torch.testing.assert_close(tower.score(batch)[0], expected, atol=1e-5, rtol=0)


def test_same_seed_same_vectors(tmp_path):
    one, other = (trained(tmp_path / name, epochs=1).item_vectors() for name in "ab")
    assert torch.equal(one, other)


def test_saved_tower_comes_back_and_encodes_new_texts(tmp_path):
    tower = trained(tmp_path / "work", tfidf_share=0.0, epochs=1)
    saved = tmp_path / "saved"
    saved.mkdir()
    tower.save(saved)
    assert not [p.name for p in saved.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    loaded = TextTower(**SMALL | {"tfidf_share": 0.0}).load(saved)
    assert torch.equal(loaded.item_vectors(), tower.item_vectors())
    assert not hasattr(loaded, "body")  # the encoder stays on disk until it is asked
    torch.testing.assert_close(loaded.encode(topical().texts), tower.item_vectors(), atol=1e-5, rtol=0)
    body, _ = open_backbone(str(saved))  # it is an ordinary Hugging Face folder
    assert body.config.hidden_size == 32


def test_cached_frozen_layers_change_nothing(backbone, tmp_path):
    """Vectors and two steps of training are the same with the frozen layers' output cached or computed."""
    settings = {"backbone": backbone, "frozen_layers": 1, "dropout": 0.0, "epochs": 1, "max_steps": 2}
    cached, whole = prepared(**settings), prepared(**settings, cache_megabytes=0)
    assert cached.texts.hidden is not None
    assert whole.texts.hidden is None
    for tower in (cached, whole):
        tower.refresh(tower.encoder, Local())
    torch.testing.assert_close(cached.vectors, whole.vectors, atol=1e-5, rtol=0)
    losses = []
    for tower in (cached, whole):
        losses.append([p["loss"] for p in fit(tower.job(), Local(), tmp_path / str(len(losses)), None, "tower")])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    frozen = [name for name, p in cached.body.named_parameters() if not p.requires_grad]
    for name in frozen:
        assert torch.equal(cached.body.state_dict()[name], whole.body.state_dict()[name])
    assert any("layer.0" in name for name in frozen)


def test_padding_and_order_change_no_vector(backbone):
    body, tokenizer = open_backbone(backbone)
    tower = prepared(backbone=backbone, epochs=0)
    texts = [*topical().texts[:7], "a", "", "gel " * 40]
    together = encode(tower.encoder, tokenise(texts, tokenizer, 12), torch.device("cpu"))
    for row, text in enumerate(texts):
        alone = encode(tower.encoder, tokenise([text], tokenizer, 12), torch.device("cpu"))
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
    inputs = tokenizer(texts[0], return_tensors="pt")
    plain = body(**inputs).last_hidden_state[0].mean(0)
    torch.testing.assert_close(together[0], plain / plain.norm(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_several_processes_add_up(backbone, world, monkeypatch):
    monkeypatch.setattr("teachers.text_encoder.ENCODING_TOKENS", 60)
    tower = prepared(backbone=backbone, epochs=0)
    whole = encode(tower.encoder, tower.texts, torch.device("cpu"))
    parts = [encode(tower.encoder, tower.texts, torch.device("cpu"), "fp32", (rank, world)) for rank in range(world)]
    torch.testing.assert_close(sum(parts), whole, atol=1e-6, rtol=0)
    assert all((part != 0).any() for part in parts)


def test_items_without_text_get_the_mean_vector(capsys):
    tower = prepared(topical(empty=3), epochs=0)
    assert "3 of 43 items have no text" in capsys.readouterr().out
    vectors = tower.item_vectors()
    assert torch.equal(vectors[-1], vectors[-2])
    assert torch.isfinite(vectors).all()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_no_text_at_all_is_said():
    dataset = topical()
    dataset.texts[:] = [" "] * len(dataset.texts)
    with pytest.raises(UserError, match=r"no item has any text.*data\.columns"):
        prepared(dataset)


def test_very_long_texts_are_cut_before_they_are_read(backbone):
    _, tokenizer = open_backbone(backbone)
    seen = []

    def watching(texts, **settings):
        seen.extend(map(len, texts))
        return tokenizer(texts, **settings)

    watching.pad_token_id = tokenizer.pad_token_id
    tokens = tokenise(["pen " * 25_000, "x" * 100_000, "\n" * 1000 + "ink"], watching, 12)
    assert max(seen) <= 12 * 512
    assert tokens.lengths.max() <= 12


def test_tfidf_is_mixed_in_by_its_share():
    tower = prepared(epochs=0, tfidf_share=0.3, tfidf_width=8)
    vectors = tower.item_vectors()
    assert vectors.shape[1] == 32 + 8
    torch.testing.assert_close(vectors[:, :32].square().sum(1), torch.full((len(vectors),), 0.7))
    with pytest.raises(UserError, match="tfidf_share: 0"):
        tower.encode(["new"])


def test_batches_are_bounded_and_follow_seed_and_epoch():
    tower = prepared(max_steps=3, epochs=1)
    job = tower.job()
    assert len(job.batches(0)) == 3
    assert all(np.array_equal(a, b) for a, b in zip(job.batches(0), job.batches(0), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(job.batches(0), job.batches(1), strict=True))


def test_an_item_is_encoded_once_a_batch():
    job = prepared(epochs=1).job()
    rows = job.batches(0)[0]
    batch = job.collate(rows)
    assert len(batch["item"]) == len(set(batch["item"].tolist())) < 2 * len(rows)
    assert len(batch["tokens"]) == len(batch["item"])
    assert len(batch["left"]) == len(batch["right"]) == len(rows)


def test_nothing_to_train_without_epochs():
    assert prepared(epochs=0).job() is None


def test_a_text_longer_than_the_backbone_reads_is_refused(backbone):
    with pytest.raises(UserError, match="max_tokens is 64, but the backbone reads at most 16"):
        prepared(backbone=backbone, max_tokens=64)


def test_settings_are_checked_by_name_and_type():
    check_arguments("teacher", "text_tower", {"backbone": "scratch", "epochs": 2, "dropout": None})
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        check_arguments("teacher", "text_tower", {"lerning_rate": 1e-4})


def test_bf16_is_close_to_fp32(backbone):
    fp32 = prepared(backbone=backbone, epochs=0)
    bf16 = prepared(backbone=backbone, epochs=0, precision="bf16")
    assert (fp32.vectors * bf16.vectors).sum(1).min() > 0.999
