"""`servegauge import`: requests that another tool measured, as our columns and in our terms."""

from __future__ import annotations

import argparse

from servegauge.base.errors import UserError
from servegauge.cli import options
from servegauge.exchange.importers import importers

HELP = "Read requests that another tool measured; write them as a requests table, and summarise them."
EXAMPLE = """
  servegauge import artifacts/run1/profile_export.jsonl --out run1.parquet
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = importers()
    add = parser.add_argument
    add("file", metavar="FILE", type=options.file, help="what the other tool wrote")
    formats = "; ".join(f"{one.name}: {one.reads}" for one in known.values())
    add("--format", choices=list(known), help=f"{formats}. Default: the one that recognises the file")
    add("--out", type=options.new_file, help="Parquet file for the requests, with the derived columns")


def run(arguments: argparse.Namespace) -> int:
    known = importers()
    name = arguments.format or next((name for name, one in known.items() if one.recognises(arguments.file)), None)
    if name is None:
        raise UserError(f"{arguments.file}: no format recognises it; there are {', '.join(known)} (--format)")

    from servegauge.cli.load_summary import latency_table
    from servegauge.contract import columns, metrics

    raw, notes = known[name].requests(arguments.file)
    requests = metrics.derive(raw)
    # How the other tool loaded the server is not in its file: no offered rate.
    summary = metrics.summarise(requests, metrics.window_s(requests), "closed", True)
    statuses = requests.filter(metrics.in_window(requests))["status"].to_pylist()
    print(", ".join(f"{statuses.count(one)} {one}" for one in sorted(set(statuses))))
    print("\n".join(latency_table(summary)))
    print("\n".join(f"note: {note}" for note in notes))
    if arguments.out:
        columns.write(requests, arguments.out)
        print(f"written: {arguments.out}")
    return 0
