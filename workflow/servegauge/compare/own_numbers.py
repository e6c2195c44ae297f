"""The measured number that a published figure stands beside: of the study's cells, probes, traces, or a model's shape.

A number of cells is one number a launch, as in the comparison; that of a probe is its median with the interval of its
samples, so of one run; that of a model is computed from its shape and has no scatter.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servegauge.compare.conditions import Condition, condition, gives, statistic
from servegauge.compare.measured import NORMAL
from servegauge.compare.probe_effects import LESS_IS_BETTER
from servegauge.compare.published import NOT_COMPARABLE, NOT_MEASURED
from servegauge.compare.student import Estimate, combined, estimate
from servegauge.contract.columns import Row
from servegauge.contract.spec import canonical_json
from servegauge.contract.trace_tables import STEP_COLUMNS
from servegauge.dataset.study_view import Metric, Study, axis_value, label, without
from servegauge.inputs.model_numbers import MODEL_NUMBERS, model_number
from servegauge.probes import get

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """Whose number is looked for: axes' values, the GPU that was published on, and what stands in for what."""

    where: Mapping[str, Any]
    gpu: str | None
    stands_for: Mapping[str, Any]
    variant: Mapping[str, Any]  # of a probe

    @property
    def words(self) -> str:
        """`shared-cpu, burst 10, dtype bf16`; the kind of device and of library of a probe go without saying."""
        named = {name: value for name, value in self.variant.items() if name not in ("device", "backend")}
        return label({**self.where, **named})


@dataclass(frozen=True)
class Found:
    """A measured number, or why there is none.

    Its logarithm: `logs`, one a launch, or `log`, an estimate of it; with neither it is exact, without any scatter.
    """

    value: float | None = None
    log: Estimate | None = None
    logs: Sequence[float] | None = None
    launches: int | None = None
    refusal: tuple[str, str] | None = None
    note: str | None = None  # what was left out

    @classmethod
    def of(cls, logs: Sequence[float], **about: Any) -> Found:
        """The geometric mean of one number a launch."""
        return cls(math.exp(math.fsum(logs) / len(logs)), None, logs, len(logs), **about)

    @classmethod
    def once(cls, value: float, **about: Any) -> Found:
        """A number of one launch, or of one sample."""
        return cls(value, None, [math.log(value)], 1, **about)


class Source:
    """Where measured numbers come from: the study's cells, its platforms' probes, its models' shapes."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.metrics = {metric.name: metric for metric in study.metrics}
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

    def unlike(self, entry: Entry, sides: Sequence[Side]) -> str | None:
        """What was measured in place of what was published; null where it is the same as far as anyone can tell."""
        if entry.get("model"):
            return None
        reasons: dict[str, None] = {}
        if entry.get("unit_unknown") and len(sides) == 1:
            reasons["its unit is not published"] = None
        for side in sides:
            for axis, published in side.stands_for.items():
                if entry.get("probe") and axis != "platform":  # a probe serves nothing
                    continue
                own = [side.where[axis]] if axis in side.where else self.study.levels(axis)
                theirs = published if isinstance(published, list) else [published]
                mine, other = (", ".join(label({axis: value}) for value in values) for values in (own, theirs))
                reasons[f"{mine} in place of {other}"] = None
            if side.gpu:
                for platform in self._platforms(side.where):
                    name = self.gpus.get(platform)
                    if not name:
                        reasons[f"{platform} has no GPU; published on {side.gpu}"] = None
                    elif not re.search(re.escape(side.gpu), name, re.IGNORECASE):
                        reasons[f"another GPU: {name} on {platform}, published on {side.gpu}"] = None
        return "; ".join(reasons) or None

    def _platforms(self, where: Mapping[str, Any]) -> list[str]:
        return [where["platform"]] if "platform" in where else list(self.gpus)

    # -- cells ----------------------------------------------------------------

    def value(self, entry: Entry, side: Side) -> Found:
        """The number itself: the geometric mean over launches."""
        if entry.get("model"):
            return self._computed(entry)
        if entry.get("probe"):
            return self._probe(entry, side)
        if entry.get("phase"):
            return self._phase(entry, side.where)
        metric = self.metrics.get(entry["metric"])
        if metric is None:
            return self._no_metric(entry)
        rows, why = self._rows(side.where, metric)
        if not rows:
            return refused(NOT_MEASURED, why)
        kept, about = _judged([condition("", {}, None, [row], [row]) for row in rows], metric, "cells")
        by_launch: dict[str, list[float]] = defaultdict(list)
        for row in (one.base[0] for one in kept):
            number = statistic(self.study, row, metric)
            if number is None and (cost := self._no_cost(metric.column, row["cell"])):
                return refused(NOT_MEASURED, cost)
            if number is None or number <= 0 or math.isinf(number):
                return refused(NOT_COMPARABLE, f"{row['cell']} has no finite value above 0")
            by_launch[row["launch"]].append(math.log(number))
        return Found.of([math.fsum(one) / len(one) for one in by_launch.values()], **about)

    def ratio(self, entry: Entry, one: Side, base: Side) -> Found:
        """`one` over `base`, inside each condition, as the comparison takes it."""
        if entry.get("probe") or entry.get("phase"):
            return _independent(self.value(entry, base), self.value(entry, one))
        metric = self.metrics.get(entry["metric"])
        if metric is None:
            return self._no_metric(entry)
        varied = [axis for axis in {**one.where, **base.where} if one.where.get(axis) != base.where.get(axis)]
        groups: dict[str, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
        for place, side in enumerate((base, one)):
            rows, why = self._rows(side.where, metric)
            if not rows:
                return refused(NOT_MEASURED, why)
            for row in rows:
                groups[canonical_json(without(row, *varied))][place].append(row)
        pairs = [condition(key, {}, None, *sides) for key, sides in groups.items() if all(sides)]
        if not pairs:
            return refused(NOT_MEASURED, "no condition was measured on both sides")
        return self._ratio(metric, pairs)

    def _no_metric(self, entry: Entry) -> Found:
        return refused(NOT_MEASURED, self._no_cost(entry["metric"]) or f"the study has no metric {entry['metric']}")

    def _no_cost(self, column: str, cell: str | None = None) -> str | None:
        """Why a column of `economics` is null, in this cell or the first; None where it is none or has a number."""
        rows = (row for row in self.study.economics if cell in (None, row["cell"]))
        return next((why for row in rows if (why := json.loads(row["reasons"]).get(column))), None)

    def _ratio(self, metric: Metric, pairs: Sequence[Condition]) -> Found:
        kept, about = _judged(pairs, metric, "conditions")
        parts: list[tuple[list[float], list[float], Condition]] = []
        for one in kept:
            sides = [[statistic(self.study, row, metric) for row in rows] for rows in (one.base, one.other)]
            if any(value is None or value <= 0 or math.isinf(value) for side in sides for value in side):
                return refused(NOT_COMPARABLE, "a side has no finite value above 0: too many requests failed")
            base, other = ([math.log(value) for value in side if value is not None] for side in sides)
            parts.append((base, other, one))
        if all(one.paired for *_, one in parts):
            by_repeat: dict[int, list[float]] = defaultdict(list)
            for base, other, one in parts:
                for row, below, above in zip(one.base, base, other, strict=True):
                    by_repeat[row["repeat"]].append(above - below)
            return Found.of([math.fsum(one) / len(one) for one in by_repeat.values()], **about)
        fewest = min(min(len(base), len(other)) for base, other, _ in parts)
        means = [math.fsum(other) / len(other) - math.fsum(base) / len(base) for base, other, _ in parts]
        value = math.exp(math.fsum(means) / len(means))
        if fewest < 2:
            return Found.once(value, **about)
        each = [combined((estimate(base), estimate(other)), (-1.0, 1.0)) for base, other, _ in parts]
        return Found(value, combined(each, [1 / len(each)] * len(each)), None, fewest, **about)

    def _rows(self, where: Mapping[str, Any], metric: Metric) -> tuple[list[Row], str]:
        """Measured cells that fit and give the metric, or why there are none."""
        asked = [row for row in self.study.cells if _fits(row, where) and gives(row, metric)]
        rows: list[Row] = [row for row in asked if row["status"] == "ok"]
        if rows or not asked:
            return rows, f"the study has no cell with {label(where)}"
        row = asked[0]
        return [], (row["reason"] or "not run yet").splitlines()[0]

    # -- probes ---------------------------------------------------------------

    def _probed(self, entry: Entry, side: Side) -> list[dict[str, Any]]:
        """The newest row of each variant that fits."""
        found: dict[str, dict[str, Any]] = {}
        for row in sorted(self.study.probes, key=lambda row: row["started_utc"] or ""):
            variant = json.loads(row["variant"] or "{}")
            if (
                (row["probe"], row["metric"]) == (entry["probe"], entry["metric"])
                and side.where.get("platform", row["platform"]) == row["platform"]
                and all(variant.get(name) == value for name, value in side.variant.items())
            ):
                found[canonical_json(variant)] = row
        return list(found.values())

    def _probe(self, entry: Entry, side: Side) -> Found:
        rows = self._probed(entry, side)
        if not rows:
            whole = Side({"platform": side.where["platform"]} if "platform" in side.where else {}, None, {}, {})
            skipped = self._probed({**entry, "metric": "any"}, whole)  # the probe as a whole could not run there
            why = f"the probe {entry['probe']} has no such number with {side.words} (yet)"
            return refused(NOT_MEASURED, skipped[0]["reason"] if skipped else why)
        measured = [row for row in rows if row["status"] == "ok" and row["value"]]
        if not measured:
            return refused(NOT_MEASURED, rows[0]["reason"] or rows[0]["status"])
        less_is_better = measured[0]["unit"] in LESS_IS_BETTER
        row = (min if less_is_better else max)(measured, key=lambda one: float(one["value"]))
        note = f"the best of {len(measured)} variants: {row['variant']}" if len(measured) > 1 else None
        if not row["low"] or not row["high"]:
            return Found.once(row["value"], note=note)
        error = (math.log(row["high"]) - math.log(row["low"])) / (2 * NORMAL)
        samples = len(row["samples"] or ())
        log = Estimate(math.log(row["value"]), error, max(1, samples - 1))
        return Found(row["value"], log, None, samples, note=note)

    # -- traces ---------------------------------------------------------------

    def _phase(self, entry: Entry, where: Mapping[str, Any]) -> Found:
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
            why = next((row["reason"] for row in traces if row["reason"]), None)
            return refused(NOT_MEASURED, why or f"no trace with {label(where)} has such a step (yet)")
        return Found.of(logs)

    # -- models ---------------------------------------------------------------

    def _computed(self, entry: Entry) -> Found:
        row = self.models.get(entry["model"])
        if row is None:
            return refused(NOT_MEASURED, f"the study has no model {entry['model']}")
        value = model_number(json.loads(row["file"]), json.loads(row["config"] or "null"), entry["metric"])
        if not value:
            return refused(NOT_MEASURED, f"the shape of {entry['model']} is not known here")
        return Found(value)


def _independent(below: Found, above: Found) -> Found:
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
        return Found.once(value, note=note)
    return Found(value, combined((logs[0], logs[1]), (-1.0, 1.0)), None, fewest, note=note)


def _judged(conditions: Sequence[Condition], metric: Metric, what: str) -> tuple[list[Condition], dict[str, Any]]:
    """The conditions that may be judged, or all with `refusal` where none may; with a `note` of those left out."""
    refusals = [one.refused(metric) for one in conditions]
    kept = [one for one, refusal in zip(conditions, refusals, strict=True) if not refusal]
    if not kept:
        return list(conditions), {"refusal": refusals[0]}
    reasons = [refusal[1] for refusal in refusals if refusal]
    note = f"{len(reasons)} of {len(conditions)} {what} are left out: {reasons[0]}" if reasons else None
    return kept, {"note": note}


def refused(verdict: str, reason: str) -> Found:
    return Found(refusal=(verdict, reason))


def _fits(row: Row, where: Mapping[str, Any]) -> bool:
    return all(canonical_json(_plain(axis_value(row, axis))) == canonical_json(_plain(where[axis])) for axis in where)


def _plain(value: Any) -> Any:
    """4.0 as 4: a column of rates holds floating point numbers. An option that is not given is none."""
    if value is None:
        return "none"
    return int(value) if isinstance(value, float) and value.is_integer() else value
