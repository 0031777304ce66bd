"""What the verdict says of a student that no teacher taught."""

from sample_report import sample_report

from benchmarks.report.verdict import verdict


def test_a_student_in_closed_form_is_not_compared_with_itself():
    report = sample_report()
    assert "without distillation" in verdict(report)
    solved = verdict({**report, "closed_form": True})
    assert "is solved in closed form" in solved and "the undistilled student is the same model" in solved
    assert "without distillation" not in solved and "On long-tail items" not in solved
