"""The GPT reranker: likelihoods against a naive pass, calibration, fine-tuning, saving, and bad input."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

sys.path.insert(0, str(Path(__file__).parent))
from texts_and_users import PER_TOPIC, topical

from distill.data.contexts import history_contexts
from distill.data.dataset import VALID
from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.errors import UserError
from teachers.gpt_rerank import GPTRerank
from teachers.item_prompts import ItemPrompts
from teachers.language_model import TitleModel, continuations, scratch_language_model
from teachers.popularity import Popularity
from teachers.protocol import Earlier, Inputs
from teachers.title_judge import TitleJudge

DATA = topical()
SMALL = {
    "retriever": "popular", "candidates": 40, "hidden_size": 32, "layers": 1, "vocabulary": 120, "precision": "fp32",
    "introduction": "ink", "title_tokens": 5, "max_tokens": 40, "max_items": 4, "batch_size": 32,
    "learning_rate": 1e-2, "batch_pairs": 200,
}  # fmt: skip
CPU = torch.device("cpu")


def inputs(dataset=DATA):
    popular = Popularity()
    popular.prepare(Inputs(dataset, {}, 0, CPU))
    return Inputs(dataset, {}, 0, CPU, {"popular": Earlier("popularity", {}, popular)})


def prepared(dataset=DATA, **settings):
    member = GPTRerank(**SMALL | settings)
    member.prepare(inputs(dataset))
    return member


def trained(folder, **settings):
    member = prepared(**settings)
    torch.manual_seed(0)
    member.finish((fit(member.job(), Local(), folder, None, "gpt"), best_weights(folder))[1])
    return member


def batch(users=6):
    rows = np.arange(users)
    return history_contexts(DATA, rows, VALID).batch(rows, 99)


def language_model(family):
    model, tokenizer = scratch_language_model(DATA.titles, 120, 32, 2, 64, seed=3)
    if family == "gpt2":
        torch.manual_seed(0)
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
        config = GPT2Config(vocab_size=len(tokenizer), **sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return model.eval(), tokenizer


def naive(model, prompts, history, item):
    """log p of one title after one prompt, from one pass over both without padding or cache."""
    tokens, mask, target = prompts.examples(history[None], np.array([item]))
    tokens, target = tokens[0][mask[0]], target[0][mask[0]]
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=tokens[None]).logits[0].float(), -1)
    return sum(float(log_p[place - 1, tokens[place]]) for place in np.flatnonzero(target.numpy()))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_shared_prompt_gives_the_likelihoods_of_a_naive_pass(family):
    model, tokenizer = language_model(family)
    titles = ["ink", *DATA.titles[1:]]  # titles of different lengths
    prompts = ItemPrompts.of(titles, tokenizer, "ink paper", "", 4, 60, 8)
    n = DATA.n_items
    history, items = np.array([[n, n, 3], [4, 5, 6], [n, n, n]]), np.array([[0, 1, 2], [7, 0, 39], [0, 20, 21]])
    judge = TitleJudge(model, prompts, CPU, "fp32", 6)
    found = judge.likelihoods(history, items)
    wanted = [[naive(model, prompts, h, i) for i in row] for h, row in zip(history, items, strict=True)]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(judge.without_history(items[2]), found[2], rtol=1e-4, atol=1e-4)


def test_a_continuation_without_tokens_is_certain():
    model, tokenizer = language_model("llama")
    prompts = ItemPrompts.of(["red pen", ""], tokenizer, "ink", "", 2, 40, 5)
    tokens, mask = prompts.prefixes(np.array([[0]]))
    ends = dict(zip(("tokens", "mask"), prompts.ends(np.array([0, 1])), strict=True))
    found = continuations(model, {"tokens": tokens, "mask": mask}, ends, 2)
    assert found[0, 0] < 0 and found[0, 1] == 0


def test_the_training_loss_counts_the_title_alone():
    model, tokenizer = language_model("llama")
    prompts = ItemPrompts.of(DATA.titles, tokenizer, "ink", "", 4, 60, 8)
    n = DATA.n_items
    history, items = np.array([[n, 3], [4, 5]]), np.array([1, 2])
    tokens, mask, target = prompts.examples(history, items)
    loss = TitleModel(model)({"tokens": tokens, "mask": mask, "target": target})["loss"]
    total = sum(naive(model, prompts, h, i) for h, i in zip(history, items, strict=True))
    assert loss.item() == pytest.approx(-total / prompts.end_lengths[items].sum(), rel=1e-4)


def test_forms_are_sum_mean_and_what_the_history_adds():
    member = prepared()
    judge, items = member.judge, np.array([[1, 2], [3, 4]])
    likelihood = torch.tensor([[-4.0, -6.0], [-8.0, -2.0]])
    length = torch.from_numpy(member.prompts.end_lengths[items])
    alone = judge.without_history(items)
    assert torch.equal(judge.formed(likelihood, items, "sum"), likelihood)
    torch.testing.assert_close(judge.formed(likelihood, items, "mean"), likelihood / length)
    torch.testing.assert_close(judge.formed(likelihood, items, "pmi"), likelihood - alone)
    torch.testing.assert_close(judge.formed(likelihood, items, "pmi_mean"), (likelihood - alone) / length)
    assert set(member.figures["forms"]) == {"sum", "mean", "pmi", "pmi_mean"}


def test_fine_tuning_brings_the_users_topic_first(tmp_path):
    member = trained(tmp_path, epochs=6)
    found = member.score(batch(80)).argmax(1).numpy() // PER_TOPIC
    assert (found == DATA.items[DATA.parts == VALID] // PER_TOPIC).mean() > 0.8
    assert member.figures["ndcg@10 both"] > member.figures["ndcg@10 retriever"] + 0.1
    member.save(tmp_path)
    again = GPTRerank(**SMALL | {"epochs": 6}).load(tmp_path)
    torch.testing.assert_close(again.score(batch()), member.score(batch()), rtol=1e-4, atol=1e-4)


def test_adapters_are_merged_into_what_is_saved(tmp_path):
    settings = {"epochs": 1, "rows_per_epoch": 64, "adapter": {"rank": 4, "alpha": 8}, "weight": 1.0, "form": "mean"}
    member = trained(tmp_path, **settings)
    assert not [name for name in member.body.state_dict() if "lora" in name]
    member.save(tmp_path)
    again = GPTRerank(**SMALL | settings).load(tmp_path)
    torch.testing.assert_close(again.score(batch()), member.score(batch()), rtol=1e-4, atol=1e-4)


def test_a_model_taken_as_it_is_is_not_copied_into_the_run(tmp_path):
    model, tokenizer = language_model("llama")
    place, home = tmp_path / "model", tmp_path / "home"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    home.mkdir()
    settings = {"backbone": str(place), "weight": 1.0, "form": "pmi"}
    member = prepared(**settings)
    assert member.job() is None
    member.save(home)
    assert not [path for path in home.rglob("*.safetensors") if path.stat().st_size > 100_000]
    again = GPTRerank(**SMALL | settings).load(home)
    assert again.body is None
    torch.testing.assert_close(again.score(batch()), member.score(batch()), rtol=1e-4, atol=1e-4)


def test_weight_zero_asks_no_language_model():
    member = prepared(weight=0.0)
    member.judge, member.folder = None, None
    torch.testing.assert_close(member.score(batch()), member.first.shortlist(batch()).scores)


def test_titles_that_do_not_fit_are_left_out_and_counted():
    member = prepared(max_tokens=20, weight=1.0, form="mean")
    assert member.figures["train histories with titles left out"] > 0
    tokens, _ = member.prompts.prefixes(batch().seen)
    assert tokens.shape[1] + member.prompts.end_lengths.max() <= 20
    assert prepared(weight=1.0, form="mean").figures["train histories with titles left out"] == 0


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        (replace(DATA, titles=[" "] * 40), {}, "no item has a title"),
        (DATA, {"retriever": "populr"}, "did you mean 'popular'"),
        (DATA, {"retriever": ""}, "name the member that picks its candidates"),
        (DATA, {"candidates": 50}, "candidates is 50, expected 2 to 40"),
        (DATA, {"max_tokens": 10}, "expected at least 1[0-9], or not even the latest title"),
    ],
)
def test_bad_input_is_told(dataset, settings, message):
    with pytest.raises(UserError, match=message):
        prepared(dataset, **settings)
