"""When a student is trained on windows or by rows, and when that is refused."""

import dataclasses

import pytest
import torch

from distill.batching import read_by_rows, windows_of
from distill.config import Loss, from_tree
from distill.contracts.worlds import checkerboard
from distill.data.dataset import FILE_ORDER, ORDER
from distill.errors import UserError
from distill.objectives.knowledge import Knowledge
from distill.objectives.objective import Objective
from distill.recipes import CONTROL, STUDENT, recipe_of
from distill.train_student import batches
from students.checkpoint import build_student


def knowledge(n_items):
    return Knowledge(4, n_items, 1, torch.zeros(n_items, dtype=torch.int64), torch.full((n_items,), 1 / n_items))


def config(target="control_fit", **fit):
    return from_tree({target: fit, "losses": [{"name": "cross_entropy"}, {"name": "listwise_kl"}]})


def hybrid(**settings):
    return build_student("hybrid_cf", {"dim": 4, **settings}, 24, None, 0)


def read(made, target=CONTROL, student=None):
    return windows_of(made, recipe_of(made, target), checkerboard(), student or hybrid())


def test_contexts_one_by_one_are_the_default():
    assert read(config()) is None


def test_data_without_an_order_are_told_what_reads_them_as_sets(capsys):
    bare = dataclasses.replace(checkerboard(), summary={ORDER: FILE_ORDER})
    windows_of(config(), recipe_of(config(), CONTROL), bare, hybrid())
    assert "control_fit.order=halves with student.decays=[10000]" in " ".join(capsys.readouterr().out.split())
    for made, dataset in ((config(windows=4, order="shuffled"), bare), (config(), checkerboard())):
        windows_of(made, recipe_of(made, CONTROL), dataset, hybrid())
        assert not capsys.readouterr().out


def test_windows_hold_every_labelled_context_once():
    made = config(windows=4, batch_size=64, max_length=6)
    windows = read(made)
    assert windows is not None and (windows.width, windows.length, windows.shuffle) == (4, 6, None)
    found = batches(made.control_fit, None, 0, 1, windows)
    labels = [windows.batch(numbers)["label"] for numbers in found]
    assert sum(int((label >= 0).sum()) for label in labels) == windows.contexts
    assert abs(len(found) - windows.contexts / 64) <= 1


def test_an_order_drawn_anew_takes_the_seed():
    made = config(windows=4, order="shuffled")
    windows = read(made)
    assert windows is not None and windows.shuffle == made.seed


def test_halves_hold_every_event_of_a_user_with_two():
    made = config(order="halves", batch_size=64, max_length=6)
    halves = read(made, student=hybrid(decays=[10_000.0]))
    found = [halves.batch(numbers) for numbers in batches(made.control_fit, None, 0, 1, halves)]
    assert sum(len(batch["label"]) for batch in found) == halves.contexts
    assert (halves.length, halves.seed) == (6, made.seed) and len(found) > 1


@pytest.mark.parametrize(
    ("made", "target", "student", "words"),
    [
        (config(order="halves"), CONTROL, hybrid(), r"forget .* Set student.decays=\[10000\]"),
        (
            config(order="halves"),
            CONTROL,
            build_student("sasrec_small", {"dim": 4}, 24, None, 0),
            "reads no sets. Take mf or hybrid_cf",
        ),
        (config(order="halves"), CONTROL, build_student("neumf", {"decays": [1e4]}, 24, None, 0), "reads no sets"),
        (config(order="halves", compile=True), CONTROL, hybrid(decays=[1e4]), "control_fit.compile"),
        (config("fit", order="halves"), STUDENT, hybrid(decays=[1e4]), "the loss listwise_kl needs contexts one by"),
        (
            from_tree(
                {
                    "control_fit": {"order": "halves"},
                    "control_losses": [{"name": "cross_entropy", "smoothing": 0.1}],
                }
            ),
            CONTROL,
            hybrid(decays=[1e4]),
            "'cross_entropy' doesn't take with these settings",
        ),
    ],
)
def test_what_can_not_be_read_as_halves_is_refused(made, target, student, words):
    with pytest.raises(UserError, match=words):
        read(made, target, student)


@pytest.mark.parametrize(
    ("made", "target", "words"),
    [
        (config(order="shuffled"), CONTROL, r"control_fit\.windows: 32"),
        (config(windows=8, empty_share=0.1), CONTROL, "fit.empty_share"),
        (config("fit", windows=8), STUDENT, "the loss listwise_kl needs contexts one by one"),
        (from_tree({"control_fit": {"windows": 8}, "user_side": {"factor": True}}), CONTROL, "user_side and heads"),
    ],
)
def test_what_needs_contexts_one_by_one_is_refused(made, target, words):
    with pytest.raises(UserError, match=words):
        read(made, target)


@pytest.mark.parametrize(
    ("loss", "optimiser", "processes", "settings", "read"),
    [
        ("sampled_softmax", "rowwise_adagrad", 1, {}, True),
        ("sampled_softmax", "adamw", 1, {}, False),
        ("sampled_softmax", "rowwise_adagrad", 2, {}, False),
        ("cross_entropy", "rowwise_adagrad", 1, {}, False),
    ],
)
def test_rows_are_read_where_optimiser_and_losses_need_no_more(loss, optimiser, processes, settings, read):
    made = from_tree({"control_losses": [{"name": loss}], "control_fit": {"optimiser": optimiser}})
    student = build_student("hybrid_cf", {"dim": 4, **settings}, 24, None, 0)
    objective = Objective(student, [Loss(loss)], knowledge(24))
    read_by_rows(recipe_of(made, CONTROL), objective, processes)
    assert student.by_rows is read


def test_students_without_plain_tables_read_them_whole(capsys):
    made = from_tree({"control_losses": [{"name": "bpr"}], "control_fit": {"optimiser": "rowwise_adam"}})
    student = build_student("sasrec_small", {"dim": 8}, 24, None, 0)
    read_by_rows(recipe_of(made, CONTROL), Objective(student, [Loss("bpr")], knowledge(24)), 1)
    assert not student.by_rows
    assert "reads its whole item tables" in capsys.readouterr().out
