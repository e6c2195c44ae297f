"""The report's section about traces: what they say in words, kernels whose time differs most, collectives beside what
the probes predict, and whether MFU and MBU agree with them.

`trace_section` is a pure function of trace tables (`contract.trace_tables`) and rows of the dataset. What is compared
is the mean over the traces of one condition and level, per engine step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from servegauge.contract.columns import Row
from servegauge.inputs.model_shape import ModelShape
from servegauge.report.roofline import Utilisation
from servegauge.report.trace_collectives import Collective, collectives
from servegauge.report.trace_utilisation import Agreement, agreements
from servegauge.report.traced import Traced, groups, phase_table, unlike
from servegauge.traces import phases, ttft_means

MOST_KERNELS = 10


@dataclass(frozen=True)
class KernelDifference:
    """A kernel's mean time per step of a phase, in ns: on the baseline and on a level; None where it did not run."""

    condition: str
    level: str
    phase: str
    kernel: str
    kind: str
    baseline_ns: float | None
    level_ns: float | None

    @property
    def ratio(self) -> float | None:
        return self.level_ns / self.baseline_ns if self.level_ns and self.baseline_ns else None

    @property
    def difference_ns(self) -> float:
        return (self.level_ns or 0.0) - (self.baseline_ns or 0.0)


@dataclass
class TraceSection:
    """Empty where nothing was traced."""

    sentences: list[str] = field(default_factory=list)
    table: list[dict[str, Any]] = field(default_factory=list)  # rows of `traced.phase_table`
    kernels: list[KernelDifference] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    not_traced: list[Row] = field(default_factory=list)  # rows of `traces` that failed

    def __bool__(self) -> bool:
        return bool(self.sentences or self.table or self.reasons or self.not_traced)


def trace_section(
    traced: Sequence[Traced],
    baseline: str | None = None,
    probes: Iterable[Row] = (),
    used: Mapping[str, Utilisation] | None = None,
    not_traced: Sequence[Row] = (),
    shapes: Mapping[str, ModelShape] | None = None,
) -> TraceSection:
    """The section of these traces; `baseline` is the level that the others are compared with, None for no comparison.

    `probes` are rows of PROBES, `used` what each timed cell used of its platform, `shapes` the models'. Kernels of
    traces by different profilers, or with graphs as one row and by node, differ by how they were recorded: they are not
    compared, and `reasons` says so.
    """
    if not traced:
        return TraceSection(not_traced=list(not_traced))
    section = TraceSection(
        sentences=[f"{one.place}: {text}" for one in traced for text in phases.sentences(phases.phases(one.tables))],
        table=[row for row in phase_table(traced, baseline) if any(row[f"{name}_ms"] for name in phases.ORDER)],
        collectives=collectives(traced, probes, shapes or {}),
        agreements=agreements(traced, used or {}),
        reasons=_reasons(traced),
        not_traced=list(not_traced),
    )
    if all(one.mfu is None and one.mbu is None for one in section.agreements):
        section.reasons += [f"MFU and MBU: {text}" for text in dict.fromkeys(one.says for one in section.agreements)]
        section.agreements = []
    for (condition, level), some in groups(traced).items():
        where = ", ".join(filter(None, (condition, level)))
        texts = ttft_means.sentences([one.tables["request_ttft"] for one in some])
        section.sentences += [f"{where}: {one}" for one in texts[:1] if "on average" in one]
        section.reasons += [f"{where}: {one}" for one in texts if "on average" not in one]
    if baseline is not None:
        section.kernels, apart = kernel_differences(traced, baseline)
        section.reasons += apart
    return section


def _reasons(traced: Sequence[Traced]) -> list[str]:
    texts = []
    for one in traced:
        for row in one.tables["traces"].to_pylist():
            if row["reason"]:
                texts.append(f"{row['trace']}, rank {row['rank']}: {row['reason']}")
            if row["clock_error_ns"] is not None:
                error = f"no more than {row['clock_error_ns'] / 1e6:.3g} ms"
                texts.append(f"{row['trace']}: joined with its requests by {row['clock_source']}, off by {error}")
    return list(dict.fromkeys(texts))


def kernel_differences(traced: Sequence[Traced], baseline: str) -> tuple[list[KernelDifference], list[str]]:
    """The kernels whose time per step differs most from the baseline's, largest first; and what cannot be compared."""
    found: list[KernelDifference] = []
    apart: list[str] = []
    for condition in dict.fromkeys(one.condition for one in traced):
        here = [one for one in traced if one.condition == condition]
        base = [one for one in here if one.level == baseline]
        for level in dict.fromkeys(one.level for one in here if one.level != baseline):
            other = [one for one in here if one.level == level]
            if not base:
                apart.append(f"{condition or level}: no trace of the baseline {baseline}, kernels are not compared")
                continue
            if why := unlike([*base, *other]):
                apart.append(f"{condition or level}: {baseline} and {level} {why}; kernels are not compared")
                continue
            sides = _per_step(base).merge(
                _per_step(other), "outer", left_index=True, right_index=True, suffixes=("_base", "_level")
            )
            counts = sides.groupby(level="phase")[["ns_base", "ns_level"]].transform("count")
            for (phase, kernel), row in sides[(counts > 0).all(axis=1)].iterrows():  # of phases that both have
                kind = row["kind_base"] if pd.isna(row["kind_level"]) else row["kind_level"]
                times = (None if pd.isna(row[name]) else float(row[name]) for name in ("ns_base", "ns_level"))
                found.append(KernelDifference(condition, level, phase, kernel, kind, *times))
    found.sort(key=lambda one: (-abs(one.difference_ns), one.kernel))
    return found[:MOST_KERNELS], apart


def _per_step(traced: Sequence[Traced]) -> pd.DataFrame:
    """Indexed by phase and kernel: `ns`, the mean per step of the phase and rank, and the kernel's `kind`."""
    counts = pd.concat([one.tables["steps"].to_pandas() for one in traced])["phase"].astype(str).value_counts()
    kernels = pd.concat([one.tables["kernels"].to_pandas() for one in traced]).dropna(subset=["phase"])
    names = {name: kernels[name].astype(str) for name in ("phase", "kernel", "kind")}
    found = kernels.assign(**names).groupby(["phase", "kernel"]).agg(ns=("total_ns", "sum"), kind=("kind", "first"))
    found["ns"] /= counts.reindex(found.index.get_level_values("phase")).to_numpy()
    return found
