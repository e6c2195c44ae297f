"""How long `servegauge trace` takes, and how much memory, on an nsys export of a given size.

    python benchmarks/traces/run.py                       # 1 GB
    python benchmarks/traces/run.py --mb 100 --nsys /opt/nsight-systems/bin/nsys

Writes the export of a server in decode on two ranks (schema 3.20; a step has 560 kernels, their launches, and as many
calls that launch nothing), then reads it in a process of its own. With --nsys, `nsys stats` makes its default reports
of the same file.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

KERNELS_A_STEP = 560
STEP_NS, KERNEL_NS, CALL_NS = 20_000_000, 11_000, 5_500
KERNELS = (
    "start INTEGER, end INTEGER, deviceId INTEGER, contextId INTEGER, greenContextId INTEGER, streamId INTEGER, "
    "correlationId INTEGER, globalPid INTEGER, demangledName INTEGER, shortName INTEGER, mangledName INTEGER, "
    "launchType INTEGER, cacheConfig INTEGER, registersPerThread INTEGER, gridX INTEGER, gridY INTEGER, gridZ INTEGER, "
    "blockX INTEGER, blockY INTEGER, blockZ INTEGER, staticSharedMemory INTEGER, dynamicSharedMemory INTEGER, "
    "localMemoryPerThread INTEGER, localMemoryTotal INTEGER, gridId INTEGER, sharedMemoryExecuted INTEGER, "
    "graphNodeId INTEGER, sharedMemoryLimitConfig INTEGER"
)
CALLS = (
    "start INTEGER, end INTEGER, eventClass INTEGER, globalTid INTEGER, correlationId INTEGER, nameId INTEGER, "
    "returnValue INTEGER, callchainId INTEGER"
)
RANGES = "start INTEGER, end INTEGER, eventType INTEGER, text TEXT, globalTid INTEGER, textId INTEGER, domainId INTEGER"
NAMES = (
    [f"void cutlass::gemm_{number}<float>(Params)" for number in range(60)]
    + [f"void vllm::rms_norm_kernel_{number}<float>(float*)" for number in range(20)]
    + [f"void elementwise_{number}(float*)" for number in range(9)]
    + ["void reduce_kernel<ArgMaxOps>(int)"]
)
API = ["cudaLaunchKernel_v7000", "cuLaunchKernelEx", "cudaEventQuery_v3020", "cudaEventRecordWithFlags_v11010"]
LABEL = "execute_context_0(0)_generation_3(3)"
RANKS = 2


def process(rank: int) -> int:
    return (1 << 48) | ((1000 + rank) << 24)


def kernels(steps: range) -> Iterator[tuple]:
    for step in steps:
        for rank in range(RANKS):
            for index in range(KERNELS_A_STEP):
                start = step * STEP_NS + 10_000 + index * 35_000
                number = step * KERNELS_A_STEP + index + 1
                name = 100 + (89 if index == KERNELS_A_STEP - 1 else index % 89)
                end = start + KERNEL_NS + index
                yield (
                    start, end, rank, 1, None, 7, number, process(rank), name, name, None, 1, 0, 64, 1 + index % 97,
                    64, 1, 128, 1, 1, 0, 49152, 0, 0, number, 102400, None, 0,
                )  # fmt: skip


def calls(steps: range) -> Iterator[tuple]:
    for step in steps:
        for rank in range(RANKS):
            thread = process(rank) | (1000 + rank)
            for index in range(KERNELS_A_STEP):
                start = step * STEP_NS + index * 35_000
                number = step * KERNELS_A_STEP + index + 1
                yield (start, start + CALL_NS, 0, thread, number, 10 + index % 2, 0, None)
                yield (start + 6_000, start + 7_000, 0, thread, (1 << 30) + number, 12 + index % 2, 0, None)


def write(path: Path, megabytes: int) -> int:
    """Steps of the export at `path`, which has about `megabytes`."""
    db = sqlite3.connect(path)
    db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
    for table, columns in (
        ("CUPTI_ACTIVITY_KIND_KERNEL", KERNELS),
        ("CUPTI_ACTIVITY_KIND_RUNTIME", CALLS),
        ("NVTX_EVENTS", RANGES),
        ("StringIds", "id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL"),
        ("META_DATA_EXPORT", "name TEXT, value TEXT"),
        ("TARGET_INFO_SESSION_START_TIME", "utcEpochNs INTEGER, utcTime TEXT, localTime TEXT"),
    ):
        db.execute(f"CREATE TABLE {table} ({columns})")
    texts = list(enumerate(API, 10)) + list(enumerate(NAMES, 100))
    db.executemany("INSERT INTO StringIds VALUES (?, ?)", texts)
    versions = [("EXPORT_SCHEMA_VERSION", "3.20.3"), ("EXPORT_PRODUCT_VERSION", "made up")]
    db.executemany("INSERT INTO META_DATA_EXPORT VALUES (?, ?)", versions)
    db.execute("INSERT INTO TARGET_INFO_SESSION_START_TIME VALUES (1790000000000000000, '', '')")
    done = 0
    while path.stat().st_size < megabytes * 1e6:
        steps = range(done, done + 50)
        db.executemany(f"INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES ({','.join('?' * 28)})", kernels(steps))
        db.executemany(f"INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES ({','.join('?' * 8)})", calls(steps))
        labels = [
            (s * STEP_NS, s * STEP_NS + 19_000_000, 59, LABEL, process(r) | (1000 + r), None, 0)
            for s in steps
            for r in range(RANKS)
        ]  # fmt: skip
        db.executemany("INSERT INTO NVTX_EVENTS VALUES (?, ?, ?, ?, ?, ?, ?)", labels)
        db.commit()
        done += len(steps)
    db.close()
    return done


def timed(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of a command and its children, run by a process of its own."""
    code = (
        "import resource, subprocess, sys, time\n"
        "start = time.monotonic()\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
        "use = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "sys.stderr.write(done.stderr.decode('utf-8', 'replace')[-2000:] if done.returncode else '')\n"
        "print(time.monotonic() - start, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024)\n"
        "sys.exit(done.returncode)"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=True)
    wall, cpu, peak = map(float, done.stdout.split())
    return wall, cpu, peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1000, help="size of the export; default: 1000")
    parser.add_argument("--nsys", default=shutil.which("nsys"), help="nsys to compare with; default: that on the PATH")
    parser.add_argument("--folder", type=Path, help="where to write; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        path = Path(name) / "made.sqlite"
        start = time.monotonic()
        steps = write(path, options.mb)
        took = time.monotonic() - start
        count = steps * RANKS * KERNELS_A_STEP
        print(f"{path.stat().st_size / 1e6:,.0f} MB: {count:,} kernels, {2 * count:,} calls; written in {took:.0f} s")
        ours = [sys.executable, "-m", "servegauge.cli", "trace", str(path), "--out", str(Path(name) / "out")]
        print("| command | wall s | CPU s | peak MiB |\n|---|---|---|---|")
        rows = [("servegauge trace", ours)]
        if options.nsys:
            rows.append(("nsys stats", [options.nsys, "stats", str(path)]))
        for what, command in rows:
            wall, cpu, peak = timed(command)
            print(f"| {what} | {wall:.1f} | {cpu:.1f} | {peak:,.0f} |", flush=True)
    print(f"(this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
