"""The comparison as tables of the dataset: every number that a verdict rests on, and the parts of the scatter."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.compare.compare import compare
from servegauge.compare.expectations import Checked, expectations
from servegauge.compare.measured import parts
from servegauge.compare.probe_effects import probe_rows, study_probes
from servegauge.compare.results import LEVELS, MARGIN, METHODS, Comparison, Judged, Overall, Ratio
from servegauge.compare.sentences import sentence
from servegauge.compare.variance import limiting
from servegauge.contract.spec import canonical_json
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study, level_text

SHARED = (
    *("ratio", "low", "high", "p", "p_equal", "p_exact", "p_adjusted", "p_equal_adjusted", "family", "family_size"),
    *("verdict", "reason", "pairs", "paired", "deviation", "repeats_needed", "instrument_s"),
)
OF_RATIO = (
    *("value", "base_value", "launches", "base_launches", "unpaired", "requests", "success", "base_success"),
    *("flagged", "base_flagged", "supported"),
)


def write_tables(results: Path) -> list[str]:
    """Write the tables of OF_COMPARISON for every study of the dataset; returns what could not be compared.

    They are a function of the other tables, so they are written whole.
    """
    compared: list[dict[str, Any]] = []
    published: list[dict[str, Any]] = []
    scatter: list[dict[str, Any]] = []
    probes: list[dict[str, Any]] = []
    problems = []
    for name in merge.read(results, "studies")["study"].to_pylist():
        try:
            study = Study(results, name)
            published += map(expectation_row, repeat(name), expectations(study))
            compared += comparison_rows(compare(study))
            scatter += variance_rows(study)
            probes += probe_rows(name, study_probes(study), study.margin or MARGIN)
        except UserError as error:
            problems.append(f"the study {name} is not compared: {error}")
    found = {"comparison": compared, "expectations": published, "variance": scatter, "probe_comparison": probes}
    for table, rows in found.items():
        merge.write(results, table, rows)
    return problems


def comparison_rows(comparison: Comparison | None) -> Iterator[dict[str, Any]]:
    """Rows of COMPARISON: over all conditions first, then condition by condition."""
    if comparison is None:
        return
    for one in (*comparison.overall, *comparison.ratios):
        yield _row(comparison, one)
    yield from comparison_rows(comparison.again)


def _row(comparison: Comparison, one: Judged) -> dict[str, Any]:
    row: dict[str, Any] = {
        "study": comparison.study.name,
        "factor": comparison.factor,
        "baseline": level_text(comparison.baseline),
        "level": level_text(one.level),
        "metric": one.metric.name,
        "unit": one.metric.unit,
        "more_is_better": one.metric.more_is_better,
        "margin": comparison.margin,
        "method": METHODS[one.family] if one.family else None,
        "alpha": LEVELS[one.family] if one.family else None,
        "warnings": list(one.warnings),
        "sentence": sentence(comparison, one),
        **{name: getattr(one, name) for name in SHARED},
    }
    if isinstance(one, Ratio):
        row |= {name: getattr(one, name) for name in OF_RATIO}
        row |= {"condition": canonical_json(comparison.conditions[one.condition]), "conditions": 1}
        row |= {"flags": list(one.flags)}
    elif isinstance(one, Overall):
        row |= {"conditions": one.conditions}
    return row


def expectation_row(study: str, one: Checked) -> dict[str, Any]:
    """The row of EXPECTATIONS of a published figure."""
    names = ("position", "about", "metric", "kind", "unit", "where", "gpu", "cite", "stated", "wrong", "tolerance")
    found, outcome = one.figure, one.outcome
    row = {"study": study, **{name: getattr(one, name) for name in (*names, "measured", "launches")}}
    row |= {"published_low": found.low, "published_high": found.high}
    row |= {"published_deviation": found.deviation, "published_n": found.n}
    row |= {name: getattr(outcome, name) for name in ("verdict", "reason", "difference", "low", "high")}
    if one.pair:
        row |= {"pair_p": one.pair.p, "pair_needed": one.pair.needed, "pair": one.pair.words}
    return row


def variance_rows(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of VARIANCE: one per metric and part."""
    for metric in study.metrics:
        found = parts(study, metric)
        limits = limiting(found)
        for one in found:
            row = {name: getattr(one, name) for name in ("part", "variance", "deviation", "share", "groups", "reason")}
            yield {"study": study.name, "metric": metric.name, **row, "limits": limits}
