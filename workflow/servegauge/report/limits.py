"""What limits the server: its CPU, memory bandwidth, arithmetic, communication, power, its KV cache, or the load.

Assumption: a server that has requests all the time and leaves a resource unused is not limited by that resource. The
rules are asked in the order below, what is seen directly before what follows from models; where none answers, the
report says that it is unknown, and what was known.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields

from servegauge.base.numbers import mean
from servegauge.contract.columns import Row
from servegauge.dataset.study_view import Study, label, without
from servegauge.traces import phases

IDLE = 0.7  # requests at a time in an open loop: below, the server has nothing to do for a part of the time
KV_FULL = 0.97
CAPPED = 0.2  # share of samples; the GPU is at its power limit now and then under any load
BANDWIDTH = 0.6  # of the memory's: what decoding reaches in practice at most is 0.8 to 0.9
ARITHMETIC = 0.5  # of the peak: products of real shapes reach 0.6 to 0.8
EXPOSED = 0.3  # share of a step in which the GPU does nothing but communicate
WAITING = 0.6  # share of the time in which a kernel ran: below, the GPU waits
BUSY = 0.85  # of a node's CPU time


@dataclass(frozen=True)
class Evidence:
    """What is known of a condition on a platform, means over its cells; None where nothing recorded it. Shares of 1."""

    gpu: bool
    closed: bool
    running: float | None = None  # requests being computed, by the server itself, else by Little's law
    waiting: float | None = None
    kv_usage: float | None = None  # the largest
    preemptions: float | None = None
    utilisation: float | None = None
    capped: float | None = None
    tensor: float | None = None  # share of cycles, by DCGM
    dram: float | None = None
    node_busy: float | None = None
    mfu: float | None = None
    mbu: float | None = None
    step_busy: float | None = None  # of a decode step, from a trace: GPU busy / step
    step_cpu: float | None = None
    exposed: float | None = None


@dataclass(frozen=True)
class Limit:
    """`what` is None where it is unknown; `words` is the sentence, without a full stop."""

    what: str | None
    words: str


def limit(known: Evidence) -> Limit:
    """What limits a server of which this is known."""
    if not known.closed and known.running is not None and known.running < IDLE:
        return Limit(
            "load", f"the load: {known.running:.2g} requests at a time; part of the time there was nothing to do"
        )
    if (known.kv_usage or 0) >= KV_FULL and ((known.preemptions or 0) > 0 or (known.waiting or 0) >= 1):
        count = known.preemptions or 0
        back = f", {count:.{0 if count >= 1 else 2}f} preemptions a cell" if count else ""
        return Limit("KV cache", f"the KV cache: {known.kv_usage:.0%} of it was in use{back}; requests wait for room")
    if not known.gpu:
        if (known.node_busy or 0) >= BUSY:
            return Limit("CPU", f"its CPUs compute: {known.node_busy:.0%} of the node's CPU time was busy")
        return Limit(None, f"cannot tell: it computes on CPUs, of whose time {_share(known.node_busy)} was busy")
    if known.exposed is not None and known.exposed >= EXPOSED:
        return Limit(
            "communication", f"communication: {known.exposed:.0%} of a step nothing but communication ran (trace)"
        )
    if known.step_busy is not None and known.step_busy <= WAITING and (known.step_cpu or 0) > known.step_busy:
        return Limit("CPU", f"its CPU: the GPU was busy {known.step_busy:.0%} of a decode step and waited else (trace)")
    if (known.capped or 0) >= CAPPED and (known.utilisation is None or known.utilisation > WAITING):
        return Limit("power", f"power: in {known.capped:.0%} of the samples the GPU was slowed for its power limit")
    if (known.dram or 0) >= BANDWIDTH:
        return Limit(
            "memory bandwidth", f"memory bandwidth: memory moved data in {known.dram:.0%} of the cycles (DCGM)"
        )
    if (known.tensor or 0) >= ARITHMETIC:
        return Limit("compute", f"arithmetic: tensor cores worked in {known.tensor:.0%} of the cycles (DCGM)")
    if (known.mbu or 0) >= BANDWIDTH:
        return Limit("memory bandwidth", f"memory bandwidth: decoding used {known.mbu:.0%} of it")
    if (known.mfu or 0) >= ARITHMETIC:
        return Limit("compute", f"arithmetic: {known.mfu:.0%} of the peak")
    if known.utilisation is not None and known.utilisation <= WAITING and (known.closed or known.running is not None):
        return Limit(
            "CPU",
            f"its CPU: a kernel ran in {known.utilisation:.0%} of the window though requests were there; the GPU waits",
        )
    seen = {
        "GPU utilisation": known.utilisation, "MBU": known.mbu, "MFU": known.mfu, "power limit": known.capped,
    }  # fmt: skip
    shares_text = ", ".join(f"{name} {value:.0%}" for name, value in seen.items() if value is not None)
    missing = ", ".join(name for name, value in seen.items() if value is None)
    return Limit(
        None, f"cannot tell from {shares_text or 'what was recorded'}" + (f"; not known: {missing}" if missing else "")
    )


def _share(value: float | None) -> str:
    return "an unknown share" if value is None else f"{value:.0%}"


@dataclass(frozen=True)
class Limited:
    """A condition on a platform."""

    condition: str
    platform: str
    limit: Limit
    known: Evidence


def limits(study: Study, used: Sequence[Row]) -> list[Limited]:
    """A row for each condition and platform with a measured cell. `used`: MFU and MBU, rows of `platform_section`."""
    shares = {(row["condition"], row["platform"]): row for row in used}
    traced = _traced(study)
    groups: dict[tuple[str, str], list[Evidence]] = defaultdict(list)
    for row in study.ok:
        condition = label(without(row, "platform"))
        groups[(condition, row["platform"])].append(_of_cell(study, row))
    found = []
    for key, cells in groups.items():
        roof = shares.get(key, {})
        known = Evidence(
            gpu=cells[0].gpu,
            closed=cells[0].closed,
            **{
                one.name: mean(getattr(cell, one.name) for cell in cells)
                for one in fields(Evidence)
                if one.name not in ("gpu", "closed", "mfu", "mbu", "step_busy", "step_cpu", "exposed")
            },
            mfu=_first(roof.get("mfu"), roof.get("mfu_vendor")),
            mbu=_first(roof.get("mbu"), roof.get("mbu_vendor")),
            **traced.get(key, {}),
        )
        found.append(Limited(*key, limit(known), known))
    return found


def _of_cell(study: Study, row: Row) -> Evidence:
    seen = study.activity(row)
    running = seen["requests_running_mean"]
    if running is None and row["achieved_rps"] and row["e2e_mean_s"]:
        running = row["achieved_rps"] * row["e2e_mean_s"]  # Little's law
    return Evidence(
        gpu=seen["gpu_utilisation_mean"] is not None or bool(study.platform_gpus.get(row["platform"])),
        closed=row["concurrency"] is not None,
        running=running,
        waiting=seen["requests_waiting_mean"],
        kv_usage=seen["kv_usage_max"],
        preemptions=seen["preemptions"],
        utilisation=seen["gpu_utilisation_mean"],
        capped=seen["gpu_power_capped_share"],
        tensor=seen["gpu_tensor_active_mean"],
        dram=seen["gpu_dram_active_mean"],
        node_busy=seen["node_busy_mean"],
    )


def _traced(study: Study) -> dict[tuple[str, str], dict[str, float]]:
    """Shares of a decode step from the study's traces, by condition and platform."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in study.traces:
        if row["status"] != "ok":
            continue
        tables = study.trace_tables(row["trace"])
        decode = next((one for one in phases.phases(tables) if one["phase"] == "decode"), None)
        if decode is None or not decode["step_ns"] or decode["gpu_share"] is None:
            continue
        steps = phases.whole(tables["steps"].to_pandas())
        alone = steps.loc[steps["phase"] == "decode", "comm_exposed_ns"]
        exposed = float(alone.mean()) if alone.notna().all() else None
        means = {"step_busy": decode["gpu_busy_ns"], "step_cpu": decode["cpu_ns"], "exposed": exposed}
        condition = label(without(row, "platform"))
        found[(condition, row["platform"])] = {
            name: value / decode["step_ns"] for name, value in means.items() if value is not None
        }
    return found


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
