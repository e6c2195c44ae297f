#!/usr/bin/env python3
"""Measure the error of servegauge's load generator and of its peers, side by side, against the same paced server.

    python benchmarks/instrument/run.py                      ours alone, about 3 minutes
    python benchmarks/instrument/run.py --peers all          with those of vllm, sglang, aiperf, guidellm that install
    python benchmarks/instrument/run.py --peers all --ours 3 --docs docs/instrument.md

The server (first token after 50 ms, then one each 10 ms; from 1,024 streams on each 50 or 100 ms) logs when it really
sent each token; error = reported - true, of the same quantile. It has a CPU of its own; ours is pinned to another, the
peers take what they like. Wants a machine that does nothing else; where there is none, `chrt -r 10 python ...` (as
root) puts every tool and the server before the other work, and the table says so. A run of any tool from which the
hypervisor took more CPU time than a cell may lose without a flag is done again, at most twice, and the one from which
it took least counts. Writes every run to --out and, with --docs, the table into the page; `--loads "64 streams" --keep`
measures a part and keeps the rest.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from table import heading, markdown, one_line
from tools import OURS, PEERS, ROOT, Reported, Tool

from servegauge.base.errors import UserError, did_you_mean, run_and_exit
from servegauge.base.files import read_json, write_json, write_text
from servegauge.contract.flag_registry import thresholds
from servegauge.contract.records.base import plain
from servegauge.inputs.models import build_model
from servegauge.instrument.calibrate import PacedServer, Point, paced_server, quantiles
from servegauge.node.expectations import cpu_sample, steal_between

FIRST_S, GAP_S = 0.05, 0.01
TRIES, STOLEN = 3, thresholds()["steal_share"].default
BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"


def closed(streams: int, requests: int) -> Point:
    return Point(streams=streams, requests=requests, output_tokens=128, first_s=FIRST_S, gap_s=GAP_S)


def opened(rate_rps: float, requests: int, output_tokens: int) -> Point:
    return Point(rate_rps=rate_rps, requests=requests, output_tokens=output_tokens, first_s=FIRST_S, gap_s=GAP_S)


LOADS: dict[str, Point] = {
    "64 streams": closed(64, 512),
    "256 streams": closed(256, 1024),
    "512 streams": closed(512, 2048),
    "open 40/s": opened(40.0, 800, 128),
    "open 100/s": opened(100.0, 6000, 64),
    "64k prompts": Point(streams=16, requests=64, prompt_tokens=65536, output_tokens=128, first_s=FIRST_S, gap_s=GAP_S),
    # 20,000 tokens/s: the server is one process that needs about 10 us a token.
    "1024 streams": Point(streams=1024, requests=2048, output_tokens=64, first_s=FIRST_S, gap_s=0.05),
    "2048 streams": Point(streams=2048, requests=4096, output_tokens=64, first_s=FIRST_S, gap_s=0.1),
    "2048 streams by 2": Point(streams=2048, requests=4096, output_tokens=64, first_s=FIRST_S, gap_s=0.1, workers=2),
}
# The peers' tokenizers take minutes to make long prompts, and beyond 512 streams the peers take minutes for a run.
OURS_ONLY = "64k prompts,1024 streams,2048 streams,2048 streams by 2"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--peers", default="none", help="all, none, or names with commas; default: none")
    options.add_argument("--loads", default="all", help=f"all, or some of: {', '.join(LOADS)}")
    options.add_argument("--ours-only", default=OURS_ONLY, help=f"loads without the peers; default: {OURS_ONLY}")
    options.add_argument("--repeat", type=int, default=1, help="rounds; the table has their medians; default: 1")
    options.add_argument("--ours", type=int, default=1, help="runs of ours a round, between the peers'; default: 1")
    options.add_argument("--tokenizer", type=Path, help="the peers want one; default: the tiny model's, which is built")
    options.add_argument("--out", type=Path, default=ROOT / "results" / "instrument.json", help="every run, as JSON")
    options.add_argument("--keep", action="store_true", help="keep what --out holds of other loads and tools")
    options.add_argument("--docs", type=Path, help="page whose table is replaced")
    given = options.parse_args()
    loads, alone = _chosen(given.loads, LOADS), _chosen(given.ours_only, LOADS)
    peers = {tool.name: tool for tool in PEERS}
    tools = {OURS.name: OURS} | {
        name: peers[name] for name in ([] if given.peers == "none" else _chosen(given.peers, peers))
    }
    pythons, missing = _installed(tools)
    tokenizer = given.tokenizer or build_model("tiny", ROOT, print)
    machine = _machine()
    runs: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = read_json(given.out)["runs"] if given.keep and given.out.exists() else []
    for number in range(given.repeat):
        for load in loads:
            for name in _turns([] if load in alone else [name for name in pythons if name != OURS.name], given.ours):
                run = {"round": number + 1, "load": load, "tool": name}
                try:
                    run |= undisturbed(tools[name], pythons[name], LOADS[load], tokenizer)
                except UserError as error:
                    run["failed"] = str(error)
                runs.append(run)
                print(one_line(run), flush=True)
    again = {(run["load"], run["tool"]) for run in runs}
    runs += [run for run in kept if (run["load"], run["tool"]) not in again]
    runs.sort(key=lambda run: list(LOADS).index(run["load"]))
    table = "\n".join([*heading(machine, runs, missing), *markdown(runs, LOADS)])
    print("\n" + table)
    described = {name: plain(load) for name, load in LOADS.items()}
    write_json(given.out, {"machine": machine, "loads": described, "runs": runs})
    if given.docs is not None:
        page = given.docs.read_text(encoding="utf-8")
        before, _, rest = page.partition(BEGIN)
        _, _, after = rest.partition(END)
        write_text(given.docs, f"{before}{BEGIN}\n{table}\n{END}{after}")
    return 0 if all(run.get("failed") is None for run in runs if run["tool"] == OURS.name) else 1


def _turns(peers: Sequence[str], ours: int) -> list[str]:
    """Who measures when: ours first, and again after each peer until it has had its runs."""
    between = min(ours - 1, len(peers))
    turns = [OURS.name] * (ours - between)
    for number, peer in enumerate(peers):
        turns += [peer, OURS.name] if number < between else [peer]
    return turns


def undisturbed(tool: Tool, python: Path, load: Point, tokenizer: Path) -> dict[str, Any]:
    """A run with `stolen`, the share of CPU time that the hypervisor took meanwhile, and `tries`, how many it took."""
    runs: list[dict[str, Any]] = []
    while len(runs) < TRIES and not any(run["stolen"] <= STOLEN for run in runs):
        before = cpu_sample()
        try:
            run = measure(tool, python, load, tokenizer)
        except UserError:
            if not runs:
                raise
            break  # an earlier run stands
        # Where the kernel does not tell, there is no hypervisor, or no help.
        runs.append({**run, "stolen": steal_between(before, cpu_sample())["steal"] or 0.0})
    return {**min(runs, key=lambda run: run["stolen"]), "tries": len(runs)}


def measure(tool: Tool, python: Path, load: Point, tokenizer: Path) -> dict[str, Any]:
    """One run of one tool against a fresh server: what it reports, what is true, and the difference."""
    arguments = ["--first-s", str(load.first_s), "--gap-s", str(load.gap_s)]
    with tempfile.TemporaryDirectory() as folder, paced_server(arguments, _server_cpu(), Path(folder)) as server:
        reported = tool.run(python, server.url, load, tokenizer)
        true = _truth(server, load, reported.counted)
    told = {name: value for name, value in asdict(reported).items() if name != "counted"}
    return {"reported": told, "true": true, "error_ms": _errors(reported, true)}


def _truth(server: PacedServer, load: Point, counted: frozenset[str]) -> dict[str, float]:
    """Quantiles of what the server did with the requests that a tool counted.

    A tool that does not tell which they are counts its last ones: those that it sent to try the server came first.
    """
    told = server.truth()
    entries = [told[one] for one in counted] or [
        entry for entry in told.values() if len(entry["sends_ns"]) == load.output_tokens
    ]
    entries = sorted(entries, key=lambda entry: entry["received_ns"])[-load.requests :]
    ttft = quantiles([entry["sends_ns"][0] - entry["received_ns"] for entry in entries])
    gaps = [b - a for entry in entries for a, b in zip(entry["sends_ns"], entry["sends_ns"][1:], strict=False)]
    return {
        "requests": len(entries),
        "ttft_p50_s": ttft["p50"],
        "ttft_p99_s": ttft["p99"],
        "itl_p99_s": quantiles(gaps)["p99"],
    }


def _errors(reported: Reported, true: dict[str, float]) -> dict[str, float | None]:
    errors: dict[str, float | None] = {}
    for name in ("ttft_p50", "ttft_p99", "itl_p99"):
        said = getattr(reported, f"{name}_s")
        errors[name] = None if said is None else (said - true[f"{name}_s"]) * 1e3
    return errors


def _installed(tools: dict[str, Tool]) -> tuple[dict[str, Path], dict[str, str]]:
    """Interpreters of the tools that install here, and why the others do not."""
    pythons, missing = {OURS.name: Path(sys.executable)}, {}
    for name, tool in tools.items():
        if name == OURS.name:
            continue
        try:
            pythons[name] = tool.install()
        except UserError as error:
            missing[name] = str(error)
            print(f"{name} is left out: {error}", flush=True)
    return pythons, missing


def _chosen(text: str, known: dict[str, Any]) -> list[str]:
    names = list(known) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"there is no {name!r}; choose from {', '.join(known)}.{did_you_mean(name, known)}")
    return names


def _server_cpu() -> int | None:
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[-1] if len(cpus) > 1 else None


def _machine() -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())  # fmt: skip
    return {
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load_before": os.getloadavg()[0],
        "real_time": os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR),
    }


if __name__ == "__main__":
    run_and_exit(main)
