"""SASRec: windows, masks, a ring whose next item is known, starting from text."""

import numpy as np
import pytest
import torch
from member_samples import N, checked, fitted, inputs

from distill.contracts.worlds import ring
from distill.data.contexts import ContextBatch
from distill.data.dataset import TRAIN
from distill.errors import UserError
from teachers.sasrec import SASRec, SASRecModel, _first_places, windows
from teachers.text_space import centred, principal

DATA = ring()
SETTINGS = {"dim": 8, "batch_size": 16, "epochs": 6, "learning_rate": 0.02, "max_length": 4, "dropout": 0.0}


def batch_of(rows):
    """Contexts of histories of any lengths."""
    width = max(len(row) for row in rows)
    history = np.array([[N] * (width - len(row)) + list(row) for row in rows], np.int64).reshape(len(rows), width)
    number = np.arange(len(rows))
    return ContextBatch(number, number, history, history, np.full(len(rows), -1), np.zeros(len(rows), np.uint8))


def test_every_event_but_the_first_is_a_label_once():
    lengths = [0, 1, 2, 5, 9, 11]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    found = windows(indptr, 4)
    labels = np.concatenate([np.arange(first + 1, stop) for _, first, stop in found])
    firsts = indptr[:-1][np.array(lengths) > 0]
    assert sorted(labels) == sorted(set(range(indptr[-1])) - set(firsts))
    assert (found[:, 2] - found[:, 1] - 1 <= 4).all() and (found[:, 1] >= found[:, 0]).all()


def test_items_are_masked_from_their_first_place_on():
    history = torch.tensor([[3, 1, 3, 4], [2, 0, 4, 4]])  # 4 is padding
    before = torch.tensor([[4, 4], [1, 4]])
    assert _first_places(history, before, 4).tolist() == [[4, 1, 4, 0], [1, -1, 0, 4]]


def test_a_place_sees_only_what_came_before():
    torch.manual_seed(0)
    model = SASRecModel(N, 8, 2, 2, 6, 12.0, 0.0).eval()
    long, short = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[1, 2, 3, N, N]])
    with torch.no_grad():
        a, b = model.states(long, model.table()), model.states(short, model.table())
    assert torch.allclose(a[:, :3], b[:, :3], atol=1e-5)
    assert not torch.allclose(a[:, 3:], b[:, 3:], atol=1e-2)


def test_the_loss_is_the_mean_over_places_of_masked_cross_entropy():
    member = SASRec(**SETTINGS)
    member.prepare(inputs(DATA))
    model = member.model.eval()
    batch = member._collate(np.array([0, 1, 5]))
    lists, losses = DATA.lists(TRAIN, TRAIN), []
    with torch.no_grad():
        total = model(batch)["loss"]
        for start, first, stop in member.windows[[0, 1, 5]]:
            states = model.states(torch.from_numpy(lists.items[first : stop - 1].astype(np.int64))[None], model.table())
            for place in range(stop - 1 - first):
                scores = states[0, place] @ model.table().T + model.bias
                scores[lists.items[start : first + place + 1]] = -torch.inf
                losses.append(scores.logsumexp(0) - scores[lists.items[first + place + 1]])
    assert float(total) == pytest.approx(float(torch.stack(losses).mean()), abs=1e-5)


def test_the_next_item_of_a_ring_is_found(tmp_path):
    member = fitted(tmp_path, "sasrec", DATA, **{**SETTINGS, "epochs": 10})
    for length in (1, 3, 4):
        rows = (np.arange(N)[:, None] + np.arange(length)) % N
        scores = member.score(batch_of(rows))
        scores.scatter_(1, torch.from_numpy(rows), -torch.inf)
        assert (scores.argmax(1).numpy() == (rows[:, -1] + 1) % N).mean() > 0.95


@pytest.mark.parametrize("settings", [{}, {"blocks": 1, "heads": 1}, {"max_length": 50}], ids=str)
def test_the_contract(tmp_path, settings):
    member = checked(tmp_path, "sasrec", DATA, **{**SETTINGS, "epochs": 1, **settings})
    assert member.item_vectors().norm(dim=1).tolist() == pytest.approx([1.0] * N, abs=1e-5)
    assert not member.context_vectors(batch_of([[], [1]]))[0].any(), "an empty history has no vector"


def test_it_can_start_from_another_members_vectors():
    text = torch.randn(N, 16, generator=torch.Generator().manual_seed(0))
    member = SASRec(**SETTINGS, vectors="tower")
    member.prepare(inputs(DATA, tower=text))
    member.refresh(member.model, None)
    assert torch.allclose(member.item_vectors(), principal(centred(text), 8), atol=1e-5)
    with pytest.raises(UserError, match=r"'vectors: towr' names no earlier member .* \(there are: tower\)"):
        SASRec(vectors="towr").prepare(inputs(DATA, tower=text))


def test_heads_must_divide_the_width():
    with pytest.raises(UserError, match="which 3 heads don't divide"):
        SASRec(dim=8, heads=3)


def test_the_seed_decides_the_result(tmp_path):
    tables = [
        fitted(tmp_path / str(n), "sasrec", DATA, seed, **{**SETTINGS, "epochs": 1, "dropout": 0.2}).item_vectors()
        for n, seed in enumerate([0, 0, 1])
    ]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
