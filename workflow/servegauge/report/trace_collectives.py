"""Collectives of the traces beside what the platform's own probe predicts: its time at the size of each message."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from servegauge.compare.probe_effects import variant_of
from servegauge.contract.columns import Row
from servegauge.inputs.model_shape import ModelShape, bytes_of
from servegauge.report.traced import Traced, groups
from servegauge.traces import ttft_means

TTFT_PHASES = ("prefill", "mixed")  # steps that a first token waits for


@dataclass(frozen=True)
class Collective:
    """A kind of collective in a phase, per engine step; null where `reason` says why."""

    condition: str
    level: str
    phase: str
    kind: str
    calls: float  # a step and rank
    message_bytes: float | None  # mean of one call
    by_model: bool  # the trace does not say the bytes: they are the step's tokens x hidden size x bytes of a number
    measured_ns: float  # sum of durations
    exposed_ns: float  # while nothing computes
    predicted_ns: float | None
    measured_ttft_share: float | None  # of the traced requests' TTFT: exposed time in the steps of their prefill
    predicted_ttft_share: float | None
    reason: str | None

    @property
    def ratio(self) -> float | None:
        """Measured / predicted."""
        return self.measured_ns / self.predicted_ns if self.predicted_ns else None


def collectives(
    traced: Sequence[Traced], probes: Iterable[Row], shapes: Mapping[str, ModelShape] | None = None
) -> list[Collective]:
    """Of every condition, level and phase, the means over its traces, ranks and steps.

    `probes` are rows of PROBES, `shapes` the models' by name: they tell what a tensor parallel all-reduce carries.
    """
    rows = [row for row in probes if row["probe"] == "collectives" and row["status"] == "ok" and row["value"]]
    out = []
    for (condition, level), some in groups(traced).items():
        table = pd.concat([one.tables["collectives"].to_pandas() for one in some]).dropna(subset=["phase"])
        steps = pd.concat([one.tables["steps"].to_pandas() for one in some])["phase"].value_counts()
        ranks = max((value for one in some for value in one.tables["traces"]["ranks"].to_pylist()), default=1)
        profiler = str(some[0].tables["traces"]["profiler"][0]) if some[0].tables["traces"].num_rows else "the profiler"
        platform = str(some[0].cell.get("platform"))
        known = _times([row for row in rows if row["platform"] == platform])
        ttft = ttft_means.mean([one.tables["request_ttft"] for one in some])
        prefills = _prefill_steps(some)
        for (phase, kind), found in table.groupby(["phase", "kind"], observed=True, sort=False):
            count = int(steps.get(phase, 0))
            if not count:
                continue
            size = float(found["bytes"].sum() / found["calls"].sum()) if found["bytes"].notna().all() else None
            computed = size is None and kind == "all_reduce"
            if computed:
                size = _by_model(some, str(phase), ranks, shapes or {})
            each, reason = _predicted(known, platform, str(kind), ranks, size, profiler)
            calls = float(found["calls"].sum()) / count
            exposed, measured = float(found["exposed_ns"].sum()) / count, float(found["total_ns"].sum()) / count
            share = None
            if phase in TTFT_PHASES and ttft and prefills:
                share = prefills / ttft.ttft_ns
            elif phase in TTFT_PHASES:
                reason = "; ".join(filter(None, (reason, "no share of TTFT: no traced request's prefill is known")))
            out.append(
                Collective(
                    condition, level, str(phase), str(kind), calls, size, computed and size is not None,
                    measured, exposed,
                    each * calls if each is not None else None,
                    exposed * share if share else None,
                    each * calls * share if share and each is not None else None,
                    reason,
                )
            )  # fmt: skip
    return out


def _by_model(traced: Sequence[Traced], phase: str, ranks: int, shapes: Mapping[str, ModelShape]) -> float | None:
    """Bytes of a tensor parallel all-reduce: the step's tokens x hidden size x bytes of a number; None for others."""
    cell = traced[0].cell
    shape = shapes.get(str(cell.get("model")))
    alone = int(cell.get("tp") or 1) == ranks and all(int(cell.get(axis) or 1) == 1 for axis in ("pp", "dp", "ep"))
    steps = pd.concat([one.tables["steps"].to_pandas() for one in traced])
    own = steps[steps["phase"] == phase]
    tokens = (own["context_tokens"] + own["generation_tokens"]).astype(float)
    if shape is None or not alone or not len(own) or tokens.isna().any():
        return None
    return float(tokens.mean()) * shape.hidden * bytes_of(shape.dtype)


def _prefill_steps(traced: Sequence[Traced]) -> float | None:
    """Mean number of steps that held a traced request's prefill; None where none is known."""
    found = [
        row["prefill_steps"]
        for one in traced
        for row in one.tables["request_ttft"].to_pylist()
        if row["return_ns"] is not None
    ]
    return sum(found) / len(found) if found else None


def _times(rows: Iterable[Row]) -> dict[tuple[str, int], dict[int, float]]:
    """(operation, ranks) -> message size in bytes -> ns, as probed on one node; in place where both were."""
    found: dict[tuple[str, int], dict[int, float]] = {}
    for row in sorted(rows, key=lambda row: bool(variant_of(row).get("in_place"))):
        variant = variant_of(row)
        if row["metric"] == "time_us" and not variant.get("nodes") and variant.get("size_bytes"):
            key = (str(variant.get("operation")), int(variant.get("ranks") or 0))
            found.setdefault(key, {})[int(variant["size_bytes"])] = row["value"] * 1e3
    return found


def _predicted(
    known: Mapping[tuple[str, int], Mapping[int, float]],
    platform: str,
    kind: str,
    ranks: int,
    size: float | None,
    profiler: str,
) -> tuple[float | None, str | None]:
    """ns of one collective of `size` bytes by the probe, or why there is no prediction."""
    if size is None:
        missing = f"{profiler} does not say how many bytes a collective carried, nor do the model and its layout"
        return None, f"not predicted: {missing}"
    if not known:
        return None, f"not predicted: {platform} has no probe of collectives"
    if (kind, ranks) not in known:
        probed = ", ".join(sorted({f"{operation} over {count}" for operation, count in known}))
        return None, f"not predicted: {kind} over {ranks} ranks was not probed on {platform} (probed: {probed})"
    return time_at(known[kind, ranks], size), None


def time_at(times: Mapping[int, float], size: float) -> float:
    """Time at `size`, between two probed sizes on a line in logarithms; below the smallest as there, above the largest
    by its bandwidth."""
    sizes = sorted(times)
    if size <= sizes[0]:
        return times[sizes[0]]
    if size >= sizes[-1]:
        return times[sizes[-1]] * size / sizes[-1]
    above = next(index for index, one in enumerate(sizes) if one >= size)
    low, high = sizes[above - 1], sizes[above]
    part = math.log(size / low) / math.log(high / low)
    return times[low] * (times[high] / times[low]) ** part
