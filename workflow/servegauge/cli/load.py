"""`servegauge load`: options to a workload and a job, progress while it runs, a summary at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.base.files import parse_json
from servegauge.cli.load_options import Options, add_arguments
from servegauge.cli.load_prompts import Given, load_prompts
from servegauge.cli.load_summary import as_text, summarise
from servegauge.contract import columns, metrics
from servegauge.contract.cell_tables import REQUESTS
from servegauge.contract.records import base as records
from servegauge.contract.spec import Load
from servegauge.contract.tables import conform
from servegauge.instrument.coordinator import LoadResult, run_load
from servegauge.instrument.job import LoadJob
from servegauge.workloads.compile import workload_table
from servegauge.workloads.load_times import load_times

__all__ = ["EXAMPLE", "HELP", "add_arguments", "run"]
HELP = "Put any OpenAI-compatible endpoint under load and measure it; nothing else of the workflow is needed."
EXAMPLE = """
  servegauge load --base-url http://localhost:8000 --model M --rate 20 --duration 60 --prompts synthetic:64,128
  servegauge load --base-url http://localhost:8000 --model M --concurrency 64 --requests 512 --out run.parquet

Writes one row per request (docs/data-dictionary.md, requests) and prints a summary. Ctrl-C keeps what was measured.
"""


def run(arguments: argparse.Namespace) -> int:
    """The subcommand: exit status."""
    return measure(Options(**vars(arguments)))


def measure(options: Options) -> int:
    """Run the load that `options` ask for; returns the exit status: 0, 1 if no request was answered, 130 if stopped."""
    load = options.load
    extra = _json_object(options.extra_body)
    with tempfile.TemporaryDirectory(prefix="servegauge-load-") as name:
        folder = Path(name)
        path, given = write_workload(options, load, folder)
        job = LoadJob(
            base_urls=options.base_url,
            workload=str(path),
            out=str(folder),
            model=options.model,
            load=load,
            phase="both" if "warmup" in _phases(path) else "window",
            extra_body=extra,
            length_field=options.length_field,
            path=options.path,
            headers=_headers(options.header or (), options.header_env or ()),
            api_key=_api_key(options.api_key_env),
            cpus=options.cpus,
            workers=options.workers,
            tokenizer=str(options.tokenizer) if options.tokenizer else None,
            verify_tls=not options.insecure,
            ca_file=str(options.ca_file) if options.ca_file else None,
        )
        with _asked_to_stop() as asked:
            result = run_load(job, None if options.quiet else _progress(), asked)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_requests(result, options.out)
    summary = summarise(options.out, load, result, given.notes, given.thresholds)
    if not options.quiet and sys.stderr.isatty():
        print(file=sys.stderr)
    print(json.dumps(summary, indent=1) if options.json else as_text(summary))
    return 130 if result.stopped else 0 if summary["requests_ok"] else 1


def write_requests(result: LoadResult, out: Path) -> None:
    """The requests with what is derived from them, as in the dataset; the clock of the stamps in the file's metadata.

    A stamp + `window_start_ns` is the node's CLOCK_MONOTONIC, and with `epoch_offset_start_ns` added it is Unix time: a
    trace of the same node can be joined.
    """
    table = conform(metrics.derive(pq.read_table(result.requests)), REQUESTS)
    metadata = {**(table.schema.metadata or {}), b"clock": json.dumps(records.plain(result.clock)).encode()}
    columns.write(table.replace_schema_metadata(metadata), out)


def write_workload(options: Options, load: Load, folder: Path) -> tuple[Path, Given]:
    """The frozen workload that is to be sent, and notes about its prompts."""
    if options.prompts.endswith(".parquet"):
        path = Path(options.prompts)
        if not path.is_file():
            raise UserError(f"--prompts {options.prompts}: there is no such file")
        timed = pq.read_table(path, columns=["scheduled_s", "phase"])
        if options.concurrency is None and timed.filter(pc.equal(timed["phase"], "window"))["scheduled_s"].null_count:
            raise UserError(f"{path} is of a closed loop, its requests have no times; give --concurrency")
        return path, Given([])
    if load.rate_rps is None:
        # A closed loop with only a duration must not run dry: it gets more requests than it is likely to send.
        count = load.requests or max(1000, int((load.concurrency or 1) * (load.duration_s or 1.0) * 20))
        load = replace(load, requests=count)
    states = np.random.SeedSequence([options.seed, 1]).generate_state(3)
    seeds = {name: int(state) for name, state in zip(("window", "ramp", "tail"), states, strict=True)}
    times = load_times(replace(load, warmup_requests=0), seeds, Path())
    times = replace(times, warmup=[None] * load.warmup_requests)
    if not times.window:
        raise UserError(f"no request arrives in {load.duration_s:g} s at {load.rate_rps:g} requests/s; take longer")
    total = sum(map(len, times.phases.values()))
    given = load_prompts(
        options.prompts, total, options.seed, options.tokenizer, options.output_tokens, options.endpoint == "chat"
    )
    path = folder / "workload.parquet"
    pq.write_table(workload_table(times, given.prompts), path)
    return path, given


def _progress() -> Callable[[int, int, int], None]:
    """A line that is written over on a terminal, and one each 5 s elsewhere; to standard error."""
    last = [0.0]

    def show(done: int, total: int, in_flight: int) -> None:
        terminal, now = sys.stderr.isatty(), time.monotonic()
        if not total or now - last[0] < (0.2 if terminal else 5.0):
            return
        last[0] = now
        line = f"{done}/{total} requests, {in_flight} in flight"
        print(f"\r{line:<60}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)

    return show


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """A function that is true once TERM came (Ctrl-C is `run_load`'s own)."""
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)


def _phases(path: Path) -> set[str]:
    return set(pq.read_table(path, columns=["phase"])["phase"].unique().to_pylist())


def _api_key(name: str | None) -> str:
    if name is None:
        return ""
    if name not in os.environ:
        raise UserError(f"--api-key-env {name}: there is no such environment variable; export it first")
    return os.environ[name]


def _headers(given: Sequence[str], by_variable: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon:
            raise UserError(f"--header {text!r}: write it as 'NAME: VALUE'")
        found[name.strip()] = value.strip()
    for text in by_variable:
        name, equals, variable = text.partition("=")
        if not equals or variable not in os.environ:
            raise UserError(f"--header-env {text}: write NAME=VARIABLE with an environment variable that is set")
        found[name.strip()] = os.environ[variable]
    return found


def _json_object(text: str) -> dict[str, Any]:
    try:
        data = parse_json(text)
    except ValueError as error:
        raise UserError(f"--extra-body is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError("--extra-body must be a JSON object, such as '{\"top_p\": 0.9}'")
    return data
