"""The options of `servegauge load`: each declared once, for its command line, its help and its default."""
# ruff: noqa: RUF009  (`_option` is a dataclasses.field)

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.cli import options
from servegauge.contract.spec import Load
from servegauge.instrument.job import LoadJob
from servegauge.instrument.openai_api import PATHS
from servegauge.workloads import arrivals

_MOST_WORKERS = 256  # more cannot have a CPU each
_STREAM_ROUNDS = 4  # requests a stream of a closed loop, where neither --requests nor --duration says
_PROCESSES = tuple(name for name in arrivals.PROCESSES if name != "trace")
# The option with which a group of them begins -> its heading.
_GROUPS = {
    "rate": "load: an open loop by --rate, or a closed one by --concurrency",
    "prompts": "requests",
    "api_key_env": "connection and process",
    "out": "result",
}


def _option(help: str, default: Any = None, **how: Any) -> Any:
    """A field of `Options`: its default, and how argparse takes it."""
    return field(default=default, metadata={"help": help, **how})


def _switch(help: str) -> Any:
    return _option(help, False, action="store_true")


def _required(help: str, **how: Any) -> Any:
    return field(metadata={"help": help, "required": True, **how})


@dataclass(frozen=True)
class Options:
    """By the names of the command line. What is a load's own has the load's default."""

    base_url: list[str] = _required("http[s]://host:port; again for each instance", action="append", metavar="URL")
    model: str = _required("model name in each request", type=options.name)
    endpoint: str = _option("default: %(default)s", Load.endpoint, choices=tuple(PATHS))

    rate: float | None = _option(
        "requests per second, sent on time whatever the server does", type=float, metavar="RPS"
    )
    concurrency: int | None = _option(
        "streams that each send when their last answer is complete", type=int, metavar="N"
    )
    requests: int | None = _option(
        f"how many; default in a closed loop: {_STREAM_ROUNDS} a stream", type=int, metavar="N"
    )
    duration: float | None = _option("seconds; a closed loop stops sending then", type=float, metavar="S")
    arrival: str = _option(
        "arrival process of an open loop; default: %(default)s", Load().arrival["process"], choices=_PROCESSES
    )
    shape: float | None = _option("of gamma arrivals: 1 is Poisson, less is burstier", type=float)
    size: int | None = _option("of burst arrivals: requests at once", type=int)
    factors: str | None = _option("of steps and ramp: the rate's factors, such as 0.5,1,2", metavar="F,F,...")
    replay: Path | None = _option(
        "of replay: recorded times, one a line, in seconds", type=options.file, metavar="FILE"
    )
    think: float = _option(
        "closed loop: seconds between answer and next request", Load.think_s, type=float, metavar="S"
    )
    max_in_flight: int | None = _option(
        "hold requests back beyond N; the wait counts as lateness", Load.max_in_flight, type=int, metavar="N"
    )
    warmup: int = _option(
        "requests sent before, and not measured; default: %(default)s",
        Load.warmup_requests,
        type=options.count("requests", 0),
        metavar="N",
    )

    prompts: str = _option(
        "synthetic:INPUT,OUTPUT tokens; a .jsonl with a prompt or messages a line; a file of config/prompts/ "
        "(with --tokenizer); or a workload.parquet",
        "synthetic:64,128",
        metavar="SET",
    )
    tokenizer: Path | None = _option(
        "with tokenizer.json: exact prompt lengths, and counts", type=options.path, metavar="FOLDER"
    )
    seed: int = _option(
        "of prompts and arrival times; default: %(default)s", Load.seed, type=options.count("a seed", 0)
    )
    output_tokens: int | None = _option(
        "tokens of each answer, whatever the prompts say", Load.output_tokens, type=int, metavar="N"
    )
    temperature: float = _option("default: %(default)g", Load.temperature, type=float)
    no_stream: bool = _switch("ask for whole answers; then there is no TTFT")
    stop_at_eos: bool = _switch("let the model end answers itself (no ignore_eos in requests)")
    extra_body: str = _option("fields added to each request, or that replace ours", "{}", metavar="JSON")
    length_field: str = _option(
        "field that asks for an answer's length, such as max_completion_tokens; default: %(default)s",
        LoadJob.length_field,
        metavar="NAME",
    )
    path: str | None = _option(
        "path of the endpoint, such as /chat/completions, where it is not OpenAI's own", metavar="PATH"
    )
    header: Sequence[str] | None = _option(
        "added to each request; may be given again", action="append", metavar="'NAME: VALUE'"
    )
    header_env: Sequence[str] | None = _option(
        "the same with the value of an environment variable, such as a key", action="append", metavar="NAME=VARIABLE"
    )
    timeout: float = _option(
        "most seconds for an answer; default: %(default)g", Load.timeout_s, type=float, metavar="S"
    )

    api_key_env: str | None = _option("environment variable that holds the API key", metavar="NAME")
    ca_file: Path | None = _option("certificates to trust for https", type=options.file, metavar="FILE")
    insecure: bool = _switch("do not verify the server's certificate")
    cpus: list[int] | None = _option(
        "pin the generator's processes to these CPUs", type=options.cpus, metavar="N,N,..."
    )
    workers: int = _option(
        "generator processes; default: %(default)s",
        LoadJob.workers,
        type=options.number(f"processes, 1 to {_MOST_WORKERS}", 1, _MOST_WORKERS, int),
        metavar="N",
    )

    out: Path = _option("default: %(default)s", Path("run.parquet"), type=options.new_file, metavar="FILE")
    json: bool = _switch("print the summary as JSON")
    quiet: bool = _switch("no progress")

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
        own["factors"] = numbers(self.factors, float, "--factors") if self.factors else None
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group: Any = parser
    for one in fields(Options):
        if one.name in _GROUPS:
            group = parser.add_argument_group(_GROUPS[one.name])
        default = None if one.default is MISSING else one.default
        group.add_argument(f"--{one.name.replace('_', '-')}", default=default, **one.metadata)


def numbers(text: str, kind: type, option: str) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text!r}: give numbers with commas between them") from None
