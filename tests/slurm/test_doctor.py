"""The doctor on a real cluster: what is well is said, what is not has a remedy, and only a short job is needed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.pretend.cluster_user import ASKED, User

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


@pytest.fixture
def user(cluster, tmp_path):
    return User(tmp_path)


def doctor(user: User) -> tuple[int, str]:
    argv = [sys.executable, "-m", "servegauge.cli", "doctor", "--profile", "profiles/hlrs", "--study", "lost"]
    environment = {**os.environ, "PYTHONPATH": str(user.root / "workflow")}
    done = subprocess.run(argv, cwd=user.root, env=environment, capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout + done.stderr


def test_a_site_that_is_well(user, llamacpp_python):
    status, said = doctor(user)
    assert status == 0, said
    for what in ("partition", "job", "expected facts", "framework llamacpp", "model tiny", "ports", "results folder"):
        assert f"own-cpu  {what} " in said
    assert "all well" in said
    assert "PROBLEM" not in said


def test_what_is_not_well_has_a_remedy(user):
    """Slurm gives fake GPUs, which no driver shows; the node is not what was expected."""
    platform = user.read("config/platforms/own-cpu.yaml")
    platform |= {"gpus_per_node": 4, "expect": {"cpu_count": {"min": 4096}}}
    platform["slurm"] = {"partition": "bm", "gres": "gpu:h100:{gpus}", **ASKED}
    user.write("config/platforms/own-cpu.yaml", platform)
    status, said = doctor(user)
    assert status == 1
    assert "cpu_count" in said
    assert "-> correct `expect:` in config/platforms/own-cpu.yaml" in said
    assert "the node's GPUs could not be read" in said


def test_a_partition_that_does_not_exist_needs_no_job(user):
    platform = user.read("config/platforms/own-cpu.yaml")
    user.write("config/platforms/own-cpu.yaml", platform | {"slurm": {**ASKED, "partition": "nope"}})
    status, said = doctor(user)
    assert status == 1
    assert "-> `sinfo -s` lists the partitions; set slurm: partition in config/platforms/own-cpu.yaml" in said
    assert "submitted" not in said
