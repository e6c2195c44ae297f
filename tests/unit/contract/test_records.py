"""Documents between the parts: read whole or refused with one message; those of an older version are brought up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from servegauge.base.errors import UserError
from servegauge.contract.records.base import DamagedRecord, Record, plain, read, write
from servegauge.contract.records.calibration import Calibration
from servegauge.contract.records.cell import CellRecord
from servegauge.contract.records.job import JobRecord, Running
from servegauge.contract.records.launch import LaunchRecord
from servegauge.contract.records.order import JobSettings, Order
from servegauge.contract.records.outcome import Outcome
from servegauge.contract.records.plan import Plan
from servegauge.contract.records.specs import CellSpec, LaunchSpec
from servegauge.contract.records.workload import WorkloadRecord
from servegauge.contract.spec import Cell, Launch, Load

OLD = Path(__file__).parents[2] / "samples" / "results-of-version-1"
KINDS: dict[str, type[Record]] = {
    "plan/old.json": Plan,
    "launches/*/spec.json": LaunchSpec,
    "launches/*/attempt-0/order.json": Order,
    "launches/*/attempt-0/job.json": JobRecord,
    "launches/*/attempt-0/running.json": Running,
    "launches/*/attempt-0/outcome.json": Outcome,
    "launches/*/attempt-0.json": Outcome,
    "launches/*/attempt-0/launch.json": LaunchRecord,
    "launches/*/attempt-0/calibration.json": Calibration,
    "cells/*/cell.json": CellRecord,
    "workloads/*/workload.json": WorkloadRecord,
}


@pytest.mark.parametrize("pattern", KINDS)
def test_documents_of_version_1_are_read(pattern: str, tmp_path: Path) -> None:
    paths = sorted(OLD.glob(pattern))
    assert paths
    for path in paths:
        record = read(path, KINDS[pattern])
        write(tmp_path / "again.json", record)
        assert read(tmp_path / "again.json", KINDS[pattern]) == record


def test_a_cell_of_version_1_keeps_what_its_recorders_said() -> None:
    path = sorted(OLD.glob("cells/*/cell.json"))[0]
    old = json.loads(path.read_text())
    assert read(path, CellRecord).recorders == {"scraper": old["scraper"], "sampler": old["sampler"]}
    assert convert({**old, "recorders": {"sampler": {"a": 1}}}, CellRecord).recorders["sampler"] == {"a": 1}


@pytest.mark.parametrize("pattern", KINDS)
@pytest.mark.parametrize("text", ["", "[]", "null", '{"version": 1}', '{"version": "1"}', '{"version": 99}', "cut"])
def test_what_is_damaged_is_one_message_with_the_file_and_the_way_out(pattern: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    whole = sorted(OLD.glob(pattern))[0].read_text()
    path.write_text(whole[: len(whole) // 2] if text == "cut" else text)
    with pytest.raises(UserError) as error:
        read(path, KINDS[pattern])
    assert str(error.value).startswith(f"{path} is not {KINDS[pattern].WHAT}: ")
    assert any(word in str(error.value) for word in ("emove", "Write it", "Update servegauge"))
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_and_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "it.json"
    path.write_bytes(b'{"version": 1, "mode": "\xff"}')
    with pytest.raises(DamagedRecord):
        read(path, JobRecord)
    with pytest.raises(DamagedRecord, match="Is a directory"):
        read(tmp_path, JobRecord)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent.json", JobRecord)


def test_the_message_names_the_place() -> None:
    [path] = OLD.glob("launches/*/attempt-0.json")
    data = json.loads(path.read_text())
    next(iter(data["cells"].values()))["status"] = "good"
    with pytest.raises(DamagedRecord, match=r"Invalid enum value 'good' - at `\$\.cells\[\.\.\.\]\.status`"):
        convert(data, Outcome)


def convert(data: dict[str, Any], kind: type[Record]) -> Any:
    from servegauge.contract.records.base import decode

    return decode(json.dumps(data).encode(), kind, Path("it.json"))


def test_an_order_of_version_1_loses_its_deadline_and_keeps_what_probes_are_asked() -> None:
    [path] = OLD.glob("launches/*/attempt-0/order.json")
    data = json.loads(path.read_text())
    assert "deadline_utc" in data
    order = convert(data, Order)
    assert order.version == 2
    assert "deadline_utc" not in plain(order)
    assert order.job == JobSettings(continues=False, calibrate="once", ready_timeout_s=1800, metrics_hz=2)
    assert [cell.cell.id for cell in order.cells] == [cell["id"] for cell in data["cells"]]
    assert order.launch.launch.id == data["launch"]["id"]
    probes = {**data, "launch": {"id": "probes-x", "platform": {"name": "x"}, "layout": {}}, "probes": {"out": "o"}}
    assert convert(probes, Order).asked == {"probes": {"out": "o"}}


@pytest.mark.parametrize("folder", ["../evil", "job-1a2b3c4d/../../evil", "/tmp/evil", "evil", "", "job-1a2b/x"])
def test_the_record_of_a_job_names_no_folder_outside_its_attempt(folder: str) -> None:
    data = {"version": 1, "mode": "local", "state": "submitted", "folder": folder, "job": "7"}
    with pytest.raises(DamagedRecord, match="its folder is"):
        convert(data, JobRecord)


def test_a_cell_whose_name_is_another_today_is_refused() -> None:
    launch = Launch("paced", {"name": "tiny"}, {"name": "here"})
    spec = CellSpec.of(Cell.of(launch, {"name": "chat"}, Load(rate_rps=4, requests=4)))
    assert spec.cell.id == spec.id
    changed = CellSpec(**{**{name: getattr(spec, name) for name in spec.__struct_fields__}, "id": "other"})
    with pytest.raises(UserError, match="the cell other is called paced-tiny"):
        _ = changed.cell


def test_specs_lose_nothing_on_their_way_through_a_document(tmp_path: Path) -> None:
    launch = Launch("vllm", {"name": "m", "source": "s"}, {"name": "p"}, options={"a": 1.0}, extra_args=("-x",))
    write(tmp_path / "spec.json", LaunchSpec.of(launch))
    back = read(tmp_path / "spec.json", LaunchSpec)
    assert (back.id, back.configuration, back.launch) == (launch.id, launch.configuration, launch)
