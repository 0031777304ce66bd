"""The history model on text vectors: it learns a checkerboard, keeps the contract, and follows its seed."""

import numpy as np
import pytest
import torch
from member_samples import N, ranked, trainer

from distill.contracts import check_member, check_reload
from distill.contracts.worlds import checkerboard, share_in_own_half
from distill.data.dataset import Dataset
from distill.engine.local import Local
from distill.engine.loop import fit as train
from distill.errors import UserError
from teachers.protocol import Inputs
from teachers.text_space import TextSpace, centred, principal

SETTINGS = {"vectors": "tower", "epochs": 4, "batch_size": 64, "learning_rate": 0.02, "dropout": 0.1}


DATA = checkerboard()


def inputs(seed=0, data=DATA):
    """Text that knows nothing of the two groups."""
    text = torch.randn(N, 16, generator=torch.Generator().manual_seed(5))
    return Inputs(data, {"tower": text}, seed, torch.device("cpu"))


def fitted(folder, experiment_seed=0, **other):
    member = TextSpace(**{**SETTINGS, **other})
    member.prepare(inputs(experiment_seed))
    member.finish(trainer(folder, member, DATA)(member.job()))
    return member


def test_recommendations_stay_inside_the_users_group(tmp_path):
    before = TextSpace(**SETTINGS)
    before.prepare(inputs())
    before.refresh(before.model, None)
    assert share_in_own_half(*ranked(before, DATA)) < 0.8
    assert share_in_own_half(*ranked(fitted(tmp_path), DATA)) > 0.98


@pytest.mark.parametrize("other", [{}, {"mlp": True}, {"width": 6}, {"decays": [2, 5]}])
def test_the_contract(tmp_path, other):
    member = TextSpace(**{**SETTINGS, **other})
    check_member(member, DATA, inputs(), trainer(tmp_path, member, DATA))
    check_reload(member, TextSpace(**{**SETTINGS, **other}), DATA)
    assert member.item_vectors().shape == (N, other.get("width", 16))
    assert member.item_vectors().norm(dim=1).tolist() == pytest.approx([1.0] * N, abs=1e-5)


def test_the_seed_decides_the_result(tmp_path):
    tables = [
        fitted(tmp_path / str(n), seed, seed=own).item_vectors()
        for n, (seed, own) in enumerate([(0, 0), (0, 0), (1, 0), (0, 1)])
    ]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
    assert torch.equal(tables[2], tables[3]), "the member's own seed is added to the experiment's"


def test_untrained_it_is_the_text_itself():
    member = TextSpace(**SETTINGS)
    member.prepare(inputs())
    member.refresh(member.model, None)
    assert torch.allclose(member.item_vectors(), centred(inputs().vectors["tower"]), atol=1e-6)


def test_without_the_members_vectors_it_says_which_there_are():
    with pytest.raises(UserError, match=r"'vectors: towr' names no earlier member .* \(there are: tower\)"):
        TextSpace(vectors="towr").prepare(inputs())


def test_without_a_labelled_context_there_is_nothing_to_train(tmp_path):
    alone = Dataset(
        np.array(["a"]),
        DATA.item_ids,
        DATA.titles,
        DATA.texts,
        np.array([0, 1]),
        np.zeros(1, np.int32),
        np.zeros(1, np.uint8),
    )
    member = TextSpace(**SETTINGS)
    member.prepare(inputs(data=alone))
    with pytest.raises(UserError, match="not a single batch to train on"):
        train(member.job(), Local(), tmp_path, None, "text_space")


def test_centring_takes_half_of_the_mean_away():
    vectors = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) + 3.0
    moved = vectors - 0.5 * vectors.mean(0)
    assert torch.allclose(centred(vectors), moved / moved.norm(dim=1, keepdim=True))


def test_principal_directions_keep_cosines_when_the_vectors_fill_no_more():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(30, 3, generator=generator) @ torch.randn(3, 12, generator=generator)
    unit = flat / flat.norm(dim=1, keepdim=True)
    reduced = principal(unit, 3)
    assert reduced.shape == (30, 3)
    assert torch.allclose(reduced @ reduced.T, unit @ unit.T, atol=1e-5)
