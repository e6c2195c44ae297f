"""The report's section about money and energy: every number of `economics` by condition and level, and as CSV."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from servegauge.base.text import csv_text
from servegauge.compare.costs import Cost, costs
from servegauge.contract.economics import STATISTICS
from servegauge.dataset.study_view import Metric, Study, label, level_text

COLUMNS = ("condition", "level", "metric", "unit")
NUMBERS = ("value", "low", "high", "launches", "reason")


@dataclass
class EconomicsSection:
    """Empty where nothing is known of any measured cell. `rows`: condition, level, and a `Cost` for each metric."""

    metrics: list[Metric] = field(default_factory=list)
    rows: list[tuple[str, str, list[Cost]]] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    missing: list[tuple[str, str, int]] = field(default_factory=list)  # what, why, in how many cells
    csv: str = ""

    def __bool__(self) -> bool:
        return bool(self.metrics)


def economics_section(study: Study) -> EconomicsSection:
    """The section of `study`: what is known of at least one cell, with why the rest is not."""
    section = EconomicsSection(metrics=list(study.economic_metrics))
    if not section.metrics:
        return section
    reasons = {row["cell"]: json.loads(row["reasons"]) for row in study.economics}
    found = costs(study, section.metrics, reasons)
    for place in range(0, len(found), len(section.metrics)):
        these = found[place : place + len(section.metrics)]
        section.rows.append((label(these[0].condition), _level(these[0]), these))
    section.facts = _facts(study)
    known = {one.column: one.title for one in STATISTICS}
    missing = Counter(
        (known[column], why) for row in study.economics for column, why in json.loads(row["reasons"]).items()
        if column in known
    )  # fmt: skip
    section.missing = [(what, why, count) for (what, why), count in missing.items()]
    section.csv = _csv(found)
    return section


def _facts(study: Study) -> list[str]:
    """Where the energy comes from and how well it is known, and the power of an idle server."""
    texts = []
    for source, words in (("counter", "the GPUs' energy counters"), ("power", "sampled power, integrated")):
        errors = [row["energy_error"] for row in study.economics if row["energy_source"] == source]
        if errors:
            known = [error for error in errors if error is not None]
            much = f"; sampling may have missed up to {100 * max(known):.2g} %" if known else ""
            texts.append(f"Energy of {len(errors)} cells is from {words}{much}. It is of the GPUs alone")
    idle = [row["idle_power_w"] for row in study.economics if row["idle_power_w"] is not None]
    if idle:
        texts.append(
            f"An idle server's GPUs drew {min(idle):.3g} to {max(idle):.3g} W a launch, which is within the energy"
        )
    return texts


def _csv(found: Sequence[Cost]) -> str:
    rows = []
    for one in found:
        about = zip(COLUMNS, (label(one.condition), _level(one), one.metric.name, one.metric.unit), strict=True)
        rows.append({**dict(about), **{name: getattr(one, name) for name in NUMBERS}})
    return csv_text((*COLUMNS, *NUMBERS), rows)


def _level(one: Cost) -> str:
    return "" if one.level is None else level_text(one.level)
