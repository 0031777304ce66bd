"""Students: the contract, a checkerboard that is learned, saving, seeds, new users; a user's own student."""

from functools import partial

import numpy as np
import pytest
import torch
from student_samples import SMALL, TRAINED, N, histories, trained, vectors
from torch import nn

from distill.contracts import check_student
from distill.contracts.worlds import checkerboard, ring, share_in_own_half
from distill.data.contexts import train_contexts
from distill.errors import UserError
from distill.plugins import resolve
from students.checkpoint import build_student, load_student, save_student, served
from students.hybrid_cf import HybridCF
from students.mf import MatrixFactorisation
from students.protocol import Student, scores

STUDENTS = TRAINED
SEQUENTIAL = [name for name in STUDENTS if name in ("sasrec_small", "gru4rec_small")]
OWN = {"two_tower": {"ids": True, "id_dropout": 0.0}}  # these texts say nothing of the two halves
SHARED_SETTINGS = [
    {},
    {"dim": 40},
    {"cosine": False},
    {"tied": True},
    {"text": "none"},
    {"text": "null_space"},
    {"buckets": 5},
    {"dropout": 0.5, "item_dropout": 0.5},
]


def settings_of(name, settings):
    """The settings that this student has; None where it has not all of them."""
    known = resolve("student", name).__init__.__annotations__
    return settings if set(settings) <= set(known) else None


@pytest.mark.parametrize("settings", SHARED_SETTINGS, ids=str)
@pytest.mark.parametrize("name", STUDENTS)
def test_every_built_in_student_keeps_the_contract(name, settings):
    if settings_of(name, settings) is None:
        pytest.skip(f"{name} has no such setting")
    make = partial(resolve("student", name), **{**SMALL, **settings})
    check_student(lambda n_items, item_vectors: make(n_items=n_items, item_vectors=item_vectors))
    assert isinstance(make(n_items=N), Student)


@pytest.mark.parametrize(
    "settings", [{"decays": [2]}, {"decays": [10_000.0]}, {"l2": 0.01}, {"ids": True}, {"length": 3}], ids=str
)
def test_settings_of_some_students(settings):
    for name in STUDENTS:
        if settings_of(name, settings) is not None:
            make = partial(resolve("student", name), **{**SMALL, **settings})
            check_student(lambda n_items, item_vectors, make=make: make(n_items=n_items, item_vectors=item_vectors))


@pytest.mark.parametrize("text", [False, True], ids=["ids", "text"])
@pytest.mark.parametrize("name", STUDENTS)
def test_a_checkerboard_is_learned(tmp_path, name, text):
    student = trained(tmp_path, name, vectors() if text else None, epochs=10, **OWN.get(name, {}))
    contexts = train_contexts(checkerboard())
    batch = contexts.batch(np.flatnonzero(contexts.target < 0), 50)
    with torch.no_grad():
        best = scores(student, torch.from_numpy(batch.history)).topk(10).indices.numpy()
    assert share_in_own_half(best, batch.user) > 0.95


@pytest.mark.parametrize(
    "settings", [{"cosine": False}, {"buckets": 12}, {"text": "null_space"}, {"l2": 1e-4}], ids=str
)
def test_a_checkerboard_is_learned_with_other_settings(tmp_path, settings):
    student = trained(tmp_path, "mf", vectors(), **settings)
    contexts = train_contexts(checkerboard())
    batch = contexts.batch(np.flatnonzero(contexts.target < 0), 50)
    with torch.no_grad():
        best = scores(student, torch.from_numpy(batch.history)).topk(10).indices.numpy()
    assert share_in_own_half(best, batch.user) > 0.9


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_students_that_read_the_order_learn_a_ring(tmp_path, name):
    # What users chose together lies all around the ring: a start from it is further away than chance.
    student = trained(tmp_path, name, dataset=ring(), epochs=12, tied=False, start="random")
    with torch.no_grad():
        best = scores(student, torch.arange(N)[:, None]).argmax(1)
        longer = scores(student, (torch.arange(N)[:, None] + torch.arange(4)) % N).argmax(1)
    assert torch.equal(best, (torch.arange(N) + 1) % N)
    assert torch.equal(longer, (torch.arange(N) + 4) % N)


@pytest.mark.parametrize("text", [False, True], ids=["ids", "text"])
@pytest.mark.parametrize("name", STUDENTS)
def test_saving_and_loading_gives_equal_scores(tmp_path, name, text):
    item_vectors = vectors() if text else None
    student = trained(tmp_path, name, item_vectors, epochs=1)
    weights, text_vectors = served(student, student.state_dict(), item_vectors)
    save_student(tmp_path, name, SMALL, N, weights, text_vectors)
    loaded = load_student(tmp_path)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(scores(loaded, histories()), scores(student, histories()))
    assert (tmp_path / "item_vectors.safetensors").is_file() is (text and name != "lightgcn")


@pytest.mark.parametrize("name", STUDENTS)
def test_the_seed_decides_the_weights(tmp_path, name):
    a, b, c = (trained(tmp_path / str(n), name, vectors(), seed, epochs=1) for n, seed in enumerate([0, 0, 1]))
    for key, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[key]), key
    assert not torch.equal(a.item_table(), c.item_table())


@pytest.mark.parametrize("name", STUDENTS)
def test_a_new_user_gets_finite_scores(tmp_path, name):
    student = trained(tmp_path, name, epochs=1)
    with torch.no_grad():
        assert torch.isfinite(scores(student, torch.full((1, 5), N))).all()


@pytest.mark.parametrize("name", STUDENTS)
def test_history_order_matters(tmp_path, name):
    student = trained(tmp_path, name)
    with torch.no_grad():
        forwards, backwards = scores(student, torch.tensor([[1, 2, 3], [3, 2, 1]]))
    assert not torch.allclose(forwards, backwards)


@pytest.mark.parametrize("kind", [HybridCF, MatrixFactorisation])
def test_before_training_a_text_student_walks_in_the_text_space(kind):
    text = vectors(width=6)
    student = kind(N, dim=6, item_vectors=text).eval()
    with torch.no_grad():
        found = scores(student, torch.tensor([[7]]))[0]
    centred = text - text.mean(0)
    cosine = nn.functional.cosine_similarity(centred[7:8], centred)
    assert torch.allclose(found, 16.0 * cosine, atol=1e-3)


def test_item_dropout_leaves_something_of_every_history():
    student = MatrixFactorisation(N, dim=8, dropout=0.0, item_dropout=0.9).train()
    torch.manual_seed(0)
    with torch.no_grad():
        assert (student.encode(torch.arange(N)[:, None].repeat(1, 3)).norm(dim=1) > 1).all()


def test_a_ridge_pulls_the_rows_that_scoring_uses():
    found = {}
    for l2 in (0.0, 0.5):
        torch.manual_seed(0)
        student = MatrixFactorisation(N, dim=8, cosine=False, l2=l2, dropout=0.0, item_dropout=0.0).train()
        scores(student, histories()).logsumexp(1).sum().backward()
        found[l2] = {name: p.grad.clone() for name, p in student.named_parameters()}
        rows = {name: p.detach().clone() for name, p in student.named_parameters()}
    for name in ("inputs.identity", "outputs.identity"):
        assert torch.allclose(found[0.5][name] - found[0.0][name], 0.5 * rows[name], atol=1e-4)
    assert torch.equal(found[0.5]["bias"], found[0.0]["bias"])


def test_loading_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="holds no student"):
        load_student(tmp_path)
    student = build_student("hybrid_cf", SMALL, N, None, 0)
    save_student(tmp_path, "hybrid_cf", {"dim": 9}, N, student.state_dict(), None)
    with pytest.raises(UserError, match=r"weights don't fit the settings in student.json"):
        load_student(tmp_path)


@pytest.mark.parametrize("ids", [False, True])
def test_a_content_tower_places_items_that_nobody_has_chosen(tmp_path, ids):
    half = (torch.arange(N) >= N // 2).float()
    text = 0.3 * vectors() + (2 * half - 1)[:, None] * torch.linspace(-1, 1, 10)
    cold = torch.tensor([3, 4, N // 2 + 3, N // 2 + 4])
    dataset = checkerboard(n_users=200, cold=cold.tolist())
    assert not dataset.popularity[cold].any()
    student = trained(tmp_path, "two_tower", text, dataset=dataset, ids=ids)
    contexts = train_contexts(dataset)
    batch = contexts.batch(np.flatnonzero(contexts.target < 0), 50)
    with torch.no_grad():
        vectors_of_text = nn.functional.normalize(student.outputs.without_ids(), dim=-1)
        found = student.encode(torch.from_numpy(batch.history)) @ vectors_of_text[cold].T
    best = cold[found.topk(2, dim=1).indices].numpy()
    assert share_in_own_half(best, batch.user) > 0.98


@pytest.mark.parametrize("wrong", [{"dim": 9}, {"blocks": 0}, {"length": 0}, {"heads": 0}])
def test_an_attention_that_cannot_be_built_says_why(wrong):
    with pytest.raises(UserError, match="sasrec_small"):
        build_student("sasrec_small", wrong, N, None, 0)


def test_a_gru_reads_its_latest_items_whatever_stands_between():
    torch.manual_seed(0)
    student = resolve("student", "gru4rec_small")(N, dim=8, length=3).eval()
    with torch.no_grad():
        whole, cut, gaps = (
            student.encode(torch.tensor([history])) for history in ([1, 2, 3, 4, 5], [N, N, 3, 4, 5], [3, N, 4, N, 5])
        )
    assert torch.allclose(whole, cut, atol=1e-6) and torch.allclose(cut, gaps, atol=1e-6)
    with pytest.raises(UserError, match="length is 0"):
        build_student("gru4rec_small", {"length": 0}, N, None, 0)


class MyStudent(nn.Module):
    """As small as a student can be; used below by its dotted path, as a user's own would be."""

    def __init__(self, n_items: int, item_vectors: torch.Tensor | None = None, width: int = 4) -> None:
        super().__init__()
        self.n_items = n_items
        self.items = nn.Parameter(torch.randn(n_items, width))
        self.bias = nn.Parameter(torch.zeros(n_items))

    def encode(self, history):
        padded = torch.cat([self.items, self.items.new_zeros(1, self.items.shape[1])])
        return padded[history].sum(1)

    def item_table(self):
        return self.items

    def item_bias(self):
        return self.bias


def test_a_users_own_student_trains_saves_and_loads(tmp_path):
    check_student(MyStudent)
    place, arguments = f"{__name__}:MyStudent", {"width": 5}
    student = build_student(place, arguments, N, None, 0)
    save_student(tmp_path, place, arguments, N, student.state_dict(), None)
    assert torch.equal(load_student(tmp_path).item_table(), student.item_table())


class Wide(MyStudent):
    def item_table(self):
        return torch.cat([self.items, self.items[:1]])


class Padded(MyStudent):
    def encode(self, history):
        return super().encode(history) / history.shape[1]


class Neighbourly(MyStudent):
    def encode(self, history):
        found = super().encode(history)
        return found - found.mean(0)


class Dicey(MyStudent):
    def encode(self, history):
        return nn.functional.dropout(super().encode(history), 0.5)


class Broken(MyStudent):
    def encode(self, history):
        return super().encode(history) / (history < self.n_items).sum(1, keepdim=True)


class Frozen(MyStudent):
    def __init__(self, n_items, item_vectors=None):
        super().__init__(n_items)
        self.requires_grad_(False)


class Forgetful(MyStudent):
    def __init__(self, n_items, item_vectors=None):
        super().__init__(n_items)
        self.turn = torch.randn(4, 4)

    def encode(self, history):
        return super().encode(history) @ self.turn


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Wide, r"item_table\(\) is \(24, 4\), expected \(23, D\)"),
        (Padded, "changes with more padding on the left"),
        (Neighbourly, "depends on the rest of the batch"),
        (Dicey, "isn't deterministic"),
        (Broken, "NaN or infinity"),
        (Frozen, "no trainable parameter"),
        (Forgetful, "differs after saving and loading"),
        (lambda n_items, item_vectors: object(), "torch.nn.Module"),
    ],
)
def test_the_contract_catches(kind, message):
    with pytest.raises(AssertionError, match=message):
        check_student(kind)
