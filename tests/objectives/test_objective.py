"""The module that training wraps: named losses, weights, seen masks, gradients into the student."""

import math

import pytest
import torch
from torch import nn

from distill.config import Loss, Schedule
from distill.errors import UserError
from distill.objectives.hard import cross_entropy
from distill.objectives.knowledge import Knowledge
from distill.objectives.listwise import listwise_kl
from distill.objectives.mutual import kl
from distill.objectives.objective import Objective
from distill.objectives.strata import within_strata
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


def objective(*losses, steps=0, temperatures=None):
    made = student()
    return Objective(made, losses, knowledge(made), steps, temperatures)


def knowledge(made):
    def build(seed):
        torch.manual_seed(seed)
        return HybridCF(N, dim=6, hidden=8, dropout=0.0, item_dropout=0.0)

    dim = made.item_table().shape[1]
    return Knowledge(dim, N, n_users=3, strata=torch.arange(N) % 3, popularity=torch.full((N,), 1 / N), build=build)


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


def test_what_is_saved_beside_the_student_is_the_progress():
    names = objective(Loss("cross_entropy")).state_dict()
    assert {name for name in names if not name.startswith("student.")} == {"step", "sizes"}


def test_a_scheduled_weight_follows_the_steps_of_the_training():
    made = objective(Loss("cross_entropy", Schedule(1.0, 0.0)), Loss("listwise_kl"), steps=4)
    shares = []
    for _ in range(5):
        found = made(batch())
        rest = found["loss"] - found["listwise_kl"]
        shares.append(float(rest.detach() / found["cross_entropy"].detach()) if found["cross_entropy"] else 0.0)
    assert shares == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0], abs=1e-4)
    made.eval()
    made(batch())
    assert float(made.step) == 5  # validation doesn't count


def test_a_scheduled_setting_follows_too():
    made = objective(Loss("listwise_kl", 1.0, {"sharpening": Schedule(1.0, 3.0)}), steps=2)
    found = [made(batch())["listwise_kl"].item() for _ in range(3)]
    plain = [objective(Loss("listwise_kl", 1.0, {"sharpening": s}))(batch())["listwise_kl"].item() for s in (1, 2, 3)]
    assert found == pytest.approx(plain, rel=1e-6)


def test_a_balanced_term_weighs_as_much_as_the_first():
    made = objective(Loss("cross_entropy"), Loss("listwise_kl", 1.0, balance=True))
    found = made(batch())
    assert found["loss"].item() == pytest.approx(2 * found["cross_entropy"].item(), rel=1e-5)


def test_strata_compare_items_of_one_stratum_only():
    losses = Loss("listwise_kl", 1.0, strata=True), Loss("listwise_kl", 1.0)
    inside, whole = (objective(loss)(batch())["listwise_kl"].item() for loss in losses)
    target = SoftTarget(
        **{k: v for k, v in batch().items() if k not in ("history", "seen")}, strata=torch.arange(N) % 3
    )
    assert inside == pytest.approx(float(within_strata(listwise_kl, masked_scores(), target)), rel=1e-5)
    assert inside != pytest.approx(whole, rel=1e-3)


def test_a_gate_weighs_the_teachers_items():
    plain = objective(Loss("soft_bpr"))(batch())["soft_bpr"].item()
    gated = objective(Loss("soft_bpr", gate=True))(batch())["soft_bpr"].item()
    steep = objective(Loss("soft_bpr", gate={"position": 1.0, "confidence": 0.0, "overlap": 0.0}))(batch())
    assert gated != pytest.approx(plain, rel=1e-4) and steep["soft_bpr"].item() != pytest.approx(gated, rel=1e-4)


def test_an_auxiliary_head_leaves_the_serving_scores_to_the_labels():
    made = objective(Loss("cross_entropy"), Loss("listwise_kl", head="auxiliary"))
    found = made(batch())
    found["listwise_kl"].backward()
    assert made.student.bias.grad is None or not made.student.bias.grad.any()
    assert made.side.weight.grad.any() and made.side_bias.grad.any()


def test_each_teacher_answers_under_its_own_name():
    given = batch()
    other = {"items": torch.tensor([[8, 10], [1, 2], [3, 4]]), "scores": given["scores"], "logz": given["logz"]}
    both = {**given, **{f"ease/{name}": value for name, value in other.items()}}
    made = objective(Loss("listwise_kl"), Loss("listwise_kl", teacher="ease"), temperatures={"": [1.0], "ease": [1.0]})
    found = made(both)
    assert found["listwise_kl"].item() == pytest.approx(objective(Loss("listwise_kl"))(given)["listwise_kl"].item())
    alone = objective(Loss("listwise_kl"))({**given, **other})["listwise_kl"].item()
    assert found["listwise_kl_2"].item() == pytest.approx(alone)


@pytest.mark.parametrize("option", [{"gate": True}, {"strata": True}, {"head": "auxiliary"}])
def test_a_loss_on_vectors_takes_no_option_of_losses_on_scores(option):
    with pytest.raises(UserError, match="compares vectors"):
        objective(Loss("mutual", **option))


def test_two_students_teach_each_other():
    made = objective(Loss("cross_entropy"), Loss("mutual"))
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)
    given = batch()
    first = None
    for _ in range(60):
        optimizer.zero_grad()
        found = made(given)
        first = first or found["mutual"].item()
        found["loss"].backward()
        optimizer.step()
    assert found["mutual"].item() < 0.5 * first
    peer = next(term.module.peer for term in made.terms if term.module is not None)
    assert all(w.grad is not None and torch.isfinite(w.grad).all() for w in peer.parameters())


def test_kl_is_zero_between_equals_and_by_hand_otherwise():
    one = torch.tensor([[0.0, 0.0, -torch.inf]])
    other = torch.tensor([[math.log(3.0), 0.0, -torch.inf]])
    assert float(kl(one, one)) == pytest.approx(0.0, abs=1e-7)
    # KL((1/2, 1/2) || (3/4, 1/4)) = 1/2 ln(2/3) + 1/2 ln 2
    assert float(kl(one, other)) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2), rel=1e-5)
