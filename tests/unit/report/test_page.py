"""The page: self-contained, complete, escaped, and with the numbers of the comparison."""

from __future__ import annotations

import csv
import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.base.text import quantities, quantity, range_text, ratio_text, share_text
from servegauge.compare.compare import compare
from servegauge.compare.sentences import primary_sentences
from servegauge.contract import tables
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.report import figure_style, page, provenance_diff
from servegauge.report.figure import Material
from servegauge.report.figures import figures
from servegauge.report.platform_section import PlatformSection, platform_section
from servegauge.report.plots import series
from tests import synthetic

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Text, ids, links and addresses of a page; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name == "href":
                self.links.append(value)
            if name in ("src", "srcset", "data", "action") or (
                name in ("href", "xlink:href") and not value.startswith("#")
            ):
                self.outside.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def make(root: Path, requests: int = 400) -> tuple[Path, dict[str, str]]:
    special = synthetic.make_results(root, requests=requests)
    merge.merge(root / "results")
    return root / "results", special


def page_of(results: Path) -> Page:
    page.render(results, "demo", results / "report/demo.html")
    return Page((results / "report/demo.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, str], Page]:
    results, special = make(tmp_path_factory.mktemp("report"))
    return results, special, page_of(results)


def test_the_page_needs_nothing_else(made):
    results, _, page = made
    assert page.outside == []
    html = (results / "report/demo.html").read_text(encoding="utf-8")
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    assert html.count("<svg") == 9


def test_every_link_leads_somewhere_and_ids_are_unique(made):
    _, _, page = made
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_the_answer_is_the_comparisons(made):
    results, _, page = made
    comparison = compare(Study(results, "demo"))
    assert comparison
    primary = [one for one in comparison.overall if one.metric.name in comparison.primary]
    assert len(primary) == 3
    for said in primary_sentences(comparison, primary):
        assert said in page.text
    assert "demonstration: too few repeats for verdicts" in page.text
    assert "Corrected together" not in page.text, "nothing was judged"
    assert "What does it cost to share a CPU with the load generator?" in page.text
    for ratio in comparison.of("e2e_p99"):
        if ratio.low is not None:
            assert f"[{range_text(ratio.low, ratio.high)}]" in page.text


def test_cells_that_failed_were_skipped_or_are_flagged_are_told(made):
    _, special, page = made
    for cell in special.values():
        assert cell in page.text
    assert "the server died: exit status -9 (killed; out of memory?)" in page.text
    assert "the server's context_tokens is 2048" in page.text
    assert "20 of 400 requests failed" in page.text
    assert "23 ok 1 failed 1 skipped of 25 cells" in page.text


def test_how_it_was_measured(made):
    _, _, page = made
    assert "4 launches (fresh servers) of llamacpp serving tiny on own-cpu, shared-cpu, 2 repeats of each" in page.text
    assert "with the prompt sets short, long, measured 2026-11-21." in page.text, "no node is known"
    assert "Open loop (poisson) at 2, 4 requests/s, sent on time" in page.text
    assert "closed loop with 1 stream." in page.text
    assert "400 requests after 4 requests of warm-up at temperature 0" in page.text


def test_the_instruments_error_and_what_differs(made):
    _, _, page = made
    assert "+0.150 ms" in page.text
    assert "virtualization: detect none kvm" in page.text
    assert "8 facts are equal everywhere" in page.text


def test_the_csv_holds_every_ratio(made):
    results, _, _ = made
    with (results / "report/demo/comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    comparison = compare(Study(results, "demo"))
    assert comparison
    assert len(comparison.ratios) == 6 * 13
    assert len(rows) == len(comparison.ratios) + len(comparison.overall)
    row = next(row for row in rows if (row["metric"], row["prompts"], row["rate"]) == ("ttft_p50", "short", "4"))
    assert float(row["ratio"]) == pytest.approx(float(row["value"]) / float(row["base_value"]))


def test_figures_are_well_formed_files_with_fixed_colours_and_inline_with_variables(made):
    results, _, _ = made
    files = sorted(path.name for path in (results / "report/demo").glob("*.svg"))
    expected = ["capacity", "distribution-e2e", "distribution-tpot", "distribution-ttft", "pareto"]
    expected += ["ratios", "roofline", "shift-ttft", "throughput", "tpot", "trace-idle", "trace-phases", "trace-ttft"]
    expected += ["ttft"]
    no_data = (
        "capacity",
        "ratios",
        "roofline",
        "trace-idle",
        "trace-phases",
        "trace-ttft",
    )  # verdicts; nothing measured
    assert files == [f"{name}.svg" for name in expected] == sorted(f"{name}.svg" for name in figures())
    for path in (results / "report/demo").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        ET.fromstring(text)
        assert "#0a0b" not in text
        assert "#01020" not in text
        assert (figure_style.COLOURS[1] in text) == (path.stem not in no_data)
    html = (results / "report/demo.html").read_text(encoding="utf-8")
    assert "#0a0b" not in html
    assert "var(--s1)" in html


def test_a_caption_counts_the_panels_that_its_figure_has_no_room_for(made, monkeypatch):
    study = Study(made[0], "demo")
    comparison = compare(study)
    material = Material(study, comparison, PlatformSection(), series.Series("platform", comparison.levels))
    monkeypatch.setattr(series, "MOST_PANELS", 1)
    wanted = {"shift-ttft": "comparison.csv", "distribution-ttft": "cells.parquet", "ttft": "cells.parquet"}
    for name, where in wanted.items():
        figure = figures()[name]
        drawn = figure.draw(material, figure)
        assert drawn.svg.count('id="axes_') == 1 + (name == "ttft"), "open and closed loop beside each other"
        assert re.search(rf"Only the first 1 \w+ are shown; \d+ more: .*{where}\.$", drawn.caption)


def test_the_same_data_give_the_same_page(made):
    results, _, _ = made

    def without_time() -> str:
        text = (results / "report/demo.html").read_text(encoding="utf-8")
        return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "", text)

    before = without_time()
    page_of(results)
    assert without_time() == before


def test_what_people_write_cannot_break_the_page(tmp_path, no_figures):
    results, special = make(tmp_path, requests=8)
    path = results / "plan/demo.json"
    plan = read_json(path)
    plan["study"]["question"] = "Is <script>alert('x')</script> & co. slower?"
    write_json(path, plan)
    launch = next(cell["launch"] for cell in plan["cells"] if cell["id"] == special["failed"])
    attempt = results / "launches" / launch / "attempt-0.json"
    outcome = read_json(attempt)
    outcome["cells"][special["failed"]]["reason"] = "<b>died</b>\nline two of the log </pre><img src=x>"
    write_json(attempt, outcome)
    merge.merge(results)
    page = page_of(results)
    assert "Is <script>alert('x')</script> & co. slower?" in page.text
    assert "line two of the log </pre><img src=x>" in page.text
    assert page.outside == []


def test_what_every_card_would_say_is_said_once(made):
    _, _, page = made
    answer = page.text.partition("Answer ")[2].partition(" Comparison ")[0]
    assert answer.count("⚑ flagged cells: errors") == answer.count("All: ⚑ flagged cells: errors") == 1
    assert answer.count("× own-cpu") == answer.count("95 % [") == 6, "each card says over what, and what its ends are"


def test_what_limits_the_answer_names_the_command_to_go_on_with(made):
    results, _, _ = made
    html = (results / "report/demo.html").read_text(encoding="utf-8")
    assert "<code>servegauge plan demo</code> says how many it takes." in html
    assert "p99_not_supported" not in html.partition('id="answer"')[0], "sizes of samples are marked where they count"


def test_a_study_without_a_comparison_still_has_a_page(tmp_path):
    results, _ = make(tmp_path, requests=8)
    plan = read_json(results / "plan/demo.json")
    plan["study"].pop("compare")
    plan["study"].pop("slo")
    one = next(launch["id"] for launch in plan["launches"] if launch["platform"]["name"] == "own-cpu")
    plan["cells"] = [cell for cell in plan["cells"] if cell["launch"] == one and not cell["skipped"]]
    write_json(results / "plan/demo.json", plan)
    merge.merge(results)
    page = page_of(results)
    assert "This study compares nothing" in page.text
    assert "Every cell of the study was measured." in page.text


def test_a_study_of_which_nothing_was_measured_still_has_a_page(tmp_path):
    results, _ = make(tmp_path, requests=8)
    for folder in list((results / "cells").iterdir()):
        folder.rename(results / f".{folder.name}")
    merge.merge(results)
    page = page_of(results)
    assert "No condition was measured both on own-cpu and on another platform yet" in page.text
    assert "23 not run yet" in page.text


def test_small_samples_are_marked(tmp_path, no_figures):
    results, _ = make(tmp_path, requests=40)
    page = page_of(results)
    assert "† 6 of 6 samples too small for this quantile" in page.text


def test_an_unknown_study_is_an_error(made):
    results, _, _ = made
    with pytest.raises(UserError, match="holds no study 'other'"):
        page.render(results, "other", results / "report/other.html")
    assert not (results / "report/other.html").exists()


def probe(platform: str, name: str, value: float | None, samples: list[float], **changes):
    row = {"platform": platform, "probe": name, "variant": '{"ranks": 2}', "metric": "busbw", "unit": "GB/s"}
    return {**row, "value": value, "samples": samples, "status": "ok", "started_utc": "2026-11-21T10:00:00Z", **changes}


def test_probes_are_compared_the_farthest_first(made, no_figures):
    results, _, _ = made
    near, far = [10.0, 10.1, 9.9, 10.0, 10.2, 9.8, 10.0], [1.2, 1.21, 1.19, 1.2, 1.22, 1.18, 1.2]
    rows = [
        probe("own-cpu", "gemm", 10.0, near),
        probe("shared-cpu", "gemm", 9.9, [9.9] * 7),
        probe("own-cpu", "all_reduce", 14.0, [value * 1.4 for value in near]),
        probe("shared-cpu", "all_reduce", 1.2, far),
        probe("shared-cpu", "storage", 1.0, [1.0]),
        probe("shared-cpu", "fp8", None, [], status="skipped", reason="no fp8 on this GPU"),
    ]
    path = results / "dataset/probes.parquet"
    kept = path.read_bytes()
    pa.parquet.write_table(tables.from_rows(rows, tables.PROBES), path)
    found = platform_section(Study(results, "demo"), compare(Study(results, "demo")))
    page = page_of(results)
    path.write_bytes(kept)
    assert [one.probe for one in found.ratios] == ["all_reduce", "gemm"]
    assert found.ratios[0].ratio == pytest.approx(1.2 / 14)
    assert [row["probe"] for row in found.not_run] == ["fp8"]
    assert "0.09" in page.text
    assert "no fp8 on this GPU" in page.text


def test_facts_are_sorted_by_where_they_differ():
    def record(governor: str, port: int, host: str) -> dict:
        groups = {"cpu": {"value": {"governor": governor, "cores": 2}, "source": "sysfs", "reason": None}}
        groups["port"] = {"value": port, "source": "x", "reason": None}
        groups["node"] = {
            "value": {"name": {"value": host, "source": "s", "reason": None}},
            "source": "",
            "reason": None,
        }
        servers = [{"argv": ["serve", "--port", str(port), "-c", "2048"], "ready_s": port / 7}]
        groups["servers"] = {"value": servers, "source": "launch", "reason": None}
        groups["gpu"] = {"value": None, "source": "smi", "reason": "no GPU"}
        return {"provenance": groups}

    base = [record("performance", 1, "n1"), record("performance", 2, "n1")]
    other = [record("powersave", 3, "n2"), record("powersave", 4, "n2")]
    found = provenance_diff.between([base, other])
    assert [(fact.name, fact.values) for fact in found.differ] == [
        ("cpu: governor", ("performance", "powersave")),
        ("node: name", ("n1", "n2")),
    ]
    assert (found.vary[0].name, found.vary[0].values) == ("port: all", ("1; 2", "3; 4"))
    assert [fact.name for fact in found.vary] == ["port: all", "servers: 0.ready_s"]
    assert ("servers: 0.argv", ("serve --port PORT -c 2048",) * 2) in [(one.name, one.values) for one in found.equal]
    assert ("gpu: all", ("not known: no GPU", "not known: no GPU")) in [(one.name, one.values) for one in found.equal]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0134, "s", "13.4 ms"),
        (0.000142, "s", "0.142 ms"),
        (0.0000142, "s", "14.2 µs"),
        (-0.00015, "s", "-0.150 ms"),
        (12.34, "s", "12.3 s"),
        (1.5, "s", "1.50 s"),
        (0.0, "s", "0 ms"),
        (None, "s", "–"),
        (3.98765, "1/s", "3.99 /s"),
        (12345.6, "tokens/s", "12 346 tokens/s"),
    ],
)
def test_quantities_have_three_digits_and_a_unit(value, unit, text):
    assert quantity(value, unit).replace("\u202f", " ").replace("\xa0", " ") == text


def test_two_quantities_share_a_unit():
    assert quantities((0.0133, 0.017), "s", " → ") == "13.3 → 17.0 ms"
    assert quantities((None, 0.017), "s", " → ") == "– → 17.0 ms"
    assert [ratio_text(value) for value in (1.004, 1.32, 0.96, 12.0, None)] == ["1.004", "1.32", "0.960", "12.0", "–"]
    assert share_text(0.0113) == "1.13 %"


def test_no_nan_and_no_placeholder_reaches_the_page(made):
    _, _, page = made
    assert not re.search(r"\b(nan|None|inf|undefined)\b", page.text)
    assert not any(math.isnan(float(word)) for word in re.findall(r"\d+\.\d+", page.text))
    assert json.dumps(page.text)


def test_the_ends_of_an_interval_are_told_apart():
    assert range_text(1.0994, 1.1006) == "1.099, 1.101"
    assert range_text(1.10012, 1.10023) == "1.1001, 1.1002"
    assert range_text(0.93, 1.2) == "0.93, 1.20"
    assert range_text(None, 1.2) == "–"
