"""The end of a run in the terminal: numbers, counts, what failed and the command that reruns it."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.cli import report
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.report import terminal
from tests import synthetic

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("summary")
    special = synthetic.make_results(root, requests=40)
    merge.merge(root / "results")
    return root / "results", special


def test_the_table_has_a_row_per_condition_and_level_with_the_ratio_below(made):
    results, _ = made
    text, failed = terminal.summarise(results, "demo")
    lines = text.splitlines()
    assert failed == 1
    heading = next(line for line in lines if line.startswith("condition"))
    for word in ("platform", "TTFT p50", "TTFT p99", "TPOT p50", "E2E p99", "achieved", "goodput interactive"):
        assert word in heading
    first = next(index for index, line in enumerate(lines) if line.startswith("short, rate 2/s"))
    assert "own-cpu" in lines[first]
    assert lines[first + 1].strip().startswith("shared-cpu")
    ratios = [word for word in lines[first + 2].replace("x ", "x").split() if word.startswith("x")]
    rows = [
        row for row in merge.read(results, "cells").to_pylist() if (row["prompts"], row["rate_rps"]) == ("short", 2)
    ]
    mean = {
        platform: math.prod(row["ttft_p50_s"] for row in rows if row["platform"] == platform) ** 0.5
        for platform in ("own-cpu", "shared-cpu")
    }
    assert ratios[0] == f"x{mean['shared-cpu'] / mean['own-cpu']:.2f}"
    assert f"{1e3 * mean['own-cpu']:.1f} ms" in lines[first]
    assert len(ratios) == 8
    verdict = next(line for line in lines if line.startswith("TTFT p50"))
    assert "on shared-cpu over 4 of 6 conditions are not judged" in verdict, "metrics of one reason share a sentence"
    assert lines.index(verdict) < lines.index(heading)


def test_marks_are_explained(made):
    text, _ = terminal.summarise(made[0], "demo")
    assert "+ the sample is too small for this quantile" in text
    assert "* a cell on either side is flagged" in text
    assert any(line.startswith("note: A demonstration: some conditions have 1 repeat") for line in text.splitlines())


def test_what_failed_is_told_with_reason_log_and_command(made):
    results, special = made
    text, _ = terminal.summarise(results, "demo", profile="profiles/hlrs")
    assert "Cells    23 ok, 1 failed, 1 skipped; 1 of the ok ones flagged" in text
    [skipped] = [row["reason"] for row in merge.read(results, "cells").to_pylist() if row["status"] == "skipped"]
    assert f"Skipped  1: {skipped}"[:60] in text
    assert "Flags    errors 1" in text
    assert f"  {special['failed']}\n    the server died: exit status -9 (killed; out of memory?)\n    log: " in text
    assert "  snakemake --profile profiles/hlrs --config study=demo\n" in text
    cell = f"results/cells/{special['failed']}/cell.json"
    assert f"  snakemake --profile profiles/hlrs --config study=demo -- {cell}\n" in text
    log = next(line for line in text.splitlines() if line.startswith("    log: ")).removeprefix("    log: ")
    assert Path(log).is_file()


def test_a_probe_that_failed_is_named(made, monkeypatch):
    row = {"platform": "own-cpu", "probe": "gemm", "status": "failed", "reason": "its process ended with status -9"}
    monkeypatch.setattr(Study, "probes", [row, {**row, "reason": "later"}, {**row, "status": "ok"}])
    text, _ = terminal.summarise(made[0], "demo")
    assert (
        "Probes   gemm on own-cpu: 2 failed, the first: its process ended with status -9; the same command tries"
        in text
    )


def test_where_dataset_and_report_lie(made):
    results, _ = made
    text, _ = terminal.summarise(results, "demo")
    assert f"Dataset  {results}/dataset/" in text
    assert f"Report   {results}/report/demo.html  (not written yet)" in text


def test_nothing_failed_is_status_0(made, capsys, tmp_path):
    results, special = made
    assert terminal.show(results, "demo") == 1
    root = tmp_path / "clean"
    synthetic.make_results(root, requests=8)
    plan = read_json(root / "results/plan/demo.json")
    plan["cells"] = [cell for cell in plan["cells"] if cell["id"] != special["failed"] and not cell["skipped"]]
    failed = {cell["id"] for cell in plan["cells"]} - {path.name for path in (root / "results/cells").iterdir()}
    plan["cells"] = [cell for cell in plan["cells"] if cell["id"] not in failed]
    write_json(root / "results/plan/demo.json", plan)
    merge.merge(root / "results")
    capsys.readouterr()
    assert terminal.show(root / "results", "demo") == 0
    assert "23 ok, 0 failed, 0 skipped" in capsys.readouterr().out


def test_a_run_that_ended_before_the_merge_says_so(tmp_path, capsys):
    assert terminal.show(tmp_path / "results", "demo") == 0
    assert "run `python scripts/merge_dataset.py" in capsys.readouterr().out
    with pytest.raises(UserError):
        terminal.summarise(tmp_path / "results", "demo")


def test_a_run_that_was_cut_off_has_a_dataset_and_a_report_of_what_there_is(tmp_path, capsys):
    synthetic.make_results(tmp_path, requests=8)
    results = tmp_path / "results"
    cut = sorted((results / "launches").glob("*/attempt-0.json"))[-1]
    cut.unlink()  # its job had not ended
    gone = sorted(path.parent for path in results.glob("cells/*/cell.json"))
    gone = [path for path in gone if read_json(path / "cell.json")["launch"] == cut.parent.name][1:]
    for path in gone:
        shutil.rmtree(path)
    left = [cell for cell in read_json(results / "plan/demo.json")["cells"] if cell["launch"] == cut.parent.name]
    left = [cell for cell in left if not cell["skipped"] and not (results / "cells" / cell["id"]).is_dir()]
    report.what_there_is(results, "demo")
    rows = merge.read(results, "cells").to_pylist()
    assert sum(row["status"] == "planned" for row in rows) == len(left) >= len(gone) > 0
    page = (results / "report" / "demo.html").read_text()
    assert f"{len(left)} not run yet" in page
    assert merge.read(results, "comparison").num_rows
    assert report.bring_up_to_date(results, "demo") == [], "nothing is newer"
    text, _ = terminal.summarise(results, "demo")
    assert f"{len(left)} not run yet" in text


def test_what_a_dead_server_leaves_is_said_once_for_its_launch(tmp_path):
    synthetic.make_results(tmp_path, requests=8)
    results = tmp_path / "results"
    said = "the server ended before it was ready: exit status 1: ModuleNotFoundError: No module named 'flashinfer'"
    attempt = sorted((results / "launches").glob("*/attempt-0.json"))[0]
    outcome = read_json(attempt)
    dead = {cell: {**one, "status": "failed", "reason": f"{said}\n  | more"} for cell, one in outcome["cells"].items()}
    write_json(attempt, {**outcome, "status": "failed", "reason": said, "cells": dead})
    for cell in dead:
        shutil.rmtree(results / "cells" / cell, ignore_errors=True)
    report.what_there_is(results, "demo")
    text, failed = terminal.summarise(results, "demo")
    assert failed >= len(dead) > 2
    assert f"  {attempt.parent.name}: {len(dead)} cells\n    the server ended" in text
    assert text.count("flashinfer") == 1
    page = (results / "report" / "demo.html").read_text()
    assert page.count("No module named &#39;flashinfer&#39;") == 1


def test_the_profile_of_this_run_is_in_the_commands():
    assert terminal.profile_of(["snakemake", "--profile", "profiles/hlrs", "-n"]) == "profiles/hlrs"
    assert terminal.profile_of(["snakemake", "--profile=profiles/x"]) == "profiles/x"
    assert terminal.profile_of(["snakemake"]) == "profiles/local"


def test_the_snakefile_does_not_load_pyarrow_with_it():
    heavy = {"pyarrow", "numpy", "pandas", "matplotlib"}
    code = f"import sys, servegauge.report.terminal; print(sorted({heavy!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_script_ends_with_1_where_a_cell_failed_and_2_for_a_mistake(made):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "servegauge.cli", "report", "--text", *words, "--results", str(made[0])]
        return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)

    assert run("demo").returncode == 1
    wrong = run("nothing")
    assert wrong.returncode == 2
    assert wrong.stderr == "error: the dataset holds no study 'nothing'; it holds demo\n"
