"""Provenance is complete where it can be, null with a reason where it cannot, and free of secrets."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servegauge.base import hashes
from servegauge.contract.records.order import Order
from servegauge.contract.records.specs import CellSpec, LaunchSpec
from servegauge.contract.spec import Cell, Launch, Load
from servegauge.launch import provenance
from servegauge.node.reader import Unreadable

SECRET = "sg-Zq7unlikely4711xX"
GROUPS = {"workflow", "study", "spec", "workloads", "models", "servers", "python", "packages", "platform", "slurm",
          "time", "environment", "submission", "engine_python", "engine_packages"}  # fmt: skip


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A workflow's folder: a commit, a study, a workload's hash, a model, an engine's environment."""
    root = tmp_path / "workflow"
    model = root / "models" / "m"
    model.mkdir(parents=True)
    (root / "config" / "studies").mkdir(parents=True)
    (root / "config" / "studies" / "s.yaml").write_text("question: what?\n")
    (root / ".gitignore").write_text("results/\nmodels/\n.cache/\nvenv/\n")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_text(name)
        os.utime(model / name, (1, 1))
    site = root / "venv" / "lib" / "python3.11" / "site-packages"
    for name, version in (("Some_Engine", "1.2"), ("tiktoken", "0.9.1")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (site / "Some_Engine-1.2.dist-info" / "direct_url.json").write_text(
        json.dumps({"url": f"https://u:{SECRET}@h/r", "vcs_info": {"vcs": "git", "commit_id": "abc123"}})
    )
    (root / "venv" / "bin").mkdir()
    (root / "venv" / "bin" / "python").symlink_to(sys.executable)
    (root / "venv" / "pyvenv.cfg").write_text("home = /usr\nversion = 3.11.9\n")
    git(tmp_path, "init", "-q", "-b", "main", str(root))
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


@pytest.fixture
def launch(checkout: Path) -> Launch:
    platform = {"name": "p", "frameworks": {"vllm": {"venv": str(checkout / "venv")}}, "environment": {"SET_HERE": "1"}}
    return Launch("vllm", {"name": "m", "source": str(checkout / "models" / "m")}, platform)


@pytest.fixture
def order(checkout: Path, launch: Launch) -> Order:
    cell = Cell.of(launch, {"name": "chat"}, Load(rate_rps=2.0, requests=4))
    folder = checkout / "results" / "workloads" / cell.workload.id
    folder.mkdir(parents=True)
    (folder / "workload.json").write_text('{"sha256": "feed"}')
    text = (checkout / "config" / "studies" / "s.yaml").read_bytes()
    return Order(
        study="s",
        study_sha256=hashlib.sha256(text).hexdigest(),
        launch=LaunchSpec.of(launch),
        attempt=0,
        cells=(CellSpec.of(cell),),
        root=str(checkout),
    )


def test_everything_that_made_a_number(checkout, launch, order, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    server = {
        "argv": ["vllm", "serve", "--api-key", "abc", f"--x={SECRET}"],
        "environment": {"SET_HERE": "1", "NCCL_DEBUG": "INFO", "OTHER": "x", "VLLM_API_KEY": "k" * 12},
        "version": "0.33.0",
        "evidence": {"raw": {"bos_token": "<s>", "note": f"started with {SECRET} and {'k' * 12}"}},
    }
    found = provenance.gather(
        checkout, order, launch, {"cpu_count": {"value": 2}}, servers=[server], submission={"x": 1}
    )
    assert set(found) == GROUPS | {"version"}
    for name in GROUPS - {"slurm"}:
        assert found[name]["reason"] is None, (name, found[name])
    commit = git(checkout, "rev-parse", "HEAD")
    workflow = found["workflow"]["value"]
    assert (workflow["commit"], workflow["dirty"], workflow["diff_sha256"]) == (commit, False, None)
    assert found["study"]["value"]["text"] == "question: what?\n"
    assert found["spec"]["value"]["id"] == launch.id
    assert list(found["workloads"]["value"].values()) == ["feed"]
    models = found["models"]["value"]
    assert models["models/m/model.safetensors"]["sha256"] == hashlib.sha256(b"model.safetensors").hexdigest()
    assert set(models) == {f"models/m/{name}" for name in ("config.json", "tokenizer.json", "model.safetensors")}
    assert found["engine_packages"]["value"] == {"some-engine": "1.2 (git abc123)", "tiktoken": "0.9.1"}
    assert found["engine_python"]["value"]["version"] == "3.11.9"
    assert found["packages"]["value"]["snakemake"]
    assert found["servers"]["value"] == [{
        "argv": ["vllm", "serve", "--api-key", "***", "--x=***"],
        "environment": {"NCCL_DEBUG": "INFO", "OTHER": "(not kept)", "SET_HERE": "1", "VLLM_API_KEY": "***"},
        "version": "0.33.0",
        "evidence": {"raw": {"bos_token": "<s>", "note": "started with *** and ***"}},
    }]  # fmt: skip
    assert SECRET not in json.dumps(found, allow_nan=False)
    assert found["platform"]["value"] == {"cpu_count": {"value": 2}}
    environment = found["environment"]["value"]
    assert (environment["SET_HERE"], environment["WANDB_API_KEY"]) == ("1", "***")
    assert environment["PATH"] == os.environ["PATH"]
    moment = found["time"]["value"]
    assert moment["epoch_offset_ns"] == moment["epoch_ns"] - moment["monotonic_ns"]


def test_a_model_that_was_hashed_while_its_server_loaded_is_not_hashed_again(checkout, launch, monkeypatch):
    began: list[str] = []
    real = hashes.sha256
    monkeypatch.setattr(hashes, "sha256", lambda path: (began.append(path.name), real(path))[1])
    provenance.hash_model(checkout, launch, lambda: len(began) == 2)
    assert len(began) == 2, "it ends between two files"
    provenance.hash_model(checkout, launch, lambda: False)
    assert sorted(began) == ["config.json", "model.safetensors", "tokenizer.json"]
    found = provenance.gather(checkout, None, launch)["models"]["value"]
    assert {one["how"] for one in found.values()} == {"cache"}
    provenance.hash_model(checkout / "nowhere", launch, lambda: False)


def test_nothing_given_is_null_with_reasons_and_no_failure(tmp_path):
    found = provenance.gather(tmp_path / "nowhere")
    assert set(found) == GROUPS | {"version"}
    for name in GROUPS - {"python", "packages", "platform", "time", "environment"}:
        assert found[name]["value"] is None, name
        assert found[name]["reason"], name
    assert "no git checkout" in found["workflow"]["reason"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("broken", ["workflow", "study", "packages", "slurm", "times", "spec_hash", "model_hashes"])
def test_each_group_fails_alone(checkout, launch, order, tmp_path, monkeypatch, broken):
    def fail(*_, **__):
        raise RuntimeError("it is broken")

    scontrol = tmp_path / "bin" / "scontrol"  # a machine's own asks a controller that may be down, for many seconds
    scontrol.parent.mkdir()
    scontrol.write_text("#!/bin/sh\necho JobId=7 JobName=x\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scontrol.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(provenance, broken, fail)
    found = provenance.gather(checkout, order, launch, {"a": {}}, submission={"x": 1})
    lost = {name for name in GROUPS if "it is broken" in (found[name]["reason"] or "")}
    expected = {"packages": {"packages", "engine_packages"}, "times": {"time"}, "spec_hash": {"spec"},
                "model_hashes": {"models"}}  # fmt: skip
    assert lost == expected.get(broken, {broken})


def test_dirtiness_is_a_hash_of_what_is_different(checkout):
    clean = provenance.workflow(checkout)
    study = checkout / "config" / "studies" / "s.yaml"
    study.write_text("question: else?\n")
    changed = provenance.workflow(checkout)
    assert not clean["dirty"]
    assert changed["dirty"]
    assert changed["changed"] == ["config/studies/s.yaml"]
    assert changed["diff_sha256"] == provenance.workflow(checkout)["diff_sha256"]
    (checkout / "new.py").write_text("1")
    untracked = provenance.workflow(checkout)
    (checkout / "new.py").write_text("2")
    assert len({changed["diff_sha256"], untracked["diff_sha256"], provenance.workflow(checkout)["diff_sha256"]}) == 3
    assert untracked["untracked"] == ["new.py"]


def test_the_text_of_a_study_is_the_planned_one(checkout, order):
    study = checkout / "config" / "studies" / "s.yaml"
    planned = study.read_text()
    study.write_text("question: edited\n")
    assert "edited since" in provenance.study(checkout, order)["reason"]
    plan = checkout / "results" / "plan" / "s.json"
    plan.parent.mkdir(parents=True)
    plan.write_text(json.dumps({"study": {"sha256": order.study_sha256, "text": planned}}))
    assert provenance.study(checkout, order)["text"] == planned


def test_without_secrets_keeps_what_was_set_and_drops_what_is_secret(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    data = {
        "argv": ["x", "--api-key", "abc"],
        "environment": {"A": f"/x/{SECRET}", "B_KEY": "y"},
        "n": [SECRET, "k" * 9],
    }
    assert provenance.without_secrets(data, ["k" * 9]) == {
        "argv": ["x", "--api-key", "***"], "environment": {"A": "/x/***", "B_KEY": "***"}, "n": ["***", "***"],
    }  # fmt: skip


# ---------------------------------------------------------------- Slurm

JOB = (
    "JobId=7 JobName=sg Comment=two words UserId=me(1000) GroupId=us(100) Account=lab JobState=RUNNING "
    "TRES=cpu=4,mem=8G NodeList=n042 Command=/x/run.sh --api-key abc WorkDir=/x "
    "AllocNode:Sid=login7:99 StdOut=/x/%j.out\n"
)


def test_slurm_facts_without_people_and_hosts():
    variables = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_USER": "me",
        "SLURM_SUBMIT_HOST": "login7",
        "SLURM_NNODES": "1",
        "HOME": "/h",
    }
    found = provenance.slurm(variables, lambda argv: JOB)
    assert found["variables"] == {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_USER": "***",
        "SLURM_SUBMIT_HOST": "***",
        "SLURM_NNODES": "1",
    }
    assert found["control"]["Comment"] == "two words"
    assert found["control"]["TRES"] == "cpu=4,mem=8G"
    assert found["control"]["JobState"] == "RUNNING"
    cleaned = json.dumps(provenance.redact.clean(found))
    for gone in ("login7", "me(1000)", "abc", '"me"'):
        assert gone not in cleaned


def test_slurm_without_scontrol_keeps_the_variables():
    def refuse(argv):
        raise Unreadable("no scontrol on this node", "scontrol")

    found = provenance.slurm({"SLURM_JOB_ID": "7"}, refuse)
    assert found["control"] is None
    assert found["control_reason"] == "no scontrol on this node"


# ---------------------------------------------------------------- hashes


def old(path: Path, text: str) -> Path:
    path.write_text(text)
    os.utime(path, (1, 1))
    return path


def test_hashes_are_remembered_and_noticed_to_change(tmp_path, monkeypatch):
    one, cache = old(tmp_path / "a.bin", "one"), tmp_path / "cache" / "hashes.json"
    assert hashes.file_hashes([one], cache)[str(one)]["how"] == "hashed"
    monkeypatch.setattr(hashes, "sha256", lambda path: pytest.fail("hashed again"))
    again = hashes.file_hashes([one], cache)[str(one)]
    assert (again["how"], again["sha256"]) == ("cache", hashlib.sha256(b"one").hexdigest())
    monkeypatch.undo()
    one.write_text("two")
    os.utime(one, (2, 2))
    assert hashes.file_hashes([one], cache)[str(one)]["sha256"] == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_just_changed_is_not_remembered(tmp_path):
    one, cache = tmp_path / "a.bin", tmp_path / "hashes.json"
    one.write_text("one")
    assert hashes.file_hashes([one], cache)[str(one)]["sha256"]
    assert not cache.exists()


def test_hashes_that_cannot_be_had_have_a_reason(tmp_path, monkeypatch):
    one, cache = old(tmp_path / "a.bin", "one"), tmp_path / "hashes.json"
    (tmp_path / "dangling").symlink_to("nowhere")
    found = hashes.file_hashes([one, tmp_path / "dangling"], cache, known_only=True)
    assert [entry["sha256"] for entry in found.values()] == [None, None]
    assert "not hashed yet" in found[str(one)]["reason"]
    assert "could not be read" in found[str(tmp_path / "dangling")]["reason"]

    def change(path):
        path.write_text("longer than before")
        return "x"

    monkeypatch.setattr(hashes, "sha256", change)
    assert hashes.file_hashes([one], cache)[str(one)]["reason"] == "changed while it was read"


def test_a_stamp_is_believed_while_its_files_are_older_and_of_the_same_size(tmp_path):
    one, stamp = old(tmp_path / "a.bin", "one"), tmp_path / "fetched.json"
    stamp.write_text(json.dumps({"files": {"a.bin": {"sha256": "feed", "bytes": 3}}}))
    ask = lambda: hashes.file_hashes([one], tmp_path / "c.json", stamps=[stamp])[str(one)]  # noqa: E731
    assert (ask()["sha256"], ask()["how"]) == ("feed", "stamp")
    later = time.time() + 60
    os.utime(one, (later, later))
    assert ask()["sha256"] == hashlib.sha256(b"one").hexdigest()
    old(one, "four")
    assert ask()["sha256"] == hashlib.sha256(b"four").hexdigest()


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"x": 1}', '{"A": {"sha256": 1}}'])
def test_a_damaged_cache_is_no_obstacle(tmp_path, damage):
    one, cache = old(tmp_path / "a.bin", "one"), tmp_path / "hashes.json"
    cache.write_text(damage)
    assert hashes.file_hashes([one], cache)[str(one)]["sha256"] == hashlib.sha256(b"one").hexdigest()
    assert json.loads(cache.read_text())[str(one)]


def test_a_folder_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(hashes, "write_json", refuse)
    one = old(tmp_path / "a.bin", "one")
    assert hashes.file_hashes([one], tmp_path / "hashes.json")[str(one)]["sha256"]


def _hash_some(folder: Path, numbers: list[int]) -> None:
    for number in numbers:
        hashes.file_hashes([folder / f"{number}.bin"], folder / "cache" / "hashes.json")


def test_many_writers_lose_nothing(tmp_path):
    for number in range(24):
        old(tmp_path / f"{number}.bin", str(number))
    context = multiprocessing.get_context("spawn")
    parts = [context.Process(target=_hash_some, args=(tmp_path, list(range(24))[part::3])) for part in range(3)]
    for part in parts:
        part.start()
    for part in parts:
        part.join(60)
        assert part.exitcode == 0
    cached = json.loads((tmp_path / "cache" / "hashes.json").read_text())
    assert len(cached) == 24
