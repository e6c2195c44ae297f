"""The whole workflow on a real cluster, as `snakemake --profile profiles/hlrs`: the plug pulled in several ways."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import slurm
from pretend_site import wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
TREE = ("Snakefile", "workflow", "config", "profiles", "envs", "scripts", "pyproject.toml")
ASKED = {"account": "hpcbench", "cpus_per_task": 2, "mem_gb": 4, "time_min": 10}

STUDY = {
    "question": "Does the cluster lose anything?",
    "matrix": {"model": "tiny", "framework": "llamacpp", "platform": ["own-cpu"], "prompts": ["chat-short"],
               "rate": [2, 3, 4], "repeat": 2},
    "server": {"threads": 1, "context_tokens": 512, "max_batch": 4},
    "load": {"requests": 8, "warmup_requests": 1, "seed": 1, "timeout_s": 30},
    "job": {"calibrate": "once"},
}  # fmt: skip


class User:
    """A user of the cluster with a clone of the repository, at its prompt."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in TREE:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy2(source, root / name)
        (root / ".cache").symlink_to(ROOT / ".cache")
        # The one file that a user adapts to the cluster.
        platform = yaml.safe_load((root / "config/platforms/own-cpu.yaml").read_text())
        platform["slurm"] = {"partition": "bm", **ASKED}
        self.write("config/platforms/own-cpu.yaml", platform)
        self.write("config/studies/lost.yaml", STUDY)

    def write(self, path: str, data: object) -> None:
        (self.root / path).write_text(yaml.safe_dump(data, sort_keys=False))

    def start(self, *more: str, profile: str = "profiles/hlrs") -> subprocess.Popen[str]:
        """The one command, in a session of its own."""
        argv = [
            sys.executable, "-m", "snakemake", "--profile", profile, "--config", "study=lost", "poll_s=2", *more,
        ]  # fmt: skip
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return subprocess.Popen(
            argv, cwd=self.root, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(self.root / "workflow"), "PATH": path},
        )  # fmt: skip

    def run(self, *more: str, profile: str = "profiles/hlrs") -> str:
        """The one command, to its end; what it said. AssertionError unless it succeeded."""
        process = self.start(*more, profile=profile)
        said = process.communicate(timeout=400)[0]
        assert process.returncode == 0, said
        return said

    def measured(self) -> set[str]:
        return {path.parent.name for path in self.root.glob("results/cells/*/cell.json")}

    def stamps(self) -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in self.root.glob("results/cells/[!.]*/*")}

    def jobs(self) -> list[str]:
        lines = slurm("squeue", "--me", "-h", "-o", "%i|%o").splitlines()
        return [line.split("|")[0] for line in lines if str(self.root) in line]

    def submitted(self) -> int:
        """How many jobs were ever submitted."""
        return len(list(self.root.glob("results/launches/*/attempt-*/job-*/*_submission.sh")))

    def dataset(self) -> dict[str, str]:
        """Cell -> status, as the dataset has them."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.root / "results/dataset/cells.parquet", columns=["cell", "status"])
        return dict(zip(*(table.column(name).to_pylist() for name in ("cell", "status")), strict=True))


@pytest.fixture
def user(cluster, tmp_path):
    """A user; jobs and processes that stay behind fail the test."""
    user = User(tmp_path)
    yield user
    left = user.jobs()
    for job in left:
        slurm("scancel", job, check=False)
    assert not left
    wait_for(lambda: not servers(tmp_path), 20, "servers to end")


def servers(root: Path) -> list[str]:
    """Processes that belong to the user's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = entry.read_bytes().replace(b"\0", b" ").decode()
        except (OSError, UnicodeDecodeError):
            continue
        if str(root) in argv:
            found.append(argv)
    return found


def completes(user: User, before: dict[str, int]) -> None:
    """The same command completes the study; what was measured before is untouched and nothing is measured twice."""
    user.run("--rerun-incomplete")
    assert len(user.measured()) == 6
    assert all(user.stamps()[path] == stamp for path, stamp in before.items())
    assert set(user.dataset().values()) == {"ok"}
    assert len(user.dataset()) == 6


@pytest.mark.parametrize("who", ["snakemake", "everything on the login node"])
def test_kill_9_then_unlock_and_the_same_command(user, who):
    process = user.start()
    wait_for(lambda: user.measured(), 200, "the first cell")
    if who == "snakemake":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    before, jobs = user.stamps(), user.submitted()
    locked = user.start()
    said = locked.communicate(timeout=100)[0]
    assert locked.returncode != 0
    assert "give the same command with --unlock, once" in said
    user.run("--unlock")
    completes(user, before)
    assert user.submitted() == jobs == 2


@pytest.mark.parametrize("how", ["Ctrl-C", "TERM to snakemake", "TERM to its group"])
def test_asked_to_end_it_cancels_its_jobs_and_the_same_command_completes(user, how):
    process = user.start()
    wait_for(lambda: user.measured(), 200, "the first cell")
    jobs = user.jobs()
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    elif how == "TERM to snakemake":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    for job in jobs:
        assert f"cancelling job {job}" in said
    wait_for(lambda: not user.jobs(), 60, "the jobs to end")
    wait_for(lambda: not servers(user.root), 30, "the processes to end")
    completes(user, user.stamps())


def test_two_snakemakes_on_one_study(user):
    first = user.start()
    wait_for(lambda: user.jobs(), 100, "the jobs")
    second = user.start("--nolock")
    said = [process.communicate(timeout=400)[0] for process in (first, second)]
    assert first.returncode == 0, said[0]
    assert user.submitted() == 2
    completes(user, user.stamps())


def test_a_study_edited_while_its_jobs_run(user):
    process = user.start()
    wait_for(lambda: user.measured(), 200, "the first cell")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    user.run("--unlock")
    edited = {**STUDY, "matrix": {**STUDY["matrix"], "rate": [2, 3, 5]}}
    user.write("config/studies/lost.yaml", edited)
    before = user.stamps()
    user.run()
    assert len([cell for cell in user.measured() if "-rate5-" in cell]) == 2
    assert all(user.stamps()[path] == stamp for path, stamp in before.items())


def test_a_wrong_partition_is_mended_in_one_file(user):
    platform = yaml.safe_load((user.root / "config/platforms/own-cpu.yaml").read_text())
    user.write("config/platforms/own-cpu.yaml", platform | {"slurm": {**platform["slurm"], "partition": "gpu"}})
    process = user.start()
    said = process.communicate(timeout=200)[0]
    assert process.returncode != 0
    assert "invalid partition specified: gpu" in said
    assert "config/platforms/own-cpu.yaml" in said
    user.write("config/platforms/own-cpu.yaml", platform)
    completes(user, {})


def test_under_snakemakes_own_executor_launches_run_inline(user):
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        absent = "the Slurm executor plugin is not installed: pip install -r envs/slurm-executor.txt"
        pytest.fail(absent) if os.environ.get("SERVEGAUGE_REQUIRE_SLURM") == "1" else pytest.skip(absent)
    started = time.time()
    user.run("cells=*-rate2-*", profile="profiles/slurm-executor")
    assert len(user.measured()) == 2
    [record, _] = user.root.glob("results/launches/*/attempt-0/job.json")
    assert '"mode": "inline"' in record.read_text()
    assert time.time() - started < 400
