"""`vllm bench sweep serve` on the same server and cells: what another conductor of sweeps adds to them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ENVIRONMENT = "vllm-cpu"


def vllm_sweep(root: Path, launches: list[dict[str, Any]], rates: list[float], seconds: float, folder: Path) -> dict:
    """Run one sweep for each launch; times in seconds: {"wall_s", "startup_s", "window_s"}.

    `launches`: the `launch.json` of each, whose server's own words are used again. The start-up is what it took there.
    """
    from servegauge.inputs.environments import build_environment

    vllm = build_environment(ENVIRONMENT, root, print).with_name("vllm")
    bench = folder / "cells.json"
    bench.write_text(json.dumps([{"request_rate": rate, "num_prompts": round(rate * seconds)} for rate in rates]))
    wall_s = 0.0
    for number, launch in enumerate(launches):
        argv = _server(launch)
        port = argv[argv.index("--port") + 1]
        tokenizer = Path(argv[argv.index("-m") + 1]).with_suffix("")
        cell = [
            str(vllm), "bench", "serve", "--backend", "openai", "--base-url", f"http://127.0.0.1:{port}",
            "--model", argv[argv.index("-a") + 1], "--tokenizer", str(tokenizer), "--dataset-name", "random",
            "--random-input-len", "32", "--random-output-len", "16", "--ignore-eos", "--burstiness", "1e6",
            "--disable-tqdm", "--ready-check-timeout-sec", "0",
        ]  # fmt: skip
        sweep = [
            str(vllm), "bench", "sweep", "serve", "--serve-cmd", shlex.join(argv), "--bench-cmd", shlex.join(cell),
            "--after-bench-cmd", "true", "--bench-params", str(bench), "--num-runs", "1",
            "--output-dir", str(folder / "sweep"), "--experiment-name", str(number),
        ]  # fmt: skip
        started = time.monotonic()
        done = subprocess.run(sweep, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        wall_s += time.monotonic() - started
        if done.returncode:
            sys.exit(f"vllm bench sweep serve ended with status {done.returncode}:\n{done.stdout[-4000:]}")
    results = [json.loads(path.read_text()) for path in (folder / "sweep").glob("*/**/run=*.json")]
    return {
        "launches": len(launches),
        "cells": len(results),
        "wall_s": wall_s,
        "startup_s": sum(start["ready_s"] for launch in launches for start in launch["server_starts"]),
        "window_s": sum(result["duration"] for result in results),
    }


def _server(launch: dict[str, Any]) -> list[str]:
    """The server's command as it was; its port is free again."""
    return list(launch["server_starts"][0]["instances"][0]["argv"])
