"""The cross-encoder: each of its tasks learned on data whose answer is known, its scores, and bad input."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from texts_and_users import PER_TOPIC, topical

from distill.data.contexts import history_contexts
from distill.data.dataset import TRAIN, VALID
from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.errors import UserError
from distill.ranking.ratings import mae, rmse
from teachers.cross_encoder import CrossEncoder
from teachers.language_model import scratch_language_model
from teachers.multi_task import CoOccurrence, RatingBase, check_tasks, ranking_loss, rating_figures, train_ratings
from teachers.popularity import Popularity
from teachers.protocol import Earlier, Inputs

SMALL = {
    "retriever": "popular", "candidates": 40, "hidden_size": 32, "layers": 1, "vocabulary": 120, "precision": "fp32",
    "title_tokens": 5, "text_tokens": 4, "max_tokens": 32, "max_items": 4, "batch_size": 32, "learning_rate": 5e-3,
}  # fmt: skip


def inputs(dataset):
    popular = Popularity()
    popular.prepare(Inputs(dataset, {}, 0, torch.device("cpu")))
    return Inputs(dataset, {}, 0, torch.device("cpu"), {"popular": Earlier("popularity", {}, popular)})


def trained(folder, dataset, **settings):
    member = CrossEncoder(**SMALL | settings)
    member.prepare(inputs(dataset))
    torch.manual_seed(0)
    member.finish((fit(member.job(), Local(), folder, None, "cross"), best_weights(folder))[1])
    return member


def rated(n_users=120):
    """The last word of a text decides its rating; users and items have no biases to speak of."""
    dataset = topical(n_users)
    loved = np.array([text.split()[1] < text.split()[2] for text in dataset.texts])
    return replace(dataset, weights=np.where(loved[dataset.items], 5.0, 1.0).astype(np.float32))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """All four tasks on one body."""
    tasks = {"next_item": 1.0, "click": 0.5, "rating": 0.5, "similarity": 0.5}
    return trained(tmp_path_factory.mktemp("several"), rated(), tasks=tasks, epochs=8)


def test_candidates_of_the_users_topic_come_first(several):
    dataset = rated()
    users = np.arange(dataset.n_users)
    batch = history_contexts(dataset, users, VALID).batch(users, 99)
    truth = dataset.items[dataset.parts == VALID]
    right = (several.score(batch).argmax(1).numpy() // PER_TOPIC == truth // PER_TOPIC).mean()
    assert right > 0.8
    assert several.figures["ndcg@10 both"] > several.figures["ndcg@10 retriever"] + 0.1


def test_similarity_tells_items_that_share_users_from_others(several):
    left, right = (x.ravel() for x in np.meshgrid(np.arange(40), np.arange(40)))
    said = several.similarity(left, right).numpy()
    same = (left // PER_TOPIC == right // PER_TOPIC) & (left != right)
    assert said[same].mean() > said[left // PER_TOPIC != right // PER_TOPIC].mean() + 0.1


def test_every_task_has_a_loss_and_they_add_up(several):
    batch = several.pairs.collate(several.rows[:8])
    found = several.model(batch)
    parts = {"next_item": 1.0, "click": 0.5, "rating": 0.5, "similarity": 0.5}
    assert set(found) == {"loss", *parts}
    torch.testing.assert_close(found["loss"], sum(weight * found[name] for name, weight in parts.items()))


def test_batches_depend_on_seed_and_contexts_alone(several):
    one, two = (several.pairs.collate(several.rows[5:9]) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_ratings_are_learned_from_the_text(tmp_path):
    dataset = rated()
    member = trained(tmp_path, dataset, tasks={"rating": 1.0}, epochs=10)
    held = rating_figures(member.predict_ratings, member.base, dataset, VALID)
    assert held["rmse"] < 0.7 * held["rmse of the biases"] < held["rmse of the mean"]
    assert held == {name: member.figures[name] for name in held}
    users = np.arange(20)
    batch = history_contexts(dataset, users, VALID).batch(users, 99)
    items, actual = dataset.items[dataset.parts == VALID][:20].astype(np.int64), dataset.weights[dataset.parts == VALID]
    said = member.predict_ratings(batch, items)
    assert mae(said, actual[:20]) < 1.0
    nobody = replace(batch, user=np.full(20, -1))
    np.testing.assert_allclose(said - member.predict_ratings(nobody, items), member.base.user[:20], atol=1e-5)
    again = CrossEncoder(**SMALL | {"tasks": {"rating": 1.0}})
    member.save(tmp_path)
    np.testing.assert_allclose(again.load(tmp_path).predict_ratings(batch, items), said, atol=1e-5)


def test_what_the_biases_leave_is_the_scale_of_the_rating_head():
    dataset = rated(40)
    ratings = train_ratings("test", dataset)
    base = RatingBase.fit(dataset, ratings)
    lists = dataset.lists(TRAIN, TRAIN)
    users = lists.row_numbers()
    said = base.of(users, lists.items)
    np.testing.assert_allclose(said, base.mean + base.user[users] + base.item[lists.items], rtol=1e-6)
    assert rmse(said, ratings) == pytest.approx(base.scale, rel=0.05) and base.scale < ratings.std()
    assert base.of(np.array([-1]), np.array([3]))[0] == pytest.approx(base.mean + base.item[3])


def test_co_occurrence_is_the_cosine_of_the_columns():
    dataset = topical()
    found = CoOccurrence.of(dataset)
    dense = found.by_user.toarray()
    unit = dense / np.maximum(np.linalg.norm(dense, axis=0), 1e-9)
    left, right = (x.ravel() for x in np.meshgrid(np.arange(40), np.arange(40)))
    np.testing.assert_allclose(found.cosine(left, right), (unit.T @ unit)[left, right], atol=1e-5)
    partners = found.partners(np.repeat(left, 5), np.random.default_rng(0))
    assert partners.min() >= 0 and partners.max() < 40
    near = (partners // PER_TOPIC == np.repeat(left, 5) // PER_TOPIC).mean()
    assert 0.5 < near < 0.75, "half are drawn among neighbours, half anywhere"


def test_ranking_losses_are_least_where_the_first_leads():
    lead, tie = torch.tensor([[5.0, 0.0, 0.0]]), torch.zeros(1, 3)
    for form in ("listwise", "pairwise", "pointwise"):
        assert ranking_loss(lead, form) < ranking_loss(tie, form)
    assert ranking_loss(tie, "listwise").item() == pytest.approx(np.log(3))
    assert ranking_loss(tie, "pairwise").item() == pytest.approx(np.log(2))
    assert ranking_loss(tie, "pointwise").item() == pytest.approx(np.log(2))


def test_items_without_text_are_neutral(tmp_path):
    dataset = topical(empty=4)
    member = trained(tmp_path, dataset, epochs=1, candidates=44, weight=1.0)
    users = np.arange(6)
    batch = history_contexts(dataset, users, VALID).batch(users, 99)
    short = member.first.shortlist(batch)
    judged = member._judged(batch, short)
    blank = short.items >= 40
    assert blank.any()
    mean = (judged * ~blank).sum(1) / (~blank).sum(1)
    torch.testing.assert_close(judged[blank], mean[:, None].expand_as(judged)[blank])


def test_adapters_learn_and_are_merged(tmp_path):
    adapter = {"rank": 4, "alpha": 8}
    member = trained(tmp_path, topical(), epochs=1, adapter=adapter, weight=1.0)
    assert not [name for name in member.body.state_dict() if "lora" in name]
    users = np.arange(6)
    batch = history_contexts(topical(), users, VALID).batch(users, 99)
    member.save(tmp_path)
    again = CrossEncoder(**SMALL | {"adapter": adapter, "weight": 1.0}).load(tmp_path)
    torch.testing.assert_close(again.score(batch), member.score(batch), rtol=1e-4, atol=1e-5)


def test_a_decoder_can_be_the_body(tmp_path):
    model, tokenizer = scratch_language_model(topical().texts, 120, 32, 2, 64, seed=0)
    model.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    settings = {"backbone": str(tmp_path / "llama"), "pooling": "last", "keep_layers": 1, "weight": 1.0}
    member = trained(tmp_path, topical(), epochs=1, rows_per_epoch=64, **settings)
    batch = history_contexts(topical(), np.arange(4), VALID).batch(np.arange(4), 99)
    (tmp_path / "saved").mkdir()
    member.save(tmp_path / "saved")
    again = CrossEncoder(**SMALL | settings).load(tmp_path / "saved")
    torch.testing.assert_close(again.score(batch), member.score(batch), rtol=1e-4, atol=1e-5)
    assert len(again.body.layers) == 1


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"next": 1}, "tasks has no 'next'.*did you mean 'next_item'"),
        ({"next_item": -1}, "tasks.next_item is -1, expected a weight from 0"),
        ({"similarity": 1}, "none of tasks puts items in order"),
        ({"next_item": 0}, "none of tasks puts items in order"),
    ],
)
def test_tasks_that_make_no_sense_are_told(tasks, message):
    with pytest.raises(UserError, match=message):
        check_tasks("cross_encoder", tasks)


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        (topical(), {"tasks": {"rating": 1.0}}, "needs ratings, and the prepared data has none.*data.weight=rating"),
        (replace(rated(), weights=np.ones(720, np.float32)), {"tasks": {"rating": 1.0}}, "every train rating is 1"),
        (replace(topical(), texts=[""] * 40), {}, "no item has any text"),
        (topical(), {"retriever": "populr"}, "did you mean 'popular'"),
        (topical(), {"candidates": 41}, "candidates is 41, expected 2 to 40"),
        (topical(), {"max_tokens": 16}, "expected at least 17"),
    ],
)
def test_bad_input_is_told_before_anything_is_trained(dataset, settings, message):
    with pytest.raises(UserError, match=message):
        CrossEncoder(**SMALL | settings).prepare(inputs(dataset))


def test_it_must_be_trained():
    with pytest.raises(UserError, match="epochs is at least 1"):
        CrossEncoder(epochs=0)
