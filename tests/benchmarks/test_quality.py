import numpy as np

from benchmarks.quality import hits_by_item, item_changes
from distill.data.dataset import Lists
from distill.ranking.cases import Cases


def cases():
    """Three users, six items; truths {0, 1}, {1}, {5}."""
    seen = Lists(np.array([0, 1, 2, 3]), np.array([2, 2, 2], np.int32))
    truth = Lists(np.array([0, 2, 3, 4]), np.array([0, 1, 1, 5], np.int32))
    return Cases(np.arange(3), seen, truth, 6, np.array([9, 8, 7, 6, 5, 4]), np.ones(3, np.int64), 3)


TEACHER = np.array([[0, 1, 3], [1, 3, 4], [3, 4, -1]])
STUDENT = np.array([[0, 3, 4], [3, 4, 0], [5, 3, -1]])


def test_hits_are_counted_item_by_item_as_a_loop_does():
    for ranked in (TEACHER, STUDENT):
        expected = [sum(i in ranked[u] and i in cases().truth[u] for u in range(3)) for i in range(6)]
        assert hits_by_item(ranked, cases()).tolist() == expected


def test_losses_and_gains_come_with_titles_and_largest_first():
    found = item_changes(TEACHER, STUDENT, cases(), list("abcdef"))
    assert found["lost"] == [{"title": "b", "popularity": 8, "chosen": 2, "teacher_hits": 2, "student_hits": 0}]
    assert found["gained"] == [{"title": "f", "popularity": 4, "chosen": 1, "teacher_hits": 0, "student_hits": 1}]
    assert found["summary"] == {"items_that_lost": 1, "items_that_gained": 1, "teacher_hits": 3, "student_hits": 2}


def test_a_student_that_ranks_like_the_teacher_lost_nothing():
    found = item_changes(TEACHER, TEACHER, cases(), list("abcdef"))
    assert found["lost"] == [] and found["gained"] == []
