"""Two stages: what happens to scores inside and outside the candidates, and who may pick them."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from texts_and_users import topical

from distill.data.contexts import history_contexts
from distill.data.dataset import VALID
from distill.errors import UserError
from distill.tensors import mask_seen
from teachers.itemknn import ItemKNN
from teachers.negatives import draw_negatives
from teachers.protocol import Earlier, Inputs
from teachers.rerank import FirstStage, Shortlist, best_weight, neutral, validation

DATA = topical()
SETTINGS = {"neighbours": 20, "decay": 4.0}


def knn():
    member = ItemKNN(**SETTINGS)
    member.prepare(Inputs(DATA, {}, 0, torch.device("cpu")))
    return member


def given(**members) -> Inputs:
    return Inputs(DATA, {}, 0, torch.device("cpu"), members)


def stage(k=6) -> FirstStage:
    return FirstStage.named("test", "knn", k, given(knn=Earlier("itemknn", SETTINGS, knn())))


def batch(users=8):
    rows = np.arange(users)
    return history_contexts(DATA, rows, VALID).batch(rows, 99)


def test_the_candidates_are_the_best_unseen_items():
    short = stage().shortlist(batch())
    masked = mask_seen(short.scores.clone(), torch.from_numpy(batch().seen))
    assert torch.equal(masked.gather(1, short.items), masked.topk(6).values)
    assert short.valid.all()
    assert not (short.items[:, :, None] == torch.from_numpy(batch().seen)[:, None, :]).any()


def test_weight_zero_leaves_the_retrievers_scores():
    short = stage().shortlist(batch())
    torch.testing.assert_close(short.reordered(torch.randn(8, 6), 0.0), short.scores)


def test_mass_moves_inside_the_candidates_alone():
    short = stage().shortlist(batch())
    judged = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    scores = short.reordered(judged, 50.0)
    outside = torch.ones_like(scores, dtype=torch.bool).scatter(1, short.items, False)
    assert torch.equal(scores[outside], short.scores[outside])
    before, after = (torch.logsumexp(s.gather(1, short.items), 1) for s in (short.scores, scores))
    torch.testing.assert_close(before, after)
    assert torch.equal(scores.gather(1, short.items).argsort(1), judged.argsort(1))


def test_places_without_a_candidate_stay_as_they_are():
    scores = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    short = Shortlist(scores, torch.tensor([[1, 0, 2]]), torch.tensor([[True, True, False]]))
    found = short.reordered(torch.tensor([[0.0, 9.0, 9.0]]), 1.0)
    assert found[0, 2] == 3.0 and found[0, 3] == 0.0
    assert found[0, 0] > found[0, 1]
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("label", "k", "message"),
    [
        ("", 5, r"name the member that picks its candidates.*there are: space, knn"),
        ("spce", 5, "names no earlier member.*did you mean 'space'"),
        ("knn", 1000, r"candidates is 1000, expected 2 to 40"),
        ("knn", 1, "expected 2 to 40"),
    ],
)
def test_a_retriever_that_cannot_be_used_is_told(label, k, message):
    found = Earlier("itemknn", SETTINGS, knn())
    with pytest.raises(UserError, match=message):
        FirstStage.named("test", label, k, given(space=found, knn=found))


def test_without_earlier_members_it_says_that_one_must_come_before():
    with pytest.raises(UserError, match="must come before this member"):
        FirstStage.named("test", "knn", 5, given())


def test_validation_gives_a_helpful_judge_weight_and_a_harmful_one_none():
    cases, context = validation(DATA, 60, 0)
    assert len(cases) == 60
    short = stage(20).shortlist(context)
    truth = torch.from_numpy(cases.truth.items[cases.truth.indptr[:-1]].astype(np.int64))
    right = (short.items == truth[:, None]).float()
    weight, figures = best_weight(short, right, cases)
    assert weight > 0
    assert figures["ndcg@10 both"] > figures["ndcg@10 retriever"] + 0.1
    weight, figures = best_weight(short, -right, cases)
    assert weight == 0
    assert figures["ndcg@10 both"] == figures["ndcg@10 retriever"]


def test_saved_beside_its_retriever_it_keeps_no_copy(tmp_path):
    first = stage()
    alone, beside = tmp_path / "alone" / "own", tmp_path / "run" / "own"
    other = tmp_path / "run" / "knn"
    for folder in (alone, beside, other):
        folder.mkdir(parents=True)
    first.member.save(other)
    (other / "member.json").write_text("{}")
    for folder in (alone, beside):
        first.save(folder)
        torch.testing.assert_close(FirstStage.load(folder).shortlist(batch()).scores, first.shortlist(batch()).scores)
    assert (alone / "retriever").is_dir() and not (beside / "retriever").exists()
    other.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="its retriever 'knn' isn't beside it"):
        FirstStage.load(beside)


def test_candidates_that_cannot_be_judged_are_neutral():
    judged = torch.tensor([[1.0, 3.0, 50.0], [7.0, 8.0, 9.0]])
    known = torch.tensor([[True, True, False], [False, False, False]])
    assert neutral(judged, known).tolist() == [[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]]


def test_negatives_are_neither_the_target_nor_seen():
    rng = np.random.default_rng(0)
    seen = np.array([[9, 0, 1], [2, 3, 4]] * 50)
    target = np.array([2, 5] * 50)
    candidates = np.array([[2, 3, 4], [6, 7, 8]] * 50)
    valid = np.array([[True, True, False], [True, True, True]] * 50)
    drawn = draw_negatives(candidates, valid, target, seen, 9, 4, 2, rng)
    assert drawn.shape == (100, 4)
    assert not (drawn == target[:, None]).any()
    assert not (drawn[:, :, None] == seen[:, None, :]).any()
    assert (drawn[::2] == 3).any(1).all(), "the only candidate that is left is always drawn"
    assert np.isin(drawn[1::2, :2], [6, 7, 8]).all()
    assert set(drawn[1::2, 2:].ravel().tolist()) == {0, 1, 6, 7, 8}
