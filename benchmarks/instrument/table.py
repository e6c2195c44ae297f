"""The benchmark's runs as a page: a table a load, and what had to be reached."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tools import OURS

from servegauge.instrument.calibrate import Point

# What must be reached, in ms and s of CPU in the window; the factors are against the best peer's p99 error.
TARGETS: dict[str, dict[str, float]] = {
    "64 streams": {"ttft_p50": 0.5, "ttft_p99": 1.0, "itl_p99": 1.0, "window_cpu_s": 1.0, "factor": 10},
    "256 streams": {"ttft_p50": 1.0, "ttft_p99": 3.0, "itl_p99": 2.0, "window_cpu_s": 2.0, "factor": 10},
    "512 streams": {"ttft_p50": 2.0, "ttft_p99": 5.0, "itl_p99": 4.0, "window_cpu_s": 4.0, "factor": 10},
    "open 40/s": {"factor": 5},
    "open 100/s": {"ttft_p50": 0.5, "ttft_p99": 1.0, "lateness_p99": 1.0, "factor": 5},
}
BEYOND_LOAD_S = 3.0  # CPU of start-up and writing
ERRORS = ("ttft_p50", "ttft_p99", "itl_p99")
Run = Mapping[str, Any]


def heading(machine: Mapping[str, Any], runs: Sequence[Run], missing: Mapping[str, str]) -> list[str]:
    """Where and when, and what was left out."""
    counts = Counter((run["load"], run["tool"]) for run in runs)
    ours = max((count for (_, tool), count in counts.items() if tool == OURS.name), default=0)
    theirs = max((count for (_, tool), count in counts.items() if tool != OURS.name), default=0)
    what = f"ours: {_runs(ours)}" + (f"; the peers: {_runs(theirs)}" if theirs else "")
    if machine["real_time"]:
        load = f"load average {machine['load_before']:.1f}"
        what += f"; the machine had other work ({load}); all of this ran before it, at real-time priority"
    again = sum(run.get("tries", 1) > 1 for run in runs)
    lines = [
        f"Measured {machine['date']} on {machine['cpus']} CPUs ({machine['cpu']}), Python {machine['python']}; {what}. "
        "Errors in ms, reported - true; CPU of a tool's whole process tree in s; stolen: share of CPU time that the "
        f"hypervisor took from this machine meanwhile. For that, {again} of {len(runs)} runs were done again."
    ]
    return lines + [f"Left out: {name}, {why.splitlines()[0][:160]}" for name, why in missing.items()]


def _runs(count: int) -> str:
    return "one run" if count == 1 else f"medians of {count} runs"


def markdown(runs: Sequence[Run], loads: Mapping[str, Point]) -> list[str]:
    """One table a load: a row a tool, then what had to be reached and what was."""
    lines = []
    for load in dict.fromkeys(run["load"] for run in runs):
        here = [run for run in runs if run["load"] == load]
        tools = {
            tool: [run for run in here if run["tool"] == tool] for tool in dict.fromkeys(run["tool"] for run in here)
        }
        lines += ["", f"**{load}** ({_words(loads[load])}; {_true_words(here)})", ""]
        lines += ["| tool | TTFT p50 error | TTFT p99 error | ITL p99 error | CPU s | in the window | stolen |"]
        lines += ["|---|---|---|---|---|---|---|", *(_row(tool, own) for tool, own in tools.items())]
        lines += ["", *verdicts(load, tools)]
    return lines


def _row(tool: str, runs: Sequence[Run]) -> str:
    if not any("error_ms" in run for run in runs):
        return f"| {tool} | failed: {runs[0]['failed'].splitlines()[-1][:120]} | | | | | |"
    cells = [signed(error(runs, key)) for key in ERRORS]
    cells += [_plain(reported(runs, key)) for key in ("cpu_s", "window_cpu_s")]
    cells += [f"{_median(runs, lambda run: run['stolen']):.1%}"]
    return f"| {tool} | {' | '.join(cells)} |"


def verdicts(load: str, tools: Mapping[str, Sequence[Run]]) -> list[str]:
    """What had to be reached at this load, and what was, in one line."""
    own = [run for run in tools.get(OURS.name, ()) if "error_ms" in run]
    if not own:
        return []
    said = []
    for key, bound in TARGETS.get(load, {}).items():
        if key == "factor":
            mine = _median(own, lambda run: abs(run["error_ms"]["ttft_p99"]))
            others = [_median(runs, lambda run: abs(run["error_ms"]["ttft_p99"])) for tool, runs in tools.items()
                      if tool != OURS.name]  # fmt: skip
            best = min((value for value in others if value is not None), default=None)
            if best is not None and mine:
                said.append(_verdict("best peer's TTFT p99 error / ours", [best / mine], bound, at_least=True))
        elif key == "window_cpu_s":
            said.append(_verdict("CPU s in the window", [run["reported"][key] for run in own], bound))
        elif key == "lateness_p99":
            late = [run["reported"]["lateness_p99_s"] * 1e3 for run in own]
            said.append(_verdict("lateness p99 ms", late, bound))
        else:
            said.append(_verdict(f"{key} error ms", [abs(run["error_ms"][key]) for run in own], bound))
    costs = [run["reported"] for run in own if run["reported"].get("load_cpu_s")]  # runs kept from before have none
    if beyond := [cost["cpu_s"] - cost["load_cpu_s"] for cost in costs]:
        said.append(_verdict("CPU s beyond the load", beyond, BEYOND_LOAD_S))
    return ["servegauge: " + "; ".join(said) + "."]


def one_line(run: Run) -> str:
    """One run, as it is printed when it ends."""
    where = f"round {run['round']}  {run['load']:<12} {run['tool']:<11}"
    if "failed" in run:
        return f"{where} failed: {run['failed'][-300:]}"
    errors = "  ".join(f"{name} {signed(value)} ms" for name, value in run["error_ms"].items())
    return f"{where} {errors}  CPU {run['reported']['cpu_s']:.1f} s  stolen {run['stolen']:.1%}"


def error(runs: Sequence[Run], key: str) -> float | None:
    """Median error in ms over the rounds; null where the tool does not tell."""
    return _median(runs, lambda run: run["error_ms"][key])


def reported(runs: Sequence[Run], key: str) -> float | None:
    """Median of what the tool reports over the rounds."""
    return _median(runs, lambda run: run["reported"][key])


def _median(runs: Sequence[Run], value: Callable[[Run], float | None]) -> float | None:
    values = [found for run in runs if "error_ms" in run and (found := value(run)) is not None]
    return statistics.median(values) if values else None


def _verdict(what: str, values: Sequence[float], bound: float, at_least: bool = False) -> str:
    """The median of the runs against the bound, and the lowest and highest of them."""
    value = statistics.median(values)
    reached = value >= bound if at_least else value <= bound
    asked = f"at least {bound:g}" if at_least else f"at most {bound:g}"
    spread = f", runs {min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
    return f"{what} {value:.2f} ({'reached' if reached else 'NOT reached'}: {asked}{spread})"


def _words(load: Point) -> str:
    how = "closed loop" if load.streams else f"Poisson {load.rate_rps:g} requests/s"
    return f"{how}, {load.requests} requests, {load.prompt_tokens} + {load.output_tokens} tokens"


def _true_words(runs: Sequence[Run]) -> str:
    true = [run["true"] for run in runs if "true" in run]
    if not true:
        return "no truth"
    median = statistics.median(one["ttft_p50_s"] for one in true) * 1e3
    high = [one["ttft_p99_s"] * 1e3 for one in true]
    return f"true TTFT p50 {median:.1f}, p99 {min(high):.1f} to {max(high):.1f}"


def signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
