"""One study's rows of the dataset as the comparison, the figures and the tables need them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from servegauge.base.errors import UserError
from servegauge.contract import activity, flag_registry, metric_registry, metrics
from servegauge.contract.columns import Row
from servegauge.contract.economics import STATISTICS as ECONOMICS
from servegauge.contract.flag import SAMPLE
from servegauge.contract.metric import Statistic as Metric
from servegauge.contract.metric_registry.capacity import CAPACITY
from servegauge.contract.spec import AGAIN, canonical_json, number
from servegauge.dataset import launch_parts, merge, trace_parts
from servegauge.dataset.catalogue import read_parquet
from servegauge.frameworks.base import OPTIONS
from servegauge.plan.axes import CELL_AXES, LAUNCH_AXES

AXES = (*LAUNCH_AXES, *CELL_AXES, "protocol")


SAMPLE_FLAGS = flag_registry.of_severity(SAMPLE)
"""Flags that say how many requests there were, and nothing about how they were measured."""


METRICS = tuple(metric_registry.compared())
"""The statistics of a cell that are compared, as their declarations say."""


def goodput_metrics(slo: str) -> list[Metric]:
    """The metrics per SLO under the one of this name; their columns are added to the rows by `Study`."""
    return [
        replace(
            one,
            name=f"{one.name}:{slo}",
            title=f"{one.title} ({slo})",
            column=f"{one.column}:{slo}",
            heading=f"{one.heading} {slo}",
            slo=slo,
        )
        for one in metric_registry.shown_per_slo("")
    ]


def label(axes: Mapping[str, Any]) -> str:
    """Axis values as words: prompt sets and names stand alone, numbers get their axis' name."""
    words = []
    for axis, value in axes.items():
        if value is None:
            continue
        if axis in ("framework", "model", "platform", "prompts"):
            words.append(str(value))
        elif axis in ("rate", "concurrency", "burst"):
            words.append(f"{axis} {number(value)}{'/s' if axis == 'rate' else ''}")
        else:
            words.append(f"{axis} {level_text(value)}")
    return ", ".join(words) or "everything"


def without(row: Row, *axes: str | None) -> dict[str, Any]:
    """The axes of a cell that the study varies, and their values, but for these."""
    return {axis: value for axis, value in row["axes"].items() if axis not in axes}


def level_text(level: Any) -> str:
    """A level of a factor as a person writes it."""
    if level is None:
        return "none"
    if isinstance(level, bool):
        return "on" if level else "off"
    if isinstance(level, float | int):
        return number(level)
    return level if isinstance(level, str) else canonical_json(level)


def by_cause(rows: Iterable[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(launch, its rows) for each status and reason in a launch; what is skipped for a reason is one for all launches.

    A server that does not start leaves each of its cells with the same reason, which is read once.
    """
    found: dict[tuple[str, str, str | None], list[dict[str, Any]]] = {}
    for row in rows:
        launch = "" if row["status"] == "skipped" else row["launch"]
        found.setdefault((launch, row["status"], row["reason"]), []).append(row)
    return [(launch, members) for (launch, *_), members in found.items()]


class Study:
    """One study's rows of the dataset, ready to be compared, drawn and printed."""

    def __init__(self, results: Path, name: str) -> None:
        self.results, self.name = results, name
        self._parts: dict[str, launch_parts.Part | None] = {}
        studies = {row["study"]: row for row in merge.read(results, "studies").to_pylist()}
        if name not in studies:
            raise UserError(f"the dataset holds no study {name!r}; it holds {', '.join(studies) or 'none'}")
        self.row: dict[str, Any] = studies[name]
        self.matrix: dict[str, Any] = json.loads(self.row["matrix"])
        self.slos: dict[str, dict[str, float]] = json.loads(self.row["slos"])
        asked = merge.read(results, "study_cells")
        asked = asked.filter(pc.equal(asked["study"], name)).sort_by("position")["cell"].to_pylist()
        place = {cell: position for position, cell in enumerate(asked)}
        cells = merge.read(results, "cells")
        cells = cells.filter(pc.is_in(pc.cast(cells["cell"], "string"), pa.array(asked, pa.string())))
        self.cells: list[dict[str, Any]] = sorted(cells.to_pylist(), key=lambda row: place[row["cell"]])
        self._goodput()
        self._economics()
        self.again = [row for row in self.cells if (row["platform"] or "").endswith(AGAIN)]
        self.cells = [row for row in self.cells if not (row["platform"] or "").endswith(AGAIN)]
        for row in self.again:
            row["platform"] = row["platform"].removesuffix(AGAIN)
        self.axes = self._axes()
        for row in self.everything:
            row["axes"] = {axis: axis_value(row, axis) for axis in self.axes}
        self.cells.sort(key=self._place)

    def _place(self, row: Row) -> list[tuple[bool, float, str]]:
        """Where a cell stands in tables and figures: as the study names its axes' values, open loops first."""
        place = []
        for axis, value in row["axes"].items():
            named = [canonical_json(one) for one in self.matrix.get(axis) or []]
            key = canonical_json(value)
            number = named.index(key) if key in named else value if isinstance(value, int | float) else len(named)
            place.append((value is None, float(number), "" if value is None else key))
        return [*place, (False, float(row["repeat"]), "")]

    def _goodput(self) -> None:
        by_cell = {row["cell"]: row for row in self.cells}
        for row in merge.read(self.results, "cell_slos").to_pylist():
            if row["study"] == self.name and row["cell"] in by_cell:
                for metric in metric_registry.per_slo():
                    by_cell[row["cell"]][f"{metric.column}:{row['slo']}"] = row[metric.column]

    def _economics(self) -> None:
        """The columns of `economics` beside those of the cells; the metrics of which there are numbers are compared."""
        by_cell = {row["cell"]: row for row in self.cells}
        self.economics: list[dict[str, Any]] = []
        for row in merge.read(self.results, "economics").to_pylist():
            if row["study"] == self.name and row["cell"] in by_cell:
                by_cell[row["cell"]] |= {one.column: row[one.column] for one in ECONOMICS}
                self.economics.append(row)
        currencies = {row["currency"] for row in self.economics} - {None}
        self.currency: str | None = currencies.pop() if len(currencies) == 1 else None
        self.economic_metrics = [
            replace(one, unit=one.unit.replace("currency", self.currency or "currency"))
            for one in ECONOMICS
            if any(row[one.column] is not None for row in self.economics)
        ]

    def _axes(self) -> list[str]:
        """Axes that vary in this study, the repeat aside."""
        named = {*self.matrix, *(axis for entry in self.matrix.get("include") or [] for axis in entry)}
        axes = [axis for axis in AXES if axis not in OPTIONS or axis in named]
        return [axis for axis in axes if len({canonical_json(axis_value(row, axis)) for row in self.cells}) > 1]

    @property
    def metrics(self) -> list[Metric]:
        """What is compared: latencies, rates, capacity if searched, goodput by SLO, costs, memory if asked for."""
        searched = any(row.get("capacity") is not None for row in self.cells)
        own = [metric for metric in METRICS if searched or metric.name != CAPACITY.name]
        goodput = [metric for slo in self.slos for metric in goodput_metrics(slo)]
        asked = {*self.primary, *(one["metric"] for one in json.loads(self.row.get("expects") or "[]"))}
        memory = [metric for metric in activity.MEMORY if metric.name in asked]
        return [*own, *goodput, *self.economic_metrics, *memory]

    def shown(self, view: str) -> list[Metric]:
        """What a view (`contract.metric.VIEWS`) shows of this study."""
        return [metric for metric in self.metrics if view in metric.views]

    @cached_property
    def quality(self) -> list[dict[str, Any]]:
        """Answers to graded questions of this study's launches, each with its launch's `axes` and repeat."""
        of_launch = {row["launch"]: row for row in self.ok}
        found = []
        for row in merge.read(self.results, "quality").to_pylist():
            if (cell := of_launch.get(row["launch"])) is not None:
                axes = {axis: value for axis, value in cell["axes"].items() if axis in LAUNCH_AXES}
                found.append({**row, "axes": axes, "repeat": cell["repeat"]})
        return found

    @cached_property
    def traces(self) -> list[dict[str, Any]]:
        """Rows of the traces of this study's cells, in the order of the cells, each with its cell's `axes`."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in merge.read(self.results, "traces").to_pylist():
            found.setdefault(row["cell"], []).append(row)
        return [{**one, "axes": row["axes"]} for row in self.cells for one in found.get(row["cell"], [])]

    def trace_tables(self, trace: str) -> dict[str, pa.Table]:
        """The tables of a measured trace, by their names in TRACE_TABLES."""
        return trace_parts.read_tables(self.results / "dataset", trace)

    @property
    def everything(self) -> list[dict[str, Any]]:
        """Rows of all cells, with `again`: those of the baseline under its second name, which are in no other list."""
        return [*self.cells, *self.again]

    @property
    def ok(self) -> list[dict[str, Any]]:
        """Rows of measured cells."""
        return [row for row in self.cells if row["status"] == "ok"]

    @property
    def loads(self) -> list[dict[str, Any]]:
        """Rows of measured cells that are one load; a search for the capacity is many."""
        return [row for row in self.ok if row.get("capacity") is None]

    @property
    def searches(self) -> list[dict[str, Any]]:
        """Rows of measured cells that searched a capacity."""
        return [row for row in self.ok if row.get("capacity") is not None]

    def steps(self, row: Row) -> list[dict[str, Any]]:
        """The rates that a search tried, rows of CAPACITY_STEPS, slowest first."""
        path = launch_parts.part_path(self.results / "dataset", "capacity_steps", row["launch"])
        if not path.exists():
            return []
        mine = read_parquet(path, filters=pc.field("cell") == row["cell"])
        return sorted(mine.to_pylist(), key=lambda step: float(step["rate_rps"]))

    @property
    def margin(self) -> float | None:
        """Difference that does not matter to the study, as it says; None where it says nothing."""
        return self.row.get("compare_margin")

    @property
    def primary(self) -> list[str]:
        """Metrics that the study says it is about."""
        return list(self.row.get("compare_primary") or [])

    def node_of(self, row: Row) -> str | None:
        """The node that measured a cell; None where that is not known."""
        return self._attempt_of(row).get("hostname")

    def version_of(self, row: Row) -> str | None:
        """What the server that a cell was measured on says of its version; None where it says none."""
        return self._attempt_of(row).get("framework_version")

    def _attempt_of(self, row: Row) -> Row:
        return self._attempts.get((row["launch"], row.get("attempt")), {})

    @cached_property
    def _attempts(self) -> dict[tuple[str, int | None], Row]:
        wanted = ["launch", "attempt", "hostname", "framework_version"]  # a provenance is large
        attempts = merge.read(self.results, "attempts").select(wanted).to_pylist()
        return {(one["launch"], one["attempt"]): one for one in attempts}

    @cached_property
    def probes(self) -> list[dict[str, Any]]:
        """Rows of the probes of this study's platforms; other studies in the same results have their own."""
        names = self.levels("platform")
        return [row for row in merge.read(self.results, "probes").to_pylist() if row["platform"] in names]

    @cached_property
    def attempts(self) -> list[dict[str, Any]]:
        """Rows of the attempts of this study's launches, each with the launch's framework, platform and GPUs."""
        mine = {row["launch"] for row in self.everything}
        launches = {row["launch"]: row for row in merge.read(self.results, "launches").to_pylist()}
        return [
            row | {name: launches.get(row["launch"], {}).get(name) for name in ("framework", "platform", "gpus")}
            for row in merge.read(self.results, "attempts").to_pylist()
            if row["launch"] in mine
        ]

    def activity(self, row: Row) -> Row:
        """What server, GPUs and node did in a cell's window: its columns, or the samples where these are null."""
        names = [field.name for field in activity.COLUMNS]
        if any(row[name] is not None for name in names):
            return {name: row[name] for name in names}
        tables = {}
        for table in ("server_metrics", "gpu", "node"):
            path = launch_parts.part_path(self.results / "dataset", table, row["launch"])
            rows = read_parquet(path, filters=[("cell", "=", row["cell"])]) if path.is_file() else None
            tables[table] = rows if rows is not None and rows.num_rows else None
        return activity.during(row["window_s"], tables["server_metrics"], tables["gpu"], tables["node"])

    def place_of(self, row: Row) -> str | None:
        """The label of the results folder that a cell was joined from; None where it was measured here."""
        return self._places.get(row["launch"])

    @cached_property
    def _places(self) -> dict[str, str | None]:
        launches = merge.read(self.results, "launches").select(["launch", "joined"])
        return {one["launch"]: one["joined"] for one in launches.to_pylist()}

    def own(self, table: str) -> list[dict[str, Any]]:
        """The study's rows of a table that has rows for each study."""
        return [row for row in merge.read(self.results, table).to_pylist() if row["study"] == self.name]

    @cached_property
    def platform_gpus(self) -> dict[str, int]:
        """GPUs of a node of each platform; 0 where the server runs on its CPUs."""
        return {row["platform"]: row["gpus_per_node"] or 0 for row in self.own("study_platforms")}

    def factor(self) -> tuple[str | None, Any]:
        """The compared factor and its baseline: as the study says, else the platform, first one first."""
        factor, baseline = self.row["compare_factor"], self.row["compare_baseline"]
        if factor is None and "platform" in self.axes:
            factor = "platform"
        if factor is None:
            return None, None
        levels = self.levels(factor)
        return factor, next(
            (level for level in levels if level_text(level) == baseline or level == baseline), levels[0]
        )

    def levels(self, factor: str) -> list[Any]:
        """Levels of `factor`, in the order in which the study names them."""
        named = self.matrix.get(factor)
        order = [canonical_json(level) for level in named] if isinstance(named, list) else []
        found = {canonical_json(axis_value(row, factor)): axis_value(row, factor) for row in self.cells}
        return [found[key] for key in sorted(found, key=lambda key: order.index(key) if key in order else len(order))]

    def samples(self, row: Row, family: str) -> np.ndarray:
        """Sorted values of a latency of the window's ok requests of one cell, seconds (ITL: all gaps)."""
        asked = metric_registry.metrics()[family]
        columns = (asked.column,) if asked.per_request else asked.needs
        table = self._requests(row, list(dict.fromkeys(["phase", "status", *columns])))
        table = table.filter(pc.and_(pc.equal(table["phase"], "window"), pc.equal(table["status"], "ok")))
        return np.sort(metrics.values_of(table, family))

    def _requests(self, row: Row, columns: list[str]) -> pa.Table:
        """Columns of a cell's requests, by its part's footer; by the cell's name where other tools rewrote the part."""
        launch, cell, dataset = row["launch"], row["cell"], self.results / "dataset"
        if launch not in self._parts:
            self._parts[launch] = launch_parts.open_part(dataset, launch, by_this_code=False)
        if part := self._parts[launch]:
            if cell in part.entries:
                return part.read(cell, columns)
        elif (path := launch_parts.part_path(dataset, "requests", launch)).is_file():
            table = read_parquet(path, columns=columns, filters=[("cell", "=", cell)])
            if table.num_rows:
                return table
        raise UserError(f"the dataset has no requests of {cell}: run scripts/merge_dataset.py again")


def doubts(row: Row) -> list[str]:
    """Flags of a cell that cast doubt on all its numbers; whether a p99 is supported is shown beside each p99."""
    return [flag for flag in row["flags"] or [] if flag not in SAMPLE_FLAGS]


def axis_value(row: Row, axis: str) -> Any:
    """The value of an axis in a row of CELLS: a column, or one of the neutral server options."""
    if axis == "rate":
        return row["rate_rps"]
    if axis == "sampling":  # of a dataset of before there was this column, null
        return json.loads(row.get("sampling") or "null")
    if axis in row:
        return row[axis]
    return json.loads(row["options"] or "{}").get(axis)
