"""A text tower that learns history -> next item: texts of a step, the loss by hand, a planted world, exact resume."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))
from texts_and_users import topical

from distill.ask import quality
from distill.data.dataset import TRAIN, VALID, Dataset
from distill.engine.local import Local
from distill.engine.loop import BEST, best_weights, fit
from distill.errors import UserError
from distill.ranking.cases import cases_of
from teachers.contrastive import Hard, Side, next_item_nce
from teachers.histories import Histories
from teachers.protocol import Inputs
from teachers.text_pairs import neighbour_pairs
from teachers.text_tower import TextTower

SMALL = {"hidden_size": 32, "vocabulary": 200, "max_tokens": 12, "batch_size": 32, "precision": "fp32"}
SMALL |= {"tfidf_share": 0.0, "dropout": 0.1}
KINDS = 4


def dataset_of(rows: list[list[int]], n_items: int, texts: list[str] | None = None, held_out: int = 0) -> Dataset:
    texts = texts or [f"item {number}" for number in range(n_items)]
    return Dataset(
        user_ids=np.arange(len(rows)).astype(str),
        item_ids=np.arange(n_items).astype(str),
        titles=texts,
        texts=texts,
        indptr=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        items=np.array([item for row in rows for item in row], np.int32),
        parts=np.concatenate([[TRAIN] * (len(r) - held_out) + [VALID] * held_out for r in rows]).astype(np.uint8),
    )


def planted(n_users: int = 240, threes: int = 4) -> Dataset:
    """Users go in threes: an item of a first kind p, one of a second kind q, then one of the pair (p, q).

    Which third item comes next can be told from the two before it together and from neither alone, and the texts of the
    third items name p and q in other words than those of the first and second.
    """
    rng = np.random.default_rng(4)
    filler = ["small", "large", "round", "steel", "oak", "glass"]
    words = [f"lamp{p}" for p in range(KINDS)] + [f"desk{q}" for q in range(KINDS)]
    words += [f"red{p} soft{q}" for p in range(KINDS) for q in range(KINDS)]
    texts = [f"{word} {' '.join(rng.choice(filler, 2))}" for word in words for _ in range(threes)]

    def user() -> list[int]:
        p, q = rng.integers(KINDS, size=(2, threes))
        kinds = np.stack([p, KINDS + q, 2 * KINDS + KINDS * p + q], axis=1)
        return (kinds * threes + rng.permutation(threes)[:, None]).reshape(-1).tolist()  # no item twice

    return dataset_of([user() for _ in range(n_users)], len(texts), texts, held_out=1)


def prepared(dataset: Dataset | None = None, **settings) -> TextTower:
    tower = TextTower(**SMALL | settings)
    tower.prepare(Inputs(topical() if dataset is None else dataset, {}, 0, torch.device("cpu")))
    return tower


def trained(folder: Path, dataset: Dataset, before=lambda rows: None, **settings) -> TextTower:
    tower = prepared(dataset, **settings)
    job = tower.job()
    collate = job.collate

    def watched(rows):
        before(rows)
        return collate(rows)

    job.collate = watched
    torch.manual_seed(0)
    fit(job, Local(), folder, lambda model: (tower.refresh(model, Local()), judged(tower, dataset))[1], "tower")
    tower.finish(best_weights(folder))
    return tower


def judged(tower: TextTower, dataset: Dataset) -> float:
    return quality(tower.score, cases_of(dataset, VALID)).values["ndcg@10"]


@given(
    st.lists(st.lists(st.integers(0, 7), max_size=9), min_size=1, max_size=6).filter(
        lambda rows: any(len(set(row)) > 1 for row in rows)
    ),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.5, 3.0]),
)
def test_histories_equal_a_plain_loop(rows, length, texts):
    """Every kept item of every history is told in its place, and no more texts than there is room for."""
    dataset = dataset_of(rows, 8)
    pairs = neighbour_pairs(dataset.lists(TRAIN, TRAIN))
    histories = Histories.of(dataset, pairs.place, pairs.near, length, texts, decay=1.5)
    numbers = np.arange(len(pairs.items))[::-1]
    items = torch.from_numpy(np.unique(pairs.items[numbers]))
    whole, batch = histories.join(items, numbers)
    assert torch.equal(whole[: len(items)], items)
    assert len(set(whole.tolist())) == len(whole) <= len(items) + round(texts * len(numbers))
    owner = [(user, place) for user, row in enumerate(rows) for place in range(len(row))]
    for row, number in enumerate(numbers):
        user, place = owner[pairs.place[number]]
        assert rows[user][place] == pairs.items[number, 0]
        before = rows[user][: place + 1]
        assert batch["seen"][row].tolist()[-len(before) :] == before
        assert batch["follows"][row] == (number < pairs.near)
        told = [8] * (length - len(before)) + before[-length:] if number < pairs.near else [8] * length
        kept = set(whole.tolist())
        wanted = [whole.tolist().index(item) if item in kept else len(whole) for item in told]
        assert batch["history"][row].tolist() == wanted


def test_of_too_many_older_items_the_lightest_are_left_out():
    dataset = dataset_of([[0, 1, 2, 3, 4], [5, 6, 3, 2, 7]], 8)
    pairs = neighbour_pairs(dataset.lists(TRAIN, TRAIN))
    last = np.flatnonzero((pairs.items[: pairs.near] == [3, 4]).all(1) | (pairs.items[: pairs.near] == [2, 7]).all(1))
    histories = Histories.of(dataset, pairs.place, pairs.near, 4, 1.0, decay=1.5)
    items = torch.tensor([2, 3, 4, 7])
    whole, _ = histories.join(items, last)
    assert whole.tolist() == [2, 3, 4, 7, 1, 6]  # 1 and 6 are two places old; 0 and 5 are older


def loss_by_hand(query, target: Side, seen, follows, temperature, hard: Hard | None = None) -> float:
    rows = [row for row in range(len(query)) if follows[row]]
    popularity = {int(i): float(lp.exp()) for i, lp in zip(target.item, target.log_popularity, strict=True)}
    vectors = {int(target.item[row]): target.vectors[row] for row in rows}

    def corrected(vector, q, popularity):
        return float(q @ vector) / temperature - math.log(1 - (1 - popularity) ** len(rows))

    total = 0.0
    for row in rows:
        own = int(target.item[row])
        free = [item for item in vectors if item == own or item not in seen[row].tolist()]
        logits = [corrected(vectors[item], query[row], popularity[item]) for item in free]
        if hard is not None:
            logits += [corrected(v, query[row], float(lp.exp())) for v, lp in zip(*(c[row] for c in hard), strict=True)]
        chosen = corrected(vectors[own], query[row], popularity[own])
        total += math.log(sum(math.exp(logit - chosen) for logit in logits))
    return total / len(rows)


@pytest.mark.parametrize("with_hard", [False, True])
def test_the_loss_equals_its_definition(with_hard):
    random = torch.Generator().manual_seed(1)
    table = functional.normalize(torch.randn(20, 8, generator=random), dim=-1)
    log_popularity = (torch.rand(20, generator=random) / 10).log()
    item = torch.tensor([3, 4, 3, 7, 9, 5])
    target = Side(table[item], item, log_popularity[item])
    query = functional.normalize(torch.randn(6, 8, generator=random), dim=-1)
    seen = torch.tensor([[20, 20, 4], [20, 7, 4], [20, 9, 1], [3, 2, 1], [20, 20, 11], [20, 20, 3]])
    follows = torch.tensor([1, 1, 1, 1, 0, 1])
    drawn = torch.randint(10, 20, (6, 2), generator=random)
    hard = Hard(table[drawn], log_popularity[drawn]) if with_hard else None
    found = next_item_nce(query, target, seen, follows, 0.1, 0.0, hard)
    assert float(found) == pytest.approx(loss_by_hand(query, target, seen, follows, 0.1, hard), rel=1e-4)
    assert torch.isfinite(next_item_nce(query, target, seen, follows, 0.1, 0.2, hard))
    assert float(next_item_nce(query, target, seen, torch.zeros_like(follows), 0.1)) == 0.0


def test_both_sides_get_a_gradient_and_the_texts_of_a_step_are_bounded():
    tower = prepared(planted(), next_item=1.0, history_length=6, history_texts=0.5)
    job = tower.job()
    numbers = job.batches(0)[0]
    batch = job.collate(numbers)
    assert len(batch["tokens"]) == len(set(batch["item"].tolist())) <= 2.5 * len(numbers)
    assert batch["follows"].all()  # pairs two apart say nothing of the next item
    tokens = {name: batch[name] for name in ("tokens", "mask")}
    vectors = job.model(tokens)["vectors"].detach().requires_grad_()
    rows = Side(vectors, batch["item"], batch["log_popularity"])
    query = functional.normalize(vectors[batch["history"].clamp_max(len(vectors) - 1)].mean(1), dim=-1)
    next_item_nce(query, rows.take(batch["right"]), batch["seen"], batch["follows"], 0.05).backward()
    older = torch.arange(len(vectors))[~torch.isin(torch.arange(len(vectors)), batch["right"])]
    assert (vectors.grad[older].abs().sum(1) > 0).any()
    assert (vectors.grad[batch["right"]].abs().sum(1) > 0).all()


def test_the_loss_of_a_step_is_the_weighted_mean_of_both():
    losses = {}
    for weight in (0.0, 0.3, 1.0):
        tower = prepared(planted(), next_item=weight, dropout=0.0, distance_two=0.0)
        job = tower.job()
        losses[weight] = {name: value.item() for name, value in job.model(job.collate(job.batches(0)[0])).items()}
    assert set(losses[0.0]) == set(losses[1.0]) == {"loss"}
    assert losses[0.3]["pairs"] == pytest.approx(losses[0.0]["loss"], rel=1e-4)
    assert losses[0.3]["next_item"] == pytest.approx(losses[1.0]["loss"], rel=1e-4)
    assert losses[0.3]["loss"] == pytest.approx(0.7 * losses[0.0]["loss"] + 0.3 * losses[1.0]["loss"], rel=1e-4)


@pytest.mark.parametrize("settings", [{"next_item": 1.1}, {"history_length": 0}, {"history_texts": -1.0}])
def test_numbers_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=r"next_item is in \[0, 1\]"):
        TextTower(**settings)


def test_it_learns_what_neighbours_alone_do_not_tell(tmp_path):
    dataset = planted(120)
    settings = {"epochs": 4, "learning_rate": 2e-3, "dropout": 0.0}
    untrained = judged(prepared(dataset, epochs=0), dataset)
    pairs = judged(trained(tmp_path / "pairs", dataset, **settings), dataset)
    next_item = judged(trained(tmp_path / "next", dataset, **settings, next_item=1.0), dataset)
    assert next_item > 2 * untrained + 0.05
    assert next_item > pairs + 0.03


@pytest.mark.parametrize("stop", [3, 8, 14])
def test_a_stopped_run_goes_on_exactly(tmp_path, stop):
    settings = {"next_item": 0.5, "hard_negatives": 2, "accumulation": 2, "checkpoint_steps": 2, "epochs": 2}
    settings |= {"max_steps": 8, "history_texts": 0.5, "paraphrase": {"name": "word_dropout"}}
    number = iter(range(1000))

    def failing(rows):
        if next(number) == stop:
            raise KeyboardInterrupt

    dataset = planted(60)
    whole = trained(tmp_path / "whole", dataset, **settings).item_vectors()
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", dataset, failing, **settings)
    assert torch.equal(trained(tmp_path / "cut", dataset, **settings).item_vectors(), whole)
    assert (tmp_path / "cut" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()
