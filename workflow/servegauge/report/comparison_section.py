"""The page's answer: sentences and cards for each level, the table of ratios, and all of them as CSV."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from servegauge.base.text import csv_text
from servegauge.compare.results import EXPLORATORY, LEVELS, METHODS, Comparison, Judged, Overall, Ratio
from servegauge.compare.sentences import listed, primary_sentences, spread, words
from servegauge.compare.tables import comparison_rows
from servegauge.compare.verdicts import COLOURS, NOT_COMPARABLE, NOT_JUDGED
from servegauge.contract.comparison_tables import COMPARISON
from servegauge.contract.metric import CARD, PRIMARY, TABLE, Statistic
from servegauge.dataset.study_view import level_text

MOST_ROWS = 60  # of a table on the page; the rest is in the files that it names


def colour(one: Judged | None) -> str:
    """`better`, `worse`, `same` or `unknown`: colours follow verdicts and nothing else."""
    return "unknown" if one is None else COLOURS.get(one.verdict, "unknown")


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
            doubts = [*_once(cards, {one.reason for one in primary}), *_of_all(cards)]
            sentences = primary_sentences(comparison, primary)
            found.append({"level": level, "cards": cards, "sentences": sentences, "doubts": doubts})
    return found


def _of_all(cards: Sequence[dict[str, Any]]) -> list[str]:
    """Remarks that every card would repeat, taken from the cards."""
    if len(cards) < 2:
        return []
    shared = [one for one in cards[0]["remarks"] if all(one in card["remarks"] for card in cards)]
    for card in cards:
        card["remarks"] = [one for one in card["remarks"] if one not in shared]
    return [f"All: {one}." for one in shared]


def _once(cards: Sequence[Mapping[str, Any]], given: Collection[str | None]) -> list[str]:
    """Why cards have no verdict, but for the reasons `given`, and what to doubt: each once, with its comparisons."""
    concerned: dict[str, list[str]] = defaultdict(list)
    for card in cards:
        one = card["one"]
        if one.verdict in (NOT_JUDGED, NOT_COMPARABLE) and one.reason not in given:
            concerned[f"{one.verdict}: {one.reason}"].append(card["title"])
        for warning in one.warnings if one.low is not None and one.reason not in one.warnings else ():
            concerned[warning].append(card["title"])
    every = len(cards)
    return [f"{listed(titles) if len(titles) < every else 'All'}: {text}." for text, titles in concerned.items()]


def _card(comparison: Comparison, one: Overall) -> dict[str, Any]:
    ratios = comparison.of(one.metric.name, level=one.level)
    left_out, small = len(one.left_out), sum(not ratio.supported for ratio in ratios)
    within = sum(ratio.within_instrument for ratio in ratios)
    flags = sorted({flag for ratio in ratios for flag in ratio.flags})
    remarks = {
        f"{left_out} condition{'s are' if left_out != 1 else ' is'} not judged": left_out,
        f"⚑ flagged cells: {', '.join(flags)}": flags,
        f"† {small} of {len(ratios)} samples too small for this quantile": small,
        f"≈ {within} of {len(ratios)} differences within the instrument's error": within,
    }
    return {
        "title": one.metric.title,
        "one": one,
        "colour": colour(one),
        "words": one.verdict if one.verdict in (NOT_JUDGED, NOT_COMPARABLE) else words(one, comparison.margin),
        "family": one.family,
        "remarks": [text for text, true in remarks.items() if true],
        "range": spread(comparison, one),
    }


def table(comparison: Comparison | None) -> dict[str, Any]:
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
    """How many comparisons each family has, and how it is corrected, in words; empty where nothing was judged."""
    if not comparison or not any(comparison.families.values()):
        return []
    names = {PRIMARY: "primary metrics over all conditions", TABLE: "cells of the table"}
    known = [f"{comparison.families[family]} {name} ({METHODS[family]})" for family, name in names.items()]
    rest = comparison.families[EXPLORATORY]
    return [*known, f"{rest} exploratory ratios ({METHODS[EXPLORATORY]} at {100 * LEVELS[EXPLORATORY]:.0f} %)"]


def comparison_csv(comparison: Comparison | None) -> str:
    """Every ratio as CSV, one a line: its axes, then the columns of the table `comparison` of the dataset."""
    axes = list(dict.fromkeys(axis for one in comparison.conditions.values() for axis in one)) if comparison else []
    columns = [name for name in COMPARISON.names if name not in ("study", "condition")]
    rows = []
    for row in comparison_rows(comparison):
        flat = {name: "; ".join(value) if isinstance(value, list) else value for name, value in row.items()}
        rows.append({**flat, **json.loads(row.get("condition") or "{}")})
    return csv_text([*axes, *columns], rows)
