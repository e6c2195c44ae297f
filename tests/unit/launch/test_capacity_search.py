"""A search for the capacity on a real server: the paced one, whose slots and times are known."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from servegauge.base import supervisor
from servegauge.base.files import read_json
from servegauge.contract.records.base import write
from servegauge.contract.records.calibration import Calibration, Limits
from servegauge.contract.records.order import JobContext
from servegauge.contract.records.outcome import CellOutcome
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.launch import node_calibration, run
from servegauge.launch.capacity import CapacitySearch
from servegauge.plan.config import load_study
from servegauge.plan.expand import expand
from servegauge.submit.attempts import Run
from servegauge.submit.orders import make_order, read_plan
from servegauge.workloads.compile import compile_plan
from tests.pretend.clone import Clone

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(240)]

CALIBRATION = Calibration(limits=Limits(rate_rps=1000.0, streams=1000))
SLOTS, FIRST_S, GAP_S = 8, 0.25, 0.01  # two tokens an answer
REQUESTS = 130  # an overload of 3 % makes the last quarter of them wait longer than the SLO's slack
TRUTH_RPS = SLOTS / (FIRST_S + GAP_S)


class Searching:
    """A study that searches the capacity of the paced server, in a clone of the tree."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.clone = Clone(folder / "clone", folder)
        (self.clone.results / "calibrations").unlink()
        study = {
            "question": "How much does it carry?",
            "matrix": {
                "model": "tiny", "framework": "paced", "platform": "here", "prompts": "chat-short", "capacity": "quick",
                "max_batch": SLOTS,
            },
            "slo": {"quick": {"e2e_s": FIRST_S + GAP_S + 0.08}},
            "capacity": {"share": 0.75, "first_rps": 24},
            "load": {"requests": REQUESTS, "output_tokens": 2, "arrival": "constant", "timeout_s": 5},
            "server": {"extra_args": ["--first-s", str(FIRST_S), "--gap-s", str(GAP_S)]},
        }  # fmt: skip
        for section, change in changes.items():
            study[section] = {**study[section], **change}
        self.clone.write("config/studies/search.yaml", study)
        monkeypatch.setattr(node_calibration.calibrate, "calibrate", lambda *_, **__: CALIBRATION)
        monkeypatch.chdir(self.clone.root)
        self.file = Path("results/plan/search.json").absolute()
        plan = expand(load_study(Path(), "search"))
        write(self.file, plan)
        compile_plan(self.file, Path("results/workloads/search.json"), Path("results"), Path())
        self.launch, self.cell = plan.launches[0].id, plan.cells[0].id

    def measure(self, attempt: int = 0) -> CellOutcome:
        order = make_order(read_plan(self.file), self.launch, attempt, Path("results"), Path())
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            outcome = run.run_launch(order, JobContext())
        assert outcome is not None
        Run(self.file, self.launch, "local", Path("results"), "x:y")._write(attempt, outcome)
        return outcome.cells[self.cell]

    def study(self) -> Study:
        merge.merge(Path("results"))
        return Study(Path("results"), "search")


def test_the_capacity_of_a_server_with_known_slots(tmp_path, tiny_model, monkeypatch):
    searching = Searching(tmp_path, monkeypatch)
    assert searching.measure().status == "ok"
    study = searching.study()
    [row] = study.searches
    assert study.loads == []
    assert row["capacity_rps"] == pytest.approx(TRUTH_RPS, rel=0.03)
    assert (row["capacity"], row["rate_rps"], row["loop"], row["censored"]) == ("quick", None, "open", [])
    assert row["offered_rps"] == pytest.approx(row["capacity_rps"], rel=0.02), "its own requests are of that rate"
    steps = study.steps(row)
    assert row["capacity_low_rps"] == max(one["rate_rps"] for one in steps if one["attained"])
    assert row["capacity_high_rps"] == min(one["rate_rps"] for one in steps if not one["attained"])
    assert all(one["requests"] == REQUESTS for one in steps)
    folder = Path("results/cells") / row["cell"]
    kept = pq.read_table(folder / "step_requests.parquet")
    assert sorted(kept["step"].unique().to_pylist()) == sorted(one["step"] for one in steps)
    own = kept.filter(pc.equal(kept["step"], read_json(folder / "cell.json")["capacity"]["step"])).drop_columns("step")
    assert own.to_pylist() == pq.read_table(folder / "requests.parquet").to_pylist()
    prompts = {
        tuple(one.filter(pc.equal(one["phase"].cast(pa.string()), "window"))["prompt_tokens_asked"].to_pylist())
        for one in (kept.filter(pc.equal(kept["step"], step["step"])) for step in steps)
    }
    assert len(prompts) == 1, "every rate has the same window"


def test_what_nothing_stops_is_at_least_what_was_tried(tmp_path, tiny_model, monkeypatch):
    searching = Searching(tmp_path, monkeypatch, capacity={"first_rps": 10, "most_rps": 15}, load={"requests": 30})
    assert searching.measure().status == "ok"
    [row] = searching.study().searches
    assert (row["capacity_rps"], row["capacity_low_rps"], row["capacity_high_rps"]) == (None, 15.0, None)
    assert row["censored"] == ["capacity_rps"]


def test_with_a_server_that_dies_in_the_middle_there_is_no_cell_and_the_next_attempt_makes_it(
    tmp_path, tiny_model, monkeypatch
):
    searching = Searching(tmp_path, monkeypatch, capacity={"first_rps": 10, "most_rps": 15}, load={"requests": 30})
    waits = CapacitySearch._wait_until_idle

    def kills(self):
        for process in supervisor.descendants(os.getpid()):
            if b"paced.server" in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, signal.SIGKILL)

    monkeypatch.setattr(CapacitySearch, "_wait_until_idle", kills)
    outcome = searching.measure()
    assert outcome.status == "failed"
    assert "the server died during the cell" in outcome.reason
    assert list(Path("results/cells").glob("*")) == []
    monkeypatch.setattr(CapacitySearch, "_wait_until_idle", waits)
    assert searching.measure(1).status == "ok"


def test_asked_to_end_in_the_middle_it_is_left_for_the_next_attempt(tmp_path, tiny_model, monkeypatch):
    searching = Searching(tmp_path, monkeypatch, capacity={"first_rps": 10, "most_rps": 15}, load={"requests": 30})
    monkeypatch.setattr(CapacitySearch, "_wait_until_idle", lambda self: self.run.stop.ask("the job got SIGTERM"))
    outcome = searching.measure()
    assert (outcome.status, outcome.reason) == ("not_run", "interrupted: the job got SIGTERM")
    assert list(Path("results/cells").glob("*")) == []
