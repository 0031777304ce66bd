import json

import pytest
from sample_report import sample_report

from benchmarks import publish
from distill.errors import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project folder of the test's own, so that nothing published is touched."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text("<!-- results:start -->old<!-- results:end -->\n")
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "benchmarks" / "results")
    report = sample_report()
    for kept in report["distillation"].values():
        kept.update(seeds=1, student=[0.275], control=[0.267])
    folder = tmp_path / "runs" / "films" / "report"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({**report, "verdict": "A verdict."}))
    return tmp_path


def test_a_published_run_has_its_commit_and_stands_on_the_page_of_results(root):
    assert publish.main([str(root / "runs" / "films")]) == 0
    kept = json.loads((root / "benchmarks" / "results" / "films.json").read_text())
    assert kept["commit"] == "unknown" and kept["command"] == "distill run configs/films.yaml seed=0"
    page = (root / "docs" / "results.md").read_text()
    assert "A verdict." in page and "`student_onnx_int8`" in page and "distill run configs/films.yaml" in page
    assert "Machine: An invented processor, 2 cores. Commit: unknown." in page
    assert "A verdict." in (root / "README.md").read_text()


def test_the_page_is_built_from_what_is_published_alone(root):
    publish.main([str(root / "runs" / "films")])
    before = (root / "docs" / "results.md").read_text()
    (root / "docs" / "results.md").unlink()
    assert publish.main([]) == 0
    assert (root / "docs" / "results.md").read_text() == before


def test_one_runs_table_joins_the_others_and_figures_of_another_kind_are_passed_over(root):
    results = root / "benchmarks" / "results"
    publish.main([str(root / "runs" / "films")])
    older = json.loads((results / "films.json").read_text())
    (results / "books.json").write_text(json.dumps({**older, "verdict": "Another verdict."}))
    (results / "peers.json").write_text(json.dumps({"budget": {"trials": 4}, "rows": []}))
    publish.main([str(root / "runs" / "films")])
    for page in ("README.md", "docs/results.md"):
        text = (root / page).read_text()
        assert 0 < text.index("Another verdict.") < text.index("A verdict.")


def test_an_unknown_table_is_refused_with_the_nearest_name(root):
    publish.main([str(root / "runs" / "films")])
    with pytest.raises(UserError, match=r"no published table 'film'.*films"):
        publish.main(["--again", "film"])
