"""Items without train events: out of the training softmax, served from their text, added after training."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch
from student_samples import SMALL, N, histories, trained, vectors

from distill.config import Loss
from distill.contracts import check_student
from distill.contracts.worlds import checkerboard, share_in_own_half
from distill.data.contexts import train_contexts
from distill.errors import UserError
from distill.known import knowledge_of
from distill.objectives.objective import Objective
from distill.plugins import TABLES, resolve
from distill.tensors import next_item_batch
from distill.train_student import calibrated
from students.checkpoint import build_student, load_student, save_student
from students.protocol import scores

COLD = torch.tensor([3, 4, N // 2 + 3, N // 2 + 4])
WITH_COLD = [name for name in TABLES["student"] if "cold" in resolve("student", name).__init__.__annotations__]


def two_halves():
    """Texts that say in which half an item is, and noise."""
    half = (torch.arange(N) >= N // 2).float()
    return 0.3 * vectors() + (2 * half - 1)[:, None] * torch.linspace(-1, 1, 10)


def world():
    return checkerboard(n_users=120, cold=COLD.tolist())


def last_contexts(dataset):
    contexts = train_contexts(dataset)
    return contexts.batch(np.flatnonzero(contexts.target < 0), 50)


def test_every_student_of_item_tables_has_the_option():
    assert {"hybrid_cf", "mf", "mlp_only", "sasrec_small", "gru4rec_small", "two_tower"} <= set(WITH_COLD)


@pytest.mark.parametrize("settings", [{"buckets": 5}, {"text": "null_space"}, {"tied": True}, {"ids": True}], ids=str)
def test_cold_students_keep_the_contract(settings):
    for name in ("hybrid_cf", "two_tower"):
        kind = resolve("student", name)
        if set(settings) <= set(kind.__init__.__annotations__):
            make = partial(kind, **{**SMALL, **settings, "cold": True})
            check_student(lambda n_items, item_vectors, make=make: make(n_items=n_items, item_vectors=item_vectors))


@pytest.mark.parametrize("name", WITH_COLD)
def test_items_without_events_are_recommended_by_their_text(tmp_path, name):
    dataset, own = world(), {"ids": True} if name == "two_tower" else {}
    student = trained(tmp_path, name, two_halves(), dataset=dataset, cold=True, epochs=8, **own)
    batch = last_contexts(dataset)
    with torch.no_grad():
        found = scores(student, torch.from_numpy(batch.history))[:, COLD]
    best = COLD[found.topk(2, dim=1).indices].numpy()
    assert share_in_own_half(best, batch.user) > 0.95
    assert (student.warm == (torch.from_numpy(dataset.popularity) > 0)).all()


def labels_alone(student, dataset, losses):
    contexts = train_contexts(dataset)
    known = knowledge_of(dataset, student, losses, None, contexts, None, lambda seed: None)
    objective = Objective(student, losses, known)
    return objective, next_item_batch(contexts, np.flatnonzero(contexts.target >= 0)[:64], 50)


@pytest.mark.parametrize(
    "loss",
    [
        Loss("cross_entropy", arguments={"smoothing": 0.1}),
        Loss("cross_entropy", head="auxiliary"),
        Loss("sampled_softmax", arguments={"negatives": 16}),
        Loss("bpr", arguments={"negatives": 8}),
        Loss("bce", arguments={"negatives": 8}),
    ],
    ids=lambda loss: f"{loss.name}-{loss.head}",
)
def test_no_loss_on_labels_moves_an_item_without_events(loss):
    dataset = world()
    student = build_student("hybrid_cf", {**SMALL, "cold": True, "id_dropout": 0.0}, N, two_halves(), 0)
    student.attach(dataset)
    objective, batch = labels_alone(student, dataset, [loss])
    total = objective.train()(batch)["loss"]
    total.backward()
    assert torch.isfinite(total)
    identity = student.outputs.identity.grad
    assert not identity[COLD].any() and identity.any()
    assert torch.isfinite(student.outputs.projection.grad).all()
    assert student.bias.grad is None or not student.bias.grad[COLD].any()


def test_losses_on_a_teachers_list_leave_cold_items_out():
    dataset = world()
    student = build_student("mf", {**SMALL, "cold": True, "id_dropout": 0.0}, N, two_halves(), 0)
    student.attach(dataset)
    losses = [Loss("listwise_kl"), Loss("listwise_kl", strata=True), Loss("stratified_kl")]
    objective, batch = labels_alone(student, dataset, losses)
    drawn = torch.stack([torch.randperm(N, generator=torch.Generator().manual_seed(r))[:8] for r in range(64)])
    drawn[:, 0] = COLD[0]
    batch |= {"items": drawn, "scores": -torch.arange(8.0).expand(64, -1), "logz": torch.full((64, 1), 2.0)}
    objective.train()(batch)["loss"].backward()
    identity = student.outputs.identity.grad
    assert not identity[COLD].any() and torch.isfinite(identity).all() and identity.any()


def test_without_the_option_the_softmax_pushes_them():
    dataset = world()
    student = build_student("hybrid_cf", {**SMALL}, N, two_halves(), 0)
    student.attach(dataset)
    objective, batch = labels_alone(student, dataset, [Loss("cross_entropy")])
    objective.train()(batch)["loss"].backward()
    assert student.outputs.identity.grad[COLD].any() and "warm" not in student.state_dict()


def test_a_cold_item_has_the_mean_bias_and_its_text_alone():
    dataset, text = world(), two_halves()
    student = build_student("mf", {**SMALL, "cold": True, "buckets": 6}, N, text, 0)
    student.attach(dataset)
    with torch.no_grad():
        student.outputs.identity.normal_()
        student.bias.copy_(torch.arange(float(N)))
    student.eval()
    rows = student.outputs.text @ student.outputs.projection
    table = student.item_table().detach()
    assert torch.allclose(table[COLD], torch.nn.functional.normalize(rows[COLD], dim=-1), atol=1e-6)
    assert not torch.allclose(table[0], torch.nn.functional.normalize(rows[0], dim=-1), atol=1e-3)
    warm = student.warm
    assert torch.allclose(student.item_bias()[COLD], student.bias[warm].mean())
    assert torch.equal(student.item_bias()[warm], student.bias[warm])
    assert student.train().item_bias()[COLD].isneginf().all()


def test_a_share_of_the_ids_is_left_out_of_each_step():
    student = build_student("mf", {**SMALL, "cold": True, "id_dropout": 0.5}, N, two_halves(), 0)
    with torch.no_grad():
        student.outputs.identity.fill_(1.0)
        plain = student.outputs(torch.zeros(N, dtype=torch.bool))
        torch.manual_seed(0)
        student.train()
        unit = torch.nn.functional.normalize(plain, dim=-1)
        without = [torch.isclose(student.item_table(), unit).all(1) for _ in range(50)]
    share = torch.stack(without).float().mean()
    assert 0.4 < share < 0.6
    assert not torch.equal(without[0], without[1])


def test_cold_survives_saving_and_loading(tmp_path):
    dataset, settings = world(), {**SMALL, "cold": True}
    student = trained(tmp_path, "hybrid_cf", two_halves(), dataset=dataset, epochs=1, **settings)
    save_student(tmp_path, "hybrid_cf", settings, N, student.state_dict(), two_halves())
    loaded = load_student(tmp_path)
    assert torch.equal(loaded.warm, student.warm) and not loaded.warm[COLD].any()
    with torch.no_grad():
        assert torch.equal(scores(loaded, histories()), scores(student, histories()))


def test_without_text_there_is_nothing_to_serve_a_cold_item_from():
    student = build_student("mf", {**SMALL, "cold": True}, N, None, 0)
    assert student.warm is None
    with pytest.raises(UserError, match="cold: true"):
        student.grow(torch.ones(1, 10))


GROWING = [("two_tower", {"ids": True}), ("hybrid_cf", {"tail_expert": True}), ("mf", {"buckets": 7, "tied": True})]


@pytest.mark.parametrize(("name", "settings"), GROWING, ids=str)
def test_an_item_added_after_training_is_what_the_same_item_was_without_events(tmp_path, name, settings):
    """A student of 24 items of which 4 are cold, against the 20 others' student, grown by the same four texts."""
    dataset, text = world(), two_halves()
    order = torch.cat([torch.tensor([i for i in range(N) if i not in COLD.tolist()]), COLD])
    student = trained(tmp_path, name, text, dataset=dataset, cold=True, epochs=2, **settings)
    before = scores(student, histories()).detach()
    student.grow(text[COLD])
    after = scores(student, torch.where(histories() == N, N + len(COLD), histories())).detach()
    assert after.shape == (len(before), N + len(COLD)) and student.n_items == N + len(COLD)
    assert torch.allclose(after[:, :N], before, atol=1e-5)
    assert torch.allclose(after[:, N:], before[:, COLD], atol=1e-5), "the same text, the same score"
    assert len(order) == N


def test_null_space_tables_do_not_grow():
    student = build_student("mf", {**SMALL, "cold": True, "text": "null_space"}, N, two_halves(), 0)
    with pytest.raises(UserError, match="text: init"):
        student.grow(two_halves()[:2])


def test_attach_counts_train_events_alone():
    dataset = dataclasses.replace(world(), parts=np.full(len(world().items), 1, np.uint8))
    student = build_student("mf", {**SMALL, "cold": True}, N, two_halves(), 0)
    student.attach(dataset)
    assert not student.warm.any()
    assert torch.isfinite(student.eval().item_bias()).all()


def test_validation_chooses_how_high_cold_items_are_scored():
    student = build_student("mf", {**SMALL, "cold": True}, N, two_halves(), 0).eval()
    asked = []

    def place_of_cold_items():
        asked.append(float(student.cold_shift))
        return -abs(student.item_bias().detach()[COLD].mean().item() - 1.9)

    student.calibrate(place_of_cold_items)
    assert not asked, "every item has events as far as it knows: nothing to choose"
    student.attach(world())
    student.calibrate(place_of_cold_items)
    assert float(student.cold_shift) == 2.0 and torch.allclose(student.item_bias()[COLD], torch.tensor(2.0))
    student.calibrate(lambda: 1.0)
    assert float(student.cold_shift) == 0.0


def test_training_settles_it_with_the_best_weights():
    student = build_student("mf", {**SMALL, "cold": True}, N, two_halves(), 0)
    best = {name: value.clone() for name, value in student.state_dict().items()}
    assert calibrated(student, best, lambda: 1.0) is best
    student.attach(world())
    best = {name: value.clone() for name, value in student.state_dict().items()}
    with torch.no_grad():
        student.bias.fill_(9.0)
    found = calibrated(student, best, lambda: float(student.cold_shift))
    assert float(found["cold_shift"]) == 5.0 and not found["bias"].any() and not student.training
