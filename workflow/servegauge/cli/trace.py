"""Read a profiler's capture of a server: where each step's time went, on the CPU and on the GPU."""

from __future__ import annotations

import argparse

from servegauge.base.files import write_text
from servegauge.base.text import csv_text
from servegauge.cli import options
from servegauge.traces import build, phases, ttft_means

HELP = "Show where a traced server's time went: phases on CPU and GPU, kernels, copies, gaps."
EXAMPLE = """
  servegauge trace vllm.sqlite --out traces/vllm
  servegauge trace rank0.json.gz rank1.json.gz --requests run.parquet --out traces/tp2

FILE is a report of nsys (.nsys-rep, where nsys is installed), its sqlite export, or a trace of PyTorch's profiler
(.json, .json.gz); several are the ranks of one capture. DIR gets one Parquet file per table and phases.csv;
docs/traces.md says what they mean.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", type=options.path, help="what the profiler wrote; one file a rank")
    requests = "requests of the traced window, as `servegauge load` wrote them"
    add("--requests", metavar="RUN.parquet", type=options.path, help=requests)
    add("--out", metavar="DIR", type=options.new_folder, help="folder for the tables; without it none are written")


def run(arguments: argparse.Namespace) -> int:
    """Print the phase table, and write the tables."""
    tables = build.of_files(build.name_of(arguments.files[0]), arguments.files, arguments.requests)
    rows = phases.phases(tables)
    print(_head(tables))
    if rows:
        print(phases.text(rows))
        if rows[-1]["phase"] == "sampling":
            print("sampling is a part of the steps above it")
    for sentence in phases.sentences(rows):
        print(sentence)
    for sentence in ttft_means.sentences([tables["request_ttft"]]):
        print(sentence)
    if arguments.out is not None:
        build.write(tables, arguments.out)
        write_text(arguments.out / "phases.csv", csv_text(phases.COLUMNS, rows))
        print(f"tables: {arguments.out}")
    return 0


def _head(tables: dict) -> str:
    """What was read, and what it cannot answer."""
    lines = []
    for row in tables["traces"].to_pylist():
        where = f"rank {row['rank']}" + ("" if row["device"] is None else f", device {row['device']}")
        name = f" ({row['device_name']})" if row["device_name"] else ""
        share = "" if row["attributed_share"] is None else f", {row['attributed_share']:.1%} of them in steps"
        what = " ".join(filter(None, (row["profiler"], row["version"], f"schema {row['schema'] or 'unknown'}")))
        steps = f"{row['steps']} steps ({row['phase_source']})"
        lines.append(
            f"{row['file']}: {what}, {where}{name}: {steps}, {row['kernels']:,} kernels{share}, "
            f"graphs: {row['graph_mode']}"
        )
        if row["clock_source"] != "none":
            error = "not measured" if row["clock_error_ns"] is None else f"{row['clock_error_ns']:,} ns"
            lines.append(f"  clock: joined by {row['clock_source']}, error {error}")
        if row["reason"]:
            lines.append(f"  {row['reason']}")
    return "\n".join(lines)
