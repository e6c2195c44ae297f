"""Published figures beside the measured ones: as rows for the page, as lines for the terminal, as CSV."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from servegauge.base.text import csv_text, quantity, ratio_text
from servegauge.compare.expectations import Checked, expectations
from servegauge.compare.published import DIFFERS, OUTCOMES, REPRODUCED
from servegauge.compare.tables import expectation_row
from servegauge.contract.comparison_tables import EXPECTATIONS
from servegauge.dataset.study_view import Study

MOST_LINES = 30


class PublishedSection:
    """The published figures of a study; false where it has none. `rows` is what page and terminal show of each."""

    meanings = OUTCOMES

    def __init__(self, study: Study) -> None:
        self.checked = expectations(study)
        self.rows = [_row(one) for one in self.checked]
        self.csv = _csv(study.name, self.checked) if self.checked else ""

    def __bool__(self) -> bool:
        return bool(self.checked)

    def lines(self) -> Iterator[str]:
        """What the end of a run prints of each: published, measured, verdict."""
        if self.rows:
            yield "Published figures:"
        for row in self.rows[:MOST_LINES]:
            line = f"{row['what']}: published {row['published']}, measured {row['measured']}, {row['verdict']}"
            yield from textwrap.wrap(line, 110, initial_indent="  ", subsequent_indent="      ")
        if len(self.rows) > MOST_LINES:
            yield f"  ... and {len(self.rows) - MOST_LINES} more, see the report"
        if self.rows:
            yield ""


def _row(one: Checked) -> dict[str, str]:
    what = ", ".join(filter(None, (one.about, "" if one.where == "everything" else one.where)))
    colours = {REPRODUCED: "same", DIFFERS: "worse"}
    return {
        "what": f"{one.metric} of {what}" if what else one.metric,
        "published": _published(one),
        "measured": _number(one.measured, one),
        "verdict": verdict(one),
        "colour": colours.get(one.outcome.verdict, "unknown"),
        "word": one.outcome.verdict,
        "cite": one.cite + (", stated without a protocol" if one.stated else ""),
        "pair": one.pair.words if one.pair else "",
        "wrong": one.wrong or "",
    }


def verdict(one: Checked) -> str:
    """`reproduced`, `differs by +12.3 %`, `not comparable: own-cpu has no GPU; published on A100`."""
    outcome = one.outcome
    text = outcome.verdict
    if outcome.verdict == DIFFERS and outcome.difference is not None:
        text = f"differs by {100 * outcome.difference:+.1f} %"
    text += f": {outcome.reason}" if outcome.reason else ""
    return text + (" (the published figure is wrong)" if one.wrong else "")


def _published(one: Checked) -> str:
    low, high = _number(one.figure.low, one), _number(one.figure.high, one)
    if one.figure.high > one.figure.low:
        return f"{low} to {high}"
    return low if one.figure.deviation is None else f"{low} ± {_number(one.figure.deviation, one)}"


def _number(value: float | None, one: Checked) -> str:
    return ratio_text(value) if one.kind == "ratio" else quantity(value, one.unit).strip()


def _csv(study: str, checked: Sequence[Checked]) -> str:
    """The rows of the table `expectations` of the dataset."""
    columns = (name for name in EXPECTATIONS.names if name != "study")
    return csv_text(columns, (expectation_row(study, one) for one in checked))
