"""Numbers that change during training, and the options of a loss in YAML."""

import pytest

from distill.config import Schedule, from_tree, to_tree
from distill.config.schedule import read_schedule, value_at
from distill.errors import UserError


@pytest.mark.parametrize(
    ("schedule", "progress", "expected"),
    [
        (Schedule(1.0, 0.0), 0.0, 1.0),
        (Schedule(1.0, 0.0), 0.25, 0.75),
        (Schedule(1.0, 0.0), 1.0, 0.0),
        (Schedule(2.0, 4.0, begin=0.5), 0.5, 2.0),
        (Schedule(2.0, 4.0, begin=0.5), 0.75, 3.0),
        (Schedule(2.0, 4.0, end=0.5), 0.9, 4.0),
        (Schedule(0.0, 1.0, shape="cosine"), 0.25, 0.1464466),
        (Schedule(0.0, 1.0, shape="step"), 0.49, 0.0),
        (Schedule(0.0, 1.0, shape="step"), 0.5, 1.0),
        (Schedule(0.0, 1.0, begin=0.3, end=0.3), 0.29, 0.0),
        (Schedule(0.0, 1.0, begin=0.3, end=0.3), 0.3, 1.0),
    ],
)
def test_a_schedule_goes_from_start_to_stop(schedule, progress, expected):
    assert schedule.at(progress) == pytest.approx(expected)


def test_a_plain_number_is_itself_at_any_time():
    assert value_at(0.3, 0.9) == 0.3 and read_schedule(2, "weight") == 2.0


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("much", "expected a number or a schedule"),
        ({"start": 1}, "expected a number or a schedule"),
        ({"start": 1, "stop": 0, "ende": 1}, "did you mean 'end'"),
        ({"start": 1, "stop": "low"}, "'losses.0.weight.stop' is 'low'"),
        ({"start": 1, "stop": 0, "shape": "square"}, "shape"),
        ({"start": 1, "stop": 0, "begin": 0.7, "end": 0.2}, "begin <= end"),
        ({"start": 1, "stop": 0, "end": 3}, "begin <= end"),
    ],
)
def test_a_wrong_schedule_says_what_is_wrong(value, words):
    with pytest.raises(UserError, match=words):
        read_schedule(value, "losses.0.weight")


def test_a_loss_in_yaml_takes_options_schedules_and_its_own_settings():
    tree = {
        "name": "listwise_kl",
        "weight": {"start": 1.0, "stop": 0.1},
        "gate": {"position": 0.2},
        "strata": True,
        "popularity_adjustment": 0.25,
        "teacher": "ease",
        "sharpening": {"start": 1.0, "stop": 3.0, "shape": "cosine"},
        "rest": 0.1,
    }
    loss = from_tree({"losses": [tree]}).losses[0]
    assert (
        loss.weight == Schedule(1.0, 0.1) and loss.strata and loss.teacher == "ease" and loss.gate == {"position": 0.2}
    )
    assert loss.arguments == {"sharpening": Schedule(1.0, 3.0, shape="cosine"), "rest": 0.1}
    written = to_tree(loss)
    assert "balance" not in written and written["weight"]["stop"] == 0.1
    assert from_tree({"losses": [written]}).losses[0] == loss


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"name": "listwise_kl", "balance": "yes"}, "'losses.0.balance' is 'yes'"),
        ({"name": "listwise_kl", "head": "side"}, "one of 'serving', 'auxiliary'"),
        ({"name": "listwise_kl", "shapening": {"start": 1, "stop": 2}}, "did you mean 'sharpening'"),
        ({"name": "listwise_kl", "popularity_adjustment": 0.5}, "strata: true"),
        ({"weight": 1.0}, "needs a 'name'"),
    ],
)
def test_a_wrong_option_of_a_loss_is_refused_before_anything_runs(tree, words):
    with pytest.raises(UserError, match=words):
        from_tree({"losses": [tree]})


def test_control_is_one_of_seven_words():
    assert from_tree({"control": "ease_teacher"}).control == "ease_teacher"
    with pytest.raises(UserError, match="no_kd"):
        from_tree({"control": "none"})
