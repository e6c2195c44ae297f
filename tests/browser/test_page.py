"""The report in a real browser: nothing overflows, links lead somewhere, labels do not overlap, nothing is fetched."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from servegauge.dataset.merge import merge, read
from servegauge.report.page import render
from tests import synthetic, trace_results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = os.environ.get("SERVEGAUGE_REQUIRE_BROWSER") == "1"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--virtual-time-budget=5000",
)  # fmt: skip
WIDTHS = {"narrow": 390, "tablet": 820, "wide": 1440}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM and not REQUIRED, reason="there is no Chromium here (apt-get install chromium)"),
]

# Runs at the end of the page; sends what it found to the page around it.
PROBE = """
<script>
window.addEventListener('load', () => {
  const width = document.documentElement.clientWidth;
  const scrolls = node => {
    for (let at = node; at && at !== document.body; at = at.parentElement)
      if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(at).overflowX)) return true;
    return false;
  };
  const name = node => node.tagName.toLowerCase() + (node.id ? '#' + node.id : '') +
    (node.className && node.className.baseVal === undefined ? '.' + node.className : '') +
    ': ' + (node.textContent || '').trim().slice(0, 60);
  const wide = [...document.body.querySelectorAll('*')].filter(node => {
    if (node.closest('svg') && node.tagName !== 'svg') return false;
    const box = node.getBoundingClientRect();
    return box.width > 0 && box.right > width + 1 && !scrolls(node.parentElement);
  }).map(name);
  const dead = [...document.querySelectorAll('a[href^="#"]')].map(link => link.getAttribute('href'))
    .filter(href => href.length > 1 && !document.getElementById(decodeURIComponent(href.slice(1))));
  const overlaps = [];
  for (const figure of document.querySelectorAll('svg'))
    for (const axis of figure.querySelectorAll('[id^="matplotlib.axis"]')) {
      const boxes = [...axis.querySelectorAll('text')].filter(text => text.textContent.trim())
        .map(text => [text.textContent.trim(), text.getBoundingClientRect()]);
      for (let i = 0; i < boxes.length; i++)
        for (let j = i + 1; j < boxes.length; j++) {
          const [a, b] = [boxes[i][1], boxes[j][1]];
          const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
          const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
          if (x > 1 && y > 1) overlaps.push(boxes[i][0] + ' | ' + boxes[j][0]);
        }
    }
  parent.postMessage(JSON.stringify({
    width, page: document.documentElement.scrollWidth, wide, dead, overlaps,
    cut: [...document.querySelectorAll('.scroll')].filter(node => node.scrollWidth > node.clientWidth + 1)
      .map(node => node.closest('section').id),
    links: document.querySelectorAll('a[href^="#"]').length,
    contents: (document.querySelector('nav') || document.body).getBoundingClientRect().height,
    smallest: Math.min(...[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height)
      .filter(height => height > 0)),
    texts: document.querySelectorAll('svg text').length,
    fetched: performance.getEntriesByType('resource').map(entry => entry.name),
  }), '*');
});
</script>
"""
AROUND = """<!doctype html><title>around</title>
<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>
<pre id="found"></pre><script>
addEventListener('message', event => {{ document.getElementById('found').textContent = event.data; }});
</script>"""


def chromium(folder: Path, *arguments: str) -> str:
    assert CHROMIUM, "SERVEGAUGE_REQUIRE_BROWSER=1, and there is no Chromium"
    profile = folder / "profile"
    argv = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a made-up study with a flagged, a failed and a skipped cell, and traces of some."""
    folder = tmp_path_factory.mktemp("browser")
    results = folder / "results"
    doubts = ("node_busy", "cpu_stolen", "generator_limited", "saturated", "workload_exhausted")
    raised = [{"flag": flag, "value": 0.5, "threshold": 0.1, "detail": "made up"} for flag in doubts]
    synthetic.make_results(folder, flags=raised)
    merge(results)
    cells = [row for row in read(results, "cells").to_pylist() if row["repeat"] == 1 and row["concurrency"] == 1]
    for cell in cells:
        if cell["status"] == "ok":
            trace_results.write_trace(results, f"t-{cell['cell']}", cell, trace_results.h100_joined())
    merge(results)
    target = results / "report" / "demo.html"
    render(results, "demo", target)
    return target


def look(page: Path, folder: Path, width: int, *flags: str) -> dict[str, Any]:
    """What the browser finds in the page at this width."""
    text = page.read_text(encoding="utf-8")
    (folder / "page.html").write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    (folder / "around.html").write_text(AROUND.format(width=width), encoding="utf-8")
    dom = chromium(folder, *flags, "--window-size=1600,1000", "--dump-dom", (folder / "around.html").as_uri())
    found = re.search(r'<pre id="found">(.+?)</pre>', dom, re.DOTALL)
    assert found, "the page's script did not report"
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.parametrize("name", WIDTHS)
def test_nothing_overflows_and_links_lead_somewhere(page: Path, tmp_path: Path, name: str) -> None:
    found = look(page, tmp_path, WIDTHS[name])
    assert found["width"] == WIDTHS[name]
    assert found["wide"] == []
    assert found["page"] <= found["width"]
    assert found["links"] > 10
    assert found["dead"] == []


def test_a_narrow_screen_begins_with_the_answer(page: Path, tmp_path: Path) -> None:
    """The table of contents is a line there, not a screen, and labels of figures can be read."""
    found = look(page, tmp_path, WIDTHS["narrow"])
    assert found["contents"] < 100
    assert found["smallest"] > 7


def test_a_laptop_shows_the_whole_comparison(page: Path, tmp_path: Path) -> None:
    """Conditions with many flags leave the ratios their room."""
    cut = look(page, tmp_path, 1280)["cut"]
    assert "comparison" not in cut
    assert "limits" not in cut


def test_axis_labels_do_not_overlap(page: Path, tmp_path: Path) -> None:
    found = look(page, tmp_path, WIDTHS["wide"])
    assert found["texts"] > 50, "the figures' labels are texts"
    assert found["overlaps"] == []


def test_no_request_leaves_the_page(page: Path, tmp_path: Path) -> None:
    assert look(page, tmp_path, WIDTHS["wide"])["fetched"] == []
    text = page.read_text(encoding="utf-8")
    loads = re.findall(r"""(?:\bsrc\s*=\s*["']?|@import\s+|url\(\s*["']?)((?!data:|#)[^"')\s>]+)""", text)
    assert loads == []
    assert re.findall(r"<link\b[^>]*>", text) == []


def test_it_prints(page: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "page.pdf"
    chromium(tmp_path, f"--print-to-pdf={pdf}", page.as_uri())
    assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) >= 3


def test_dark_is_dark(page: Path, tmp_path: Path) -> None:
    """The page follows the reader's system: text is light on dark where that is asked for."""
    text = page.read_text(encoding="utf-8")
    probe = (
        "<script>addEventListener('load', () => { const of = name => getComputedStyle(document.body)[name];"
        "document.body.dataset.seen = of('color') + ' on ' + of('backgroundColor'); });</script></body>"
    )
    (tmp_path / "dark.html").write_text(text.replace("</body>", probe), encoding="utf-8")
    seen = {}
    for scheme, flag in (("light", "1"), ("dark", "0")):
        dom = chromium(
            tmp_path, f"--blink-settings=preferredColorScheme={flag}", "--dump-dom", (tmp_path / "dark.html").as_uri()
        )
        color, _, background = re.search(r'data-seen="([^"]+)"', dom)[1].partition(" on ")
        seen[scheme] = [sum(map(int, re.findall(r"\d+", part)[:3])) for part in (color, background)]
    assert seen["light"][0] < seen["light"][1], "dark text on a light page"
    assert seen["dark"][0] > seen["dark"][1], "light text on a dark page"


def test_the_browser_sees_what_is_wrong(tmp_path: Path) -> None:
    """What the tests above find absent is found where it is present."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<!doctype html><html><body><div id=broad style='width:900px'>broad</div><a href='#nowhere'>x</a>"
        "<svg width=200 height=50><g id='matplotlib.axis_1'><text x=5 y=20>10 ms</text><text x=12 y=20>20 ms</text></g>"
        "</svg><img src='http://127.0.0.1:9/absent.png'></body></html>",
        encoding="utf-8",
    )
    found = look(bad, tmp_path, 390)
    assert any(text.startswith("div#broad") for text in found["wide"])
    assert found["page"] > found["width"]
    assert found["dead"] == ["#nowhere"]
    assert found["overlaps"] == ["10 ms | 20 ms"]
    assert [name for name in found["fetched"] if name.endswith("absent.png")]
