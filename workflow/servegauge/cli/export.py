"""`servegauge export`: a study of the dataset in another form."""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from servegauge.base.errors import UserError, did_you_mean
from servegauge.cli import options
from servegauge.dataset import merge
from servegauge.exchange.anonymise import anonymise, write_list
from servegauge.exchange.exporters import exporters

HELP = "Write a study of the dataset in another format."
EXAMPLE = """
  servegauge export demo --format csv --out demo-csv
  servegauge export demo --format parquet --anonymise --out demo-to-publish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = exporters()
    add = parser.add_argument
    add("study", type=options.name, help="name of the study")
    formats = "; ".join(f"{one.name}: {one.writes}" for one in known.values())
    add("--format", choices=list(known), required=True, help=formats)
    options.add_results(add)
    add("--out", type=options.new_folder, required=True, help="folder for the files")
    add(
        "--anonymise",
        action="store_true",
        help="replace hosts, users, accounts, addresses, paths, UUIDs, serial numbers and Slurm's names, each by "
        "the same word everywhere; what was replaced stands in OUT.replaced.tsv, which only you can read",
    )


def run(arguments: argparse.Namespace) -> int:
    exporter, results, out = exporters()[arguments.format], arguments.results, arguments.out
    known = merge.read(results, "studies")["study"].to_pylist()
    if arguments.study not in known:
        have = ", ".join(known) or "none"
        near = did_you_mean(arguments.study, known)
        raise UserError(f"{results}/dataset holds no study {arguments.study!r}.{near} It has: {have}")
    if not arguments.anonymise:
        print("\n".join(map(str, exporter.export(results, arguments.study, out))))
        return 0
    with tempfile.TemporaryDirectory(prefix="servegauge-export-") as name:
        # The study alone first: the names of others do not reach the list.
        alone, nameless = Path(name) / "alone", Path(name) / "nameless"
        exporters()["parquet"].export(results, arguments.study, alone)
        replaced = anonymise(alone / "dataset", nameless / "dataset")
        # Who called a study by a name has it replaced, too.
        study = merge.read(nameless, "studies")["study"][0].as_py()
        written = exporter.export(nameless, study, out)
    listed = out.with_name(f"{out.name}.replaced.tsv")
    write_list(listed, replaced)
    counts = Counter(kind for kind, *_ in replaced)
    print("\n".join(map(str, written)))
    if study != arguments.study:
        print(f"the study is called {study} in it")
    print(f"replaced: {', '.join(f'{count} {kind} names' for kind, count in counts.items()) or 'nothing'}; {listed}")
    return 0
