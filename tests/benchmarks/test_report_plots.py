"""Charts: labels that don't overlap, the Pareto front, coinciding markers, SVG that stands by itself."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from sample_report import sample_report

from benchmarks.report import plots
from benchmarks.report.drawing import merge
from benchmarks.report.labels import place_labels

BOUNDS = (60.0, 40.0, 400.0, 300.0)


def boxes(sizes, places):
    return np.array([[*corner, *(corner + size)] for (corner, _), size in zip(places, sizes, strict=True)])


def overlaps(found):
    return [
        (i, j)
        for i in range(len(found))
        for j in range(i)
        if (np.minimum(found[i, 2:], found[j, 2:]) - np.maximum(found[i, :2], found[j, :2]) > 0).all()
    ]


@pytest.mark.parametrize("seed", range(12))
def test_labels_neither_overlap_nor_leave_the_chart(seed):
    random = np.random.default_rng(seed)
    count = int(random.integers(3, 13))
    centre = random.uniform([120, 100], [340, 240])
    points = np.clip(centre + random.normal(0, 45, (count, 2)), [70, 50], [390, 290])
    sizes = [np.array([random.uniform(30, 110), 13.0]) for _ in range(count)]
    found = boxes(sizes, place_labels(sizes, [p[None] for p in points], points, BOUNDS))
    assert overlaps(found) == []
    assert (found[:, :2] >= np.array(BOUNDS[:2]) - 1e-6).all() and (found[:, 2:] <= np.array(BOUNDS[2:]) + 1e-6).all()


def test_a_lone_label_stands_close_and_covers_nothing():
    point = np.array([[200.0, 150.0]])
    (corner, anchor), *_ = place_labels([(60, 12)], [point], point, BOUNDS)
    nearest = np.clip(point[0], corner, corner + np.array([60, 12]))
    assert 0 < np.hypot(*(nearest - point[0])) <= 8
    assert (anchor == point[0]).all()


def test_a_label_stands_nearer_to_its_own_marker_than_to_another():
    points = np.array([[200.0, 150.0], [222.0, 172.0]])
    sizes = [np.array([150.0, 13.0]), np.array([40.0, 13.0])]
    found = boxes(sizes, place_labels(sizes, [p[None] for p in points], points, BOUNDS))
    for box, own, other in zip(found, points, points[::-1], strict=True):
        away = [np.hypot(*(np.clip(p, box[:2], box[2:]) - p)) for p in (own, other)]
        assert away[0] < away[1]


def test_labels_avoid_a_curve():
    x = np.linspace(80, 380, 200)
    curve = np.column_stack([x, 60 + 200 * (1 - np.exp(-(x - 80) / 60))])
    (corner, _), *_ = place_labels([(90, 13)], [curve[10:190:5]], curve, BOUNDS)
    inside = ((curve > corner) & (curve < corner + np.array([90, 13]))).all(axis=1)
    assert not inside.any()


def test_pareto_front_of_known_points():
    def point(name, x, y):
        return plots.Point(name, "baseline", x, y, None, None)

    points = [point("a", 1, 0.2), point("b", 2, 0.3), point("c", 3, 0.25), point("d", 4, 0.4), point("e", 1, 0.1)]
    assert [p.label for p in plots.pareto(points, lower_x=True)] == ["a", "b", "d"]
    assert [p.label for p in plots.pareto(points, lower_x=False)] == ["d"]


def test_markers_on_each_other_share_a_label():
    places = np.array([[10.0, 10.0], [12.0, 10.0], [50.0, 10.0]])
    names, kept = merge(["Student", "ONNX fp32", "EASE"], places)
    assert names == ["Student / ONNX fp32", "EASE"]
    assert kept.tolist() == [[10.0, 10.0], [50.0, 10.0]]


def test_no_latency_chart_without_latency():
    report = sample_report()
    for model in report["models"]:
        model["latency_ms"] = None
    assert [c.title for c in plots.trade_offs(report)] == ["NDCG@10 against tail coverage", "NDCG@10 against size"]


def test_charts_are_well_formed_and_name_their_models():
    charts = [
        *plots.trade_offs(sample_report()),
        plots.exposure(sample_report()),
        *plots.training_curves(sample_report()),
    ]
    assert len(charts) == 6
    for chart in charts:
        root = ElementTree.fromstring(chart.svg)
        assert root.tag == "svg" and root.find("title").text
        written = {text.text for text in root.iter("text")}
        assert any("Student" in (text or "") for text in written)
        assert not re.search('font-family|DejaVu|metadata|clip-path="url\\(#p', chart.svg)
        assert len(chart.svg) < 60_000


def test_titles_are_not_read_as_formulas():
    report = sample_report()
    report["models"][0]["name"] = r"$\frac{1}$ & <b>"
    (chart, *_) = plots.trade_offs(report)
    assert r"$\frac{1}$ &amp; &lt;b&gt;" in chart.svg


def test_exposure_starts_at_zero_and_keeps_its_end():
    report = sample_report()
    report["exposure"] = {"student": [0.5, 0.75, 1.0], "teacher": [0.0, 1.0], "ease": [], "popularity": None}
    described = ElementTree.fromstring(plots.exposure(report).svg).find("title").text
    # The most popular item alone has half of the student's exposure; a tenth of the way up to the middle adds 5 %.
    assert "Student: 55%" in described and "Teacher: 10%" in described
    assert "EASE" not in described and "Popularity" not in described


def test_curves_skip_rows_that_lack_a_number():
    report = sample_report()
    report["curves"] = {
        "student": [{"step": 1, "loss": 3.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 1.0, "ndcg@10": 0.2}],
        "teacher": [],
    }
    (chart,) = plots.training_curves(report)
    assert chart.title == "Training loss" and "from 3.0000 to 1.0000" in chart.svg


def test_a_chart_holds_the_main_curves_and_no_more_than_it_can_show():
    report = sample_report()
    shares = report["exposure"]["ease"]
    report["exposure"] = {f"variant_{n}": shares for n in range(20)} | {name: shares for name in ("student", "teacher")}
    described = ElementTree.fromstring(plots.exposure(report).svg).find("title").text
    assert "Teacher: " in described and "Student: " in described
    assert described.count("variant_") == plots.MAX_CURVES - 2


def test_endless_names_are_shortened_in_charts():
    report = sample_report()
    report["models"][0]["name"] = "n" * 300
    (chart, *_) = plots.trade_offs(report)
    written = [text.text for text in ElementTree.fromstring(chart.svg).iter("text")]
    assert "n" * 39 + "…" in written


def test_curves_of_the_students_own_log_are_drawn():
    report = sample_report()
    rows = [{"epoch": float(n), "step": 26 * n, "loss": 5.0 - n, "validation": 0.1 * n} for n in (1, 2)]
    report["curves"] = {"student": rows, "student_without_distillation": []}
    accuracy, loss = plots.training_curves(report)
    assert "Student: from 0.1000 to 0.2000" in accuracy.svg and "Student: from 4.0000 to 3.0000" in loss.svg


def test_a_far_worse_model_is_named_below_the_chart():
    coverage, *_ = plots.trade_offs(sample_report())
    assert "Below the chart: Popularity (0.1031 at 0%)." in coverage.note
    root = ElementTree.fromstring(coverage.svg)
    assert "Popularity" not in {text.text for text in root.iter("text")}
    assert "Popularity: 0.1031" in root.find("title").text
    pair = [plots.Point("a", "teacher", 1, 0.4, None, None), plots.Point("b", "baseline", 2, 0.1, None, None)]
    assert plots.in_view(pair) == pair and plots.in_view([]) == []
