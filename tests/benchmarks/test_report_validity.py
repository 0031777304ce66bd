"""The page before independent judges: an HTML validator, and axe in a real browser. Both come from npm.

`npm install --no-save axe-core html-validate` in the repository's root; without them the tests skip and say so.
"""

import functools
import html
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from sample_report import failed_gate_report, minimal_report, sample_report

from benchmarks.report import to_html, write_report

ROOT = Path(__file__).parents[2]
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
REPORTS = {"whole": sample_report, "minimal": minimal_report, "failed gate": failed_gate_report}
SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=20000")
RUN_AXE = """
axe.run(document, {resultTypes: ["violations"]}).then(found => {
  document.title = JSON.stringify(found.violations.map(v => [v.impact, v.id, v.nodes.length, v.nodes[0].html]));
});
"""


@functools.cache
def package(name):
    """The folder of an npm package: the repository's own, or a global one."""
    homes = [ROOT / "node_modules"]
    if shutil.which("npm"):
        found = subprocess.run(["npm", "root", "--global"], capture_output=True, text=True, check=False)
        homes.append(Path(found.stdout.strip() or "nowhere"))
    return next((home / name for home in homes if (home / name).is_dir()), None)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", REPORTS)
def test_axe_finds_nothing_serious(kind, width, tmp_path):
    axe = package("axe-core")
    if axe is None or BROWSER is None:
        pytest.skip("needs Chromium and axe-core (npm install --no-save axe-core)")
    page = to_html(REPORTS[kind]())
    # The page allows no script but its own; for the inspection alone that rule is lifted.
    page, lifted = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    assert lifted == 1
    scripts = f"<script>{(axe / 'axe.min.js').read_text(encoding='utf-8')}</script><script>{RUN_AXE}</script>"
    page = page.replace("<details", "<details open").replace("open open", "open")  # what is folded is inspected too
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", scripts + "</body>"), encoding="utf-8")
    command = [
        BROWSER,
        *SWITCHES,
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        "--dump-dom",
    ]
    dump = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, timeout=180, check=True).stdout
    findings = json.loads(html.unescape(re.search("<title>(.*?)</title>", dump, re.S)[1]))
    assert [finding for finding in findings if finding[0] in ("serious", "critical")] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", REPORTS)
def test_the_page_is_valid_html(kind, tmp_path):
    validator = package("html-validate")
    if validator is None or shutil.which("node") is None:
        pytest.skip("needs node and html-validate (npm install --no-save html-validate)")
    (tmp_path / "page.html").write_text(to_html(REPORTS[kind]()), encoding="utf-8")
    rules = {"root": True, "extends": ["html-validate:standard"]}
    (tmp_path / ".htmlvalidate.json").write_text(json.dumps(rules))
    command = ["node", str(validator / "bin" / "html-validate.mjs"), "--formatter", "json", "page.html"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    found = [(m["ruleId"], m["message"], m["line"]) for part in json.loads(done.stdout) for m in part["messages"]]
    assert found == []


def test_the_report_is_small_and_quickly_made(tmp_path):
    begin = time.process_time()
    write_report(sample_report(), tmp_path)
    assert time.process_time() - begin < 10
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
