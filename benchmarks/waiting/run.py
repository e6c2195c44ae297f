"""What waiting costs a login node: 200 launches of one run with one waiter, beside a waiting process for each of them.

The launches are the commands of the workflow's rule, in the shell that Snakemake gives them. Programs that stand in for
Slurm keep every job pending. Private memory is what `/proc/PID/smaps_rollup` says: what would be free without the
process. Snakemake itself (150 MB) is not in it; CPU is what all of them use while nothing happens.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))

from tests.pretend.pretend_site import Site  # noqa: E402

PROGRAMS = {
    "sbatch": 'n=$$; echo "$n|PENDING|Priority||${*: -1}" >> "$STATE"; echo $n',
    "squeue": 'cat "$STATE"',
    "srun": "exit 0",
    "scontrol": 'echo "AccountingStorageType = none"',
    "scancel": "exit 0",
}
# The process that waits by itself, as all did before there was a waiter.
EACH = "import runpy, sys; from servegauge.submit import waiter; waiter.Sleeper.sleep = lambda *_: None; " + (
    "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def processes(root: Path) -> list[int]:
    """Those whose working directory is `root`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == root:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def private_mb(pids: list[int]) -> float:
    """What these processes alone hold."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
    return total / 1024


def cpu_s(pids: list[int]) -> float:
    """What these processes have used, with the children that they have waited for."""
    ticks = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(launches: int, each: bool, at_once: int, watch_s: float) -> tuple[float, float, float, int]:
    """(private MB while all wait, the most of it before, CPU % while all wait, processes)."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        for program, body in PROGRAMS.items():
            (path := root / "bin" / program).parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/bash\n{body}\n")
            path.chmod(0o755)
        site = Site(root, submit="slurm", platform={"name": "p", "slurm": {"partition": "p"}}, poll_s=30.0)
        ids = site.plan({}, repeats=launches)
        environment = {**site.environment, "STATE": str(root / "queue"), "PATH": f"{root}/bin:{os.environ['PATH']}"}
        script = str(REPOSITORY / "scripts" / "measure_launch.py")
        running: list[subprocess.Popen[str]] = []
        most, asleep = 0.0, 0
        for number, launch in enumerate(ids, 1):
            _, _, _, *rest = site.argv(launch)
            argv = [sys.executable, *(["-c", EACH] if each else []), script, *rest]
            command = f"set -euo pipefail; exec {shlex.join(argv)}"
            process = subprocess.Popen(
                ["bash", "-c", command], cwd=root, env=environment, text=True, start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=(root / "said").open("a"),
            )  # fmt: skip
            running.append(process)
            while asleep < min(number - at_once, launches) or (number == launches and asleep < launches):
                most = max(most, private_mb(processes(root)))
                said = (root / "said").read_text()
                asleep = said.count("is pending: Priority")
                time.sleep(0.2)
        time.sleep(5)
        waiting = processes(root)
        private, before, started = private_mb(waiting), cpu_s(waiting), time.monotonic()
        time.sleep(watch_s)
        cpu = 100 * (cpu_s(waiting) - before) / (time.monotonic() - started)
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        while left := processes(root):
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.2)
        return private, max(most, private), cpu, len(waiting)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launches", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=200, help="launches that are started at the same time")
    parser.add_argument("--watch-s", type=float, default=30.0, help="how long CPU is counted")
    given = parser.parse_args()
    print("| launches | waiting | processes | private MB | most before all waited, MB | CPU % of one core |")
    print("|---|---|---|---|---|---|")
    for name, each in [("one waiter", False), ("a process each", True)]:
        private, most, cpu, count = measure(given.launches, each, given.at_once, given.watch_s)
        print(f"| {given.launches} | {name} | {count} | {private:.0f} | {most:.0f} | {cpu:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
