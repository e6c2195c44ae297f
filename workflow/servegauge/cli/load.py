"""`servegauge load`: options to a workload and a job, progress while it runs, a summary at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.base.files import parse_json, whole_file
from servegauge.cli.load_prompts import Given, load_prompts
from servegauge.cli.load_summary import as_text, summarise
from servegauge.contract import metrics
from servegauge.contract.cell_tables import REQUESTS
from servegauge.contract.records import base as records
from servegauge.contract.spec import Load
from servegauge.contract.tables import conform
from servegauge.instrument import openai_api
from servegauge.instrument.coordinator import LoadJob, LoadResult, run_load
from servegauge.workloads import arrivals
from servegauge.workloads.compile import workload_table
from servegauge.workloads.load_times import load_times

HELP = "Put any OpenAI-compatible endpoint under load and measure it; nothing else of the workflow is needed."
EXAMPLE = """
  servegauge load --base-url http://localhost:8000 --model M --rate 20 --duration 60 --prompts synthetic:64,128
  servegauge load --base-url http://localhost:8000 --model M --concurrency 64 --requests 512 --out run.parquet

Writes one row per request (docs/data-dictionary.md, requests) and prints a summary. Ctrl-C keeps what was measured.
"""

_STREAM_ROUNDS = 4  # requests a stream of a closed loop, where neither --requests nor --duration says


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--base-url",
        action="append",
        required=True,
        metavar="URL",
        help="http[s]://host:port; again for each instance",
    )
    add("--model", required=True, help="model name in each request")
    add("--endpoint", choices=tuple(openai_api.PATHS), default="completions", help="default: completions")
    group = parser.add_argument_group("load: an open loop by --rate, or a closed one by --concurrency")
    add = group.add_argument
    add("--rate", type=float, metavar="RPS", help="requests per second, sent on time whatever the server does")
    add("--concurrency", type=int, metavar="N", help="streams that each send when their last answer is complete")
    add("--requests", type=int, metavar="N", help="how many; default in a closed loop: 4 a stream")
    add("--duration", type=float, metavar="S", help="seconds; a closed loop stops sending then")
    add(
        "--arrival",
        choices=[name for name in arrivals.PROCESSES if name != "trace"],
        default="poisson",
        help="arrival process of an open loop; default: poisson",
    )
    add("--shape", type=float, help="of gamma arrivals: 1 is Poisson, less is burstier")
    add("--size", type=int, help="of burst arrivals: requests at once")
    add("--factors", metavar="F,F,...", help="of steps and ramp: the rate's factors, such as 0.5,1,2")
    add("--replay", type=Path, metavar="FILE", help="of replay: recorded times, one a line, in seconds")
    add("--think", type=float, default=0.0, metavar="S", help="closed loop: seconds between answer and next request")
    add("--max-in-flight", type=int, metavar="N", help="hold requests back beyond N; the wait counts as lateness")
    add("--warmup", type=int, default=0, metavar="N", help="requests sent before, and not measured; default: 0")
    group = parser.add_argument_group("requests")
    add = group.add_argument
    add(
        "--prompts",
        default="synthetic:64,128",
        metavar="SET",
        help="synthetic:INPUT,OUTPUT tokens; a .jsonl with a prompt or messages a line; a file of config/prompts/ "
        "(with --tokenizer); or a workload.parquet",
    )
    add("--tokenizer", type=Path, metavar="FOLDER", help="with tokenizer.json: exact prompt lengths, and counts")
    add("--seed", type=int, default=0, help="of prompts and arrival times; default: 0")
    add("--output-tokens", type=int, metavar="N", help="tokens of each answer, whatever the prompts say")
    add("--temperature", type=float, default=0.0, help="default: 0")
    add("--no-stream", action="store_true", help="ask for whole answers; then there is no TTFT")
    add("--stop-at-eos", action="store_true", help="let the model end answers itself (no ignore_eos in requests)")
    add("--extra-body", default="{}", metavar="JSON", help="fields added to each request, or that replace ours")
    add(
        "--length-field",
        default="max_tokens",
        metavar="NAME",
        help="field that asks for an answer's length, such as max_completion_tokens; default: max_tokens",
    )
    add("--path", metavar="PATH", help="path of the endpoint, such as /chat/completions, where it is not OpenAI's own")
    add(
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="added to each request; may be given again",
    )
    add(
        "--header-env",
        action="append",
        default=[],
        metavar="NAME=VARIABLE",
        help="the same with the value of an environment variable, such as a key",
    )
    add("--timeout", type=float, default=300.0, metavar="S", help="most seconds for an answer; default: 300")
    group = parser.add_argument_group("connection and process")
    add = group.add_argument
    add("--api-key-env", metavar="NAME", help="environment variable that holds the API key")
    add("--ca-file", metavar="FILE", help="certificates to trust for https")
    add("--insecure", action="store_true", help="do not verify the server's certificate")
    add("--cpus", metavar="N,N,...", help="pin the generator's processes to these CPUs")
    add("--workers", type=int, default=1, metavar="N", help="generator processes; default: 1")
    group = parser.add_argument_group("result")
    add = group.add_argument
    add("--out", type=Path, default=Path("run.parquet"), metavar="FILE", help="default: run.parquet")
    add("--json", action="store_true", help="print the summary as JSON")
    add("--quiet", action="store_true", help="no progress")


@dataclass(frozen=True)
class Options:
    """The options of `servegauge load`, by the names of its command line."""

    base_url: list[str]
    model: str
    endpoint: str = "completions"
    rate: float | None = None
    concurrency: int | None = None
    requests: int | None = None
    duration: float | None = None
    arrival: str = "poisson"
    shape: float | None = None
    size: int | None = None
    factors: str | None = None
    replay: Path | None = None
    think: float = 0.0
    max_in_flight: int | None = None
    warmup: int = 0
    prompts: str = "synthetic:64,128"
    tokenizer: Path | None = None
    seed: int = 0
    temperature: float = 0.0
    no_stream: bool = False
    stop_at_eos: bool = False
    extra_body: str = "{}"
    output_tokens: int | None = None
    length_field: str = "max_tokens"
    path: str | None = None
    header: Sequence[str] = ()
    header_env: Sequence[str] = ()
    timeout: float = 300.0
    api_key_env: str | None = None
    ca_file: str | None = None
    insecure: bool = False
    cpus: str | None = None
    workers: int = 1
    out: Path = Path("run.parquet")
    json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        """UserError for combinations that cannot work."""
        for name in (
            "rate", "concurrency", "requests", "duration", "timeout", "workers", "max_in_flight", "output_tokens",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # false for NaN, too
                raise UserError(f"--{name.replace('_', '-')} is {value:g}; it must be a number more than 0")
        for name in ("shape", "size", "factors", "replay"):
            if self.concurrency is not None and getattr(self, name) is not None:
                raise UserError(f"--{name} belongs to the arrivals of an open loop; take it away, or --concurrency")
        frozen = self.prompts.endswith(".parquet")
        if (self.rate is None) == (self.concurrency is None) and not (frozen and self.rate is None):
            raise UserError("give either --rate (open loop) or --concurrency (closed loop)")
        if self.rate is not None and self.requests is None and self.duration is None and not frozen:
            raise UserError("an open loop needs --requests or --duration, or it never ends")
        if self.rate is not None and self.think:
            raise UserError("--think belongs to a closed loop; take it away, or --rate")

    @property
    def load(self) -> Load:
        """The same as a cell's load. UserError for arrival options that do not belong together."""
        own: dict[str, Any] = {
            "shape": self.shape,
            "size": self.size,
            "path": str(self.replay) if self.replay else None,
        }
        own["factors"] = _numbers(self.factors, float, "--factors") if self.factors else None
        arrival = {"process": self.arrival, **{key: value for key, value in own.items() if value is not None}}
        if self.rate is not None and not self.prompts.endswith(".parquet"):
            wrong = arrivals.wrong_arrival(arrival, self.rate, self.requests, self.duration)
            if wrong:
                raise UserError(f"--arrival {self.arrival}: {wrong}")
        if self.replay is not None and self.arrival != "replay":
            raise UserError(f"--replay needs --arrival replay; it is {self.arrival}")
        requests = self.requests
        if self.concurrency is not None and requests is None and self.duration is None:
            requests = self.concurrency * _STREAM_ROUNDS
        return Load(
            rate_rps=self.rate,
            concurrency=self.concurrency,
            arrival={"process": "closed"} if self.concurrency is not None else arrival,
            requests=requests,
            duration_s=self.duration,
            warmup_requests=self.warmup,
            seed=self.seed,
            endpoint=self.endpoint,
            stream=not self.no_stream,
            temperature=self.temperature,
            ignore_eos=not self.stop_at_eos,
            timeout_s=self.timeout,
            max_in_flight=self.max_in_flight,
            think_s=self.think,
            # What the server had in its cache before is not ours to know.
            cache="warm",
        )


def run(arguments: argparse.Namespace) -> int:
    """The subcommand: exit status."""
    return measure(Options(**vars(arguments)))


def measure(options: Options) -> int:
    """Run the load that `options` ask for; returns the exit status: 0, 1 if no request was answered, 130 if stopped."""
    load = options.load
    extra, cpus = _json_object(options.extra_body), _numbers(options.cpus, int, "--cpus") if options.cpus else None
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
            headers=_headers(options.header, options.header_env),
            api_key=_api_key(options.api_key_env),
            cpus=cpus,
            workers=options.workers,
            tokenizer=str(options.tokenizer) if options.tokenizer else None,
            verify_tls=not options.insecure,
            ca_file=options.ca_file,
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
    with whole_file(out) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


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


def _numbers(text: str, kind: type, option: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text!r}: give numbers with commas between them") from None
