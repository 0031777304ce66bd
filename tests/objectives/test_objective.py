"""The module that training wraps: named losses, weights, seen masks, gradients into the student."""

import pytest
import torch
from torch import nn

from distill.config import Loss
from distill.objectives.hard import cross_entropy
from distill.objectives.listwise import listwise_kl
from distill.objectives.objective import Objective
from distill.soft.target import SoftTarget
from students.hybrid_cf import HybridCF

N = 12


def student():
    torch.manual_seed(0)
    made = HybridCF(N, dim=6, hidden=8, dropout=0.0, item_dropout=0.0)
    for weight in made.parameters():
        if not weight.detach().any():
            nn.init.normal_(weight, std=0.1)
    return made


def batch(distilled=True):
    found = {
        "history": torch.tensor([[N, 1, 2], [3, 4, 5], [N, N, N]]),
        "seen": torch.tensor([[N, 0, 1, 2], [6, 3, 4, 5], [N, N, N, N]]),
        "label": torch.tensor([7, -1, 8]),
    }
    if distilled:
        found |= {
            "items": torch.tensor([[7, 9], [0, 1], [2, -1]]),
            "scores": torch.tensor([[2.0, 1.0], [0.5, 0.1], [3.0, -6e4]]),
            "logz": torch.tensor([[3.0], [2.0], [3.5]]),
        }
    return found


def objective(*losses):
    return Objective(student(), losses, torch.arange(N) % 3, torch.full((N,), 1 / N))


def masked_scores():
    made, given = student(), batch()
    scores = made.encode(given["history"]) @ made.item_table().T + made.item_bias()
    for row, seen in enumerate(given["seen"].tolist()):
        for item in seen:
            if item < N:
                scores[row, item] = -torch.inf
    return scores


def test_the_total_is_the_weighted_sum_of_the_named_losses():
    given = batch()
    with torch.no_grad():
        found = objective(Loss("cross_entropy", 0.3), Loss("listwise_kl", 2.0, {"sharpening": 3.0}))(given)
    target = SoftTarget(given["label"], given["items"], given["scores"], given["logz"])
    scores = masked_scores().detach()
    hard, soft = cross_entropy(scores, target), listwise_kl(scores, target, sharpening=3.0)
    assert set(found) == {"loss", "cross_entropy", "listwise_kl"}
    assert found["cross_entropy"].item() == pytest.approx(float(hard), rel=1e-5)
    assert found["listwise_kl"].item() == pytest.approx(float(soft), rel=1e-5)
    assert found["loss"].item() == pytest.approx(0.3 * float(hard) + 2.0 * float(soft), rel=1e-5)


def test_one_loss_twice_with_other_settings_is_two_terms():
    found = objective(Loss("listwise_kl", 1.0, {"sharpening": 1.0}), Loss("listwise_kl", 10.0, {"sharpening": 4.0}))(
        batch()
    )
    assert set(found) == {"loss", "listwise_kl", "listwise_kl_2"}
    assert found["listwise_kl"].item() != pytest.approx(found["listwise_kl_2"].item(), rel=1e-3)
    expected = found["listwise_kl"].item() + 10.0 * found["listwise_kl_2"].item()
    assert found["loss"].item() == pytest.approx(expected, rel=1e-5)


def loss(scores, target):
    return scores[:, -1].square().mean()


def test_a_users_own_loss_called_loss_does_not_take_the_totals_place(monkeypatch):
    found = objective(Loss(f"{__name__}:loss", 3.0), Loss("cross_entropy"))(batch())
    assert set(found) == {"loss", "loss_2", "cross_entropy"}
    assert found["loss"].item() == pytest.approx(3.0 * found["loss_2"].item() + found["cross_entropy"].item(), rel=1e-5)


def test_gradients_are_finite_and_reach_every_weight():
    made = objective(Loss("cross_entropy"), Loss("listwise_kl"), Loss("stratified_kl"))
    made(batch())["loss"].backward()
    for name, weight in made.student.named_parameters():
        assert weight.grad is not None and torch.isfinite(weight.grad).all(), name
        assert weight.grad.any(), name


def test_seen_items_get_no_gradient():
    made = objective(Loss("cross_entropy"))
    given = {name: value[:1] for name, value in batch(distilled=False).items()}
    made(given)["loss"].backward()
    bias = made.student.bias.grad
    assert not bias[[0, 1, 2]].any() and bias[3:].all()


def test_a_batch_without_a_label_trains_on_the_teacher_alone():
    made = objective(Loss("cross_entropy"), Loss("listwise_kl"))
    found = made({**batch(), "label": torch.full((3,), -1)})
    assert found["cross_entropy"].item() == 0.0
    assert found["loss"].item() == pytest.approx(found["listwise_kl"].item())
    found["loss"].backward()
    assert all(torch.isfinite(w.grad).all() for w in made.student.parameters())


def test_a_batch_without_a_teacher():
    assert torch.isfinite(objective(Loss("cross_entropy"))(batch(distilled=False))["loss"])


def test_only_the_student_is_saved():
    assert all(name.startswith("student.") for name in objective(Loss("cross_entropy")).state_dict())
