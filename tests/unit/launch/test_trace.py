"""A traced launch: real but for its engine, the paced server, and the profiler, which writes a capture of the tests."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base import supervisor
from servegauge.base.files import read_json, write_json
from servegauge.contract.records.base import read
from servegauge.contract.records.calibration import Calibration, Limits
from servegauge.contract.records.order import JobContext
from servegauge.contract.records.outcome import CellOutcome
from servegauge.contract.records.trace import TraceRecord
from servegauge.dataset import merge
from servegauge.frameworks.base import PROFILE, Context, Reply
from servegauge.frameworks.paced import Paced
from servegauge.launch import run, server
from servegauge.launch.recorders import torch_profiler
from servegauge.plan import expand as planning
from servegauge.plan.config import load_study
from servegauge.plan.expand import Plan, expand
from servegauge.submit.attempts import Run
from servegauge.submit.orders import make_order, read_plan
from servegauge.workloads.compile import compile_plan
from tests.pretend.clone import Clone
from tests.unit.traces import made_up_captures as made_up

CALIBRATION = Calibration(limits=Limits(rate_rps=100.0, streams=100))
TRACE = {"profiler": "torch", "steps": 3, "after_s": 0.2, "most_s": 0.2, "cells": "*-rate4-*"}


class Traceable(Paced):
    """The paced server with a profiler; `goes_wrong` is what it does instead of what it should."""

    profilers = ("torch",)
    goes_wrong = ""

    def argv(self, ctx: Context) -> list[str]:
        assert ctx.profile is (ctx.launch.trace is not None), "started so that a profiler can be switched on"
        self.context = ctx
        return super().argv(ctx)

    def servers(self) -> list[int]:
        family = supervisor.descendants(os.getpid())
        return [one for one in family if b"paced.server" in Path(f"/proc/{one}/cmdline").read_bytes()]

    def start_profile(self, client: object) -> Reply:
        if self.goes_wrong == "stands still":
            for process in self.servers():
                os.kill(process, signal.SIGSTOP)
            return Reply(0, "TimeoutError: timed out")
        return Reply(200, "")

    def stop_profile(self, client: object) -> Reply:
        if self.goes_wrong == "hangs":
            time.sleep(20)
        (self.context.work / PROFILE).mkdir()
        if self.goes_wrong != "writes nothing":
            made_up.write_chrome(self.context.work / PROFILE, made_up.ranks())
        return Reply(200, "")


class Traced:
    """A study with a trace, in a clone of the tree."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clone = Clone(folder / "clone", folder)
        (self.clone.results / "calibrations").unlink()
        self.clone.study(trace=TRACE, job={"quality_items": 2})
        self.framework = Traceable()
        for place in (run, planning):
            monkeypatch.setattr(place, "framework", lambda name: self.framework)
        monkeypatch.setattr(run.calibrate, "calibrate", lambda *_, **__: CALIBRATION)
        monkeypatch.setattr(server, "GRACE_S", 0.5)
        monkeypatch.chdir(self.clone.root)
        self.plan: Plan = expand(load_study(self.clone.root, "faults"))
        self.file = self.clone.results / "plan" / "faults.json"
        write_json(self.file, self.plan.to_dict())
        workloads = self.clone.results / "workloads" / "faults.json"
        compile_plan(self.file, workloads, self.clone.results, self.clone.root)
        (self.trace,) = [one.cell for one in self.plan.traces]

    def measure(self, launch: str, attempt: int = 0) -> dict[str, CellOutcome]:
        order = make_order(read_plan(self.file), launch, attempt, Path("results"), self.clone.root)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            outcome = run.run_launch(order, JobContext())
        assert outcome is not None
        Run(self.file, launch, "local", Path("results"), "x:y")._write(attempt, outcome)
        return outcome.cells

    def rows(self) -> list[dict]:
        merge.merge(Path("results"))
        return merge.read(Path("results"), "traces").to_pylist()


@pytest.fixture
def traced(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Traced:
    return Traced(tmp_path, monkeypatch)


def test_a_trace_is_kept_whole_away_from_the_cells_and_read_by_the_merge(traced: Traced) -> None:
    timed = traced.plan.launches[0].id
    assert {one.status for one in traced.measure(timed).values()} == {"ok"}
    for path in Path("results").glob("cells/*/cell.json"):
        assert set(read_json(path)["recorders"]) == {"scraper", "sampler"}, "no profiler beside a timed cell"
    assert traced.rows()[0]["status"] == "planned"
    assert {(one.status, one.reason) for one in traced.measure(traced.trace.launch).values()} == {("ok", None)}
    folder = Path("results/traces") / traced.trace.id
    record = read(folder / "trace.json", TraceRecord)
    assert record.captures == ("capture-0.json.gz", "capture-1.json.gz")
    assert set(record.files) == {path.name for path in folder.iterdir()} - {"trace.json"}
    assert read_json(folder / "trace.json")["workload"] == traced.trace.workload.id
    (row,) = traced.rows()
    (cell,) = [one for one in merge.read(Path("results"), "cells").to_pylist() if one["cell"] == row["cell"]]
    assert (row["status"], row["platform"], row["condition"]) == ("ok", "here", "chat-short, rate4")
    assert (cell["rate_rps"], cell["launch"]) == (4, timed)
    captures = pq.read_table(f"results/dataset/trace_captures/{row['trace']}.parquet").to_pylist()
    assert [one["rank"] for one in captures] == [0, 1]
    assert captures[0]["overhead_ratio"] == pytest.approx(row["tpot_p50_s"] / cell["tpot_p50_s"])
    kept = pq.read_table("results/dataset/requests")
    assert traced.trace.id not in kept["cell"].unique().to_pylist()
    answers = merge.read(Path("results"), "quality").to_pylist()
    assert [(one["launch"], one["item"], one["correct"]) for one in answers] == [(timed, 0, False), (timed, 1, False)]
    assert all(one["text"] for one in answers), "the paced server says something, though nothing right"
    order = make_order(read_plan(traced.file), traced.trace.launch, 1, Path("results"), traced.clone.root)
    assert order.cells == (), "what is traced is not traced again"


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("goes_wrong", "reason"),
    [
        ("writes nothing", "the profiler wrote no trace"),
        ("hangs", "the profiler did not end within"),
        ("stands still", "the server did not start its profiler: 0 TimeoutError: timed out"),
    ],
)
def test_a_profiler_that_fails_costs_its_trace_and_ends_with_its_server(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, goes_wrong: str, reason: str
) -> None:
    monkeypatch.setattr(torch_profiler, "ANSWER_S", 1.0)
    traced.framework.goes_wrong = goes_wrong
    (outcome,) = traced.measure(traced.trace.launch).values()
    assert outcome.status == "failed"
    assert outcome.reason is not None
    assert outcome.reason.startswith(reason)
    assert traced.framework.servers() == []
    assert list(Path("results").glob("traces/*")) == []
    (row,) = traced.rows()
    assert (row["status"], row["reason"]) == ("failed", outcome.reason)
    assert read_json(next(Path("results").glob("launches/*/attempt-0/failed/*/trace.json")))["status"] == "failed"
    traced.framework.goes_wrong = ""
    assert [one.status for one in traced.measure(traced.trace.launch, 1).values()] == ["ok"]
    assert traced.rows()[0]["status"] == "ok"
