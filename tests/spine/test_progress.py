"""Messages and progress: the main process alone speaks; bars in a terminal, sparse lines elsewhere."""

import io

import pytest
from rich.console import Console

from distill import progress


@pytest.fixture
def screen(monkeypatch):
    """What is printed, where nothing is a terminal."""
    text = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=text, force_terminal=False, width=100))
    return text


def test_only_the_main_process_speaks(screen, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    progress.say("from the second process")
    assert list(progress.track([1, 2], "work")) == [1, 2]
    monkeypatch.setenv("RANK", "0")
    progress.say("from the first [not markup]")
    monkeypatch.delenv("RANK")
    progress.say("alone")
    assert screen.getvalue() == "from the first [not markup]\nalone\n"


def test_everything_is_yielded_in_order_and_quick_work_is_quiet(screen):
    assert list(progress.track(range(5), "work")) == [0, 1, 2, 3, 4]
    assert list(progress.track((i for i in "ab"), "work")) == ["a", "b"]
    assert list(progress.track([], "work")) == []
    assert screen.getvalue() == ""


def test_slow_work_gets_lines_with_rate_and_time_left(screen, monkeypatch):
    clock = iter([0.0, 10.0, 20.0, 30.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track([1, 2, 3, 4], "fitting", unit="steps")) == [1, 2, 3, 4]
    assert screen.getvalue().splitlines() == [
        "fitting: 2/4 (0.1 steps/s, 20 s left)",
        "fitting: 4/4 (0.1 steps/s, 0 s left)",
    ]


def test_an_unknown_number_of_items(screen, monkeypatch):
    clock = iter([0.0, 100.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track(iter([1]), "reading")) == [1]
    assert screen.getvalue() == "reading: 1/? (0.0 it/s)\n"


def test_a_bar_in_a_terminal(monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=text, force_terminal=True, width=100))
    assert list(progress.track(range(3), "fitting", unit="steps")) == [0, 1, 2]
    assert "fitting" in text.getvalue() and "3/3" in text.getvalue()
