"""Students: the contract, a checkerboard that is learned, saving, seeds, new users."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from distill.config import Loss
from distill.contracts import check_student
from distill.data.contexts import train_contexts
from distill.data.dataset import Dataset
from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.errors import UserError
from distill.job import Job
from distill.objectives.objective import Objective
from distill.plugins import TABLES, resolve
from distill.tensors import next_item_batch, shuffled
from students.checkpoint import build_student, load_student, save_student
from students.hybrid_cf import HybridCF
from students.item_table import ItemTable
from students.protocol import Student, scores

N = 24
SMALL = {"dim": 8, "hidden": 16}


def vectors(width=10):
    return torch.randn(N, width, generator=torch.Generator().manual_seed(3))


def checkerboard(users=80):
    """Users of the first half choose items of the first half, the others those of the second."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(N // 2)[:7] + (N // 2) * (u % 2) for u in range(users)]
    names = np.array([f"i{i}" for i in range(N)])
    return Dataset(
        np.array([f"u{u}" for u in range(users)]),
        names,
        list(names),
        list(names),
        np.arange(users + 1) * 7,
        np.concatenate(rows).astype(np.int32),
        np.zeros(users * 7, np.uint8),
    )


def trained(folder, text=None, seed=0, name="hybrid_cf", **settings):
    """A student trained on the checkerboard with the project's own engine, without validation."""
    dataset = checkerboard()
    arguments = {**SMALL, **settings}
    student = build_student(name, arguments, N, text, seed)
    contexts = train_contexts(dataset)
    rows = np.flatnonzero(contexts.target >= 0)
    job = Job(
        model=Objective(student, [Loss("cross_entropy")], torch.zeros(N, dtype=torch.long), torch.full((N,), 1 / N)),
        batches=lambda epoch: shuffled(rows, 64, seed, epoch),
        collate=lambda r: next_item_batch(contexts, r, 50),
        epochs=6,
        learning_rate=0.02,
    )
    fit(job, Local(), folder, None, "student")
    student.load_state_dict({k.removeprefix("student."): v for k, v in best_weights(folder).items()})
    return student.eval()


def histories():
    return torch.tensor([[N, N, N, N], [N, N, N, 2], [N, 3, 4, 5], [13, 14, 15, 16]])


@pytest.mark.parametrize("name", TABLES["student"])
def test_every_built_in_student_keeps_the_contract(name):
    check_student(lambda n_items, item_vectors: resolve("student", name)(n_items=n_items, item_vectors=item_vectors))


@pytest.mark.parametrize(
    "settings",
    [
        {"dim": 8},
        {"dim": 40},
        {"dim": 8, "decays": [2]},
        {"dim": 8, "use_text": False},
        {"dim": 8, "tied": True},
        {"dim": 8, "dropout": 0.5, "item_dropout": 0.5},
    ],
)
def test_hybrid_cf_keeps_the_contract_with_other_settings(settings):
    make = partial(HybridCF, **settings)
    check_student(lambda n_items, item_vectors: make(n_items, item_vectors=item_vectors))
    assert isinstance(make(N), Student)


@pytest.mark.parametrize("text", [False, True])
def test_a_checkerboard_is_learned(tmp_path, text):
    student = trained(tmp_path, vectors() if text else None)
    users, dataset = 40, checkerboard()
    batch = train_contexts(dataset).batch(np.flatnonzero(train_contexts(dataset).target < 0)[:users], 50)
    with torch.no_grad():
        best = scores(student, torch.from_numpy(batch.history)).topk(10).indices.numpy()
    own = (best >= N // 2) == (batch.user % 2 == 1)[:, None]
    assert own.mean() > 0.95


@pytest.mark.parametrize("text", [False, True])
def test_saving_and_loading_gives_equal_scores(tmp_path, text):
    item_vectors = vectors() if text else None
    student = trained(tmp_path, item_vectors)
    save_student(tmp_path, "hybrid_cf", SMALL, N, student.state_dict(), item_vectors)
    loaded = load_student(tmp_path)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(scores(loaded, histories()), scores(student, histories()))
    assert (tmp_path / "item_vectors.safetensors").is_file() is text


@pytest.mark.parametrize("text", [False, True])
def test_the_seed_decides_the_weights(tmp_path, text):
    item_vectors = vectors() if text else None
    a, b, c = (trained(tmp_path / str(n), item_vectors, seed) for n, seed in enumerate([0, 0, 1]))
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name
    assert not torch.equal(a.item_table(), c.item_table())


def test_a_new_user_gets_finite_scores_and_the_bias_decides(tmp_path):
    student = trained(tmp_path)
    nothing = torch.full((1, 5), N)
    with torch.no_grad():
        found = scores(student, nothing)
    assert torch.isfinite(found).all()


def test_before_training_a_text_student_walks_in_the_text_space():
    text = vectors(width=6)
    student = HybridCF(N, dim=6, item_vectors=text).eval()
    with torch.no_grad():
        found = scores(student, torch.tensor([[7]]))[0]
    centred = text - text.mean(0)
    cosine = nn.functional.cosine_similarity(centred[7:8], centred)
    assert torch.allclose(found, 16.0 * cosine, atol=1e-3)


def test_item_tables_start_at_the_principal_components():
    text = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 10)
    made = ItemTable(N, 5, text)
    table = made().detach()
    assert table.shape == (N, 5)
    assert table.norm(dim=1).mean() == pytest.approx(1.0, abs=1e-4)
    centred = text - text.mean(0)
    gram = centred @ centred.T
    assert torch.allclose(table @ table.T * (gram.trace() / (table @ table.T).trace()), gram, atol=1e-3)
    assert not made.identity.any(), "the id part starts at zero"
    plain = ItemTable(N, 5)
    assert plain().shape == (N, 5) and plain.text is None


def test_an_item_table_wider_than_its_text():
    assert torch.isfinite(ItemTable(N, 40, vectors(6))()).all()
    assert ItemTable(4, 8, vectors(6)[:4])().shape == (4, 8)


def test_history_order_and_latest_item_matter(tmp_path):
    student = trained(tmp_path)
    with torch.no_grad():
        forwards, backwards = scores(student, torch.tensor([[1, 2, 3], [3, 2, 1]]))
    assert not torch.allclose(forwards, backwards)


def test_loading_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="holds no student"):
        load_student(tmp_path)
    student = build_student("hybrid_cf", SMALL, N, None, 0)
    save_student(tmp_path, "hybrid_cf", {"dim": 9, "hidden": 16}, N, student.state_dict(), None)
    with pytest.raises(UserError, match=r"weights don't fit the settings in student.json"):
        load_student(tmp_path)


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
