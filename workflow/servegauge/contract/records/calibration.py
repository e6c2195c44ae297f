"""The load generator's own error on a node, over loads: `calibration.json`. Every error is reported less true."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from servegauge.contract.records.base import Migration, Record

Quantiles = dict[str, float]  # p50, p90, p99 and max, in seconds; empty where nothing was measured


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One load: closed loop with `streams`, or open loop with `rate_rps`. Times in seconds."""

    streams: int | None = None
    rate_rps: float | None = None
    requests: int = 16
    output_tokens: int = 16
    prompt_tokens: int = 64
    first_s: float = 0.02
    gap_s: float = 0.01
    tokens_per_chunk: int = 1
    workers: int = 1

    @property
    def e2e_s(self) -> float:
        """How long the paced server takes for a request, in seconds."""
        return self.first_s + self.gap_s * (self.output_tokens - 1)

    @property
    def pace(self) -> tuple[float, float, int]:
        return self.first_s, self.gap_s, self.tokens_per_chunk

    @property
    def size(self) -> str:
        """`64 streams` or `5 req/s`."""
        return f"{self.streams} streams" if self.streams is not None else f"{self.rate_rps:g} req/s"


class CalibratedPoint(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured under one load. `*_error_s`: differences of quantiles; `*_paired_error_s`: quantiles of
    differences, request by request (or chunk by chunk).

    `server_slip_s` is how late the paced server was against its own plan; `tries` has the p99 TTFT error of each time
    that a noisy point was measured. `others_share` is the share of the node's CPU time that processes of others had.
    """

    load: Point
    requests_ok: int = 0
    counts: dict[str, int] = msgspec.field(default_factory=dict)  # status -> requests
    tokens_per_s: float | None = None
    server_slip_s: Quantiles = msgspec.field(default_factory=dict)
    lateness_s: dict[str, float | None] = msgspec.field(default_factory=dict)
    window_s: float | None = None
    cpu_s: float | None = None
    cpu_s_per_token: float | None = None
    busiest_cpu_share: float | None = None
    ttft_error_s: Quantiles = msgspec.field(default_factory=dict)
    ttft_paired_error_s: Quantiles = msgspec.field(default_factory=dict)
    ttft_reported_s: Quantiles = msgspec.field(default_factory=dict)
    ttft_true_s: Quantiles = msgspec.field(default_factory=dict)
    itl_error_s: Quantiles = msgspec.field(default_factory=dict)
    itl_paired_error_s: Quantiles = msgspec.field(default_factory=dict)
    itl_reported_s: Quantiles = msgspec.field(default_factory=dict)
    itl_true_s: Quantiles = msgspec.field(default_factory=dict)
    e2e_error_s: Quantiles = msgspec.field(default_factory=dict)
    e2e_paired_error_s: Quantiles = msgspec.field(default_factory=dict)
    e2e_reported_s: Quantiles = msgspec.field(default_factory=dict)
    e2e_true_s: Quantiles = msgspec.field(default_factory=dict)
    tries: tuple[float | None, ...] = ()
    others_share: float | None = None

    @property
    def ttft_p99_error_s(self) -> float | None:
        return self.ttft_error_s.get("p99")


class Beyond(msgspec.Struct, frozen=True, kw_only=True):
    """The axis of a load that is beyond what the instrument carried: its name, its value, the highest carried one."""

    axis: str
    value: float
    carried: float | None


class Nearest(CalibratedPoint, frozen=True, kw_only=True):
    """The calibrated point nearest to a cell's load; `beyond`: the instrument is not known to carry that load.

    `disturbed`: the point was not carried, but other work had the node, so that it says nothing of the instrument.
    """

    beyond: bool
    beyond_axis: Beyond | None = None
    disturbed: bool = False


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The highest load of each kind up to which every point keeps its p99 TTFT error below `ttft_p99_error_s`.

    None where not even the lowest one does. `*_tried` is the highest that was measured.
    """

    ttft_p99_error_s: float = 0.001
    tokens_per_s: float | None = None
    streams: int | None = None
    streams_tried: int | None = None
    rate_rps: float | None = None
    rate_rps_tried: float | None = None


def _same(document: dict[str, Any]) -> dict[str, Any]:
    """Version 1 was measured without ramp and tail; its fields are the same."""
    return document


class Calibration(Record, frozen=True, kw_only=True):
    """A calibration. `cpus` are those of the generator; None: whichever the job had."""

    WHAT: ClassVar[str] = "a calibration of the load generator"
    REMEDY: ClassVar[str] = "Remove it: the next launch calibrates again."
    VERSION: ClassVar[int] = 2
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {1: _same}

    version: int = 2
    short: bool = True
    cpus: tuple[int, ...] | None = None
    server_cpu: int | None = None
    seconds: float = 0.0
    limits: Limits
    points: tuple[CalibratedPoint, ...] = ()
