"""The published figures of a study (`expects:`) beside what was measured: one row for each, with its verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from servegauge.compare.own_numbers import Entry, Found, Side, Source
from servegauge.compare.published import (
    NOT_COMPARABLE,
    NOT_MEASURED,
    Figure,
    Outcome,
    Pair,
    exactly,
    of_estimate,
    outcome,
    pair,
)
from servegauge.dataset.study_view import Study, label

TOLERANCE = 0.1


@dataclass(frozen=True)
class Checked:
    """One published figure and what became of it. `kind`: value | ratio; `measured` in `unit`, null where it is not."""

    position: int  # of the entry in `expects`
    kind: str
    about: str
    metric: str
    unit: str
    where: str  # the cells, in words
    figure: Figure
    tolerance: float
    cite: str
    outcome: Outcome
    measured: float | None = None
    launches: int | None = None
    pair: Pair | None = None
    gpu: str | None = None
    stated: bool = False
    wrong: str | None = None


def expectations(study: Study) -> list[Checked]:
    """Every published figure of the study, in the order of its file; empty where it has none."""
    asked: list[dict[str, Any]] = json.loads(study.row.get("expects") or "[]")
    if not asked:
        return []
    source = Source(study)
    return [one for position, entry in enumerate(asked) for one in _entry(source, position, entry)]


def _entry(source: Source, position: int, entry: Entry) -> Iterator[Checked]:
    """A value alone; or a value, that it is over, and their ratio; or a ratio alone."""
    over: Mapping[str, Any] = entry.get("over") or {}
    sides = [_side(entry, entry)]
    figures = [_figure(entry)]
    if over:
        both = {name: {**entry.get(name, {}), **over.get(name, {})} for name in ("where", "variant")}
        sides.append(_side({**over, **both}, {"gpu": over.get("gpu", entry.get("gpu")), **over}))
        figures.append(_figure(over))
    shared = {
        "position": position,
        "about": entry.get("about") or "",
        "metric": ": ".join(filter(None, (entry.get("probe") or entry.get("model"), entry["metric"]))),
        "tolerance": entry.get("tolerance", TOLERANCE),
        "cite": entry["cite"],
        "stated": entry.get("stated", False),
        "wrong": entry.get("wrong"),
    }

    def checked(found: Found, figure: Figure, of: Sequence[Side], **about: Any) -> Checked:
        gpu = " / ".join(dict.fromkeys(filter(None, (side.gpu for side in of)))) or None
        judged = _outcome(found, figure, shared["tolerance"], source.unlike(entry, of))
        about |= {"measured": found.value, "launches": found.launches, "gpu": gpu}
        return Checked(**shared, **about, figure=figure, outcome=judged)

    for side, figure in zip(sides, figures, strict=True):
        if figure is not None:
            about = {"kind": "value", "unit": source.unit(entry), "where": side.words}
            yield checked(source.value(entry, side), figure, [side], **about)
    if not over:
        return
    published = None
    ratio = _figure({**entry, "value": entry.get("ratio")})
    if ratio is None and figures[0] is not None and figures[1] is not None:
        ratio, published = figures[0].over(figures[1]), pair(figures[1], figures[0])
    if ratio is None:
        return
    words = f"{sides[0].words} / {label({**over.get('where', {}), **over.get('variant', {})})}"
    yield checked(source.ratio(entry, *sides), ratio, sides, kind="ratio", unit="1", where=words, pair=published)


def _side(entry: Entry, own: Entry) -> Side:
    return Side(entry.get("where", {}), own.get("gpu"), own.get("stands_for") or {}, entry.get("variant", {}))


def _figure(entry: Entry) -> Figure | None:
    if entry.get("value") is None:
        return None
    return Figure.of(entry["value"], entry.get("deviation"), entry.get("n"))


def _outcome(found: Found, figure: Figure, tolerance: float, unlike: str | None) -> Outcome:
    """What the numbers say, unless something else was measured or nothing."""
    if found.value is None:
        verdict, reason = found.refusal or (NOT_MEASURED, "")
        return Outcome(verdict, reason)
    if found.logs is not None:
        judged = outcome(found.logs, figure, tolerance)
    elif found.log is not None:
        judged = of_estimate(found.log, found.launches or 0, figure, tolerance)
    else:
        judged = exactly(found.value, figure, tolerance)
    if unlike:
        return replace(judged, verdict=NOT_COMPARABLE, reason=unlike)
    if found.refusal:
        return replace(judged, verdict=found.refusal[0], reason=found.refusal[1])
    return replace(judged, reason="; ".join(filter(None, (judged.reason, found.note))) or None)
