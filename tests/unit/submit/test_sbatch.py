"""What a platform's `slurm:` becomes: the text that sbatch gets, held against golden files; and what Slurm answers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from servegauge.base import allocation, environment
from servegauge.base.errors import UserError
from servegauge.contract.records.order import Order
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import Launch, Layout
from servegauge.inputs import environments
from servegauge.inputs.containers import contained
from servegauge.submit import probe_order, sbatch, slurm_commands, slurm_request
from servegauge.submit.backends.slurm import SlurmBackend
from servegauge.submit.slurm_commands import JobState, Queue

GOLDEN = Path(__file__).parents[2] / "golden" / "sbatch"

FULL = {
    "partition": "gpu",
    "account": "proj42",
    "qos": "high",
    "constraint": "h100&nvlink",
    "gres": "gpu:h100:{gpus}",
    "cpus_per_task": 32,
    "mem_gb": 120.5,
    "time_min": 90,
    "exclude": "bad[01-02]",
    "sbatch": ["--licenses=gpfs", "#SBATCH --reservation=bench", "--no-requeue"],
}

PLATFORMS = {
    "cpu": ({"name": "own-cpu", "slurm": {"partition": "cpu"}}, Layout()),
    "one-gpu": ({"name": "bare", "gpus_per_node": 4, "slurm": FULL, "modules": ["cuda/12.9", "gcc"]}, Layout()),
    "whole-node": (
        {"name": "bare", "gpus_per_node": 4, "slurm": {"gres": "gpu:{gpus}", "exclusive": True, "mem_gb": 0}},
        Layout(tp=2, instances=2),
    ),
    "two-nodes": ({"name": "bare", "gpus_per_node": 4, "slurm": {"gres": "gpu:{gpus}"}}, Layout(tp=4, pp=2)),
    "shared-gpu": (
        {"name": "vgpu", "gpus_per_node": 1, "slurm": {"gres": "gpu:{gpus}"}},
        Layout(instances=3, share_gpu=True),
    ),
    "nothing-said": ({"name": "plain"}, Layout()),
}


def order(platform, layout, **more):
    launch = Launch("vllm", {"name": "qwen3-8b"}, platform, layout)
    return Order(study="demo", attempt=0, launch=LaunchSpec.of(launch), root="/", **{"time_min": 60, **more})


def text(tmp_path, monkeypatch, asked, exclude=(), folder=Path("/results/job-0")):
    """The batch script, with what differs between machines taken out."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    executor = SlurmBackend(folder, asked, Queue(tmp_path, 30), exclude).executor()
    written = executor._make_submission_file_text(executor._submitit_command_str, "0")
    return re.sub(r"\S*/bin/python\S*", "python", written)


@pytest.mark.parametrize("name", PLATFORMS)
def test_the_batch_script_of_a_platform(tmp_path, monkeypatch, name):
    platform, layout = PLATFORMS[name]
    written = text(tmp_path, monkeypatch, order(platform, layout))
    golden = GOLDEN / f"{name}.sh"
    if os.environ.get("SERVEGAUGE_ACCEPT") == "1":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(written)
    assert written == golden.read_text(), "accept the change with: SERVEGAUGE_ACCEPT=1 pytest tests/unit/test_sbatch.py"


def test_failed_nodes_are_excluded_beside_the_platforms(tmp_path, monkeypatch):
    platform, layout = PLATFORMS["one-gpu"]
    assert "--exclude='bad[01-02],bm01'" in text(tmp_path, monkeypatch, order(platform, layout), ["bm01"])


def test_a_sites_own_option_reaches_sbatch_as_it_is_written(tmp_path, monkeypatch):
    platform = {"name": "p", "slurm": {"sbatch": ["--gpu_cmode=shared", r"--comment_of='a\b'", "--requ"]}}
    written = text(tmp_path, monkeypatch, order(platform, Layout()))
    assert "\n#SBATCH --gpu_cmode=shared\n" in written
    assert "\n#SBATCH --comment_of='a\\\\b'\n" in written, "sbatch takes one backslash away"
    assert written.count("requeue") == 1


@pytest.mark.parametrize("name", ["a b", "a'b", 'a"b', "a$HOME", "a`id`b", "50%job"])
def test_a_folder_of_any_name_is_found_by_its_job(tmp_path, monkeypatch, name):
    """A job whose submitter was killed links its call by itself; what it prints goes where it is looked for."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "ab12.pkl").touch()
    written = text(tmp_path, monkeypatch, order({"name": "p"}, Layout()), folder=folder)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert subprocess.run(["bash", "-c", written], capture_output=True, text=True).stderr == ""
    assert (folder / "7_submitted.pkl").exists()
    assert set(re.findall("50%+job/%j", written)) == ({"50%%job/%j"} if "%" in name else set())


@pytest.mark.parametrize("fails", [True, False])
def test_a_module_that_cannot_be_loaded_ends_the_job(tmp_path, monkeypatch, fails):
    written = text(tmp_path, monkeypatch, order({"name": "p", "modules": ["cuda/12.9"]}, Layout()))
    (tmp_path / "bin" / "srun").write_text("#!/bin/bash\necho measured\n")
    script = f"module() {{ return {int(fails)}; }}\n{written}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env={**os.environ, "SLURM_JOB_ID": "7"}
    )
    assert ("measured" in done.stdout, done.returncode) == (not fails, int(fails))
    assert not fails or "module load cuda/12.9 failed; correct `modules:` in config/platforms/p.yaml" in done.stdout


def test_what_modules_make_of_pythonpath_is_the_servers_and_not_ours(tmp_path, monkeypatch):
    """A module's numpy must not shadow the pinned one in the process that measures."""
    written = text(tmp_path, monkeypatch, order({"name": "p", "modules": ["scipy"]}, Layout()))
    (tmp_path / "bin" / "srun").write_text('#!/bin/bash\necho "$PYTHONPATH|$SERVEGAUGE_JOB_PYTHONPATH"\n')
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    script = f"module() {{ export PYTHONPATH=/sw/scipy; }}\n{written}"
    assert subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout == "|/sw/scipy\n"
    in_the_job = {"PYTHONPATH": "", environment.OF_JOB: "/sw/scipy"}
    environment.take_setup(in_the_job)
    assert in_the_job == {"PYTHONPATH": "/sw/scipy"}


@pytest.mark.parametrize(("how", "own"), [({"venv": "/venvs/vllm"}, True), ({"executable": "/sw/bin/vllm"}, False)])
def test_a_framework_with_its_own_packages_is_not_shown_a_modules(tmp_path, monkeypatch, how, own):
    ours = str(Path(sbatch.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"/sw/scipy:{ours}")
    found = environments.variables("vllm", {"name": "p", "frameworks": {"vllm": how}}, tmp_path)
    assert found == ({"PYTHONPATH": ours} if own else {})


@pytest.mark.parametrize("name", ["all", "a,b", "a b"])
def test_one_cluster_is_named(name):
    with pytest.raises(UserError, match=r"config/platforms/p\.yaml: slurm: cluster: .*name one cluster"):
        slurm_request.cluster({"name": "p", "slurm": {"cluster": name}})


@pytest.mark.parametrize("gpus", [0, 2])
def test_probes_of_several_nodes_ask_for_them_with_and_without_gpus(tmp_path, monkeypatch, gpus):
    platform = {"name": "p", "gpus_per_node": gpus, "slurm": {"gres": "gpu:{gpus}"}}
    asked = probe_order.make_order(platform, "network", tmp_path / "out", tmp_path, size="quick", nodes=3)
    written = text(tmp_path, monkeypatch, asked)
    assert "#SBATCH --nodes=3\n" in written
    assert ("--gres=gpu:2" in written) == (gpus == 2)


@pytest.mark.parametrize(("minutes", "limit", "asked"), [(60, None, 60), (60, 30, 30), (20, 30, 20), (None, 45, 45)])
def test_the_time_asked_for(minutes, limit, asked):
    platform = {"name": "p", "slurm": {"time_min": limit} if limit else {}}
    assert slurm_request.time_limit(order(platform, Layout(), time_min=minutes)) == asked


@pytest.mark.parametrize(
    ("tp", "pp", "instances", "per_node", "shape"),
    [(1, 1, 1, 0, (1, 0)), (1, 1, 1, 4, (1, 1)), (4, 2, 1, 4, (2, 4)), (2, 1, 3, 4, (2, 3)), (8, 1, 1, 8, (1, 8))],
)
def test_nodes_and_gpus_of_a_layout(tp, pp, instances, per_node, shape):
    assert slurm_request.shape(Layout(tp=tp, pp=pp, instances=instances), {"gpus_per_node": per_node}) == shape


def test_what_would_override_the_platform_is_not_passed_on():
    around = {
        "PATH": "/bin",
        "SLURM_JOB_ID": "1",
        "SBATCH_PARTITION": "x",
        "SRUN_CPUS_PER_TASK": "2",
        "SLURM_CONF": "/c",
    }
    assert allocation.without_job(around) == {"PATH": "/bin", "SLURM_CONF": "/c"}


def test_what_a_job_around_us_has_is_not_passed_on_and_what_the_user_set_is():
    users = {"CUDA_VISIBLE_DEVICES": "1", "TMPDIR": "/tmp/u", "PMIX_RANK": "0", "SLURM_JWT": "token"}
    assert allocation.without_job(users) == users
    assert allocation.without_job({**users, "SLURM_JOB_ID": "7"}) == {"SLURM_JWT": "token"}


def test_a_refusal_names_slurms_words_and_the_file():
    said = (
        "Command 'sbatch' failed:\n"
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n"
    )
    error = str(sbatch.refused(said, "h100"))
    assert "Batch job submission failed: Invalid account or account/partition combination specified" in error
    assert "config/platforms/h100.yaml" in error
    assert "sacctmgr show assoc" in error


def test_one_look_at_the_queue_serves_all_for_a_while(tmp_path, monkeypatch):
    asked = []

    def squeue(cluster):
        asked.append(1)
        return {"7": JobState("7", "RUNNING", nodes="bm01")}

    monkeypatch.setattr(slurm_commands, "squeue", squeue)
    for _ in range(3):
        assert Queue(tmp_path, 30).look()[1]["7"].nodes == "bm01"
    assert len(asked) == 1
    assert Queue(tmp_path, 0.0).look()[1]["7"].live
    assert len(asked) == 2
    assert (tmp_path / ".slurm" / f"queue-{os.getuid()}.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "state", ["COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "CANCELLED", "PREEMPTED", "OUT_OF_MEMORY"]
)
def test_an_ended_job_is_not_live(state):
    assert not JobState("1", state).live


def test_a_node_out_of_service_is_told_with_its_reason(monkeypatch):
    monkeypatch.setattr(
        slurm_commands, "_ask",
        lambda argv, cluster: "NodeName=bm01 State=DOWN Partitions=bm Reason=kernel panic [root@2026-11-21]\n"
        "NodeName=bm02 State=IDLE Partitions=bm\n"
        "NodeName=bm03 State=IDLE+CLOUD+POWERED_DOWN Partitions=bm\n"
        "NodeName=bm04 State=DOWN*+CLOUD Partitions=bm\n",
    )  # fmt: skip
    assert slurm_commands.say_failed(slurm_commands.failed_nodes("bm[01-02]")) == (
        "node bm01 failed (Slurm: NODE_FAIL, DOWN: kernel panic); "
        "node bm04 failed (Slurm: NODE_FAIL, DOWN*+CLOUD: no reason given)"
    )


def test_a_framework_in_a_container(monkeypatch):
    monkeypatch.chdir("/")
    how = {"container": "/images/vllm.sif", "container_args": ["--bind", "/lustre"]}
    platform = {"gpus_per_node": 4, "frameworks": {"vllm": how}}
    assert contained(["vllm", "serve"], "vllm", platform, Path("/work")) == [
        "apptainer", "exec", "--nv", "--bind", "/work", "--bind", "/", "--pwd", "/work", "--bind", "/lustre",
        "/images/vllm.sif", "vllm", "serve",
    ]  # fmt: skip
    assert contained(["vllm", "serve"], "sglang", platform, Path("/work")) == ["vllm", "serve"]
    monkeypatch.setenv("SLURMD_NODENAME", "bm01")
    platform["frameworks"]["vllm"] = {"container": "nvcr.io#vllm", "runtime": "pyxis"}
    assert contained(["vllm", "serve"], "vllm", platform, Path("/work"), ["VLLM_API_KEY"]) == [
        "srun", "--export=ALL", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=bm01", "--cpu-bind=none",
        "--kill-on-bad-exit=1",
        "--container-image=nvcr.io#vllm", "--container-mounts=/work:/work,/:/", "--container-workdir=/work",
        "--container-env=VLLM_API_KEY", "vllm", "serve",
    ]  # fmt: skip
