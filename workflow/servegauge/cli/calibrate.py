"""`servegauge calibrate`: run the grid, show each point as it comes, say what load this node's instrument carries."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from servegauge.cli import options
from servegauge.contract.records.base import plain
from servegauge.contract.records.calibration import CalibratedPoint, Limits
from servegauge.instrument.calibrate import calibrate

HELP = "Measure the load generator's own error on this node, against the paced server, over a grid of loads."
EXAMPLE = """
  servegauge calibrate --short
  servegauge calibrate --cpus 2,3 --server-cpus 4 --out calibration.json

error = reported - true. The short form takes some seconds and runs before every launch; the full one takes minutes.
"""
COLUMNS = ("load", "tokens/s", "TTFT p50", "p99", "max", "ITL p99", "E2E p99", "late p99", "CPU us/token")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--short", action="store_true", help="the few points that run before every launch")
    add("--cpus", type=options.cpus, metavar="N,N,...", help="pin the generator to these CPUs")
    add(
        "--server-cpus",
        type=options.cpus,
        metavar="N,...",
        help="pin the paced server; default: a CPU outside --cpus",
    )
    add("--out", type=options.new_file, default="calibration.json", help="default: calibration.json")
    add("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """The subcommand: exit status."""
    as_json, out = arguments.json, arguments.out
    if not as_json:
        print("error of the instrument (reported - true) in ms")
        print(_line(COLUMNS))
    result = calibrate(
        arguments.short,
        arguments.cpus,
        out,
        arguments.server_cpus,
        on_point=lambda point: None if as_json else print(_line(cells(point)), flush=True),
    )
    if as_json:
        json.dump(plain(result), sys.stdout, indent=1)
        print()
    else:
        print(limits_text(result.limits))
        print(f"written to {out} after {result.seconds:.0f} s")
    return 0


def cells(point: CalibratedPoint) -> Sequence[str]:
    """The columns of one point."""
    load = point.load
    extra = f" x {load.output_tokens}"
    if load.prompt_tokens >= 1024:
        extra += f", {load.prompt_tokens // 1024}k prompt"
    if load.tokens_per_chunk > 1:
        extra += f", {load.tokens_per_chunk} a chunk"
    if load.gap_s != 0.01:
        extra += f", gap {load.gap_s * 1e3:g} ms"
    errors = [getattr(point, f"{metric}_error_s").get(key) for metric, key in _SHOWN]
    per_token = point.cpu_s_per_token
    return (
        load.size + extra,
        f"{point.tokens_per_s or 0:.0f}",
        *("-" if error is None else f"{error * 1e3:+.2f}" for error in errors),
        f"{(point.lateness_s.get('p99') or 0) * 1e3:.2f}",
        "-" if per_token is None else f"{per_token * 1e6:.1f}",
    )


_SHOWN = (("ttft", "p50"), ("ttft", "p99"), ("ttft", "max"), ("itl", "p99"), ("e2e", "p99"))


def limits_text(limits: Limits) -> str:
    """What this node's instrument carries, in one line a kind of load."""
    lines = []
    for kind, unit in (("streams", "streams"), ("rate_rps", "req/s")):
        tried = getattr(limits, f"{kind}_tried")
        if tried is None:
            continue
        most = limits.ttft_p99_error_s * 1e3
        found = getattr(limits, kind)
        what = "not even the lowest load" if found is None else f"{found:g} {unit}"
        lines.append(f"p99 TTFT error below {most:g} ms: {what} (tried up to {tried:g} {unit})")
    return "\n".join(lines)


def _line(values: Sequence[str]) -> str:
    return f"{values[0]:<34}" + "".join(f"{value:>13}" for value in values[1:])
