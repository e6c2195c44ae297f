"""Collectives by size: time, algbw and busbw as nccl-tests defines them (10^9 bytes), and whether sums are right.

nccl-tests' own binaries where the platform names their folder; else torch.distributed, with NCCL on GPUs and gloo on
CPUs. Several nodes take part where the job has several: each node's task starts the ranks of its GPUs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from servegauge.base.files import write_text
from servegauge.probes import nccl_tests
from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, Wrong
from servegauge.probes.harness.numeric import has_torch
from servegauge.probes.harness.phases import parallelism
from servegauge.probes.suite.collective_rank import OPERATIONS

KiB, MiB = 1 << 10, 1 << 20
BINARIES = {
    "all_reduce": "all_reduce_perf", "all_gather": "all_gather_perf", "reduce_scatter": "reduce_scatter_perf",
    "all_to_all": "alltoall_perf", "broadcast": "broadcast_perf", "send_recv": "sendrecv_perf",
}  # fmt: skip
START_S = 150.0  # for the ranks to meet and for what was begun at the end of the time


class Collectives(Probe):
    name = "collectives"
    title = "Collectives"
    units: ClassVar = {"time_us": "us", "algbw_gb_s": "GB/s", "busbw_gb_s": "GB/s"}
    primary = ("busbw_gb_s",)
    one_thread = True
    measures = (
        "all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, send/recv by size: time, algbw, busbw, errors"
    )
    needs = "torch"

    def unsupported(self, context: Context) -> str | None:
        if context.platform.get("nccl_tests") or has_torch():
            return None
        return "neither torch nor the platform's nccl_tests is there; build the environment of envs/probes"

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        return parallelism(str(variant.get("operation")), int(variant.get("size_bytes") or 0), cells)

    def cases(self, context: Context) -> Iterator[Case]:
        folder = context.platform.get("nccl_tests")
        nodes = int((context.node or {}).get("nodes", 1))
        if folder and nodes == 1:
            yield from self._nccl_tests(context, Path(os.path.expandvars(folder)))
            return
        if not local_ranks(context):
            about = {"operation": "all_reduce", "backend": "nccl"}
            yield Case.without(about, "time_us", Skip("one GPU is visible, a collective needs two"))
        for local in local_ranks(context):
            spec = specification(context, local, nodes)
            done: list[dict[str, Any]] = []  # filled by the first case: one group measures all of them
            for operation in spec["operations"]:
                for size in spec["sizes"]:
                    about = {"operation": operation, "size_bytes": size, "ranks": spec["world"], "dtype": spec["dtype"]}
                    about |= {"backend": spec["backend"]} | ({"nodes": nodes} if nodes > 1 else {})
                    measure = partial(self._result, spec, context, local, done, operation, size)
                    yield Case(about, "time_us", measure)

    @staticmethod
    def _result(
        spec: dict[str, Any], context: Context, local: int, done: list[dict[str, Any]], operation: str, size: int
    ) -> list[Measured]:
        if not done:
            try:
                done.extend(run_ranks(spec, local, int((context.node or {}).get("rank", 0)), context))
            except RuntimeError as error:  # reported in every row, but not tried again for each
                done.append({"error": str(error)})
        if "error" in done[0]:
            raise RuntimeError(done[0]["error"])
        (found,) = (one for one in done if (one["operation"], one["size_bytes"]) == (operation, size))
        if "skipped" in found:
            raise Skip(found["skipped"])
        if "failed" in found:
            raise Wrong(found["failed"])
        if found["wrong"]:
            raise Wrong(f"{found['wrong']} elements of {operation} over {size} bytes are wrong")
        return bandwidths(found["bytes"], found["seconds"], found["busbw_factor"], found["detail"], True)

    # -- nccl-tests ------------------------------------------------------------------------------------------------

    def _nccl_tests(self, context: Context, folder: Path) -> Iterator[Case]:
        """The binaries on this node's GPUs, all in one process; sizes come from their output."""
        gpus = int(context.platform.get("gpus_per_node") or 0)
        for operation, binary in BINARIES.items():
            about = {"operation": operation, "backend": "nccl-tests", "ranks": gpus}
            path = folder / binary
            if gpus < 2:
                yield Case.without(about, "time_us", Skip(f"{gpus} GPUs on the platform, a collective needs two"))
            elif not path.is_file():
                yield Case.without(about, "time_us", Skip(f"{path} is not there"))
            else:
                yield from self._from_binary(context, about, path, gpus)

    def _from_binary(self, context: Context, about: dict[str, Any], path: Path, gpus: int) -> Iterator[Case]:
        """Runs the binary, then one case for each row it gave."""
        try:
            run, detail = run_binary(context, path, gpus)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            yield Case.without(about, "time_us", RuntimeError(f"{type(error).__name__}: {error}"))
            return
        for row in run.rows:
            which = {**about, "size_bytes": row.size_bytes, "dtype": row.dtype, "in_place": row.in_place}
            yield Case(which, "time_us", partial(_from_row, row, detail))
        if run.failure:
            yield Case.without(about, "time_us", RuntimeError(run.failure))


def bandwidths(
    size: int, seconds: Sequence[float], factor: float, detail: Mapping[str, Any], verified: bool | None
) -> list[Measured]:
    """Time in microseconds, algbw and busbw in GB/s, from the seconds of one collective over `size` bytes."""
    algbw = [size / second / 1e9 for second in seconds]
    return [
        Measured.microseconds(seconds, detail, verified),
        Measured("algbw_gb_s", algbw, detail, verified),
        Measured("busbw_gb_s", [one * factor for one in algbw], detail, verified),
    ]


def _from_row(row: nccl_tests.Measurement, detail: Mapping[str, Any]) -> list[Measured]:
    if row.wrong:
        raise Wrong(f"nccl-tests found {row.wrong:g} wrong elements")
    verified = None if row.wrong is None else True
    times = row.times_us or (row.time_us,)
    if row.algbw_gb_s == 0 or row.time_us == 0:
        raise Skip("too small for a bandwidth: nccl-tests prints 0.00")
    factor = row.busbw_gb_s / row.algbw_gb_s
    if not row.times_us:  # what was printed, not what follows from rounded times
        return [
            Measured("time_us", times, detail, verified),
            Measured("algbw_gb_s", [row.algbw_gb_s], detail, verified),
            Measured("busbw_gb_s", [row.busbw_gb_s], detail, verified),
        ]
    return bandwidths(row.size_bytes, [time / 1e6 for time in times], factor, detail, verified)


def run_binary(context: Context, path: Path, gpus: int) -> tuple[nccl_tests.Run, dict[str, Any]]:
    """Run one binary of nccl-tests on `gpus` GPUs of this node; its output is kept verbatim beside the documents.

    With a build that knows -I (time of each iteration) and -J (JSON) the samples are single iterations; with an older
    one each row is a mean over the iterations, and one sample.
    """
    end = str(context.sizes(KiB, 64 * MiB, 1 << 30))
    argv = [str(path), "-b", "8" if not context.quick else "1024", "-e", end, "-f", "4", "-g", str(gpus), "-c", "1"]
    usage = subprocess.run([path, "-h"], capture_output=True, text=True, check=False, timeout=60).stdout
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "run.json"
        single = "-I" in usage and "-J" in usage
        argv += ["-I", "1", "-J", str(written)] if single else []
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=context.left_s + 60)
        detail: dict[str, Any] = {"command": " ".join(argv[1:]), "samples_are": "iterations" if single else "means"}
        if context.verbatim is not None:
            kept = context.verbatim / f"{path.name}.txt"
            write_text(kept, done.stdout + done.stderr)
            detail["verbatim"] = str(kept)
        if single and written.exists():
            with contextlib.suppress(nccl_tests.NcclOutputError):  # half a file of a test that was killed
                return nccl_tests.parse_json(written.read_text(), path.name), detail
            detail["samples_are"] = "means"
    if done.returncode and not done.stdout.strip():
        raise ValueError(f"{path.name} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    run, *_ = nccl_tests.parse(done.stdout, path.name)  # what fails after its end is none of its rows
    return run, detail


# -- torch.distributed ---------------------------------------------------------------------------------------------


def local_ranks(context: Context) -> Sequence[int]:
    """Numbers of ranks on each node to measure with: 2 and 4 on CPUs, 2 and all on GPUs."""
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return context.sizes((2,), (2,), (2, 4))
    gpus = torch.cuda.device_count()
    if int((context.node or {}).get("nodes", 1)) > 1:
        return (gpus,)
    return sorted({2, gpus}) if gpus > 1 else ()


def specification(context: Context, local: int, nodes: int) -> dict[str, Any]:
    """What every rank is given. It follows from the order alone, so each node can make it for itself."""
    cuda = importlib.import_module("torch").cuda.is_available()
    node = context.node or {}
    return {
        "backend": "nccl" if cuda else "gloo",
        "dtype": "bf16" if cuda else "fp32",
        "world": local * nodes,
        "operations": list(OPERATIONS),
        "sizes": list(
            context.sizes(
                (KiB, 16 * KiB),
                (8 * KiB, MiB, 16 * MiB),
                tuple(4**i * KiB for i in range(10)) if cuda else (KiB, 16 * KiB, 256 * KiB, 4 * MiB, 64 * MiB),
            )
        ),
        "samples": context.sizes(6, 7, 30),
        "sample_s": context.effort.sample_s,
        "time_limit_s": context.sizes(20.0, 30.0, 600.0),
        "host": node.get("head", "127.0.0.1") if nodes > 1 else "127.0.0.1",
        # Groups follow each other; a port of its own for each, as a closed one may still linger.
        "port": int(node["head_port"]) + list(local_ranks(context)).index(local) if nodes > 1 else None,
    }


def run_ranks(spec: Mapping[str, Any], local: int, node_rank: int, context: Context) -> list[dict[str, Any]]:
    """Start this node's `local` ranks and wait for them; on the first node what all measured, elsewhere nothing.

    RuntimeError with the end of its output if a rank fails: then the others are ended too.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        spec = {**spec, "port": spec["port"] or _free_port(), "answer": str(answer)}
        order = Path(folder) / "spec.json"
        order.write_text(json.dumps(spec))
        environment = {**os.environ}
        if spec["backend"] == "gloo" and spec["host"] == "127.0.0.1":
            environment["GLOO_SOCKET_IFNAME"] = "lo"  # a host's name need not resolve
        processes = []
        for index in range(local):
            log = (Path(folder) / f"{index}.log").open("w+")
            argv = [sys.executable, "-m", "servegauge.probes.suite.collective_rank", str(order)]
            argv += [str(node_rank * local + index), str(index)]
            processes.append((subprocess.Popen(argv, env=environment, stdout=log, stderr=subprocess.STDOUT), log))
        try:
            _wait([process for process, _ in processes], spec["time_limit_s"] + START_S)
        finally:
            for process, _ in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
            if context.verbatim is not None:
                _keep([log for _, log in processes], context.verbatim)
            ends = {index: _end(log) for index, (_, log) in enumerate(processes)}
        failed = {index: process.returncode for index, (process, _) in enumerate(processes) if process.returncode}
        if failed:
            index = min(failed, key=lambda one: failed[one] < 0)  # one that failed itself, not one that we ended
            raise RuntimeError(f"rank {index} of {spec['world']} ended with status {failed[index]}: {ends[index]}")
        return json.loads(answer.read_text()) if answer.exists() else []


def _wait(processes: Sequence[subprocess.Popen], limit_s: float) -> None:
    """Until all have ended, one has failed, or the time is up."""
    end = time.monotonic() + limit_s
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes) or time.monotonic() > end:
            return
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _keep(logs: Sequence[Any], folder: Path) -> None:
    """Copy what the ranks printed (NCCL_DEBUG) beside the documents, where they printed anything."""
    for index, log in enumerate(logs):
        log.flush()
        if Path(log.name).stat().st_size:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log.name, folder / f"rank-{index}.txt")


def _end(log: Any) -> str:
    log.seek(0)
    lines = [line.strip() for line in log.read().splitlines() if line.strip()]
    log.close()
    return " | ".join(lines[-3:]) or "it printed nothing"
