"""A study's page: the question, the answer, how it was measured, and everything that limits the answer.

`render` writes results/report/<study>.html, one self-contained file, and beside it a folder with the figures as SVG and
the comparison as CSV. All numbers come from results/dataset/; the page computes nothing that compare.py did not.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from servegauge import __version__
from servegauge.base.files import whole_file, write_text
from servegauge.base.progress import duration, utc_now
from servegauge.base.text import csv_cell, p_text, quantities, quantity, range_text, ratio_text, share_text
from servegauge.compare import order
from servegauge.compare.compare import compare
from servegauge.compare.results import EXPLORATORY, LEVELS, METHODS, Comparison, Judged, Overall, Ratio
from servegauge.compare.sentences import listed, short, spread, told, words
from servegauge.compare.tables import comparison_rows
from servegauge.compare.verdicts import COLOURS, NOT_COMPARABLE, NOT_JUDGED, VERDICTS
from servegauge.contract import flag_registry, metric_registry
from servegauge.contract.comparison_tables import COMPARISON
from servegauge.contract.metric import CARD, PRIMARY, TABLE, Statistic
from servegauge.dataset import merge
from servegauge.dataset.study_view import SAMPLE_FLAGS, Study, axis_value, by_cause, doubts, label, level_text
from servegauge.report import figure_style, provenance_diff
from servegauge.report.allocation_section import allocation
from servegauge.report.capacity_section import searches
from servegauge.report.drawing import draw
from servegauge.report.economics_section import economics_section
from servegauge.report.figure import FIGURES, PLATFORMS, TRACES
from servegauge.report.figures import figures
from servegauge.report.limits import limits
from servegauge.report.platform_section import PlatformSection, platform_section
from servegauge.report.published_section import PublishedSection
from servegauge.report.server_section import server_section
from servegauge.report.trace_section import trace_section
from servegauge.report.traced import baseline_of, of_study, phases_csv, table_csv
from servegauge.traces.phases import ORDER

MOST_ROWS = 60  # of a table on the page; the rest is in the files that it names
MOST_CELLS = 500


def render(results: Path, name: str, out: Path) -> None:
    """Write the report of study `name` to `out`, and its figures and CSV into the folder of the same name."""
    study = Study(results, name)
    comparison = compare(study)
    platforms = platform_section(study, results, comparison)
    traced = of_study(study)
    drawn = draw(study, comparison, platforms, traced)
    baseline = baseline_of(study, traced)
    failed = [row for row in study.traces if row["status"] != "ok"]
    probes = merge.read(results, "probes").to_pylist() if traced else []
    traces = trace_section(traced, baseline, probes, platforms.by_cell, failed, platforms.shapes)
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
    context = _context(study, comparison, drawn, platforms, results)
    context |= {"traces": traces, "economics": economics, "published": published}
    context["allocation"] = allocation(study)
    context["servers"] = server_section(study)
    context["limits"] = limits(study, platforms.used)
    page = _environment().get_template("report.html.j2").render(context)
    with whole_file(out) as temporary:
        temporary.write_text(page, encoding="utf-8")


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
        count=lambda value: "–" if value is None else f"{value:.3g}",
    )
    return environment


def _context(
    study: Study,
    comparison: Comparison | None,
    drawn: Mapping[str, figure_style.Drawn],
    platforms: PlatformSection,
    results: Path,
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
        "table": _table(comparison),
        "order": order.pairs(comparison.sides, study.node_of) if comparison else [],
        "figures": _inline(drawn, FIGURES),
        "platform_figures": [one for one in _inline(drawn, PLATFORMS) if not one[0].empty],
        "trace_figures": [one for one in _inline(drawn, TRACES) if not one[0].empty],
        "phase_names": ORDER,
        "statuses": Counter(row["status"] for row in study.everything),
        "problems": by_cause(row for row in study.everything if row["status"] in ("failed", "skipped", "planned")),
        "flags": flag_table(study),
        "instrument": instrument(study),
        "cells": study.cells[:MOST_CELLS],
        "columns": _columns(study),
        "cells_left_out": max(0, len(study.cells) - MOST_CELLS),
        "slos": study.slos,
        "searches": searches(study),
        "looks": study.own("looks"),
        "label": lambda row: label({axis: value for axis, value in row["axes"].items() if axis != factor}),
        "level_of": lambda row: axis_value(row, factor) if factor else "",
        "doubts": doubts,
        "provenance": _provenance(study, comparison, results),
        "platforms": platforms,
        "inline": lambda figure: Markup(figure.inline),
        "colours": list(zip(figure_style.COLOURS, figure_style.DARK_COLOURS, strict=True)),
        # Where they lie in a repository; a page must not depend on where its dataset was copied to.
        "results": "results",
        "folder": f"results/report/{study.name}",
        "most_rows": MOST_ROWS,
        "made_utc": utc_now(),
        "version": __version__,
    }


def _inline(drawn: Mapping[str, figure_style.Drawn], section: str) -> list[tuple[figure_style.Drawn, Markup]]:
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


def colour(one: Judged | None) -> str:
    """`better`, `worse`, `same` or `unknown`: colours follow verdicts and nothing else."""
    return "unknown" if one is None else COLOURS.get(one.verdict, "unknown")


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
    said = "; ".join(kinds)  # not `capitalize`, which makes the names of SLOs small
    return [
        f"{launches} launches (fresh servers) of {names('framework')} serving {names('model')} on {names('platform')}, "
        f"{repeats} repeat{'s' * (repeats != 1)} of each, with the prompt sets {names('prompts')}.",
        f"{said[:1].upper()}{said[1:]}. Each cell is {' or '.join(size) or 'a window'} after "
        f"{numbers('warmup_requests')} requests of warm-up at temperature {numbers('temperature')}, from a workload "
        "that was frozen beforehand and is byte for byte the same on every side of the comparison.",
    ]


def answers(comparison: Comparison | None) -> list[dict[str, Any]]:
    """Per level: the quotable sentences of the primary metrics, and a card per headline metric."""
    if not comparison:
        return []
    found = []
    for level in comparison.levels[1:]:
        overall = {one.metric.name: one for one in comparison.overall if one.level == level}
        names = [*comparison.primary, *(one.name for one in comparison.study.shown(CARD))]
        cards = [_card(comparison, overall[name]) for name in dict.fromkeys(names) if name in overall]
        primary = comparison.answers(level)
        if cards or primary:
            said = {"sentences": told(comparison, primary), "doubts": _once(cards, {one.reason for one in primary})}
            found.append({"level": level, "cards": cards, **said})
    return found


def _once(cards: Sequence[Mapping[str, Any]], said: Collection[str | None]) -> list[str]:
    """Why cards have no verdict, but for what is `said`, and what to doubt: each once, with whom it concerns."""
    concerned: dict[str, list[str]] = defaultdict(list)
    for card in cards:
        one = card["one"]
        if one.verdict in (NOT_JUDGED, NOT_COMPARABLE) and one.reason not in said:
            concerned[f"{one.verdict}: {one.reason}"].append(card["title"])
        for warning in one.warnings if one.reason not in one.warnings else ():
            concerned[warning].append(card["title"])
    every = len(cards)
    return [f"{listed(titles) if len(titles) < every else 'All'}: {text}." for text, titles in concerned.items()]


def _card(comparison: Comparison, one: Overall) -> dict[str, Any]:
    ratios = comparison.of(one.metric.name, level=one.level)
    small = sum(not ratio.supported for ratio in ratios)
    within = sum(ratio.within_instrument for ratio in ratios)
    flags = sorted({flag for ratio in ratios for flag in ratio.flags})
    return {
        "title": one.metric.title,
        "one": one,
        "colour": colour(one),
        "words": one.verdict if one.verdict in (NOT_JUDGED, NOT_COMPARABLE) else words(one, comparison.margin),
        "family": one.family,
        "flags": flags,
        "left_out": len(one.left_out),
        "small": small and f"{small} of {len(ratios)} samples too small for it",
        "within": within and f"{within} of {len(ratios)} differences within the instrument's error",
        "range": spread(comparison, one),
    }


# -- tables -------------------------------------------------------------------


def _table(comparison: Comparison | None) -> dict[str, Any]:
    """Metrics of the table across, a row per condition and level; `rest`: every other ratio, a row each."""
    if not comparison:
        return {"metrics": [], "rows": [], "left_out": 0, "rest": [], "rest_left_out": 0}
    tabled = [one for one in comparison.ratios if one.family == TABLE]
    names = {one.metric.name for one in tabled}
    wanted: list[Statistic] = [one for one in comparison.study.metrics if one.name in names]
    by_key: dict[tuple[str, str], dict[str, Ratio]] = defaultdict(dict)
    for one in tabled:
        by_key[(one.condition, level_text(one.level))][one.metric.name] = one
    rows = [
        {
            "condition": comparison.label(condition),
            "level": level,
            "ratios": [(found.get(metric.name), colour(found.get(metric.name))) for metric in wanted],
            "any": next(iter(found.values())),
        }
        for (condition, level), found in by_key.items()
    ]
    rest = [one for one in comparison.ratios if one.family == EXPLORATORY]
    rest.sort(key=lambda one: 2.0 if one.p_adjusted is None else one.p_adjusted)
    others = [
        {"condition": comparison.label(one.condition), "one": one, "colour": colour(one),
         "words": words(one, comparison.margin)}
        for one in rest[:MOST_ROWS]
    ]  # fmt: skip
    return {
        "metrics": wanted,
        "rows": rows[:MOST_ROWS],
        "left_out": max(0, len(rows) - MOST_ROWS),
        "rest": others,
        "rest_left_out": max(0, len(rest) - MOST_ROWS),
    }


def families(comparison: Comparison | None) -> list[str]:
    """How many comparisons each family has, and how it is corrected, in words."""
    if not comparison:
        return []
    names = {PRIMARY: "primary metrics over all conditions", TABLE: "cells of the table"}
    known = [f"{comparison.families[family]} {name} ({METHODS[family]})" for family, name in names.items()]
    rest = comparison.families[EXPLORATORY]
    return [*known, f"{rest} exploratory ratios ({METHODS[EXPLORATORY]} at {100 * LEVELS[EXPLORATORY]:.0f} %)"]


def comparison_csv(comparison: Comparison | None) -> str:
    """Every ratio as CSV, one a line: its axes, then the columns of the table `comparison` of the dataset."""
    out = io.StringIO()
    axes = list(dict.fromkeys(axis for one in comparison.conditions.values() for axis in one)) if comparison else []
    columns = [name for name in COMPARISON.names if name not in ("study", "condition")]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*axes, *columns])
    for row in comparison_rows(comparison):
        condition = json.loads(row["condition"]) if row.get("condition") else {}
        cells = (row.get(column) for column in columns)
        values = [condition.get(axis) for axis in axes]
        values += ["; ".join(one) if isinstance(one, list) else one for one in cells]
        writer.writerow([csv_cell(value) for value in values])
    return out.getvalue()


def flag_table(study: Study) -> list[dict[str, Any]]:
    """Per flag: what raises it, and each cell that has it with value, threshold and detail; sample sizes last."""
    declared = flag_registry.flags()
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in study.ok:
        for flag in json.loads(row["flag_details"] or "[]"):
            found[flag["flag"]].append({**flag, "row": row})
    return [
        {
            "flag": flag,
            "declared": declared.get(flag),
            "rows": rows[:MOST_CELLS],
            "count": len({one["row"]["cell"] for one in rows}),
        }
        for flag, rows in sorted(found.items(), key=lambda item: (item[0] in SAMPLE_FLAGS, item[0]))
    ]


def instrument(study: Study) -> list[dict[str, Any]]:
    """Per condition: the largest of the instrument's errors among its cells, beside the smallest median TTFT."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in study.ok:
        groups[
            label(
                {
                    axis: value
                    for axis, value in row["axes"].items()
                    if axis in ("prompts", "rate", "concurrency", "burst", "capacity")
                }
            )
        ].append(row)

    def worst(rows: Sequence[Mapping[str, Any]], column: str) -> float | None:
        return max((row[column] for row in rows if row[column] is not None), key=abs, default=None)

    found = []
    for condition, rows in groups.items():
        medians = [row["ttft_p50_s"] for row in rows if row["ttft_p50_s"]]
        error = worst(rows, "instrument_ttft_p50_error_s")
        found.append(
            {
                "condition": condition,
                "ttft_p50": error,
                "share": abs(error) / min(medians) if error is not None and medians else None,
                "ttft_p99": worst(rows, "instrument_ttft_p99_error_s"),
                "itl_p99": worst(rows, "instrument_itl_p99_error_s"),
                "e2e_p99": worst(rows, "instrument_e2e_p99_error_s"),
                "lateness_p99": worst(rows, "lateness_p99_s"),
                "cpu": worst(rows, "instrument_cpu_s"),
            }
        )
    return found


# -- provenance ---------------------------------------------------------------


def _provenance(study: Study, comparison: Comparison | None, results: Path) -> dict[str, Any]:
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
    for attempt in merge.read(results, "attempts").to_pylist():
        place = wanted.get((attempt["launch"], attempt["attempt"]))
        if place is not None:
            records[place].append(provenance_diff.record_of(attempt))
    return {"levels": levels, "found": provenance_diff.between(records)}
