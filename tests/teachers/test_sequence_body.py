"""The members `bert` and `gpt`: what places read, the gate, sampled catalogues, shared passes, pretrained bodies."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from member_samples import N, checked, fitted, inputs, ranked, trainer
from transformers import AutoConfig, BertConfig, BertModel, GPT2Config, GPT2Model, LlamaConfig, LlamaModel

from distill.ask import quality
from distill.contracts.worlds import checkerboard, ring, share_in_own_half
from distill.data.contexts import ContextBatch, train_contexts
from distill.data.dataset import TRAIN, VALID
from distill.engine.local import Local
from distill.errors import UserError
from distill.ranking.cases import cases_of
from teachers.protocol import Earlier
from teachers.sequence_body import Bert, Gpt
from teachers.sequence_open import build, is_causal, open_body, places
from teachers.text_space import TextSpace

DATA = ring()
SETTINGS = {
    "width": 16, "hidden_size": 32, "layers": 1, "max_length": 4, "batch_size": 16, "epochs": 6,
    "learning_rate": 0.01, "dropout": 0.0, "body_dropout": 0.0, "item_dropout": 0.0,
}  # fmt: skip
TOWER = {"tower": torch.randn(N, 8, generator=torch.Generator().manual_seed(0))}
TINY = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
FAMILIES = {
    "bert": lambda: BertModel(BertConfig(**TINY, intermediate_size=64, max_position_embeddings=16)),
    "gpt2": lambda: GPT2Model(GPT2Config(**TINY, n_positions=16, bos_token_id=1, eos_token_id=1)),
    "llama": lambda: LlamaModel(LlamaConfig(**TINY, intermediate_size=64, max_position_embeddings=16)),
}


def batch_of(rows):
    width = max(1, *(len(row) for row in rows))
    history = np.array([[N] * (width - len(row)) + list(row) for row in rows], np.int64)
    number = np.arange(len(rows))
    return ContextBatch(number, number, history, history, np.full(len(rows), -1), np.zeros(len(rows), np.uint8))


def next_items_found(member):
    rows = (np.arange(N)[:, None] + np.arange(4)) % N
    scores = member.score(batch_of(rows)).scatter(1, torch.from_numpy(rows), -torch.inf)
    return float((scores.argmax(1).numpy() == (rows[:, -1] + 1) % N).mean())


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("gpt"), "gpt", DATA, **SETTINGS)


def test_the_next_item_of_a_ring_is_found(gpt):
    assert next_items_found(gpt) > 0.95


@pytest.mark.parametrize(
    ("name", "changes"),
    [("bert", {"epochs": 12}), ("gpt", {"full_softmax_items": 5, "negatives": 40, "smoothing": 0.05})],
)
def test_so_it_is_from_items_left_out_and_from_sampled_items(tmp_path, name, changes):
    assert next_items_found(fitted(tmp_path, name, DATA, **SETTINGS | changes)) > 0.8


@pytest.mark.parametrize(
    ("name", "changes"),
    [("bert", {"objective": "causal"}), ("gpt", {"adapter": {"rank": 2}}), ("gpt", {"gradient_checkpointing": True})],
)
def test_the_contract(tmp_path, name, changes):
    member = checked(tmp_path, name, DATA, **SETTINGS | {"epochs": 1} | changes)
    assert not any("lora" in key for key in member.model.state_dict()), "adapters are merged"


@pytest.mark.parametrize("name", ["bert", "gpt"])
def test_at_first_the_body_has_no_say(name):
    member = {"bert": Bert, "gpt": Gpt}[name](**SETTINGS | {"vectors": "tower", "epochs": 0})
    member.prepare(inputs(DATA, **TOWER))
    assert member.job() is None
    batch = batch_of([[1, 2, 3], [5], []])
    opened = member.score(batch)
    member.model.gate = False
    assert torch.equal(member.score(batch), opened)


@pytest.mark.parametrize("mlp", [False, True])
def test_it_can_start_as_a_text_space(tmp_path, mlp):
    settings = {"vectors": "tower", "mlp": mlp, "epochs": 2, "decays": [1.0, 3.0]}
    space = TextSpace(**settings)
    space.prepare(inputs(DATA, **TOWER))
    space.finish(trainer(tmp_path / "space", space, DATA)(space.job()))
    given = replace(inputs(DATA, space=space.item_vectors()), members={"space": Earlier("text_space", settings, space)})
    member = Gpt(**SETTINGS | {"vectors": "space", "max_length": 9, "epochs": 1, "train_base": False})
    member.prepare(given)
    member.refresh(member.model, Local())
    batch = batch_of([[1, 2, 3], [5], [4, 9]])
    torch.testing.assert_close(member.score(batch), space.score(batch), rtol=1e-4, atol=1e-4)
    member.finish(trainer(tmp_path / "gpt", member, DATA)(member.job()))
    assert torch.equal(member.model.identity, space.model.identity), "only the body was trained"
    assert not torch.allclose(member.score(batch), space.score(batch), atol=1e-2)
    member.save(tmp_path)
    torch.testing.assert_close(Gpt(**SETTINGS | {"max_length": 9}).load(tmp_path).score(batch), member.score(batch))


def test_a_user_is_answered_in_one_pass_as_well_as_one_by_one(gpt):
    contexts = train_contexts(DATA)
    rows = np.flatnonzero(contexts.user < 10)
    together = gpt.score(contexts.batch(rows, 99))
    alone = torch.cat([gpt.score(contexts.batch(rows[n : n + 1], 99)) for n in range(len(rows))])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    asked = []
    gpt.runner.register_forward_pre_hook(lambda module, args: asked.append(len(args[0]["history"])))
    gpt.score(contexts.batch(rows, 99))
    starts = {int(items[0]) for items in np.split(contexts.items, len(contexts.items) // 6)[:10]}
    wanted = len(starts | {(start + 2) % N for start in starts})
    assert sum(asked) == wanted <= 20, "six items read four at a time in steps of two: at most two passes a user"


def test_the_loss_is_the_mean_over_places_of_masked_cross_entropy():
    member = Gpt(**SETTINGS)
    member.prepare(inputs(DATA))
    model, cuts = member.model.eval(), member.examples.cuts
    torch.nn.init.normal_(model.out.weight)
    rows = np.array([0, 1, 5])
    items, losses = DATA.lists(TRAIN, TRAIN).items, []
    member._serve()
    with torch.no_grad():
        total = float(model(member.examples.collate(rows))["loss"])
        for row in rows:
            begin, last = cuts.begin[row], member.examples.end[row] - 1
            for place in range(cuts.fresh[row], min(cuts.stop[row], last)):
                scores = member.score(batch_of([items[begin : place + 1]]))[0]
                scores[items[begin : place + 1]] = -torch.inf
                losses.append(scores.logsumexp(0) - scores[items[place + 1]])
    assert total == pytest.approx(float(torch.stack(losses).mean()), abs=1e-4)


def test_masked_training_hides_what_it_asks_for():
    member = Bert(**SETTINGS)
    member.prepare(inputs(DATA))
    batch = member.examples.collate(np.arange(30))
    asked = batch["label"] >= 0
    assert (batch["history"][asked] == N).all() and (batch["history"][~asked] != N).all()
    last = (batch["history"] <= N).sum(1) - 1
    assert asked[torch.arange(30), last].all() and 30 < asked.sum() < 90


def test_validation_closes_a_gate_that_does_not_help(tmp_path, gpt):
    cases = cases_of(DATA, VALID)
    gpt.settle(lambda: quality(gpt.score, cases).values["ndcg@10"])
    assert gpt.figures["gate"] == "open" and gpt.figures["ndcg@10_open"] > gpt.figures["ndcg@10_closed"]
    member = fitted(tmp_path, "gpt", DATA, **SETTINGS | {"epochs": 1})
    torch.nn.init.normal_(member.model.out.weight)  # noise where the body's answer was
    member.settle(lambda: quality(member.score, cases).values["ndcg@10"])
    assert member.figures["gate"] == "closed"
    member.save(tmp_path)
    again = Gpt(**SETTINGS).load(tmp_path)
    assert again.model.body is None and json.loads((tmp_path / "sequence.json").read_text())["open"] is False
    batch = batch_of([[1, 2, 3], [5]])
    torch.testing.assert_close(again.score(batch), member.score(batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_bodies_from_a_folder(tmp_path, family):
    torch.manual_seed(0)
    FAMILIES[family]().save_pretrained(tmp_path / "body")
    with_tokenizer(tmp_path / "body")
    name = "bert" if family == "bert" else "gpt"
    settings = SETTINGS | {"backbone": str(tmp_path / "body"), "objective": "causal", "body_rate": 1.0, "epochs": 1}
    member = checked(tmp_path, name, DATA, **settings, frozen_layers=1)
    assert member.given == (family == "bert")
    assert member.model.body.get_input_embeddings().weight.numel() < 40 * 32, "nothing reads words"
    trained = dict(member.model.body.named_parameters())
    fresh = dict(open_body(str(tmp_path / "body"), name, 9, 0, 0, None, 0)[0].named_parameters())
    moved = {key for key, value in trained.items() if not torch.equal(value, fresh[key])}
    assert moved and all(".1." in key or key in ("ln_f.weight", "ln_f.bias", "norm.weight") for key in moved)


def with_tokenizer(folder):
    from teachers.backbone import wordpiece

    wordpiece(["some words"], 40).save_pretrained(folder)


def test_a_body_reads_no_more_than_its_places():
    assert places(AutoConfig.for_model("bert", max_position_embeddings=512)) == 512
    assert places(AutoConfig.for_model("roberta", max_position_embeddings=514, pad_token_id=1)) == 512
    assert places(AutoConfig.for_model("gpt2", n_positions=77)) == 77


def test_longer_histories_than_the_body_has_places(tmp_path):
    FAMILIES["bert"]().save_pretrained(tmp_path / "body")
    with_tokenizer(tmp_path / "body")
    member = Bert(backbone=str(tmp_path / "body"), max_length=100, epochs=0)
    member.prepare(inputs(DATA))
    assert member.longest == 15, "one of sixteen places is for the item left out"
    long = [[n % N for n in range(40)], [n % N for n in range(25, 40)]]
    scores = member.score(batch_of(long))
    torch.testing.assert_close(scores[0], scores[1])


def test_a_taste_is_learned_too(tmp_path):
    data = checkerboard()
    best, users = ranked(fitted(tmp_path, "gpt", data, **SETTINGS), data, k=6)
    assert share_in_own_half(best, users) > 0.95


def test_the_body_learns_at_a_rate_of_its_own():
    job = Gpt(**SETTINGS, body_rate=0.25)
    job.prepare(inputs(DATA))
    scale = job.job().rate_scale
    assert scale("body.h.0.attn.c_attn.weight") == 0.25 and scale("out.weight") == 1.0


def test_what_cannot_be(tmp_path):
    with pytest.raises(UserError, match="max_length is 1"):
        Gpt(max_length=1)
    with pytest.raises(UserError, match=r"'vectors: towr' names no earlier member .*did you mean 'tower'"):
        Gpt(vectors="towr").prepare(inputs(DATA, **TOWER))
    with pytest.raises(UserError, match="reads only what comes before"):
        Gpt(**SETTINGS, objective="masked").prepare(inputs(DATA))


def test_causality_is_found_by_trying():
    assert is_causal(build(GPT2Config(**TINY, n_positions=8, bos_token_id=0, eos_token_id=0)))
    assert not is_causal(build(BertConfig(**TINY, intermediate_size=32)))


def test_the_same_seed_gives_the_same_member(tmp_path):
    one, two = (fitted(tmp_path / str(n), "gpt", DATA, **SETTINGS | {"epochs": 1}) for n in range(2))
    batch = batch_of([[1, 2, 3]])
    assert torch.equal(one.score(batch), two.score(batch))
