"""The same command again measures exactly what is missing: the real Snakefile, the real llama.cpp, a tiny model.

The tests of this module build on each other, in the order of the file, like a day of a user.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time

import pyarrow.parquet as pq
import pytest

from servegauge.base.supervisor import descendants

STUDY = {
    "question": "Does the same command again measure only what is missing?",
    "matrix": {
        "model": "tiny", "framework": "llamacpp", "platform": ["here", "there"], "prompts": ["short"],
        "rate": [8], "concurrency": [2], "repeat": 1,
    },
    "server": {"threads": 1, "context_tokens": 512, "max_batch": 2},
    "load": {"arrival": "poisson", "requests": 6, "warmup_requests": 1, "seed": 7, "timeout_s": 60},
    "job": {"calibrate": "once"},
    "slo": {"interactive": {"ttft_s": 1.0}},
    "compare": {"factor": "platform", "baseline": "here"},
}  # fmt: skip
SELECT = ("--config", "study=small")
CPU = min(os.sched_getaffinity(0))  # of both the server and the load generator of one platform
NOTHING = "Nothing to be done"


@pytest.fixture(scope="module", autouse=True)
def study(project):
    shared = {"placement": {"server_cpus": [CPU], "load_cpus": [CPU]}}
    for platform, own in (("here", {}), ("there", shared)):
        project.write(f"config/platforms/{platform}.yaml", {"description": platform, "gpus_per_node": 0, **own})
    project.write(
        "config/prompts/short.yaml",
        {"description": "short", "kind": "synthetic", "input_tokens": 16, "output_tokens": 8},
    )
    project.write("config/studies/small.yaml", STUDY)


def rows(project, table: str = "cells"):
    return pq.read_table(project.root / "results" / "dataset" / f"{table}.parquet").to_pylist()


def statuses(project) -> list[str]:
    return sorted(row["status"] for row in rows(project))


def test_the_dry_run_shows_the_matrix_and_measures_nothing(project):
    said = project.run("-n", *SELECT).stdout
    assert "4 cells" in said
    assert "what is served" in said
    assert "scripts/measure_launch.py" not in said, "one screen"
    assert "scripts/measure_launch.py" in project.run("-np", *SELECT).stdout, "the commands, when asked for"
    assert not project.measured()


def test_the_first_run_measures_everything(project):
    said = project.run(*SELECT).stdout
    assert len(project.measured()) == 4, said
    assert statuses(project) == ["ok"] * 4
    requests = pq.read_table(project.root / "results" / "dataset" / "requests").to_pylist()
    window = [request for request in requests if request["phase"] == "window"]
    assert len(window) == 4 * 6
    assert {request["status"] for request in window} == {"ok"}
    # On a busy machine a short answer may come in one piece: then it has no time to first token.
    at_once = [request for request in window if request["ttft_s"] is None]
    assert len(at_once) < len(window) / 2
    assert all(max(request["chunk_ns"]) - min(request["chunk_ns"]) < 1_000_000 for request in at_once)
    assert all(request["ttft_s"] > 0 for request in window if request not in at_once)
    page = (project.root / "results" / "report" / "small.html").read_text()
    assert STUDY["question"] in page


def test_the_load_generator_is_calibrated_on_the_cpus_that_the_platform_gives_it(project):
    files = project.root.glob("results/launches/*-there-*/attempt-*/calibration.json")
    found = [json.loads(file.read_text()) for file in files]
    assert {(tuple(one["cpus"]), one["server_cpu"]) for one in found} == {((CPU,), CPU)}


def test_the_same_command_again_does_nothing(project):
    before = project.stamps()
    assert NOTHING in project.run(*SELECT).stdout
    assert project.stamps() == before


def test_an_engine_that_is_gone_by_now_does_nothing(project):
    cache = project.root / ".cache"
    target = cache.readlink()
    cache.unlink()
    try:
        assert NOTHING in project.run(*SELECT).stdout
    finally:
        cache.symlink_to(target)


def test_a_cosmetic_edit_of_a_rule_does_nothing(project):
    rule = project.root / "workflow" / "rules" / "launch.smk"
    rule.write_text(rule.read_text().replace("python scripts/measure_launch.py", "python  scripts/measure_launch.py"))
    assert NOTHING in project.run(*SELECT).stdout


def test_a_new_rate_measures_exactly_the_new_cells(project):
    before, old = project.stamps(), project.measured()
    study = project.read("config/studies/small.yaml")
    study["matrix"]["rate"] = [8, 16]
    project.write("config/studies/small.yaml", study)
    planned = project.run("-n", *SELECT).stdout
    assert "2 to measure" in planned
    project.run(*SELECT)
    new = project.measured() - old
    assert len(new) == 2
    assert all("-rate16-" in cell for cell in new)
    assert before.items() <= project.stamps().items()
    assert NOTHING in project.run(*SELECT).stdout


def test_a_failed_cell_is_a_row_and_the_only_one_run_again(project):
    victim = sorted(project.measured())[0]
    shutil.rmtree(project.root / "results" / "cells" / victim)
    cell = next(row for row in rows(project) if row["cell"] == victim)
    frozen = project.root / "results" / "workloads" / cell["workload"] / "workload.parquet"
    whole = frozen.read_bytes()
    frozen.write_bytes(whole[:-1])
    before = project.stamps()

    done = project.run(*SELECT, check=False)
    assert done.returncode == 1
    assert victim in done.stdout
    assert statuses(project) == ["failed", *["ok"] * 5]
    (failed,) = [row for row in rows(project) if row["status"] == "failed"]
    assert failed["cell"] == victim
    assert "SHA-256" in failed["reason"]
    assert victim in (project.root / "results" / "report" / "small.html").read_text()

    frozen.write_bytes(whole)
    project.run(*SELECT)
    assert statuses(project) == ["ok"] * 6
    assert before.items() <= project.stamps().items()
    assert NOTHING in project.run(*SELECT).stdout


def test_one_cell_by_its_file(project):
    victim = sorted(project.measured())[-1]
    shutil.rmtree(project.root / "results" / "cells" / victim)
    before = project.stamps()
    project.run(*SELECT, "--", f"results/cells/{victim}/cell.json")
    assert victim in project.measured()
    assert before.items() <= project.stamps().items()


def test_only_matching_cells(project):
    gone = [cell for cell in project.measured() if "-here-" in cell]
    for cell in gone:
        shutil.rmtree(project.root / "results" / "cells" / cell)
    project.run("--config", "study=small", "cells=*-here-*-rate16-*")
    assert {cell for cell in gone if "-rate16-" in cell} == set(gone) & project.measured()
    project.run(*SELECT)
    assert set(gone) <= project.measured()


def test_a_killed_snakemake_continues_where_it_was(project):
    for cell in project.measured():
        shutil.rmtree(project.root / "results" / "cells" / cell)
    run = subprocess.Popen(project.argv(*SELECT), cwd=project.root, env=project.environment,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    deadline = time.monotonic() + 120
    while not project.measured() and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in [run.pid, *descendants(run.pid)]:
        os.kill(process, signal.SIGKILL)
    run.wait()
    before = project.stamps()
    assert before, "nothing was measured before the kill"
    done = project.run(*SELECT, check=False)
    if "--unlock" in done.stdout:  # Snakemake holds the folder's lock until told that nobody is in it any more
        project.run("--unlock", *SELECT)
        done = project.run(*SELECT)
    assert len(project.measured()) == 6, done.stdout
    assert before.items() <= project.stamps().items()
    assert NOTHING in project.run(*SELECT).stdout
