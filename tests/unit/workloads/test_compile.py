"""Frozen workloads: the same bytes every time, checked when read, other draws for other cells."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import sha256, write_json
from servegauge.contract.records.base import plain, read
from servegauge.contract.records.specs import WorkloadSpec
from servegauge.contract.records.workload import WorkloadRecord
from servegauge.contract.spec import Cell, Launch, Load, Workload
from servegauge.workloads import tokenizer as tokens
from servegauge.workloads.compile import SCHEMA, compile_plan, compile_workload, read_workload

PROMPTS = {"name": "short", "kind": "synthetic", "input_tokens": 12, "output_tokens": 4}


@pytest.fixture
def root(tmp_path: Path, tiny_model: Path) -> Path:
    """A place with a model folder that has the tiny model's tokenizer."""
    (tmp_path / "model").mkdir()
    shutil.copy(tiny_model / "tokenizer.json", tmp_path / "model")
    return tmp_path


def workload(load: Load, prompts: dict[str, Any] = PROMPTS, repeat: int = 1) -> Workload:
    model = {"name": "m", "source": "model", "tokenizer": "model"}
    return Cell.of(Launch("x", model, {"name": "p"}, repeat=repeat), prompts, load).workload


OPEN = Load(rate_rps=10, requests=20, warmup_requests=3)
CLOSED = Load(concurrency=2, requests=6, warmup_requests=2)


def test_an_open_loop(root: Path) -> None:
    described = compile_workload(workload(OPEN), root, root / "out")
    table = read_workload(root / "out" / workload(OPEN).id)
    assert table.schema.equals(SCHEMA, check_metadata=False)
    spare = described.ramp_requests
    assert spare >= 10 * 3  # as many as arrive while the first ones are answered
    total = 23 + spare + described.tail_requests
    assert table["request"].to_pylist() == list(range(total))
    assert table["phase"].to_pylist() == (
        ["warmup"] * 3 + ["ramp"] * spare + ["window"] * 20 + ["tail"] * described.tail_requests
    )
    phase, when = np.array(table["phase"].to_pylist()), table["scheduled_s"].to_numpy()
    times = {name: when[phase == name] for name in ("warmup", "ramp", "window", "tail")}
    assert all(np.all(np.diff(of) >= 0) for of in times.values())
    assert described.last_scheduled_s == times["window"][-1]
    assert described.window_s == times["tail"][0] > times["window"][-1]  # where one more request would be due
    assert (described.requests, described.warmup_requests) == (20, 3)
    tokenizer = tokens.load(root / "model")
    assert tokenizer.count_many(table["prompt"].to_pylist()) == table["prompt_tokens"].to_pylist() == [12] * total
    assert set(table["output_tokens"].to_pylist()) == {4}
    # Neither the warm-up nor the ramp puts the window's prompts into a cache.
    assert len(set(table["prompt"].to_pylist())) == total


def test_bursts_hold_their_requests_and_nothing_else(root: Path) -> None:
    described = compile_workload(workload(Load(burst=5, bursts=3, warmup_requests=1)), root, root / "out")
    assert (described.requests, described.ramp_requests, described.tail_requests) == (15, 0, 0)
    assert described.window_s is None


def test_a_closed_loop_has_no_times(root: Path) -> None:
    compile_workload(workload(CLOSED), root, root / "out")
    table = read_workload(root / "out" / workload(CLOSED).id / "workload.parquet")
    assert table["scheduled_s"].null_count == table.num_rows
    assert table["phase"].to_pylist().count("window") == 6
    assert min(table["phase"].to_pylist().count(name) for name in ("ramp", "tail")) >= 8  # several rounds


def test_a_window_by_duration(root: Path) -> None:
    what = workload(replace(OPEN, requests=None, duration_s=3.0))
    described = compile_workload(what, root, root / "out")
    assert 12 <= described.requests <= 55
    assert described.last_scheduled_s < 3.0


def test_the_same_specification_is_the_same_bytes_in_any_process(root: Path) -> None:
    here = compile_workload(workload(OPEN), root, root / "here")
    code = (
        "import sys, msgspec; from pathlib import Path; from servegauge.contract.records.specs import WorkloadSpec;"
        "from servegauge.workloads.compile import compile_workload;"
        "what = msgspec.json.decode(sys.argv[1], type=WorkloadSpec).workload;"
        "compile_workload(what, Path(sys.argv[2]), Path(sys.argv[2], 'there'))"
    )
    subprocess.run(
        [sys.executable, "-c", code, json.dumps(plain(WorkloadSpec.of(workload(OPEN)))), str(root)], check=True
    )
    for name in ("workload.parquet", "workload.json"):
        first, second = (root / where / workload(OPEN).id / name for where in ("here", "there"))
        assert first.read_bytes() == second.read_bytes()
    assert here.sha256 == sha256(root / "there" / workload(OPEN).id / "workload.parquet")


def test_every_repeat_and_every_rate_draws_anew(root: Path) -> None:
    loads = [(OPEN, 1), (OPEN, 2), (replace(OPEN, rate_rps=20), 1), (replace(OPEN, seed=1), 1)]
    seen = []
    for load, repeat in loads:
        what = workload(load, repeat=repeat)
        compile_workload(what, root, root / "out")
        seen.append(read_workload(root / "out" / what.id))
    assert len({table["prompt"][5].as_py() for table in seen}) == 4
    assert len({table["scheduled_s"][5].as_py() for table in seen}) == 4


def test_a_fixed_draw_is_shared_by_repeats() -> None:
    fixed = replace(OPEN, draw="fixed")
    assert workload(fixed, repeat=1) == workload(fixed, repeat=2)
    assert workload(OPEN, repeat=1).id != workload(OPEN, repeat=2).id


def test_another_arrival_process_keeps_nothing_back(root: Path) -> None:
    (root / "times.txt").write_text("0\n1\n4\n")
    replay = replace(OPEN, arrival={"process": "replay", "path": "times.txt"})
    described = compile_workload(workload(replay), root, root / "out")
    assert described.files["times.txt"] == sha256(root / "times.txt")
    table = read_workload(root / "out" / described.id)
    times = {row["phase"]: row["scheduled_s"] for row in reversed(table.to_pylist())}
    assert times["window"] == 0.0  # the window is the recording, warm-up and ramp are not
    assert times["warmup"] > 0.0
    assert times["ramp"] > 0.0


def test_compiling_again_does_nothing(root: Path) -> None:
    first = compile_workload(workload(OPEN), root, root / "out")
    assert read(root / "out" / first.id / "workload.json", WorkloadRecord) == first
    before = (root / "out" / first.id / "workload.parquet").stat()
    assert compile_workload(workload(OPEN), root, root / "out") == first
    assert (root / "out" / first.id / "workload.parquet").stat() == before


def test_changed_bytes_are_noticed(root: Path) -> None:
    folder = root / "out" / compile_workload(workload(OPEN), root, root / "out").id
    with (folder / "workload.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=f"Delete .*{folder.name} and run again"):
        read_workload(folder)
    with pytest.raises(UserError, match="not what was frozen"):
        compile_workload(workload(OPEN), root, root / "out")
    (folder / "workload.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        compile_workload(workload(OPEN), root, root / "out")


def test_a_changed_tokenizer_is_noticed(root: Path) -> None:
    compile_workload(workload(OPEN), root, root / "out")
    with (root / "model" / "tokenizer.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match="has changed since"):
        compile_workload(workload(OPEN), root, root / "out")


def test_a_changed_data_set_is_noticed_and_a_missing_one_does_no_harm(root: Path) -> None:
    data = root / "d.jsonl"
    data.write_text('{"prompt": "what is it", "output_tokens": 3}\n')
    what = workload(OPEN, {"name": "j", "kind": "jsonl", "path": "d.jsonl", "how_to_get": ""})
    first = compile_workload(what, root, root / "out")
    assert set(first.files) == {"d.jsonl", "model/tokenizer.json"}  # no path of this machine
    data.unlink()
    assert compile_workload(what, root, root / "out") == first
    data.write_text('{"prompt": "another one", "output_tokens": 3}\n')
    with pytest.raises(UserError, match=r"d\.jsonl has changed since"):
        compile_workload(what, root, root / "out")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (Load(rate_rps=0.001, duration_s=0.1), "no request arrives"),
        (Load(concurrency=1, duration_s=5), "load.requests"),
    ],
)
def test_windows_that_cannot_be_are_messages(load: Load, message: str, root: Path) -> None:
    with pytest.raises(UserError, match=message):
        compile_workload(workload(load), root, root / "out")


def test_a_missing_tokenizer_is_a_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer of model 'm' is not on this machine.*tokenizer\.json"):
        compile_workload(workload(OPEN), tmp_path, tmp_path / "out")


def test_nothing_is_left_of_a_failure(root: Path) -> None:
    broken = {**PROMPTS, "input_tokens": 1}
    with pytest.raises(UserError):
        compile_workload(workload(OPEN, broken), root, root / "out")
    assert not list((root / "out").glob("*")) if (root / "out").exists() else True


def plan_file(root: Path, *workloads: Workload) -> Path:
    path = root / "plan.json"
    write_json(
        path,
        {
            "study": {"name": "s"},
            "launches": [],
            "cells": [],
            "workloads": [plain(WorkloadSpec.of(what)) for what in workloads],
        },
    )
    return path


@pytest.mark.parametrize("processes", [1, 2])
def test_a_whole_plan(root: Path, processes: int) -> None:
    wanted = [workload(replace(OPEN, rate_rps=rate)) for rate in range(1, 10)]
    lines: list[str] = []
    compile_plan(plan_file(root, *wanted), root / "s.json", root / "results", root, processes, lines.append)
    listed = json.loads((root / "s.json").read_text())
    assert listed["study"] == "s"
    assert set(listed["workloads"]) == {what.id for what in wanted}
    for what in wanted:
        file = root / "results" / "workloads" / what.id / "workload.parquet"
        assert listed["workloads"][what.id]["sha256"] == sha256(file)
    assert lines[0] == "9 workloads, 9 to compile"
    assert lines[-1].startswith("9/9 ")


def test_a_plan_names_every_mistake_at_once(root: Path) -> None:
    missing = {"name": "g", "kind": "sharegpt", "path": "nowhere.json", "how_to_get": "ask"}
    broken = {**PROMPTS, "input_tokens": 1}
    path = plan_file(root, workload(OPEN), workload(OPEN, missing), workload(OPEN, broken))
    with pytest.raises(UserError) as caught:
        compile_plan(path, root / "s.json", root / "results", root)
    assert "nowhere.json is not on this machine" in str(caught.value)
    assert "the shortest is 2" in str(caught.value)
    assert not (root / "s.json").exists()


def test_the_script(root: Path, repository: Path) -> None:
    script = repository / "scripts" / "compile_workloads.py"
    plan = plan_file(root, workload(CLOSED))
    argv = [sys.executable, str(script), "--plan", str(plan), "--out", str(root / "results/workloads/s.json")]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (root / "results/workloads/s.json").is_file()
    absent = subprocess.run([*argv[:3], "absent.json", *argv[4:]], cwd=root, capture_output=True, text=True)
    assert absent.returncode == 2
    assert absent.stderr.startswith("error: there is no plan absent.json")
