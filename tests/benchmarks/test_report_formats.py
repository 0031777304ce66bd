"""The report as JSON, CSV, Markdown, LaTeX and in the terminal, and the verdict in words."""

import csv
import io
import json
import math
import re

import pytest
from rich.console import Console
from sample_report import COST, METRICS, QUALITY, failed_gate_report, minimal_report, sample_report

from benchmarks.report import (
    terminal_table,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
    verdict,
    write_report,
)
from benchmarks.report.shape import find_model
from benchmarks.report.tables import best_rows, columns
from benchmarks.report.text import anything, duration, seconds, short_count, size, times
from distill.errors import UserError


def in_terminal(report, width=80):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal_table(report))
    return console.file.getvalue()


FORMATS = {
    "html": to_html,
    "markdown": to_markdown,
    "csv": to_csv,
    "latex": lambda report: to_latex(report).replace(r"\_", "_"),
    "terminal": lambda report: in_terminal(report, width=200),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_model_is_in_every_format(name):
    text = re.sub("<wbr>", "", FORMATS[name](sample_report()))
    for model in QUALITY:
        assert re.search(rf"\b{model}\b", text), f"{model} is missing in {name}"


@pytest.mark.parametrize("name", FORMATS)
def test_missing_optional_keys_are_left_out(name):
    bare = {"models": [{"name": "teacher", "role": "teacher", "metrics": {"ndcg@10": 0.2811}}]}
    for report in (minimal_report(), bare):
        text = FORMATS[name](report)
        assert "0.2811" in text
        assert "None" not in text and "nan" not in text


@pytest.mark.parametrize("name", FORMATS)
def test_unmeasured_numbers_are_dashes_or_empty(name):
    report = sample_report()
    for model in (find_model(report, "student"), find_model(report, "student_onnx_fp32")):
        model["metrics"].update({"tail_ndcg@10": None, "recall@10": math.nan})
        model["intervals"]["tail_ndcg@10"] = [None, None]
        model["latency_ms"] = None
    text = FORMATS[name](report)
    assert "0.2391" not in text and "0.0334" not in text and "412 µs" not in text
    assert "None" not in text and "nan" not in text


def test_csv_round_trip_is_exact():
    report = sample_report()
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(to_csv(report)))}
    assert len(rows) == len(report["models"])
    for model in report["models"]:
        row = rows[model["name"]]
        assert row["role"] == model["role"] and int(row["seed"]) == model["seed"]
        for metric, value in model["metrics"].items():
            low, high = model["intervals"][metric]
            assert (float(row[metric]), float(row[f"{metric}_low"]), float(row[f"{metric}_high"])) == (value, low, high)
        for key in ("parameters", "bytes"):
            assert (int(row[key]) if row[key] else None) == model[key]
        for percentile, value in ((model["latency_ms"] or {}).get("batch_1") or {}).items():
            assert float(row[f"latency_ms.batch_1.{percentile}"]) == value


def test_csv_keeps_awkward_names():
    report = sample_report()
    report["models"][0]["name"] = 'a "quoted", name\nof two lines'
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert rows[0]["name"] == 'a "quoted", name\nof two lines' and len(rows) == len(report["models"])


def test_latex_has_as_many_cells_in_every_row():
    report = sample_report()
    report["models"][0]["name"] = r"50% & more_of #1 {x} \input{y} $a$ ~^"
    text = to_latex(report)
    header = re.search(r"\\begin{tabular}{l(r+)}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == len(report["models"]) + 1
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(header[1])}
    assert r"50\% \& more\_of \#1 \{x\} \textbackslash{}input\{y\} \$a\$ \textasciitilde{}\textasciicircum{}" in text
    assert r"\textbf{0.2811}" in text


def test_markdown_tables_stay_tables():
    report = sample_report()
    hostile = "a|b *c* _d_ `e` [f](g) <script>alert(1)</script>\n| x | y |"
    report["examples"][0]["lists"]["student"][0] = hostile
    report["models"][0]["name"] = "tea|cher`"
    text = to_markdown(report)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) > 10
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block}) == 1, block[0]
    assert "<script>" not in text.replace(r"\<script>", "")


def test_markdown_command_cannot_close_its_fence():
    report = sample_report()
    report["command"] = "distill run x.yaml\n```\n# not a heading"
    assert to_markdown(report).rstrip().endswith("````sh\ndistill run x.yaml\n```\n# not a heading\n````")


def test_terminal_table_fits_80_characters_without_losing_a_number():
    text = in_terminal(sample_report(), width=80)
    assert max(len(line) for line in text.splitlines()) <= 80
    for values in QUALITY.values():
        for value in values[1:]:
            assert f"{value:.4f}" in text
    assert "…" not in text


def test_best_of_each_column():
    report = sample_report()
    models = [m for m in report["models"]]
    best = {c.key: {models[row]["name"] for row in best_rows(c, models)} for c in columns(report)}
    assert best["ndcg@10"] == {"teacher"}
    assert best["gini@10"] == {"student_without_distillation"}, "a lower Gini is more even, so it is the better one"
    assert best["p50"] == {"student_onnx_int8"} and best["bytes"] == {"student_onnx_int8"}
    equal = {n for n, cost in COST.items() if cost[0] == 221_635}
    assert best["parameters"] == equal, "equal numbers are marked alike"


def test_no_best_where_there_is_nothing_to_compare():
    report = {"models": [{"name": n, "role": "baseline", "metrics": {"ndcg@10": 0.1}} for n in "ab"]}
    assert best_rows(columns(report)[0], report["models"]) == set()


def test_write_report_writes_all_files_and_strict_json(tmp_path):
    report = sample_report()
    report["models"][1]["metrics"]["recall@10"] = math.nan
    folder = tmp_path / "new" / "report"
    write_report(report, folder)
    assert sorted(p.name for p in folder.iterdir()) == [f"report.{s}" for s in ("csv", "html", "json", "md", "tex")]
    text = (folder / "report.json").read_text(encoding="utf-8")
    written = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert written["models"][1]["metrics"]["recall@10"] is None
    assert written["verdict"] == verdict(report)
    assert {m["name"] for m in written["models"]} == set(QUALITY)
    assert tuple(written["models"][0]["metrics"]) == tuple(sorted(METRICS))


def test_report_made_again_from_its_json_is_the_same(tmp_path):
    write_report(sample_report(), tmp_path)
    again = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    write_report(again, tmp_path / "again")
    assert json.loads((tmp_path / "again/report.json").read_text(encoding="utf-8")) == again
    # The JSON has its keys in alphabetical order; the tables must not.
    for name in ("report.csv", "report.tex"):
        assert (tmp_path / name).read_text() == (tmp_path / "again" / name).read_text()
    assert in_terminal(again) == in_terminal(sample_report())
    markdown = (tmp_path / "again" / "report.md").read_text()
    assert "| Stratum | Passed | Baseline | Difference | Low | High | p | Users |" in markdown
    assert markdown.index("| head items") < markdown.index("| tail items") < markdown.index("| light users")


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({}, "no 'models'"),
        ({"models": []}, "no 'models'"),
        ({"models": [{"name": "teacher", "role": "teacher"}]}, "teacher of the report lacks metrics"),
        ({"models": [{"role": "teacher", "metrics": {}}]}, "number 0 of the report lacks name"),
    ],
)
def test_a_dict_that_is_no_report_is_refused_with_a_remedy(report, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        write_report(report, tmp_path)
    assert "distill benchmark" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_verdict_of_a_good_run():
    text = verdict(sample_report())
    assert text.startswith("The teacher passes the gate with NDCG@10 0.2811, 0.0299 above EASE (p < 0.001).")
    assert "keeps 97.8% of the teacher's NDCG@10 (0.2750 of 0.2811)" in text
    assert "gains +3.0% over the same student trained without distillation (95% interval +0.8% to +5.1%)" in text
    assert "loses 16.9% to the undistilled student" in text
    assert (
        "student_onnx_int8, it answers in 31.1 µs (p50, batch 1), 5,560× faster than the teacher with the texts" in text
    )
    assert "of the history encoded live (173 ms) and 2,840× faster than with its item vectors cached" in text
    assert "takes 268 kB, 359× smaller" in text and "\n" not in text


def test_failed_gate_is_said_first_everywhere():
    report = failed_gate_report()
    words = "The teacher does NOT pass the gate: its NDCG@10 is 0.0123 below EASE's (p = 0.011)"
    assert verdict(report).startswith(words)
    assert "wins only on these strata: tail items" in verdict(report)
    assert to_markdown(report).splitlines()[2].startswith(words)
    body = to_html(report).partition("<main")[2]
    assert body.index("does NOT pass") < body.index("keeps 97.8%") < body.index("<table")


@pytest.mark.parametrize("unproven", [{"interval": [-0.001, 0.02]}, {"significant": False}])
def test_a_lead_inside_the_noise_is_called_so(unproven):
    report = sample_report()
    report["teacher_gate"].update(unproven)
    assert "a lead inside the noise" in verdict(report)


def test_a_gate_that_was_not_run_is_not_passed():
    report = sample_report()
    del report["teacher_gate"]
    assert verdict(report).startswith("The teacher gate was not run")


def test_a_gain_whose_interval_holds_zero_is_inside_the_noise():
    report = sample_report()
    report["distillation"]["ndcg@10"].update(gain=0.011, gain_interval=[-0.004, 0.026])
    assert "differs by +1.1%, which is inside the noise" in verdict(report)
    assert "gains +1.1%" not in verdict(report)
    assert "inside the noise" in to_html(report).partition("Gain from distillation")[2][:200]
    assert "inside the noise" in to_markdown(report)


def test_speed_and_size_come_from_an_export_that_passed_its_gate():
    report = sample_report()
    report["export_gate"]["int8"]["passed"] = False
    assert "Exported as student_onnx_fp32" in verdict(report)
    for model in report["models"]:
        if model["role"] == "export":
            model["latency_ms"] = {"batch_1": {"p50": 176.8}}
    assert "2.0× slower than with its item vectors cached" in verdict(report)
    del next(model for model in report["models"] if model["name"] == "teacher")["latency_ms"]["live_history"]
    assert "2.0× slower than the teacher, and takes" in verdict(report)


def test_times_of_a_busy_machine_are_called_unreliable_in_the_verdict_itself():
    report = sample_report()
    assert "unreliable" not in verdict(report)
    report["machine"].update(reliable=False, background_load=0.4)
    assert verdict(report).endswith("Others kept 40% of the machine busy meanwhile, so the times are unreliable.")
    assert "UNRELIABLE" in to_html(report) and "UNRELIABLE" in to_markdown(report)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (duration(0.0311), "31.1 µs"),
        (duration(0.99996), "1.00 ms"),
        (duration(2.5), "2.50 ms"),
        (duration(2100), "2.10 s"),
        (size(999), "999 B"),
        (size(999_600), "1.00 MB"),
        (size(96_214_016), "96.2 MB"),
        (short_count(221_635), "222 k"),
        (times(2842.4), "2,840×"),
        (times(8.46), "8.5×"),
        (seconds(59.94), "59.9 s"),
        (seconds(185), "3 min 05 s"),
        (seconds(4321), "1 h 12 min"),
        (anything("share_of_items", 0.7319), "73.2%"),
        (anything("p_value", 0.0001), "< 0.001"),
        (anything("error", 3.1e-6), "3.1e−06"),
        (anything("passed", False), "NO"),
        (anything("interval", [-0.1, 0.2]), "−0.1000 to 0.2000"),
        (anything("users", 1682), "1,682"),
        (anything("margin", math.nan), "–"),
    ],
)
def test_numbers_as_people_read_them(shown, text):
    assert shown == text
