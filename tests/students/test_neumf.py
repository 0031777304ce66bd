"""NeuMF: pairs by brute force, gradients, two stages, and the file that reranks."""

import numpy as np
import onnxruntime
import pytest
import torch
from student_samples import N, all_parts_matter, histories, vectors
from torch import nn

from distill.config import Loss
from distill.contracts import check_student
from distill.errors import UserError
from distill.export.kinds import student_graphs
from distill.objectives.knowledge import Knowledge
from distill.objectives.objective import Objective
from students.checkpoint import build_student
from students.neumf import NeuMF, _PairSum
from students.protocol import PairwiseStudent, scores, two_stage_scores

N_ITEMS = 90


def student(candidates=8, n_items=N_ITEMS, **settings):
    """A small NeuMF whose MLP matters."""
    made = build_student("neumf", {"dim": 16, "hidden": 7, "candidates": candidates, **settings}, n_items, None, 0)
    all_parts_matter(made)
    with torch.no_grad():
        made.weights.mul_(3)
    return made


def test_scores_are_gmf_and_an_mlp_over_the_pair():
    made, history = student(), histories(N_ITEMS)
    with torch.no_grad():
        found = scores(made, history)
        pools = made.pools(history)
        scale = made.log_scale.exp()
        user = made.turn * (made.mix[:, None] * pools).sum(1)
        gmf = scale * nn.functional.normalize(user, dim=-1) @ made.item_table().T + made.bias
        both = nn.functional.linear(pools.flatten(1), made.user_half.weight, made.user_half.bias)
        hidden = nn.functional.relu(both[:, None] + made.item_half()[None])
        wanted = gmf + scale * (hidden * made.weights).sum(-1)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert (found - gmf).abs().max() > 0.5, "the MLP must matter here"


def test_a_new_student_is_its_factorisation():
    made, history = build_student("neumf", {"dim": 16}, N_ITEMS, vectors(20, N_ITEMS), 0).eval(), histories(N_ITEMS)
    with torch.no_grad():
        query = made.encode(history)[:, :16]
        assert torch.equal(scores(made, history), nn.functional.linear(query, made.item_table(), made.item_bias()))


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 3, 1), (3, 1, 4)])
def test_the_sum_over_pairs_has_the_gradients_of_its_formula(shape, monkeypatch):
    monkeypatch.setattr("students.neumf.BLOCK", 8)  # several blocks
    rows, items, hidden = shape
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(*s, generator=generator).double() for s in ((rows, hidden), (items, hidden), (hidden,))]
    parts = [part.requires_grad_(True) for part in parts]
    users, table, weights = parts
    plain = (nn.functional.relu(users[:, None] + table[None]) * weights).sum(-1)
    assert torch.allclose(_PairSum.apply(*parts), plain)
    assert torch.autograd.gradcheck(_PairSum.apply, tuple(parts))


def test_the_contract_of_pairs_catches_corrections_that_differ():
    class Wrong(NeuMF):
        def all_corrections(self, state):
            return 1.01 * super().all_corrections(state)

    check_student(lambda n_items, item_vectors: NeuMF(n_items, dim=8, item_vectors=item_vectors))
    with pytest.raises(AssertionError, match="differ"):
        check_student(lambda n_items, item_vectors: Wrong(n_items, dim=8, item_vectors=item_vectors))
    with pytest.raises(UserError, match="candidates is 0"):
        build_student("neumf", {"candidates": 0}, N, None, 0)
    assert isinstance(student(), PairwiseStudent)


def test_training_sees_the_whole_score():
    """The objective's cross-entropy is that of the scores, and its gradient reaches the MLP."""
    made, history = student(), histories(N_ITEMS)
    knowledge = Knowledge(
        dim=16,
        n_items=N_ITEMS,
        n_users=6,
        strata=torch.zeros(N_ITEMS, dtype=torch.int64),
        popularity=torch.full((N_ITEMS,), 1 / N_ITEMS),
        build=lambda seed: None,
    )
    objective = Objective(made, [Loss("cross_entropy")], knowledge).eval()
    nothing = torch.full((len(history), 1), N_ITEMS)
    label = torch.arange(len(history))
    loss = objective({"history": history, "seen": nothing, "label": label})["loss"]
    assert torch.allclose(loss, nn.functional.cross_entropy(scores(made, history), label), atol=1e-5)
    loss.backward()
    for weight in (made.weights, made.item_half.identity, made.user_half.weight):
        assert weight.grad.any()


def masked(found, seen):
    return nn.functional.pad(found, (0, 1)).scatter(1, seen, -torch.inf)[:, :-1]


@pytest.mark.parametrize("candidates", [8, 200])
def test_a_file_retrieves_and_reranks(candidates):
    made = student(candidates)
    words = {"fp32": 1e-5, "fp16": 2e-3, "int8": 0.05, "int8+dynamic": 0.05}
    graphs = student_graphs(made, list(words), max_length=14, histories=histories(N_ITEMS).numpy())
    sessions = {word: onnxruntime.InferenceSession(graph.SerializeToString()) for word, graph in graphs.items()}
    for rows, length, k in ((1, 1, 5), (6, 9, 5), (3, 14, N_ITEMS)):
        history = histories(N_ITEMS, rows, length)
        feed = {"history": history.numpy(), "seen": history.numpy(), "k": np.array([k])}
        with torch.no_grad():
            shown = masked(scores(made, history), history)
            best = (two_stage_scores(made, history, history) if k < N_ITEMS else shown).topk(k, dim=1)
        scale = float(shown[shown.isfinite()].abs().max())
        for word, close in words.items():
            ids, found, query = sessions[word].run(["ids", "scores", "query"], feed)
            assert query.shape == (rows, 16)
            for row in range(rows):
                listed = ids[row] >= 0
                wanted = shown[row].numpy()[ids[row][listed]]
                assert np.abs(found[row][listed] - wanted).max() <= close * scale
                assert not set(ids[row][listed]) & set(history[row].tolist())
            if word == "fp32":
                assert np.allclose(found, best.values.numpy(), atol=1e-4)
                assert (ids == np.where(best.values.isneginf(), -1, best.indices)).all()


def test_few_candidates_miss_what_many_find():
    history = histories(N_ITEMS, 40, 9)
    with torch.no_grad():
        whole = masked(scores(student(), history), history).topk(10).indices
        agreement = []
        for candidates in (10, 30, N_ITEMS):
            found = two_stage_scores(student(candidates), history, history).topk(10).indices
            agreement.append(float((found[:, :, None] == whole[:, None]).any(-1).float().mean()))
    assert agreement[0] < agreement[1] < agreement[2] == 1.0
