"""Every loss by name keeps its contract, with its defaults and with other settings, also inside strata."""

import inspect
from functools import partial

import pytest

from distill.contracts import check_loss, check_loss_module
from distill.objectives.strata import within_strata
from distill.plugins import TABLES, resolve

RESPONSE = [name for name in TABLES["loss"] if not inspect.isclass(resolve("loss", name))]
MODULES = [name for name in TABLES["loss"] if name not in RESPONSE]
SETTINGS = [
    ("listwise_kl", {"direction": "reverse"}),
    ("listwise_kl", {"direction": "jsd", "temperature": 2.0, "rest": -1.0}),
    ("listwise_kl", {"tail": "ignore", "direction": "jsd"}),
    ("listwise_kl", {"tail": "sampled"}),
    ("listwise_kl", {"tail": "sampled", "direction": "reverse", "sharpening": 1.0, "temperature": 2.0}),
    ("sampled_softmax", {"negatives": 9, "proposal": "popularity"}),
    ("bpr", {"negatives": 0}),
    ("bce", {"negatives": 0}),
    ("soft_bce", {"samples": 0, "negatives": 0}),
    ("soft_bce", {"samples": 4, "sampling": "rank", "spread": 1.0}),
    ("soft_bce", {"samples": 4, "sampling": "discrepancy", "rank_samples": 0, "epsilon": 0.1}),
    ("rank_distillation", {"warmup": 0.0, "samples": 0}),
    ("rank_distillation", {"warmup": 0.0, "samples": 12, "form": "paper", "top": 4}),
    ("rce", {"sampled": 0, "pool": 8}),
    ("rce", {"sampled": 3, "pool": 8, "standardise": True}),
    ("relaxed_listmle", {"negatives": 0}),
    ("relaxed_listmle", {"form": "paper", "top": 4, "negatives": 3}),
    ("margin_mse", {"standardise": False, "top": 2, "negatives": 3}),
    ("soft_bpr", {"top": 2, "negatives": 3, "temperature": 0.5}),
    ("unkd", {"pairs": 0}),
]


@pytest.mark.parametrize("name", RESPONSE)
def test_a_loss_on_scores_keeps_its_contract(name):
    check_loss(resolve("loss", name), draws=100)


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=[f"{n} {s}" for n, s in SETTINGS])
def test_other_settings_keep_it_too(name, settings):
    check_loss(partial(resolve("loss", name), **settings), draws=60)


@pytest.mark.parametrize("name", RESPONSE)
def test_a_loss_inside_strata_keeps_it_too(name):
    check_loss(partial(within_strata, resolve("loss", name)), n_items=30, k=12, draws=40)


@pytest.mark.parametrize("name", MODULES)
def test_a_loss_on_vectors_keeps_its_contract(name):
    check_loss_module(resolve("loss", name), finite_differences=name != "mutual")  # which stops its own gradient


@pytest.mark.parametrize("name", ["feature_fitnet", "feature_experts"])
def test_features_of_items_keep_it_too(name):
    check_loss_module(partial(resolve("loss", name), side="items", samples=9))
