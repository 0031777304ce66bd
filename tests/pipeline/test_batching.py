"""When a student is trained on windows or by rows, and when that is refused."""

import pytest
import torch

from distill.batching import read_by_rows, windows_of
from distill.config import Loss, from_tree
from distill.contracts.worlds import checkerboard
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


def test_contexts_one_by_one_are_the_default():
    assert windows_of(config(), recipe_of(config(), CONTROL), checkerboard()) is None


def test_windows_hold_every_labelled_context_once():
    dataset, made = checkerboard(), config(windows=4, batch_size=64, max_length=6)
    windows = windows_of(made, recipe_of(made, CONTROL), dataset)
    assert windows is not None and (windows.width, windows.length, windows.shuffle) == (4, 6, None)
    found = batches(made.control_fit, None, 0, 1, windows)
    labels = [windows.batch(numbers)["label"] for numbers in found]
    assert sum(int((label >= 0).sum()) for label in labels) == windows.contexts
    assert abs(len(found) - windows.contexts / 64) <= 1


def test_an_order_drawn_anew_takes_the_seed():
    made = config(windows=4, order="shuffled")
    windows = windows_of(made, recipe_of(made, CONTROL), checkerboard())
    assert windows is not None and windows.shuffle == made.seed


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
        windows_of(made, recipe_of(made, target), checkerboard())


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
