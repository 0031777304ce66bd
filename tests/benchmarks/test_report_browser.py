"""The page in a real browser: no sideways scrolling at the width of a laptop and of a phone, and sortable columns."""

import html
import json
import re
import shutil
import subprocess

import pytest
from sample_report import sample_report

from benchmarks.report import to_html

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--virtual-time-budget=5000"),
)
# The page lies in a frame of the wanted width, because a window can't be made as narrow as a phone.
WRAPPER = """<!DOCTYPE html><title>waiting</title><body style="margin:0">
<iframe style="width:{width}px;height:800px;border:0" srcdoc="{page}"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const rows = () => [...page.querySelectorAll("table.models tbody tr")].map(row => row.dataset.model);
  const measured = {{
    width: root.clientWidth, needed: root.scrollWidth, before: rows(),
    outside: [...page.querySelectorAll("body *")].filter(e => !e.closest(".scroll, .sections, pre, .hidden, .skip")
      && e.getBoundingClientRect().right > root.clientWidth + 1).map(e => e.tagName + "." + e.className).slice(0, 5),
    boxes: [...page.querySelectorAll(".scroll")].every(box => box.getBoundingClientRect().right <= root.clientWidth),
    chart: Math.min(...[...page.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width)),
  }};
  page.querySelectorAll("table.models thead button")[1].click();
  measured.falling = rows();
  page.querySelectorAll("table.models thead button")[1].click();
  measured.rising = rows();
  document.title = JSON.stringify(measured);
}};
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_its_window_and_sorts(width, tmp_path):
    long = sample_report()
    long["title"] = "A title without any space: " + "x" * 120
    long["examples"][0]["history"][0] = "y" * 200
    file = tmp_path / "page.html"
    file.write_text(WRAPPER.format(width=width, page=html.escape(to_html(long))), encoding="utf-8")
    command = [
        BROWSER,
        *SWITCHES,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,900",
        "--dump-dom",
        file.as_uri(),
    ]
    dump = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(html.unescape(re.search("<title>(.*?)</title>", dump)[1]))
    assert found["width"] in (width, width - 15), "the frame has the wanted width, less a scroll bar"
    assert found["needed"] <= found["width"] and found["outside"] == []
    assert found["boxes"] and found["chart"] >= 300
    assert found["before"][0] == "teacher" and found["before"][-1] == "ease"
    assert found["falling"][:2] == ["teacher", "student"] and found["falling"][-1] == "popularity"
    assert found["rising"][0] == "popularity" and found["rising"][-1] == "teacher"
