"""Students in closed form: the contract, a checkerboard, agreement with the teachers of the same name, ONNX parity."""

import numpy as np
import onnxruntime
import pytest
import torch
from student_samples import SOLVED, N, histories, solved

from distill.contracts import check_closed_form
from distill.contracts.worlds import checkerboard, share_in_own_half
from distill.data.contexts import train_contexts
from distill.errors import UserError
from distill.export.kinds import student_graphs
from distill.plugins import resolve
from students.checkpoint import build_student, load_student, save_student
from students.protocol import CatalogueStudent, ClosedFormStudent, Student, scores
from teachers.protocol import Inputs

SETTINGS = {
    "popularity": {},
    "itemknn": {"neighbours": 9},
    "ease": {"neighbours": 9, "l2": 10.0, "decay": 3.0},
    "ials": {"dim": 8, "decay": 5.0},
}


@pytest.mark.parametrize("name", SOLVED)
def test_every_student_in_closed_form_keeps_the_contract(name):
    check_closed_form(lambda n_items: resolve("student", name)(n_items=n_items, **SETTINGS[name]))
    check_closed_form(lambda n_items: resolve("student", name)(n_items=n_items))
    student = build_student(name, {}, N, None, 0)
    assert isinstance(student, ClosedFormStudent)
    assert isinstance(student, CatalogueStudent) is not isinstance(student, Student)


def test_the_contract_catches_what_is_not_solved():
    class Unseeded(resolve("student", "popularity")):
        def fit_closed_form(self, dataset, seed=0):
            self.table.copy_(torch.rand(self.table.shape))

    class Padded(resolve("student", "popularity")):
        def encode(self, history):
            return super().encode(history) / history.shape[1]

    for kind, message in ((Unseeded, "isn't decided by the data"), (Padded, "more padding")):
        with pytest.raises(AssertionError, match=message):
            check_closed_form(kind)


@pytest.mark.parametrize("name", [name for name in SOLVED if name != "popularity"])
def test_a_checkerboard_is_known(name):
    student = solved(name)
    contexts = train_contexts(checkerboard())
    batch = contexts.batch(np.flatnonzero(contexts.target < 0), 50)
    with torch.no_grad():
        best = scores(student, torch.from_numpy(batch.history)).topk(10).indices.numpy()
    assert share_in_own_half(best, batch.user) == 1.0


def test_popularity_ranks_by_train_counts():
    dataset = checkerboard(n_users=31)
    with torch.no_grad():
        found = scores(solved("popularity", dataset), histories())
    assert torch.equal(found[0], found[3])
    assert np.array_equal(np.argsort(-found[0].numpy(), kind="stable"), np.argsort(-dataset.popularity, kind="stable"))


@pytest.mark.parametrize(
    ("name", "settings", "extra"),
    [
        ("ease", {"l2": 20.0, "decay": 3.0}, {"neighbours": N}),
        ("itemknn", {"neighbours": 8, "alpha": 0.5}, {}),
        ("ials", {"dim": 8, "decay": 5.0, "l2": 0.02}, {"steps": 8}),
    ],
)
def test_a_student_scores_as_the_teacher_of_its_name(name, settings, extra):
    dataset = checkerboard(n_users=60, cold=[2])
    teacher = resolve("teacher", name)(**settings)
    teacher.prepare(Inputs(dataset, {}, 0, torch.device("cpu")))
    batch = train_contexts(dataset).batch(np.arange(40), 50)
    found = scores(solved(name, dataset, **settings, **extra), torch.from_numpy(batch.history))
    logged = torch.log(found.clamp_min(0) + teacher.floor)  # the teacher gives logarithms of the same numbers
    assert torch.allclose(logged, teacher.score(batch), atol=2e-4)


def test_fewer_neighbours_keep_the_strongest():
    whole, cut = (solved("ease", neighbours=count) for count in (N, 5))
    dense = torch.zeros(N, N + 1).scatter(1, whole.neighbours.long(), whole.strengths)[:, :N]
    kept = torch.zeros(N, N + 1).scatter(1, cut.neighbours.long(), cut.strengths)[:, :N]
    assert ((kept != 0).sum(1) == 5).all()
    assert torch.equal(kept[kept != 0], dense[kept != 0])
    left_out = dense.abs().masked_fill(kept != 0, 0.0).amax(1)
    assert (kept.abs().masked_fill(kept == 0, torch.inf).amin(1) >= left_out).all()


def test_conjugate_gradients_converge_in_a_few_steps():
    errors = []
    exact = solved("ials", steps=30)
    with torch.no_grad():
        wanted = scores(exact, histories())
        for steps in (1, 2, 4, 8):
            found = scores(solved("ials", steps=steps), histories())
            errors.append(float((found - wanted).abs().max() / wanted.abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 1e-2 and errors[3] < 1e-4


@pytest.mark.parametrize("name", SOLVED)
def test_saving_and_loading_gives_equal_scores(tmp_path, name):
    student = solved(name, **SETTINGS[name])
    save_student(tmp_path, name, SETTINGS[name], N, student.state_dict(), None)
    with torch.no_grad():
        assert torch.equal(scores(load_student(tmp_path), histories()), scores(student, histories()))


@pytest.mark.parametrize("name", SOLVED)
def test_the_exported_student_gives_the_same_scores(name):
    dataset = checkerboard(n_users=300, n_items=120, events=30)
    n_items = dataset.n_items
    student = solved(name, dataset, **SETTINGS[name])
    graphs = student_graphs(student, ["fp32", "int8"], max_length=14)
    with torch.no_grad():
        for rows, length in ((1, 1), (6, 9), (3, 14)):
            history = histories(n_items, rows, length)
            expected = scores(student, history).numpy()
            for word, close in (("fp32", 1e-6), ("int8", 0.02)):
                session = onnxruntime.InferenceSession(graphs[word].SerializeToString())
                feed = {"history": history.numpy(), "seen": np.full((rows, 1), n_items), "k": np.array([n_items])}
                ids, found = session.run(["ids", "scores"], feed)
                wanted = np.take_along_axis(expected, ids, axis=1)
                assert np.abs(found - wanted).max() <= close * max(1e-9, np.abs(expected).max()), word


def test_settings_that_cannot_be_are_refused():
    for name, wrong in (("ease", {"neighbours": 0}), ("itemknn", {"decay": 0.0}), ("ials", {"steps": 0})):
        with pytest.raises(UserError, match="expected 1 or more"):
            build_student(name, wrong, N, None, 0)
    with pytest.raises(UserError, match="no vectors"):
        student_graphs(solved("ease"), ["fp32", "int8@16"], 14)
