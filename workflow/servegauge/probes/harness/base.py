"""What a probe is: cases to measure, rows that come of them. One file a probe; `probes.registry()` finds it.

A probe runs in a process of its own (`run.py` starts it), in the driver's environment or in `envs/probes`, so this
package needs the standard library and numpy, and torch only where `needs` says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from servegauge.contract.config_types import Platform
from servegauge.probes.harness.stats import QUICK, Effort, median_interval, narrow_enough, two_modes

T = TypeVar("T")

# The keys a row's variant may have; an absent key does not apply. Another key would be a second word for one of them.
VARIANT_KEYS = (
    "operation", "backend", "device", "dtype", "shape", "size_bytes", "direction", "memory", "threads", "ranks",
    "nodes", "placement", "model", "tp", "tokens", "batch", "context_tokens", "block_tokens", "path",
    "state", "in_place",
)  # fmt: skip


class Skip(Exception):
    """This platform cannot run this case; the text says why. Becomes a row with status `skipped`, never a 0."""


class Wrong(Exception):
    """The case ran and its result is wrong against the reference. Becomes a row with status `failed`."""


@dataclass(frozen=True)
class Row:
    """One line of the probes table: a median with its 95 % interval and every sample, or the reason there is none.

    `value`, `low`, `high` and `samples` are in `unit`; all three numbers are None unless `status` is ok, and low and
    high are None below six samples. `detail` holds what explains the number: error against the reference, whether the
    stated relative error was reached.
    """

    platform: str
    probe: str
    variant: Mapping[str, Any]
    metric: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    samples: Sequence[float] = ()
    status: str = "ok"
    reason: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "variant": dict(self.variant), "samples": list(self.samples)}


def row_of_all(platform: str, probe: str, status: str, reason: str) -> Row:
    """The one row of a probe that gave no other."""
    return Row(platform, probe, {}, "any", "", status=status, reason=reason)


@dataclass(frozen=True)
class Measured:
    """What a case gives back: samples of one metric, in the unit that the probe declares for it, and details."""

    metric: str
    samples: Sequence[float]
    detail: Mapping[str, Any] = field(default_factory=dict)
    verified: bool | None = None  # true: checked against a reference; None: there is nothing to check
    wrong: str | None = None  # why this number cannot be true, though others of the case are: a failed row

    @classmethod
    def microseconds(cls, seconds: Sequence[float], detail: Mapping[str, Any], verified: bool | None) -> Measured:
        """Seconds as the metric `time_us`."""
        return cls("time_us", [second * 1e6 for second in seconds], detail, verified)


@dataclass(frozen=True)
class Skipped:
    """A metric of a case that has no number, while others of the case have; `reason` says why."""

    metric: str
    reason: str


@dataclass(frozen=True)
class Case:
    """One variant of a probe. `metric` names the row if `measure` cannot give one."""

    variant: Mapping[str, Any]
    metric: str
    measure: Callable[[], Measured | Iterable[Measured | Skipped]]

    @classmethod
    def without(cls, variant: Mapping[str, Any], metric: str, error: Exception) -> Case:
        """A case of which it is known beforehand that it gives nothing: `error` is a Skip, or how it fails."""

        def measure() -> Measured:
            raise error

        return cls(variant, metric, measure)


@dataclass(frozen=True)
class Context:
    """What a probe is given. `models`: [{"name", "source", "tp": [1, 2]}], source being a folder or None.

    `size` is quick (seconds, in the demo), full, or test (smallest sizes that still run every line).
    """

    platform: Platform
    size: str = "full"
    models: Sequence[Mapping[str, Any]] = ()
    peers: Sequence[Mapping[str, Any]] = ()  # [{"host", "port"}]: nodes of this job that answer the network probe
    scratch: Path = Path(".cache/probes")
    node: Mapping[str, Any] | None = None  # {"rank", "nodes", "head", "head_port"} in a job of several nodes
    verbatim: Path | None = None  # where other programs' outputs are kept as they came
    time_limit_s: float = 600.0
    started_s: float = field(default_factory=time.monotonic)

    @property
    def quick(self) -> bool:
        return self.size != "full"

    @property
    def effort(self) -> Effort:
        return QUICK if self.quick else Effort()

    @property
    def server_cpus(self) -> list[int]:
        """CPUs the study's server may use; without a placement all that this process may use."""
        return _cpus((self.platform.get("placement") or {}).get("server_cpus"))

    @property
    def load_cpus(self) -> list[int]:
        """CPUs the study's load generator may use."""
        return _cpus((self.platform.get("placement") or {}).get("load_cpus"))

    def sizes(self, test: T, quick: T, full: T) -> T:
        """The sweep, or the size, that belongs to this run's size."""
        return {"test": test, "quick": quick, "full": full}[self.size]

    @property
    def left_s(self) -> float:
        """Seconds until no further case is started."""
        return self.started_s + self.time_limit_s - time.monotonic()


def _cpus(wanted: Sequence[int] | None) -> list[int]:
    return [int(cpu) for cpu in wanted] if wanted else sorted(os.sched_getaffinity(0))


class Probe:
    """Base of every probe: subclass it once in `probes/<name>.py`."""

    name: ClassVar[str]
    title: ClassVar[str]
    measures: ClassVar[str]  # one sentence for the documentation and the report
    units: ClassVar[Mapping[str, str]]  # metric -> unit of its samples
    primary: ClassVar[
        tuple[str, ...]
    ]  # metrics that platforms are compared by; the others follow from the same samples
    needs: ClassVar[str] = "numpy"  # "numpy": the driver's environment is enough; "torch": envs/probes
    pinned: ClassVar[bool] = True  # the process is held on the platform's server_cpus
    one_thread: ClassVar[bool] = False  # numerical libraries start no threads, instead of one on each server CPU

    def cases(self, context: Context) -> Iterator[Case]:
        """Every variant this platform is asked for, in the order it is measured."""
        raise NotImplementedError

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        """Which phase of which of `cells` (rows of CELLS, not empty) depends on this variant, in words; else None."""
        return None

    def unsupported(self, context: Context) -> str | None:
        """Why the whole probe cannot run here, or None."""
        return None


def run(probe: Probe, context: Context) -> Iterator[Row]:
    """The rows of one probe: every case gives at least one row, whatever happens in it."""
    platform = context.platform["name"]
    reason = probe.unsupported(context)
    if reason:
        yield row_of_all(platform, probe.name, "skipped", reason)
        return
    cases = probe.cases(context)
    while True:
        try:
            case = next(cases, None)
        except Skip as skip:  # what all further cases need is not there
            yield row_of_all(platform, probe.name, "skipped", str(skip))
            return
        if case is None:
            return
        unknown = set(case.variant) - set(VARIANT_KEYS)
        if unknown:
            raise ValueError(f"probe {probe.name}: variant keys {sorted(unknown)} are not in base.VARIANT_KEYS")
        row = partial(Row, platform, probe.name, case.variant)
        unit = probe.units.get(case.metric, "")
        if context.left_s <= 0:
            reason = f"not started: the probe's time limit of {context.time_limit_s:g} s was used up"
            yield row(case.metric, unit, status="skipped", reason=reason)
            continue
        try:
            measured = case.measure()
            measured = [measured] if isinstance(measured, Measured) else list(measured)
        except Skip as skip:
            yield row(case.metric, unit, status="skipped", reason=str(skip))
            continue
        except Exception as error:  # boundary: a case that breaks is a row, it must not cost the platform its others
            reason = str(error) if isinstance(error, Wrong) else f"{type(error).__name__}: {error}"
            yield row(case.metric, unit, status="failed", reason=reason)
            continue
        for one in measured:
            unit = probe.units[one.metric]
            if isinstance(one, Skipped):
                yield row(one.metric, unit, status="skipped", reason=one.reason)
                continue
            value, low, high = median_interval(one.samples)
            wanted = context.effort.relative_error
            modes = two_modes(one.samples)
            reached = narrow_enough(one.samples, wanted) and not modes
            detail = {"relative_error": wanted, "reached": reached, "verified": one.verified, **one.detail}
            if modes:
                detail["two_modes"] = True
            if one.wrong:
                yield row(one.metric, unit, status="failed", reason=one.wrong, detail=detail)
                continue
            yield row(one.metric, unit, value, low, high, list(one.samples), detail=detail)


def per_second(amount: float, seconds: Sequence[float], scale: float) -> list[float]:
    """Rates: `amount` per each of `seconds`, divided by `scale` (1e9 for giga)."""
    return [amount / second / scale for second in seconds]


def pin(cpus: Sequence[int]) -> None:
    """Hold this process on `cpus`; CPUs that do not exist here are a Skip."""
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        have = sorted(os.sched_getaffinity(0))
        raise Skip(f"CPUs {list(cpus)} of the platform's placement are not available ({have} are): {error}") from error
