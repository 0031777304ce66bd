"""How a text tower may be trained: hard negatives, smoothing, rates by layer, less memory, and texts of any length."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from small_decoders import save_decoder
from texts_and_users import PER_TOPIC, topical

from distill.data.dataset import TRAIN
from distill.engine.local import Local
from distill.engine.loop import fit
from distill.errors import UserError
from teachers.backbone import scratch_backbone
from teachers.contrastive import Hard, Side, info_nce
from teachers.hard_negatives import mine, together
from teachers.precision import chosen_precision, has_bf16
from teachers.protocol import Inputs
from teachers.text_encoder import tokenise
from teachers.text_tower import TextTower

SMALL = {"hidden_size": 32, "vocabulary": 100, "max_tokens": 12, "batch_size": 32, "precision": "fp32"}


def prepared(**settings) -> TextTower:
    tower = TextTower(**SMALL | settings)
    tower.prepare(Inputs(topical(), {}, 0, torch.device("cpu")))
    return tower


def sides(count: int = 6) -> tuple[Side, Side]:
    random = torch.Generator().manual_seed(0)
    table = functional.normalize(torch.randn(2 * count, 8, generator=random), dim=-1)
    log_popularity = torch.rand(2 * count, generator=random).log()
    rows = torch.arange(2 * count)
    whole = Side(table, rows, log_popularity)
    return whole.take(rows[:count]), whole.take(rows[count:])


def test_smoothing_is_that_of_cross_entropy():
    left, right = sides()
    logits = left.vectors @ right.vectors.T / 0.1
    target = torch.arange(6)
    wanted = 0.5 * (
        functional.cross_entropy(logits - right.log_popularity, target, label_smoothing=0.2)
        + functional.cross_entropy(logits.T - left.log_popularity, target, label_smoothing=0.2)
    )
    torch.testing.assert_close(info_nce(left, right, 0.1, 0.2), wanted)
    twice = Side(*(torch.cat([column, column[:1]]) for column in left)), Side(*(torch.cat([c, c[1:2]]) for c in right))
    assert torch.isfinite(info_nce(*twice, 0.1, 0.2))  # a masked candidate gets no share


def test_hard_negatives_are_further_candidates_of_their_anchor_alone():
    left, right = sides(3)
    hard = Hard(functional.normalize(torch.randn(3, 2, 8), dim=-1), torch.zeros(3, 2))
    forward = left.vectors @ right.vectors.T / 0.1 - right.log_popularity
    forward = torch.cat([forward, torch.einsum("bd,bhd->bh", left.vectors, hard.vectors) / 0.1], dim=1)
    backward = right.vectors @ left.vectors.T / 0.1 - left.log_popularity
    target = torch.arange(3)
    wanted = 0.5 * (functional.cross_entropy(forward, target) + functional.cross_entropy(backward, target))
    torch.testing.assert_close(info_nce(left, right, 0.1, 0.0, hard), wanted)


def test_mined_items_are_near_and_nobody_had_both():
    lists = topical().lists(TRAIN, TRAIN)
    known = together(lists, 4 * PER_TOPIC)
    vectors = functional.normalize(torch.randn(4 * PER_TOPIC, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    found = mine(vectors, known, 3)
    had = {(int(a), int(b)) for row in range(len(lists)) for a in lists[row] for b in lists[row]}
    for item in range(4 * PER_TOPIC):
        free = [other for other in range(4 * PER_TOPIC) if other != item and (item, other) not in had]
        best = sorted(free, key=lambda other: -float(vectors[item] @ vectors[other]))[:3]
        assert found[item].tolist() == best


def test_a_batch_holds_its_hard_negatives_and_the_mining_is_renewed(tmp_path):
    tower = prepared(hard_negatives=2, epochs=1, tfidf_share=0.0)
    numbers = tower.job().batches(0)[0]
    batch = tower.job().collate(numbers)
    anchors = batch["item"][batch["left"]]
    negatives = batch["item"][batch["negatives"][batch["left"]]]
    assert negatives.shape == (len(numbers), 2)
    for anchor, row in zip(anchors.tolist(), negatives.tolist(), strict=True):
        assert set(row) <= set(tower.batches.nearest[anchor].tolist())
    assert len(batch["tokens"]) == len(set(batch["item"].tolist()))
    assert all(torch.equal(value, tower.job().collate(numbers)[name]) for name, value in batch.items())
    before = tower.batches.nearest.clone()

    def validate(model):
        tower.refresh(model, Local())
        return 0.0

    curve = fit(tower.job(), Local(), tmp_path, validate, "tower")
    assert np.isfinite(curve[0]["loss"])
    assert not torch.equal(before, tower.batches.nearest)


def test_lower_layers_learn_more_slowly(tmp_path):
    moved = {}
    for decay in (1.0, 0.01):
        tower = prepared(layer_decay=decay, epochs=1, max_steps=3, tfidf_share=0.0)
        start = {name: value.clone() for name, value in tower.body.state_dict().items()}
        fit(tower.job(), Local(), tmp_path / str(decay), None, "tower")
        moved[decay] = {n: float((v - start[n]).abs().max()) for n, v in tower.body.state_dict().items()}
    low, top = "encoder.layer.0.output.dense.weight", "encoder.layer.1.output.dense.weight"
    assert moved[0.01][low] < 0.05 * moved[1.0][low]
    assert moved[0.01][top] == pytest.approx(moved[1.0][top], rel=0.2)
    assert moved[0.01]["embeddings.word_embeddings.weight"] < 0.001 * moved[1.0]["embeddings.word_embeddings.weight"]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_gradient_checkpointing_changes_no_gradient(family, tmp_path):
    backbone = "scratch" if family == "bert" else str(save_decoder(tmp_path, family))
    gradients = []
    for on in (False, True):
        tower = prepared(backbone=backbone, gradient_checkpointing=on, epochs=1, frozen_layers=1, tfidf_share=0.0)
        job = tower.job()
        job.model.train()
        job.model(job.collate(job.batches(0)[0]))["loss"].backward()
        gradients.append({name: p.grad for name, p in job.model.named_parameters() if p.grad is not None})
    assert gradients[0] and gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        torch.testing.assert_close(value, gradients[1][name], msg=name)


@pytest.mark.parametrize("settings", [{"layer_decay": 0.0}, {"smoothing": 1.0}, {"hard_negatives": -1}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match="layer_decay is in"):
        TextTower(**settings)


def test_precision_follows_the_device():
    cpu = torch.device("cpu")
    assert chosen_precision("auto", cpu) == ("bf16" if has_bf16(cpu) else "fp32")
    assert chosen_precision("bf16", cpu) == "bf16"
    with pytest.raises(UserError, match="precision is 'fp8'"):
        chosen_precision("fp8", cpu)


def test_fp16_is_for_gpus(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chosen_precision("fp16", gpu) == "fp16"
    assert chosen_precision("fp16", cpu, training=False) == "fp32"  # a tower trained elsewhere answers here
    for has, words in ((False, "Use fp32; or 'auto'"), (True, "Use bf16, for which this one has instructions, or")):
        monkeypatch.setattr("teachers.precision.has_bf16", lambda device, has=has: has)
        with pytest.raises(UserError, match=f"precision is 'fp16', which is for GPUs, and this runs on a CPU. {words}"):
            prepared(precision="fp16", epochs=1)


def test_a_long_text_gives_the_tokens_of_the_whole(tmp_path):
    _, tokenizer = scratch_backbone(topical().texts, 100, 32, 1, 24, seed=0)
    random = np.random.default_rng(0)
    words = ["gel", "pen", "office", "x" * 30, "laser", "\n\n  ", "cartridge"]
    texts = [" ".join(random.choice(words, size)) for size in (3, 40, 400, 4000)]
    texts += ["", " " * 100_000 + "ink", "cartridge " * 10_000, "inklaserpen" * 20 + " pen"]
    assert max(map(len, texts)) >= 100_000
    found = tokenise(texts, tokenizer, 24)
    for row, text in enumerate(texts):
        wanted = tokenizer(text, truncation=True, max_length=24)["input_ids"]
        assert found.tokens[found.start[row] : found.start[row + 1]].tolist() == wanted
