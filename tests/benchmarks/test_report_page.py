"""The HTML page: valid structure, nothing from outside, hostile text stays text, accessible colours."""

import base64
import copy
import hashlib
import re
import time
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from sample_report import SEGMENTS, failed_gate_report, minimal_report, sample_report

from benchmarks.report import to_html
from benchmarks.report.heatmaps import heat_maps, segment_cells
from benchmarks.report.shape import find_model
from benchmarks.report.style import GAIN, HEAT, INK, MUTED, blend

VOID = {"meta", "br", "wbr"}
REPORTS = {"full": sample_report, "minimal": minimal_report, "failed gate": failed_gate_report}


class Page(HTMLParser):
    """Reads a page strictly: every element must be closed in order, every id must be its own."""

    def __init__(self, source):
        super().__init__()
        self.stack, self.tags, self.text, self.raw = [], [], [], {}
        self.feed(source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of <{tag}> is given twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.stack, f"<{tag}/> is closed in itself outside SVG"
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> closes {self.stack[-3:]}"
        self.stack.pop()

    def handle_data(self, data):
        inner = self.stack[-1] if self.stack else ""
        if inner in ("script", "style"):
            self.raw[inner] = self.raw.get(inner, "") + data
        else:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(params=REPORTS)
def page(request):
    return Page(to_html(REPORTS[request.param]()))


def test_document_has_language_title_viewport_and_landmarks(page):
    assert page.all("html")[0]["lang"] == "en"
    assert {"charset": "utf-8"} in page.all("meta")
    assert any(m.get("name") == "viewport" and "width=device-width" in m["content"] for m in page.all("meta"))
    for tag in ("title", "header", "nav", "main", "footer", "h1"):
        found = [attributes for attributes in page.all(tag) if tag != "title" or "id" not in attributes]
        assert len(found) == 1, tag
    for landmark in page.all("section") + page.all("nav"):
        assert landmark.get("aria-label") or landmark.get("aria-labelledby")


def test_headings_never_skip_a_level(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_ids_are_unique_and_every_reference_has_its_target(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = [a["href"] for _, a in page.tags if "href" in a]
    references += ["#" + a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    references += re.findall(r"url\((#[^)]+)\)", " ".join(str(a) for _, a in page.tags))
    assert len(references) > 10
    assert {r[1:] for r in references} <= set(ids)
    assert all(r.startswith("#") for r in references)


def test_nothing_comes_from_outside(page):
    source = to_html(sample_report())
    assert "http:" not in source and "https:" not in source and "//" not in page.raw["style"] + page.raw["script"]
    assert "@import" not in source and "<!ENTITY" not in source
    assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base", "form", "image"}
    assert not any("src" in attributes for _, attributes in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_content_security_policy_knows_the_script(page):
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.raw["script"].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy


def test_tables_have_captions_and_scopes(page):
    assert len(page.all("caption")) == len(page.all("table")) >= 4
    assert page.all("th") and all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    boxes = [attributes for attributes in page.all("div") if attributes.get("class") == "scroll"]
    assert boxes and all(b["role"] == "region" and b["aria-label"] and b["tabindex"] == "0" for b in boxes)


def test_charts_are_labelled_images():
    page = Page(to_html(sample_report()))
    charts = page.all("svg")
    assert len(charts) == 6
    assert all(c["role"] == "img" and c["aria-labelledby"] for c in charts)
    text = " ".join(page.text)
    assert "NDCG@10 against latency. Teacher: 0.2811 at 88.4 ms" in text
    assert "Long-tail exposure" in text and "Validation NDCG@10. Student: from" in text


def test_charts_need_data():
    assert len(Page(to_html(minimal_report())).all("svg")) == 1
    bare = {"models": [{"name": "a", "role": "baseline", "metrics": {"recall@10": 0.1}}]}
    assert Page(to_html(bare)).all("svg") == []


HOSTILE = (
    """</title></style></script><script>alert(1)</script><img src=x onerror=alert(2)> "'&amp; $x_1$ \x00\x1b \ud800"""
)


def poison(value):
    """The same report with hostile text behind every string that is a name or a title."""
    if isinstance(value, dict):
        fixed = {"role"}
        return {key: inner if key in fixed else poison(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [poison(inner) for inner in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_hostile_text_stays_text():
    report = sample_report()
    poisoned = poison(report)
    poisoned["examples"][0]["lists"][HOSTILE] = [HOSTILE]
    poisoned["curves"][HOSTILE] = report["curves"]["student"]
    poisoned["exposure"][HOSTILE] = report["exposure"]["student"]
    poisoned["export_gate"][HOSTILE] = {HOSTILE: HOSTILE}
    poisoned["stages"][HOSTILE] = 1.0
    poisoned["models"].append({**copy.deepcopy(report["models"][0]), "role": 'own" onload="x'})
    source = to_html(poisoned)
    source.encode("utf-8")
    page = Page(source)
    assert len(page.all("script")) == 1 and page.all("img") == []
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    text = "".join(page.text)
    assert text.count("<script>alert(1)</script>") > 50, "hostile titles are shown as they are"
    assert "\x00" not in source and "\x1b" not in source


def test_every_kind_of_model_is_a_labelled_row():
    page = Page(to_html(sample_report()))
    rows = [attributes for attributes in page.all("tr") if "data-model" in attributes]
    assert [r["data-model"] for r in rows] == [
        "teacher",
        "student",
        "student_onnx_fp32",
        "student_onnx_int8",
        "student_without_distillation",
        "popularity",
        "itemknn",
        "ease",
    ]
    assert rows[0]["class"] == "role-teacher" and rows[1]["class"] == "role-student group"


def test_seeds_tell_models_of_one_name_apart():
    report = sample_report()
    report["models"].append({**copy.deepcopy(find_model(report, "student")), "seed": 1})
    text = "".join(Page(to_html(report)).text)
    assert "Student (seed 0)" in text and "Student (seed 1)" in text


def test_examples_mark_what_the_user_chose():
    report = sample_report()
    source = to_html({**report, "examples": report["examples"][:1]})
    page = Page(source)
    chosen = [attributes for attributes in page.all("span") if attributes.get("class") == "hit"]
    lists = report["examples"][0]["lists"].values()
    truth = set(report["examples"][0]["truth"])
    assert len(chosen) == sum(title in truth for titles in lists for title in titles) == 7
    assert "Hits: Teacher 2, Student 2, Undistilled student 3" in "".join(page.text)


def test_page_is_small_and_quick_for_a_large_report():
    report = sample_report()
    for number in range(30):
        model = copy.deepcopy(find_model(report, "student"))
        model.update(name=f"variant_{number}", role="control")
        model["metrics"] = {key: value * (1 - 0.01 * number) for key, value in model["metrics"].items()}
        model["latency_ms"] = {"batch_1": {"p50": 0.02 * 1.3**number, "p99": 0.05 * 1.3**number}}
        report["models"].append(model)
        report["exposure"][model["name"]] = [share ** (1 + number / 30) for share in report["exposure"]["student"]]
    report["examples"] *= 4
    start = time.perf_counter()
    source = to_html(report)
    assert time.perf_counter() - start < 10
    assert len(source.encode()) < 3_000_000


def test_same_report_gives_the_same_page():
    assert to_html(sample_report()) == to_html(sample_report())


def luminance(colour):
    """WCAG 2 relative luminance of #rrggbb."""
    channels = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_enough_contrast():
    style = to_html(minimal_report()).partition("<style>")[2].partition("</style>")[0]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", style.partition("--role:")[0]))
    for name in ("ink", "muted", "accent", "good", "bad"):
        for ground in ("#ffffff", colours["page"], "#e3f3ec"):
            assert contrast(colours[name], ground) >= 4.5, (name, ground)
    assert (colours["ink"], colours["muted"]) == (INK, MUTED)
    for stops in (HEAT, GAIN):
        assert min(contrast(INK, blend(stops, step / 50)) for step in range(51)) >= 4.5


def test_heat_maps_show_each_cell_once_and_the_gain():
    maps = heat_maps(sample_report())
    assert len(maps) == 4
    for name, table in zip(SEGMENTS, maps[:3], strict=True):
        page = Page(table)
        values = [text for text in page.text if re.fullmatch(r"0\.\d{3}", text)]
        assert values == [f"{v:.3f}" for row in SEGMENTS[name] for v in row]
    gains = [text for text in Page(maps[3]).text if re.fullmatch(r"[+−]0\.\d{3}", text)]
    assert gains[0] == "+0.018" and len(gains) == 9
    assert "−0.009" in maps[3] and "−17%" in maps[3]


def test_heat_maps_read_a_flat_list_of_cells():
    report = sample_report()
    expected = segment_cells(report, "teacher")
    flat = [c for row in find_model(report, "teacher")["segments"]["item × user"] for c in row]
    find_model(report, "teacher")["segments"] = flat
    assert segment_cells(report, "teacher") == expected and len(expected) == 9


def test_heat_maps_read_the_table_of_the_ranking_room():
    report = sample_report()
    rows = find_model(report, "teacher")["segments"]["item × user"]
    nested = {row[0]["item"]: {c["user"]: {**c, "ndcg": c["ndcg@10"]} for c in row} for row in rows}
    for row in nested.values():
        for c in row.values():
            del c["ndcg@10"]
    nested["tail"]["low"]["ndcg"] = None
    before = segment_cells(report, "teacher")
    find_model(report, "teacher")["segments"]["item × user"] = nested
    after = segment_cells(report, "teacher")
    assert set(before) - set(after) == {("tail", "low")}
    assert all(after[key]["ndcg@10"] == before[key]["ndcg@10"] for key in after)


def test_export_gate_shows_what_was_kept_and_what_failed():
    report = sample_report()
    report["export_gate"]["int8"].update(
        passed=False, failures=["tail_coverage@10 keeps 0.8 of torch's, at least 0.9 is wanted"]
    )
    source = to_html(report).partition('id="export"')[2].partition("</section>")[0]
    text = "|".join(Page(source.partition(">")[2]).text)
    assert "Passed|Cases|Overlap@10|Identical|Max score error|NDCG@10 kept|Tail coverage@10 kept|Failures" in text
    assert "fp32|yes|940|1.0000|1.0000|3.1e−06|100.0%|100.0%|–" in text
    assert "int8|NO|940" in text and "tail_coverage@10 keeps 0.8" in text
