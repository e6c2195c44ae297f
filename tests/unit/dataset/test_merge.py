"""The merge: every cell a row, corrupt cells set aside, and only what changed is made again."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, sha256, write_json
from servegauge.contract import cell_tables, tables
from servegauge.dataset import launch_parts, merge
from servegauge.dataset.study_view import Study
from servegauge.report import page
from tests import synthetic
from tests.parquet_files import check_file

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    root = tmp_path_factory.mktemp("synthetic")
    special = synthetic.make_results(root, requests=20)
    return root, special


@pytest.fixture
def made(template, tmp_path, monkeypatch) -> tuple[Path, dict[str, str]]:
    """A folder of results and the ids of its special cells; the tests run inside it, as Snakemake does."""
    shutil.copytree(template[0], tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return Path("results"), template[1]


def test_a_disk_that_fills_up_in_a_merge_is_one_message_and_costs_nothing(made):
    results, _ = made
    command = [sys.executable, str(ROOT / "scripts/merge_dataset.py"), "--results", "results"]
    full = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY)),
    )
    assert full.returncode == 2, full.stderr
    assert full.stderr.startswith("error: results/dataset/")
    assert "File too large" in full.stderr
    assert full.stderr.count("\n") == 1
    assert not [path for path in results.rglob(".*") if path.is_file()], "a part of a file stays"
    assert not list(results.glob("corrupt/*")), "a cell is not corrupt because the disk is full"
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert merge.merge(results).statuses == {"ok": 23, "failed": 1, "skipped": 1}


def cells(results: Path) -> dict[str, dict]:
    return {row["cell"]: row for row in merge.read(results, "cells").to_pylist()}


def some_cell(results: Path, number: int = 0) -> Path:
    return sorted((results / "cells").iterdir())[number]


def test_every_cell_of_the_study_is_a_row_with_its_status(made):
    results, special = made
    merged = merge.merge(results)
    assert merged.statuses == {"ok": 23, "failed": 1, "skipped": 1}
    rows = cells(results)
    failed, skipped, flagged = (rows[special[name]] for name in ("failed", "skipped", "flagged"))
    assert failed["status"] == "failed"
    assert failed["reason"] == "the server died: exit status -9 (killed; out of memory?)"
    assert failed["log"] == f"results/launches/{failed['launch']}/attempt-0/server-0.log"
    assert failed["ttft_p50_s"] is None
    assert failed["flags"] == []
    assert skipped["status"] == "skipped"
    assert "context_tokens is 2048" in skipped["reason"]
    assert flagged["status"] == "ok"
    assert flagged["flags"] == ["errors"]
    assert json.loads(flagged["flag_details"])[0]["threshold"] == 0.01
    assert flagged["error_share"] == 1 / 20
    assert flagged["requests_ok"] == 19
    asked = merge.read(results, "study_cells").to_pylist()
    assert {row["cell"] for row in asked} == set(rows)
    assert sorted(row["position"] for row in asked) == list(range(25))


def test_every_table_is_what_its_schema_says(made):
    results, _ = made
    merge.merge(results)
    for name, schema in tables.TABLES.items():
        if name in tables.OF_COMPARISON:
            continue
        if name not in tables.PARTED:
            check_file(results / "dataset" / f"{name}.parquet", schema)
        elif name not in ("gpu", "capacity_steps"):  # no cell of the made-up results has one
            files = sorted((results / "dataset" / name).iterdir())
            assert len(files) == 4
            for path in files:
                check_file(path, schema)


def test_requests_hold_raw_stamps_derived_columns_and_warm_up(made):
    results, _ = made
    merge.merge(results)
    cell = some_cell(results)
    part = launch_parts.open_part(results / "dataset", read_json(cell / "cell.json")["launch"])
    table = part.read(cell.name)
    raw = pq.read_table(cell / "requests.parquet")
    assert table.select(raw.column_names).to_pylist() == raw.to_pylist()
    assert table.num_rows == 24
    row = table.to_pylist()[10]
    assert row["ttft_s"] == (row["first_token_ns"] - row["sent_ns"]) / 1e9
    assert row["e2e_scheduled_s"] == (row["last_ns"] - row["scheduled_ns"]) / 1e9
    assert row["tpot_s"] == pytest.approx((row["last_ns"] - row["first_token_ns"]) / 31e9)
    summary = cells(results)[cell.name]
    assert summary["requests"] == 20  # without the warm-up
    assert (summary["epoch_offset_ns"], summary["clock_drift_ns"]) == (22 * synthetic.NS, 1500)


def test_the_nodes_state_is_a_table_beside_the_requests(made):
    results, _ = made
    merge.merge(results)
    cell = some_cell(results)
    launch = read_json(cell / "cell.json")["launch"]
    rows = pq.read_table(launch_parts.part_path(results / "dataset", "node", launch)).to_pylist()
    raw = pq.read_table(cell / "node.parquet").to_pylist()
    assert raw
    assert [row for row in rows if row["cell"] == cell.name] == [
        {"cell": cell.name, "launch": launch, **row} for row in raw
    ]


def test_goodput_is_counted_by_hand(made):
    results, _ = made
    merge.merge(results)
    rows = cells(results)
    found = {row["cell"]: row for row in merge.read(results, "cell_slos").to_pylist()}
    assert len(found) == 23
    for cell, slo in found.items():
        part = launch_parts.open_part(results / "dataset", rows[cell]["launch"])
        window = [row for row in part.read(cell).to_pylist() if row["phase"] == "window"]
        met = sum(row["status"] == "ok" and row["ttft_s"] <= 0.05 and row["tpot_s"] <= 0.01 for row in window)
        assert slo["requests_attained"] == met
        assert slo["attained_share"] == met / 20
        assert slo["goodput_rps"] == pytest.approx(met / rows[cell]["window_s"])


def test_an_edited_slo_is_followed_without_making_parts_again(made):
    results, _ = made
    merge.merge(results)
    plan = read_json(results / "plan/demo.json")
    plan["study"]["slo"] = {"strict": {"ttft_s": 0.0}, "loose": {"e2e_s": 1000.0}}
    write_json(results / "plan/demo.json", plan)
    assert merge.merge(results).parts_made == []
    by_slo = (
        pd.read_parquet(results / "dataset/cell_slos.parquet").groupby("slo", observed=True)["requests_attained"].max()
    )
    assert by_slo.to_dict() == {"strict": 0, "loose": 20}


def test_nothing_is_made_again_when_nothing_changed(made):
    results, _ = made
    first = merge.merge(results)
    assert len(first.parts_made) == 4
    before = {path: path.stat().st_mtime_ns for path in (results / "dataset").glob("*/*.parquet")}
    rows = cells(results)
    second = merge.merge(results)
    assert (second.parts_made, second.parts_kept) == ([], 4)
    assert {path: path.stat().st_mtime_ns for path in (results / "dataset").glob("*/*.parquet")} == before
    assert cells(results) == rows


def test_a_new_cell_makes_one_part_again(made):
    results, special = made
    merge.merge(results)
    plan = read_json(results / "plan/demo.json")
    spec = next(cell for cell in plan["cells"] if cell["id"] == special["failed"])
    launch = next(launch for launch in synthetic.launches() if launch.id == spec["launch"])
    cell = next(cell for cell in synthetic.cells_of(launch, 20) if cell.id == special["failed"])
    synthetic.write_cell(results, launch, cell, synthetic.shape_of(launch, cell, 20))
    merged = merge.merge(results)
    assert (merged.parts_made, merged.parts_kept) == ([launch.id], 3)
    assert merged.statuses == {"ok": 24, "skipped": 1}
    assert cells(results)[cell.id]["reason"] is None


def test_a_part_made_by_other_formulas_is_made_again(made, monkeypatch):
    results, _ = made
    merge.merge(results)
    monkeypatch.setattr(launch_parts, "CODE", "other")
    assert len(merge.merge(results).parts_made) == 4


def test_a_part_that_is_cut_short_is_made_again(made):
    results, _ = made
    merge.merge(results)
    path = sorted((results / "dataset/requests").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-100])
    assert merge.merge(results).parts_made == [path.stem]
    check_file(path, cell_tables.REQUESTS)


def damage_json(cell: Path) -> None:
    (cell / "cell.json").write_text('{"cell": "half of a')


def damage_bytes(cell: Path) -> None:
    data = bytearray((cell / "requests.parquet").read_bytes())
    data[len(data) // 2] ^= 255
    (cell / "requests.parquet").write_bytes(data)


def damage_length(cell: Path) -> None:
    data = (cell / "requests.parquet").read_bytes()
    (cell / "requests.parquet").write_bytes(data[:-10])


def damage_absent(cell: Path) -> None:
    (cell / "requests.parquet").unlink()


def damage_no_json(cell: Path) -> None:
    (cell / "cell.json").unlink()


def damage_kind(cell: Path) -> None:
    (cell / "cell.json").unlink()
    (cell / "cell.json").mkdir()


def damage_schema(cell: Path) -> None:
    table = pq.read_table(cell / "requests.parquet").drop(["scheduled_ns"])
    pq.write_table(table, cell / "requests.parquet")
    record = read_json(cell / "cell.json")
    path = cell / "requests.parquet"
    record["files"]["requests.parquet"] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    write_json(cell / "cell.json", record)


def damage_identity(cell: Path) -> None:
    record = read_json(cell / "cell.json")
    write_json(cell / "cell.json", {**record, "cell": "another"})


DAMAGES = [
    (damage_bytes, "requests.parquet does not have the SHA-256"),
    (damage_length, "were written"),
    (damage_absent, "requests.parquet is gone"),
    (damage_schema, "column scheduled_ns is absent"),
]
DAMAGES_OF_CELL_JSON = [  # seen in a cell that was merged before, too
    (damage_json, "cell.json is not"),
    (damage_no_json, "it has no cell.json"),
    (damage_kind, "it is a folder"),
    (damage_identity, "cell.json is of another cell, another"),
]


@pytest.mark.parametrize(
    ("damage", "said", "merged_before"),
    [(*damage, False) for damage in DAMAGES + DAMAGES_OF_CELL_JSON]
    + [(*damage, True) for damage in DAMAGES_OF_CELL_JSON],
)
def test_a_corrupt_cell_is_set_aside_and_is_a_failed_row(made, damage, said, merged_before):
    results, _ = made
    if merged_before:
        merge.merge(results)
    cell = some_cell(results, 3)
    damage(cell)
    merged = merge.merge(results)
    assert merged.statuses == {"ok": 22, "failed": 2, "skipped": 1}
    assert said in merged.corrupt[cell.name]
    assert not cell.exists()  # so the next run measures it
    aside = results / "corrupt" / f"{cell.name}-0"
    assert said in read_json(aside / "corrupt.json")["reason"]
    row = cells(results)[cell.name]
    assert row["status"] == "failed"
    assert said in row["reason"]
    assert row["log"] == str(aside)
    assert "set aside" in "\n".join(merge.sentences(merged))
    again = merge.merge(results)  # still a failed row, found once
    assert (again.statuses, again.corrupt) == (merged.statuses, {})
    part = launch_parts.open_part(results / "dataset", row["launch"])
    assert cell.name not in part.entries
    assert part.read(next(iter(part.entries))).num_rows == 24  # the others are whole


def test_a_link_to_nothing_is_left_out_with_a_warning(made):
    results, _ = made
    cell = some_cell(results)
    shutil.rmtree(cell)
    cell.symlink_to("nowhere")
    merged = merge.merge(results)
    assert f"{cell} is a link to nothing" in "\n".join(merged.warnings)
    assert merged.statuses["ok"] == 22


def test_the_second_corruption_of_a_cell_gets_a_folder_of_its_own(made):
    results, _ = made
    cell = some_cell(results)
    kept = cell.parent.parent / "kept"
    shutil.copytree(cell, kept)
    for number in range(2):
        damage_json(cell)
        merge.merge(results)
        assert (results / "corrupt" / f"{cell.name}-{number}").is_dir()
        if number == 0:
            shutil.copytree(kept, cell)


def test_what_a_killed_process_left_is_no_cell(made):
    results, _ = made
    shutil.copytree(some_cell(results), results / "cells" / ".half-written.xyz")
    (results / "cells" / "notes.txt").write_text("mine")
    merged = merge.merge(results)
    assert merged.statuses["ok"] == 23
    assert merged.corrupt == {}
    assert "notes.txt is no folder" in merged.warnings[0]


def test_a_measured_cell_that_no_study_asks_for_is_kept(made):
    results, _ = made
    plan = read_json(results / "plan/demo.json")
    gone = some_cell(results).name
    plan["cells"] = [cell for cell in plan["cells"] if cell["id"] != gone]
    write_json(results / "plan/demo.json", plan)
    merge.merge(results)
    row = cells(results)[gone]
    assert row["status"] == "ok"
    assert row["platform"] == "own-cpu"
    assert gone not in {row["cell"] for row in merge.read(results, "study_cells").to_pylist()}


def test_a_launch_without_cells_has_no_part_left(made):
    results, _ = made
    merge.merge(results)
    launch = read_json(some_cell(results) / "cell.json")["launch"]
    for cell in list((results / "cells").iterdir()):
        if read_json(cell / "cell.json")["launch"] == launch:
            shutil.rmtree(cell)
    merged = merge.merge(results)
    assert launch not in {path.stem for path in (results / "dataset/requests").iterdir()}
    assert merged.statuses["planned"] == 6
    assert all("its folder is gone" in row["reason"] for row in cells(results).values() if row["status"] == "planned")


def test_a_cell_that_was_not_run_is_planned_and_the_last_attempt_counts(made):
    results, special = made
    row = cells(results) if merge.merge(results) else {}
    launch = row[special["failed"]]["launch"]
    first = read_json(results / "launches" / launch / "attempt-0.json")
    later = {
        **first,
        "attempt": 1,
        "cells": {special["failed"]: {"status": "not_run", "reason": "the job got SIGTERM"}},
    }
    write_json(results / "launches" / launch / "attempt-1.json", later)
    merge.merge(results)
    found = cells(results)[special["failed"]]
    assert (found["status"], found["reason"]) == ("planned", "the job got SIGTERM")
    later["cells"][special["failed"]] = {"status": "failed", "reason": "timeout"}
    later["attempt"] = 10
    write_json(results / "launches" / launch / "attempt-10.json", later)
    merge.merge(results)
    found = cells(results)[special["failed"]]
    assert (found["status"], found["reason"], found["attempt"]) == ("failed", "timeout", 10)
    launches = {row["launch"]: row for row in merge.read(results, "launches").to_pylist()}
    assert launches[launch]["attempts"] == 3


def test_launches_and_attempts_lead_to_what_made_a_number(made):
    results, _ = made
    merge.merge(results)
    cell = some_cell(results)
    row = cells(results)[cell.name]
    attempts = [
        one
        for one in merge.read(results, "attempts").to_pylist()
        if (one["launch"], one["attempt"]) == (row["launch"], row["attempt"])
    ]
    assert len(attempts) == 1
    assert attempts[0]["framework_version"] == "b7000"
    assert attempts[0]["startup_s"] == pytest.approx(1.3)
    assert json.loads(attempts[0]["startup_parts"]) == {"weights": 0.4}
    assert json.loads(attempts[0]["provenance"])["provenance"]["workflow"]["value"]["commit"] == "b381bc9"
    launch = next(one for one in merge.read(results, "launches").to_pylist() if one["launch"] == row["launch"])
    assert (launch["status"], launch["attempts"], launch["tp"], launch["platform"]) == ("ok", 1, 1, "own-cpu")


def test_a_flag_of_the_launch_is_a_flag_of_its_cells(made):
    results, _ = made
    cell = some_cell(results)
    launch = read_json(cell / "cell.json")["launch"]
    path = results / "launches" / launch / "attempt-0/launch.json"
    flag = {"flag": "not_as_asked", "value": 1024, "threshold": 2048, "detail": "context_tokens"}
    write_json(path, {**read_json(path), "flags": [flag]})
    merge.merge(results)
    rows = [row for row in cells(results).values() if row["launch"] == launch and row["status"] == "ok"]
    assert rows
    assert all(row["flags"] == ["not_as_asked"] for row in rows)


def other_texts(results: Path, requests: int = 20) -> str:
    """Measure a cell of shared-cpu again, where the first `requests` of its 20 answers are other texts; its id."""
    launch = next(one for one in synthetic.launches() if one.platform["name"] == "shared-cpu")
    cell = synthetic.cells_of(launch, 20)[0]
    shutil.rmtree(results / "cells" / cell.id)
    shape = synthetic.shape_of(launch, cell, 20)
    table = synthetic.raw_requests(cell.id, launch.id, shape)
    window = [row["phase"] == "window" and row["request"] < requests for row in table.to_pylist()]
    texts = ["0" * 64 if other else text for text, other in zip(table["text_sha256"].to_pylist(), window, strict=True)]
    number = table.schema.get_field_index("text_sha256")
    table = table.set_column(number, table.schema.field(number), pa.array(texts, pa.string()))
    synthetic.write_cell(results, launch, cell, shape, requests=table)
    return cell.id


def with_study(results: Path, change) -> None:
    """Rewrite the plan after `change` of it."""
    plan = read_json(results / "plan/demo.json")
    change(plan)
    write_json(results / "plan/demo.json", plan)


def text_flags(results: Path) -> dict[str, dict]:
    """Cell -> its flag text_differs."""
    found = [(name, json.loads(row["flag_details"] or "[]")) for name, row in cells(results).items()]
    return {name: flag for name, flags in found for flag in flags if flag["flag"] == "text_differs"}


def test_cells_of_one_launch_that_different_servers_measured_are_marked(made):
    """One cell in a second attempt, one as soon as the server of the first was started again; the others before."""
    results, _ = made
    launch = sorted((results / "launches").iterdir())[0].name
    mine = sorted(path for path in (results / "cells").glob("*/cell.json") if read_json(path)["launch"] == launch)
    assert len(mine) > 2
    for path, attempt, began in ((mine[-2], 1, "2026-11-21T13:20:00.000Z"), (mine[-1], 0, "2026-11-21T10:10:00.000Z")):
        write_json(path, read_json(path) | {"attempt": attempt, "started_utc": began})
    folder = results / "launches" / launch
    record = read_json(folder / "attempt-0" / "launch.json")
    starts = [{"utc": f"2026-11-21T{hour}:00.000Z", "ready_s": 1.0, "instances": []} for hour in ("09:59", "10:10")]
    write_json(folder / "attempt-0" / "launch.json", record | {"server_starts": starts})
    write_json(folder / "attempt-1" / "launch.json", record | {"attempt": 1, "server_starts": starts[:1]})
    merge.merge(results)
    rows = cells(results)
    found = [rows[path.parent.name] for path in mine]
    assert [row["server"] for row in found] == [0] * (len(mine) - 2) + [2, 1]
    assert all("several_servers" in row["flags"] for row in found)
    (flag,) = [one for one in json.loads(found[-2]["flag_details"]) if one["flag"] == "several_servers"]
    assert flag["detail"] == (
        "the launch's cells were measured by 3 servers, begun 3 h 20 min apart; this one by number 2"
    )
    others = [row for row in rows.values() if row["launch"] != launch and row["status"] == "ok"]
    assert {row["server"] for row in others} == {0}
    assert not any("several_servers" in row["flags"] for row in others)


def test_other_texts_than_on_the_reference_platform_are_flagged(made):
    results, _ = made
    cell = other_texts(results, 5)
    merge.merge(results)
    assert "text_differs" in cells(results)[cell]["flags"]
    detail = "5 of 20 answers differ in text from own-cpu at temperature 0"
    assert text_flags(results) == {cell: {"flag": "text_differs", "value": 0.25, "threshold": 0.0, "detail": detail}}
    shown = next(one for one in page.flag_table(Study(results, "demo")) if one["flag"] == "text_differs")
    assert [(one["row"]["cell"], one["value"], one["detail"]) for one in shown["rows"]] == [(cell, 0.25, detail)]
    assert shown["declared"].name == "text_differs", "the report says what it means"


def test_the_study_says_how_many_other_texts_are_too_many(made):
    results, _ = made
    cell = other_texts(results, 5)
    with_study(results, lambda plan: plan["study"].update(validity={"differing_text_share": 0.24}))
    merge.merge(results)
    assert text_flags(results)[cell]["threshold"] == 0.24
    with_study(results, lambda plan: plan["study"].update(validity={"differing_text_share": 0.25}))
    merge.merge(results)
    assert text_flags(results) == {}


@pytest.mark.parametrize("other", [{"extra_args": ["--fast"]}, {"environment": {"A": "1"}}])
def test_texts_of_servers_that_were_asked_for_other_things_are_not_compared(made, other):
    results, _ = made
    launch = read_json(results / "cells" / other_texts(results) / "cell.json")["launch"]

    def change(plan: dict) -> None:
        next(one for one in plan["launches"] if one["id"] == launch).update(other)

    with_study(results, change)
    merge.merge(results)
    assert text_flags(results) == {}


def test_texts_at_another_temperature_may_differ(made):
    results, _ = made
    other_texts(results)
    with_study(results, lambda plan: [cell["load"].update(temperature=0.7) for cell in plan["cells"]])
    merge.merge(results)
    assert text_flags(results) == {}


def test_one_line_reads_it_in_pandas_polars_and_duckdb(made):
    results, _ = made
    merge.merge(results)
    median = "select platform, median(ttft_s) from '{}' join '{}' using (cell) where prompts = 'short' group by all"
    with_pandas = pd.read_parquet("results/dataset/cells.parquet")
    with_polars = pl.read_parquet("results/dataset/requests/*.parquet")
    with_duckdb = duckdb.sql(median.format("results/dataset/requests/*.parquet", "results/dataset/cells.parquet"))
    assert len(with_pandas) == 25
    assert str(with_pandas["platform"].dtype) == "category"
    assert with_polars.height == 23 * 24
    assert with_polars.filter(pl.col("phase") == "window").height == 23 * 20
    medians = dict(with_duckdb.fetchall())
    assert medians["shared-cpu"] > medians["own-cpu"] > 0
    assert len(pd.read_parquet("results/dataset/requests")) == 23 * 24
    assert duckdb.sql("from 'results/dataset/cells.parquet' select count(*) where len(flags) > 0").fetchall() == [(1,)]


def test_the_lines_in_the_readme_read_it(made):
    results, _ = made
    merge.merge(results)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "results/dataset" in block]
    for reader in ("pandas", "polars", "duckdb"):
        assert reader in code
    for line in code.splitlines():
        names: dict = {"pd": pd, "pl": pl, "duckdb": duckdb}
        exec(f"answer = {line.partition(' = ')[2] or line}" if "results/" in line else line, names)
        if "results/" in line:
            assert len(names["answer"]) > 0, line


def test_an_unreadable_plan_holds_nothing_back(made):
    results, _ = made
    (results / "plan/broken.json").write_text("{")
    merged = merge.merge(results)
    assert merged.statuses["ok"] == 23
    assert "broken.json is not a plan: Input data was truncated" in merged.warnings[0]


def test_nothing_to_merge_is_said(tmp_path):
    with pytest.raises(UserError, match="there is nothing to merge under"):
        merge.merge(tmp_path)


def test_other_columns_in_a_table_beside_the_requests_cost_that_table_only(made):
    results, _ = made
    cell = some_cell(results)
    path = cell / "server_metrics.parquet"
    pq.write_table(pq.read_table(path).drop(["t_ns"]), path)
    record = read_json(cell / "cell.json")
    record["files"][path.name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    write_json(cell / "cell.json", record)
    merged = merge.merge(results)
    assert merged.statuses["ok"] == 23
    assert "server_metrics.parquet is left out: table server_metrics: column t_ns is absent" in merged.warnings[0]
