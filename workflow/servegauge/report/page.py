"""A study's page: the question, the answer, how it was measured, and everything that limits the answer.

`render` writes results/report/<study>.html, one self-contained file, and beside it a folder with the figures as SVG and
the comparison as CSV. All numbers come from results/dataset/; the page computes nothing that compare.py did not.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
from markupsafe import Markup, escape

from servegauge import __version__
from servegauge.base.files import whole_file, write_text
from servegauge.base.progress import duration, utc_now
from servegauge.base.text import p_text, quantities, quantity, range_text, ratio_text, share_text
from servegauge.compare import order
from servegauge.compare.compare import compare
from servegauge.compare.results import Comparison
from servegauge.compare.sentences import short, words
from servegauge.compare.verdicts import VERDICTS
from servegauge.contract import flag_registry, metric_registry
from servegauge.contract.columns import Row
from servegauge.contract.metric import TABLE, Statistic
from servegauge.dataset.study_view import SAMPLE_FLAGS, Study, axis_value, by_cause, label, level_text, without
from servegauge.report import provenance_diff
from servegauge.report.allocation_section import allocation
from servegauge.report.capacity_section import searches
from servegauge.report.comparison_section import MOST_ROWS, answers, colour, comparison_csv, families, table
from servegauge.report.economics_section import economics_section
from servegauge.report.figure import FIGURES, PLATFORMS, TRACES, Material
from servegauge.report.figure_style import COLOURS, DARK_COLOURS, STYLE, Drawn
from servegauge.report.figures import figures
from servegauge.report.limits import limits
from servegauge.report.platform_section import PlatformSection, platform_section
from servegauge.report.plots.series import Series
from servegauge.report.published_section import PublishedSection
from servegauge.report.server_section import server_section
from servegauge.report.trace_section import trace_section
from servegauge.report.traced import Traced, baseline_of, of_study, phases_csv, table_csv
from servegauge.traces.phases import ORDER

MOST_CELLS, MOST_NODES = 500, 6
LOAD_AXES = ("prompts", "rate", "concurrency", "burst", "capacity")


def render(results: Path, name: str, out: Path) -> None:
    """Write the report of study `name` to `out`, and its figures and CSV into the folder of the same name."""
    study = Study(results, name)
    comparison = compare(study)
    platforms = platform_section(study, comparison)
    traced = of_study(study)
    drawn = draw(study, comparison, platforms, traced)
    baseline = baseline_of(study, traced)
    failed = [row for row in study.traces if row["status"] != "ok"]
    traces = trace_section(
        traced, baseline, study.probes if traced else [], platforms.by_cell, failed, platforms.shapes
    )
    economics, published = economics_section(study), PublishedSection(study)
    folder = out.with_suffix("")
    for name, figure in drawn.items():
        write_text(folder / f"{name}.svg", figure.standalone)
    write_text(folder / "comparison.csv", comparison_csv(comparison))
    write_text(folder / "phases.csv", phases_csv(traced))
    write_text(folder / "phase-table.csv", table_csv(traced, baseline))
    if published:
        write_text(folder / "expectations.csv", published.csv)
    if economics:
        write_text(folder / "economics.csv", economics.csv)
    context = _context(study, comparison, drawn, platforms)
    context |= {"traces": traces, "economics": economics, "published": published}
    context["allocation"] = allocation(study)
    context["servers"] = server_section(study)
    found = limits(study, platforms.used)
    shown = [one for one in LIMIT_COLUMNS if any(getattr(row.known, one[0]) is not None for row in found)]
    context |= {"limits": found, "limit_columns": shown}
    page = _environment().get_template("report.html.j2").render(context)
    with whole_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


LIMIT_COLUMNS = (  # of `limits.Evidence`, each with its heading and how it is written; shown where something is known
    ("running", "running", _count),
    ("waiting", "waiting", _count),
    ("kv_usage", "KV cache", share_text),
    ("preemptions", "preempted", _count),
    ("utilisation", "GPU utilisation", share_text),
    ("capped", "power-capped", share_text),
    ("node_busy", "node's CPUs busy", share_text),
)


def draw(
    study: Study, comparison: Comparison | None, platforms: PlatformSection, traced: Sequence[Traced] = ()
) -> dict[str, Drawn]:
    """Figure name -> what was drawn; each says in its place when there is nothing to plot."""
    factor, _ = study.factor()
    levels = comparison.levels if comparison else study.levels(factor) if factor else [None]
    material = Material(study, comparison, platforms, Series(factor, levels), traced)
    with mpl.rc_context(STYLE):
        return {name: figure.draw(material, figure) for name, figure in figures().items()}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("servegauge.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        duration=duration,
        range=lambda one: range_text(one.low, one.high),
        quantity=quantity,
        quantities=quantities,
        ratio=ratio_text,
        level=level_text,
        share=share_text,
        p=p_text,
        code=lambda text: Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text)))),
    )
    return environment


def _context(
    study: Study,
    comparison: Comparison | None,
    drawn: Mapping[str, Drawn],
    platforms: PlatformSection,
) -> dict[str, Any]:
    factor, baseline = study.factor()
    return {
        "study": study.row,
        "name": study.name,
        "factor": factor,
        "baseline": baseline,
        "levels": comparison.levels if comparison else [],
        "method": method(study),
        "answers": answers(comparison),
        "notes": comparison.notes if comparison else [],
        "families": families(comparison),
        "meanings": VERDICTS,
        "in_short": short,
        "colour_of": colour,
        "in_words": lambda one: words(one, comparison.margin) if comparison else "",
        "comparison": comparison,
        "table": table(comparison),
        "order": order.pairs(comparison.sides, study.node_of) if comparison else [],
        "figures": _inline(drawn, FIGURES),
        "platform_figures": [one for one in _inline(drawn, PLATFORMS) if not one[0].empty],
        "trace_figures": [one for one in _inline(drawn, TRACES) if not one[0].empty],
        "phase_names": ORDER,
        "statuses": Counter(row["status"] for row in study.everything),
        "problems": by_cause(row for row in study.everything if row["status"] in ("failed", "skipped", "planned")),
        "flags": flag_table(study),
        "sample_flags": SAMPLE_FLAGS,
        "instrument": instrument(study),
        "cells": study.cells[:MOST_CELLS],
        "columns": _columns(study),
        "cells_left_out": max(0, len(study.cells) - MOST_CELLS),
        "slos": study.slos,
        "searches": searches(study),
        "looks": study.own("looks"),
        "label": lambda row: label(without(row, factor)),
        "level_of": lambda row: axis_value(row, factor) if factor else "",
        "provenance": _provenance(study, comparison),
        "platforms": platforms,
        "colours": list(zip(COLOURS, DARK_COLOURS, strict=True)),
        # Where they are in a repository; a page must not depend on where its dataset was copied to.
        "results": "results",
        "folder": f"results/report/{study.name}",
        "most_rows": MOST_ROWS,
        "made_utc": utc_now(),
        "version": __version__,
    }


def _inline(drawn: Mapping[str, Drawn], section: str) -> list[tuple[Drawn, Markup]]:
    """The figures of a section of the page, each with its SVG for the page."""
    wanted = [name for name, figure in figures().items() if figure.section == section]
    shown = [name for name in wanted if name in drawn and not (figures()[name].only_if_drawn and drawn[name].empty)]
    return [(drawn[name], Markup(drawn[name].inline)) for name in shown]


def _columns(study: Study) -> list[tuple[Statistic, str, str]]:
    """What the table of cells shows: each statistic that some cell has, with the columns of its interval."""
    found = []
    for one in study.metrics:
        if TABLE in one.views and any(row.get(one.column) is not None for row in study.cells):
            metric = metric_registry.metrics().get(one.family or "")
            which = one.name.removeprefix(f"{one.family}_")
            low, high = (metric.column_of(f"{which}_{end}") if metric else "" for end in ("low", "high"))
            found.append((one, low, high))
    return found


# -- words and numbers --------------------------------------------------------


def method(study: Study) -> list[str]:
    """How it was measured, in a few sentences."""
    rows = [row for row in study.cells if row["status"] != "skipped"] or study.cells
    loads = [json.loads(row["load"]) for row in rows]

    def names(column: str) -> str:
        found = {row[column] for row in rows}
        return ", ".join(str(level) for level in study.levels(column) if level in found)

    def numbers(name: str) -> str:
        found = [f"{value:g}" for value in sorted({load[name] for load in loads if load.get(name) is not None})]
        return " to ".join((found[0], found[-1])) if len(found) > 6 else ", ".join(found)

    launches, repeats = len({row["launch"] for row in rows}), max(row["repeat"] for row in rows)
    kinds = []
    if any(row["rate_rps"] is not None for row in rows):
        processes = ", ".join(dict.fromkeys(row["arrival"] for row in rows if row["rate_rps"] is not None))
        kinds.append(
            f"open loop ({processes}) at {numbers('rate_rps')} requests/s, sent on time whatever the server did"
        )
    if any(row["concurrency"] is not None for row in rows):
        kinds.append(f"closed loop with {numbers('concurrency')} stream{'s' * (numbers('concurrency') != '1')}")
    if any(row["capacity"] is not None for row in rows):
        shares = ", ".join(f"{100 * load['capacity']['share']:g} %" for load in loads if load.get("capacity"))
        names_of = ", ".join(dict.fromkeys(row["capacity"] for row in rows if row["capacity"] is not None))
        kinds.append(
            f"searches for the highest open-loop rate at which {' or '.join(dict.fromkeys(shares.split(', ')))} of the "
            f"requests surely meet {names_of}"
        )
    if any(row["burst"] is not None for row in rows):
        kinds.append(f"bursts of {numbers('burst')} requests at once, {numbers('bursts')} times, on an idle server")
    size = [f"{numbers('requests')} requests"] if numbers("requests") else []
    size += [f"{numbers('duration_s')} s"] if numbers("duration_s") else []
    sentence = "; ".join(kinds)  # not `capitalize`, which makes the names of SLOs small
    return [
        f"{launches} launches (fresh servers) of {names('framework')} serving {names('model')} on {names('platform')}, "
        f"{repeats} repeat{'s' * (repeats != 1)} of each, with the prompt sets {names('prompts')}{_when(study)}.",
        f"{sentence[:1].upper()}{sentence[1:]}. Each cell is {' or '.join(size) or 'a window'} after "
        f"{numbers('warmup_requests')} requests of warm-up at temperature {numbers('temperature')}, from a workload "
        "that was frozen beforehand and is byte for byte the same on every side of the comparison.",
    ]


def _when(study: Study) -> str:
    """`, measured 2026-11-26 to 2026-11-27 on node0`; what is not known is left out."""
    days = sorted({row["started_utc"][:10] for row in study.ok if row["started_utc"]})
    nodes = sorted({node for row in study.ok if (node := study.node_of(row))})
    when = f", measured {' to '.join(dict.fromkeys((days[0], days[-1])))}" if days else ""
    where = ", ".join(nodes) if len(nodes) <= MOST_NODES else f"{len(nodes)} nodes"
    return f"{when} on {where}" if days and nodes else when


def flag_table(study: Study) -> list[dict[str, Any]]:
    """Per flag: what raises it, and each cell that has it with value, threshold and detail; sample sizes last."""
    declared = flag_registry.flags()
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in study.ok:
        for flag in json.loads(row["flag_details"] or "[]"):
            found[flag["flag"]].append({**flag, "row": row})
    cells = {flag: len({one["row"]["cell"] for one in rows}) for flag, rows in found.items()}
    return [
        {"flag": flag, "declared": declared.get(flag), "rows": found[flag][:MOST_CELLS], "count": cells[flag]}
        for flag in sorted(found, key=lambda name: (name in SAMPLE_FLAGS, name))
    ]


def instrument(study: Study) -> list[dict[str, Any]]:
    """Per condition: the largest of the instrument's errors among its cells, beside the smallest median TTFT."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in study.ok:
        load = {axis: value for axis, value in row["axes"].items() if axis in LOAD_AXES}
        groups[label(load)].append(row)

    def worst(rows: Sequence[Row], column: str) -> float | None:
        return max((row[column] for row in rows if row[column] is not None), key=abs, default=None)

    columns = {which: f"instrument_{which}_error_s" for which in ("ttft_p50", "ttft_p99", "itl_p99", "e2e_p99")}
    columns |= {"lateness_p99": "lateness_p99_s", "cpu": "instrument_cpu_s"}
    found = []
    for condition, rows in groups.items():
        one: dict[str, Any] = {name: worst(rows, column) for name, column in columns.items()}
        medians = [row["ttft_p50_s"] for row in rows if row["ttft_p50_s"]]
        known = one["ttft_p50"] is not None and medians
        found.append({**one, "condition": condition, "share": abs(one["ttft_p50"]) / min(medians) if known else None})
    return found


# -- provenance ---------------------------------------------------------------


def _provenance(study: Study, comparison: Comparison | None) -> dict[str, Any]:
    """Facts by level of the compared factor, from the attempts that measured the cells."""
    factor = comparison.factor if comparison else None
    levels = comparison.levels if comparison else [None]
    wanted: dict[tuple[str, int], int] = {}
    keys = [json.dumps(level, sort_keys=True) for level in levels]
    for row in study.ok:
        wanted[(row["launch"], row["attempt"])] = (
            keys.index(json.dumps(axis_value(row, factor), sort_keys=True)) if factor else 0
        )
    records: list[list[dict[str, Any]]] = [[] for _ in levels]
    for attempt in study.attempts:
        place = wanted.get((attempt["launch"], attempt["attempt"]))
        if place is not None:
            records[place].append(provenance_diff.record_of(attempt))
    return {"levels": levels, "found": provenance_diff.between(records)}
