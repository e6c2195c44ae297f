#!/usr/bin/env python3
"""Put any OpenAI-compatible endpoint under load and measure it; nothing else of the workflow is needed.

    python scripts/load.py --base-url http://localhost:8000 --model M --concurrency 64 --requests 512 \\
        --prompts synthetic:64,128 --out run.parquet
    python scripts/load.py --base-url http://localhost:8000 --model M --rate 20 --duration 60 --prompts synthetic:64,128

Writes one row of raw stamps per request (docs/data-dictionary.md, requests) and prints a summary. Ctrl-C keeps what
was measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from servegauge.base.errors import door
from servegauge.cli import load
from servegauge.instrument.openai_api import PATHS
from servegauge.workloads.arrivals import PROCESSES


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = options.add_argument
    add(
        "--base-url",
        action="append",
        required=True,
        metavar="URL",
        help="http[s]://host:port; again for each instance",
    )
    add("--model", required=True, help="model name in each request")
    add("--endpoint", choices=tuple(PATHS), default="completions", help="default: completions")
    group = options.add_argument_group("load: an open loop by --rate, or a closed one by --concurrency")
    add = group.add_argument
    add("--rate", type=float, metavar="RPS", help="requests per second, sent on time whatever the server does")
    add("--concurrency", type=int, metavar="N", help="streams that each send when their last answer is complete")
    add("--requests", type=int, metavar="N", help="how many; default in a closed loop: 4 a stream")
    add("--duration", type=float, metavar="S", help="seconds; a closed loop stops sending then")
    add("--arrival", choices=PROCESSES, default="poisson", help="arrival process of an open loop; default: poisson")
    add("--shape", type=float, help="of gamma arrivals: 1 is Poisson, less is burstier")
    add("--size", type=int, help="of burst arrivals: requests at once")
    add("--factors", metavar="F,F,...", help="of steps and ramp: the rate's factors, such as 0.5,1,2")
    add("--replay", type=Path, metavar="FILE", help="of replay: recorded times, one a line, in seconds")
    add("--think", type=float, default=0.0, metavar="S", help="closed loop: seconds between answer and next request")
    add("--max-in-flight", type=int, metavar="N", help="hold requests back beyond N; the wait counts as lateness")
    add("--warmup", type=int, default=0, metavar="N", help="requests sent before, and not measured; default: 0")
    group = options.add_argument_group("requests")
    add = group.add_argument
    add(
        "--prompts",
        default="synthetic:64,128",
        metavar="SET",
        help="synthetic:INPUT,OUTPUT tokens; a file of config/prompts/ (with --tokenizer); or a workload.parquet",
    )
    add("--tokenizer", type=Path, metavar="FOLDER", help="with tokenizer.json: exact prompt lengths, and counts")
    add("--seed", type=int, default=0, help="of prompts and arrival times; default: 0")
    add("--temperature", type=float, default=0.0, help="default: 0")
    add("--no-stream", action="store_true", help="ask for whole answers; then there is no TTFT")
    add("--stop-at-eos", action="store_true", help="let the model end answers itself (no ignore_eos in requests)")
    add("--extra-body", default="{}", metavar="JSON", help="fields added to each request, or that replace ours")
    add("--timeout", type=float, default=300.0, metavar="S", help="most seconds for an answer; default: 300")
    group = options.add_argument_group("connection and process")
    add = group.add_argument
    add("--api-key-env", metavar="NAME", help="environment variable that holds the API key")
    add("--ca-file", metavar="FILE", help="certificates to trust for https")
    add("--insecure", action="store_true", help="do not verify the server's certificate")
    add("--cpus", metavar="N,N,...", help="pin the generator's processes to these CPUs")
    add("--workers", type=int, default=1, metavar="N", help="generator processes; default: 1")
    group = options.add_argument_group("result")
    add = group.add_argument
    add("--out", type=Path, default=Path("run.parquet"), metavar="FILE", help="default: run.parquet")
    add("--json", action="store_true", help="print the summary as JSON")
    add("--quiet", action="store_true", help="no progress")
    return options


if __name__ == "__main__":
    door(lambda: load.run(load.Options(**vars(parser().parse_args()))))
