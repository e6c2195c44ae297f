"""The published figures of a study (`expects:`) beside what was measured: one row for each, with its verdict.

A number of cells is one number a launch, as in the comparison; that of a probe is its median with the interval of its
samples, so of one run; that of a model is computed from its shape and has no scatter.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from servegauge.compare.conditions import Condition, Row, condition, gives, statistic
from servegauge.compare.measured import NORMAL
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
from servegauge.compare.student import Estimate, combined, estimate
from servegauge.contract.spec import canonical_json
from servegauge.contract.trace_tables import STEP_COLUMNS
from servegauge.dataset import merge
from servegauge.dataset.study_view import Metric, Study, axis_value, label
from servegauge.inputs.model_numbers import MODEL_NUMBERS, model_number
from servegauge.probes import get

TOLERANCE = 0.1
Entry = Mapping[str, Any]


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


@dataclass(frozen=True)
class _Side:
    """Whose number is looked for: axes' values, the GPU that was published on, and what stands in for what."""

    where: Mapping[str, Any]
    gpu: str | None
    stands_for: Mapping[str, Any]
    variant: Mapping[str, Any]  # of a probe


@dataclass(frozen=True)
class _Found:
    """A measured number, or why there is none.

    Its logarithm: `logs`, one a launch, or `log`, an estimate of it; with neither it is exact, without any scatter.
    """

    value: float | None = None
    log: Estimate | None = None
    logs: Sequence[float] | None = None
    launches: int | None = None
    refusal: tuple[str, str] | None = None
    note: str | None = None  # what was left out


def expectations(study: Study) -> list[Checked]:
    """Every published figure of the study, in the order of its file; empty where it has none."""
    asked: list[dict[str, Any]] = json.loads(study.row.get("expects") or "[]")
    if not asked:
        return []
    source = _Source(study)
    return [one for position, entry in enumerate(asked) for one in _entry(source, position, entry)]


def _entry(source: _Source, position: int, entry: Entry) -> Iterator[Checked]:
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
    for side, figure in zip(sides, figures, strict=True):
        if figure is not None:
            found = source.value(entry, side)
            yield Checked(
                **shared, kind="value", unit=source.unit(entry), where=_words(side), figure=figure, gpu=side.gpu,
                outcome=_outcome(found, figure, shared["tolerance"], source.unlike(entry, [side])),
                measured=found.value, launches=found.launches,
            )  # fmt: skip
    if not over:
        return
    told = None
    ratio = _figure({**entry, "value": entry.get("ratio")})
    if ratio is None and figures[0] is not None and figures[1] is not None:
        ratio, told = figures[0].over(figures[1]), pair(figures[1], figures[0])
    if ratio is None:
        return
    found = source.ratio(entry, *sides)
    words = f"{_words(sides[0])} / {label({**over.get('where', {}), **over.get('variant', {})})}"
    gpu = " / ".join(dict.fromkeys(filter(None, (side.gpu for side in sides)))) or None
    yield Checked(
        **shared, kind="ratio", unit="1", where=words, figure=ratio, gpu=gpu, pair=told,
        outcome=_outcome(found, ratio, shared["tolerance"], source.unlike(entry, sides)),
        measured=found.value, launches=found.launches,
    )  # fmt: skip


def _side(entry: Entry, own: Entry) -> _Side:
    return _Side(entry.get("where", {}), own.get("gpu"), own.get("stands_for") or {}, entry.get("variant", {}))


def _figure(entry: Entry) -> Figure | None:
    if entry.get("value") is None:
        return None
    return Figure.of(entry["value"], entry.get("deviation"), entry.get("n"))


def _outcome(found: _Found, figure: Figure, tolerance: float, unlike: str | None) -> Outcome:
    """What the numbers say, unless something else was measured or nothing."""
    if found.value is None:
        verdict, reason = found.refusal or (NOT_MEASURED, "")
        return Outcome(verdict, reason)
    if found.logs is not None:
        told = outcome(found.logs, figure, tolerance)
    elif found.log is not None:
        told = of_estimate(found.log, found.launches or 0, figure, tolerance)
    else:
        told = exactly(found.value, figure, tolerance)
    if unlike:
        return replace(told, verdict=NOT_COMPARABLE, reason=unlike)
    if found.refusal:
        return replace(told, verdict=found.refusal[0], reason=found.refusal[1])
    return replace(told, reason="; ".join(filter(None, (told.reason, found.note))) or None)


class _Source:
    """Where measured numbers come from: the study's cells, its platforms' probes, its models' shapes."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.metrics = {metric.name: metric for metric in study.metrics}
        self.probes = merge.read(study.results, "probes").to_pylist()
        platforms = study.own("study_platforms")
        self.gpus = {row["platform"]: (json.loads(row["file"]).get("gpu") or {}).get("name") for row in platforms}
        self.models = {row["model"]: row for row in study.own("study_models")}

    def unit(self, entry: Entry) -> str:
        if entry.get("model"):
            return MODEL_NUMBERS[entry["metric"]]
        if entry.get("phase"):
            return "s"
        if entry.get("probe"):
            return get(entry["probe"]).units[entry["metric"]]
        metric = self.metrics.get(entry["metric"])
        return metric.unit if metric else ""

    def unlike(self, entry: Entry, sides: Sequence[_Side]) -> str | None:
        """What was measured in place of what was published; null where it is the same as far as anyone can tell."""
        if entry.get("model"):
            return None
        told: dict[str, None] = {}
        if entry.get("unit_unknown") and len(sides) == 1:
            told["its unit is not published"] = None
        for side in sides:
            for axis, published in side.stands_for.items():
                if entry.get("probe") and axis != "platform":  # a probe serves nothing
                    continue
                own = [side.where[axis]] if axis in side.where else self.study.levels(axis)
                theirs = published if isinstance(published, list) else [published]
                mine, other = (", ".join(label({axis: value}) for value in values) for values in (own, theirs))
                told[f"{mine} in place of {other}"] = None
            if side.gpu:
                for platform in self._platforms(side.where):
                    name = self.gpus.get(platform)
                    if not name:
                        told[f"{platform} has no GPU; published on {side.gpu}"] = None
                    elif not re.search(re.escape(side.gpu), name, re.IGNORECASE):
                        told[f"another GPU: {name} on {platform}, published on {side.gpu}"] = None
        return "; ".join(told) or None

    def _platforms(self, where: Mapping[str, Any]) -> list[str]:
        return [where["platform"]] if "platform" in where else list(self.gpus)

    # -- cells ----------------------------------------------------------------

    def value(self, entry: Entry, side: _Side) -> _Found:
        """The number itself: the geometric mean over launches."""
        if entry.get("model"):
            return self._computed(entry)
        if entry.get("probe"):
            return self._probe(entry, side)
        if entry.get("phase"):
            return self._phase(entry, side.where)
        metric = self.metrics.get(entry["metric"])
        if metric is None:
            why = self._no_cost(entry["metric"])
            return _refused(NOT_MEASURED, why or f"the study has no metric {entry['metric']}")
        rows, why = self._rows(side.where, metric)
        if not rows:
            return _refused(NOT_MEASURED, why)
        refusals = [condition("", {}, None, [row], [row]).refused(metric) for row in rows]
        kept = [row for row, refused in zip(rows, refusals, strict=True) if not refused]
        by_launch: dict[str, list[float]] = defaultdict(list)
        for row in kept or rows:
            number = statistic(self.study, row, metric)
            if number is None and (why := self._no_cost(metric.column, row["cell"])):
                return _refused(NOT_MEASURED, why)
            if number is None or number <= 0 or math.isinf(number):
                return _refused(NOT_COMPARABLE, f"{row['cell']} has no finite value above 0")
            by_launch[row["launch"]].append(math.log(number))
        logs = [math.fsum(one) / len(one) for one in by_launch.values()]
        refusal, left_out = (None if kept else refusals[0]), len(rows) - len(kept)
        note = f"{left_out} of {len(rows)} cells are left out: {_first(refusals)}" if kept and left_out else None
        return _Found(math.exp(math.fsum(logs) / len(logs)), None, logs, len(logs), refusal, note)

    def ratio(self, entry: Entry, one: _Side, base: _Side) -> _Found:
        """`one` over `base`, inside each condition, as the comparison takes it."""
        if entry.get("probe"):
            return self._probe_ratio(entry, one, base)
        if entry.get("phase"):
            return _independent(self._phase(entry, base.where), self._phase(entry, one.where))
        metric = self.metrics.get(entry["metric"])
        if metric is None:
            why = self._no_cost(entry["metric"])
            return _refused(NOT_MEASURED, why or f"the study has no metric {entry['metric']}")
        varied = [axis for axis in {**one.where, **base.where} if one.where.get(axis) != base.where.get(axis)]
        groups: dict[str, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
        for place, side in enumerate((base, one)):
            rows, why = self._rows(side.where, metric)
            if not rows:
                return _refused(NOT_MEASURED, why)
            for row in rows:
                rest = {axis: value for axis, value in row["axes"].items() if axis not in varied}
                groups[canonical_json(rest)][place].append(row)
        pairs = [condition(key, {}, None, *sides) for key, sides in groups.items() if all(sides)]
        if not pairs:
            return _refused(NOT_MEASURED, "no condition was measured on both sides")
        return self._ratio(metric, pairs)

    def _no_cost(self, column: str, cell: str | None = None) -> str | None:
        """Why a column of `economics` is null, in this cell or the first; None where it is none or has a number."""
        rows = (row for row in self.study.economics if cell in (None, row["cell"]))
        return next((told for row in rows if (told := json.loads(row["reasons"]).get(column))), None)

    def _ratio(self, metric: Metric, pairs: Sequence[Condition]) -> _Found:
        refusals = [one.refused(metric) for one in pairs]
        kept = [one for one, refused in zip(pairs, refusals, strict=True) if not refused]
        refusal, left_out = (None if kept else refusals[0]), len(pairs) - len(kept)
        note = f"{left_out} of {len(pairs)} conditions are left out: {_first(refusals)}" if kept and left_out else None
        parts: list[tuple[list[float], list[float], Condition]] = []
        for one in kept or pairs:
            sides = [[statistic(self.study, row, metric) for row in rows] for rows in (one.base, one.other)]
            if any(value is None or value <= 0 or math.isinf(value) for side in sides for value in side):
                return _refused(NOT_COMPARABLE, "a side has no finite value above 0: too many requests failed")
            base, other = ([math.log(value) for value in side if value is not None] for side in sides)
            parts.append((base, other, one))
        if all(one.paired for *_, one in parts):
            by_repeat: dict[int, list[float]] = defaultdict(list)
            for base, other, one in parts:
                for row, below, above in zip(one.base, base, other, strict=True):
                    by_repeat[row["repeat"]].append(above - below)
            logs = [math.fsum(one) / len(one) for one in by_repeat.values()]
            return _Found(math.exp(math.fsum(logs) / len(logs)), None, logs, len(logs), refusal, note)
        fewest = min(min(len(base), len(other)) for base, other, _ in parts)
        means = [math.fsum(other) / len(other) - math.fsum(base) / len(base) for base, other, _ in parts]
        value = math.exp(math.fsum(means) / len(means))
        if fewest < 2:
            return _Found(value, None, [math.log(value)], 1, refusal, note)
        each = [combined((estimate(base), estimate(other)), (-1.0, 1.0)) for base, other, _ in parts]
        return _Found(value, combined(each, [1 / len(each)] * len(each)), None, fewest, refusal, note)

    def _rows(self, where: Mapping[str, Any], metric: Metric) -> tuple[list[Row], str]:
        """Measured cells that fit and give the metric, or why there are none."""
        asked = [row for row in self.study.cells if _fits(row, where) and gives(row, metric)]
        rows: list[Row] = [row for row in asked if row["status"] == "ok"]
        if rows or not asked:
            return rows, f"the study has no cell with {label(where)}"
        row = asked[0]
        return [], (row["reason"] or "not run yet").splitlines()[0]

    # -- probes ---------------------------------------------------------------

    def _probed(self, entry: Entry, side: _Side) -> list[dict[str, Any]]:
        """The newest row of each variant that fits."""
        found: dict[str, dict[str, Any]] = {}
        for row in sorted(self.probes, key=lambda row: row["started_utc"] or ""):
            variant = json.loads(row["variant"] or "{}")
            if (
                (row["probe"], row["metric"]) == (entry["probe"], entry["metric"])
                and side.where.get("platform", row["platform"]) == row["platform"]
                and all(variant.get(name) == value for name, value in side.variant.items())
            ):
                found[canonical_json(variant)] = row
        return list(found.values())

    def _probe(self, entry: Entry, side: _Side) -> _Found:
        rows = self._probed(entry, side)
        if not rows:
            whole = _Side({"platform": side.where["platform"]} if "platform" in side.where else {}, None, {}, {})
            skipped = self._probed({**entry, "metric": "any"}, whole)  # the probe as a whole could not run there
            why = f"the probe {entry['probe']} has no such number with {_words(side)} (yet)"
            return _refused(NOT_MEASURED, skipped[0]["reason"] if skipped else why)
        measured = [row for row in rows if row["status"] == "ok" and row["value"]]
        if not measured:
            return _refused(NOT_MEASURED, rows[0]["reason"] or rows[0]["status"])
        row = (min if _is_time(measured[0]) else max)(measured, key=lambda one: float(one["value"]))
        note = f"the best of {len(measured)} variants: {row['variant']}" if len(measured) > 1 else None
        if not row["low"] or not row["high"]:
            return _Found(row["value"], None, [math.log(row["value"])], 1, None, note)
        error = (math.log(row["high"]) - math.log(row["low"])) / (2 * NORMAL)
        samples = len(row["samples"] or ())
        return _Found(
            row["value"], Estimate(math.log(row["value"]), error, max(1, samples - 1)), None, samples, None, note
        )

    def _probe_ratio(self, entry: Entry, one: _Side, base: _Side) -> _Found:
        return _independent(self._probe(entry, base), self._probe(entry, one))

    # -- traces ---------------------------------------------------------------

    def _phase(self, entry: Entry, where: Mapping[str, Any]) -> _Found:
        """The median step of each trace, over traces: each is of a launch of its own."""
        columns = STEP_COLUMNS[entry["phase"]][entry["metric"]]
        phase = "prefill" if entry["phase"] == "sampling" else entry["phase"]
        fitting = {row["cell"] for row in self.study.cells if _fits(row, where)}
        traces = [row for row in self.study.traces if row["cell"] in fitting]
        logs = []
        for row in traces:
            if row["status"] != "ok":
                continue
            steps = [one for one in self.study.trace_tables(row["trace"])["steps"].to_pylist() if not one["cut"]]
            steps = [one for one in steps if one["phase"] == phase and all(one[name] for name in columns)]
            lengths = [one[columns[0]] - sum(one[name] for name in columns[1:]) for one in steps]
            if lengths:
                logs.append(math.log(statistics.median(lengths) / 1e9))
        if not logs:
            told = next((row["reason"] for row in traces if row["reason"]), None)
            return _refused(NOT_MEASURED, told or f"no trace with {label(where)} has such a step (yet)")
        return _Found(math.exp(math.fsum(logs) / len(logs)), None, logs, len(logs))

    # -- models ---------------------------------------------------------------

    def _computed(self, entry: Entry) -> _Found:
        row = self.models.get(entry["model"])
        if row is None:
            return _refused(NOT_MEASURED, f"the study has no model {entry['model']}")
        value = model_number(json.loads(row["file"]), json.loads(row["config"] or "null"), entry["metric"])
        if not value:
            return _refused(NOT_MEASURED, f"the shape of {entry['model']} is not known here")
        return _Found(value)


def _is_time(row: Mapping[str, Any]) -> bool:
    """Whether less is better of a probe's number."""
    return row["unit"] in ("us", "s")


def _words(side: _Side) -> str:
    """`shared-cpu, burst 10, dtype bf16`; the kind of device and of library of a probe go without saying."""
    told = {name: value for name, value in side.variant.items() if name not in ("device", "backend")}
    return label({**side.where, **told})


def _independent(below: _Found, above: _Found) -> _Found:
    """The ratio of two numbers that share nothing."""
    for found in (below, above):
        if found.value is None:
            return found
    value, fewest = (above.value or 0.0) / (below.value or 1.0), min(below.launches or 0, above.launches or 0)
    logs = [
        found.log or (estimate(found.logs) if found.logs and len(found.logs) > 1 else None) for found in (below, above)
    ]
    note = "; ".join(filter(None, (below.note, above.note))) or None
    if logs[0] is None or logs[1] is None:
        return _Found(value, None, [math.log(value)], 1, None, note)
    return _Found(value, combined((logs[0], logs[1]), (-1.0, 1.0)), None, fewest, None, note)


def _first(refusals: Sequence[tuple[str, str] | None]) -> str:
    return next(reason for _, reason in filter(None, refusals))


def _refused(verdict: str, reason: str) -> _Found:
    return _Found(refusal=(verdict, reason))


def _fits(row: Row, where: Mapping[str, Any]) -> bool:
    return all(canonical_json(_plain(axis_value(row, axis))) == canonical_json(_plain(where[axis])) for axis in where)


def _plain(value: Any) -> Any:
    """4.0 as 4: a column of rates holds floating point numbers. An option that is not given is none."""
    if value is None:
        return "none"
    return int(value) if isinstance(value, float) and value.is_integer() else value
