"""A traced launch: real but for its engine, the paced server, and the profiler, which writes a capture of the tests."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base import supervisor
from servegauge.base.files import read_json
from servegauge.contract.records.base import read, write
from servegauge.contract.records.calibration import Calibration, Limits
from servegauge.contract.records.order import JobContext
from servegauge.contract.records.outcome import CellOutcome
from servegauge.contract.records.plan import Plan
from servegauge.contract.records.trace import TraceRecord
from servegauge.contract.spec import Launch
from servegauge.dataset import merge
from servegauge.frameworks.base import PROFILE, Context, Reply
from servegauge.frameworks.paced import Paced
from servegauge.launch import node_calibration, profiler, run, server
from servegauge.launch.recorders import nsys as recorder
from servegauge.node import nsys
from servegauge.plan import expand as planning
from servegauge.plan.config import load_study
from servegauge.plan.expand import expand
from servegauge.submit.attempts import Run
from servegauge.submit.orders import make_order, read_plan
from servegauge.workloads.compile import compile_plan
from tests.pretend.clone import Clone
from tests.pretend.nsys import program as pretend_nsys
from tests.unit.traces import made_up_captures as made_up

CALIBRATION = Calibration(limits=Limits(rate_rps=100.0, streams=100))
TRACE = {"profiler": "torch", "steps": 3, "after_s": 0.2, "most_s": 0.2, "cells": "*-rate4-*"}


class Traceable(Paced):
    """The paced server with a profiler; `goes_wrong` is what it does instead of what it should."""

    profilers = ("torch", "nsys")
    goes_wrong = ""

    def argv(self, ctx: Context) -> list[str]:
        assert ctx.profile is (ctx.launch.trace is not None), "started so that a profiler can be switched on"
        self.context = ctx
        return super().argv(ctx)

    def servers(self) -> list[int]:
        family = supervisor.descendants(os.getpid())
        return [one for one in family if b"paced.server" in Path(f"/proc/{one}/cmdline").read_bytes()]

    def start_profile(self, client: object, launch: Launch) -> Reply:
        if self.goes_wrong == "stands still":
            for process in self.servers():
                os.kill(process, signal.SIGSTOP)
            return Reply(0, "TimeoutError: timed out")
        return Reply(200, "")

    def stop_profile(self, client: object, launch: Launch) -> Reply:
        if self.goes_wrong == "hangs":
            time.sleep(20)
        (self.context.work / PROFILE).mkdir()
        if self.goes_wrong != "writes nothing":
            made_up.write_chrome(self.context.work / PROFILE, made_up.ranks())
        return Reply(200, "")


class Traced:
    """A study with a trace, in a clone of the tree."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, profiler: str = "torch") -> None:
        self.clone = Clone(folder / "clone", folder)
        (self.clone.results / "calibrations").unlink()
        self.clone.study(trace={**TRACE, "profiler": profiler}, job={"quality_items": 2})
        self.framework = Traceable()
        for place in (run, planning):
            monkeypatch.setattr(place, "framework", lambda name: self.framework)
        monkeypatch.setattr(node_calibration.calibrate, "calibrate", lambda *_, **__: CALIBRATION)
        monkeypatch.setattr(server, "GRACE_S", 0.5)
        monkeypatch.chdir(self.clone.root)
        self.plan: Plan = expand(load_study(self.clone.root, "faults"))
        self.file = self.clone.results / "plan" / "faults.json"
        write(self.file, self.plan)
        workloads = self.clone.results / "workloads" / "faults.json"
        compile_plan(self.file, workloads, self.clone.results, self.clone.root)
        (self.trace,) = self.plan.traces

    def measure(self, launch: str, attempt: int = 0) -> dict[str, CellOutcome]:
        order = make_order(read_plan(self.file), launch, attempt, Path("results"), self.clone.root)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            outcome = run.run_launch(order, JobContext())
        assert outcome is not None
        Run(self.file, launch, "local", Path("results"), "x:y")._write(attempt, outcome)
        return outcome.cells

    def left(self, word: str) -> list[bytes]:
        """Command lines of processes that hold `word` and that this test run started."""
        lines = []
        for one in supervisor.descendants(os.getpid()):
            with contextlib.suppress(OSError):
                lines.append(Path(f"/proc/{one}/cmdline").read_bytes())
        return [line for line in lines if word.encode() in line]

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
    monkeypatch.setattr(profiler, "ANSWER_S", 1.0)
    traced.framework.goes_wrong = goes_wrong
    (outcome,) = traced.measure(traced.trace.launch).values()
    assert outcome.status == "failed", outcome
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


class Recorded(Traced):
    """The same with the pretended nsys around the server."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder, monkeypatch, "nsys")
        self.home = folder / "pretended"
        self.home.mkdir()
        made_up.write_nsys(self.home / "export.sqlite", made_up.ranks())
        monkeypatch.setenv(nsys.VARIABLE, str(pretend_nsys(self.home)))
        monkeypatch.setenv("PRETEND_NSYS", str(self.home))
        monkeypatch.setattr(recorder, "SETTLED_S", 0.05)

    def calls(self) -> list[dict]:
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]


@pytest.fixture
def recorded(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Recorded:
    return Recorded(tmp_path, monkeypatch)


@pytest.mark.heavy
def test_nsys_records_between_two_calls_and_its_report_becomes_tables(recorded: Recorded) -> None:
    assert {one.status for one in recorded.measure(recorded.trace.launch).values()} == {"ok"}
    record = read(Path("results/traces") / recorded.trace.id / "trace.json", TraceRecord)
    assert record.captures == ("capture-0.sqlite.gz",)
    help_, launched, *asked = recorded.calls()
    assert help_["argv"] == ["launch", "--help"]
    session = next(word.partition("=")[2] for word in launched["argv"] if word.startswith("--session-new="))
    assert [call["argv"][0] for call in asked] == ["start", "stop", "export"]
    assert all(f"--session={session}" in call["argv"] for call in asked[:2])
    assert not any("--capture-range" in word for word in asked[0]["argv"]), "this server marks no range"
    assert {call["tmp"] for call in (launched, *asked)} == {launched["tmp"]}
    assert not Path(launched["tmp"]).exists(), "what nsys wrote ended with the launch"
    (row,) = recorded.rows()
    assert (row["status"], row["profiler"]) == ("ok", "nsys")
    captures = pq.read_table(f"results/dataset/trace_captures/{row['trace']}.parquet").to_pylist()
    assert [one["rank"] for one in captures] == [0, 1]


@pytest.mark.heavy
def test_an_nsys_that_hangs_costs_its_trace_and_nothing_of_it_is_left(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "STOP_S", 1.0)
    monkeypatch.setattr(recorder, "REPORT_S", 1.0)
    (recorded.home / "goes_wrong").write_text("hangs")
    (outcome,) = recorded.measure(recorded.trace.launch).values()
    assert outcome.status == "failed", outcome
    assert outcome.reason == "`nsys stop` did not end within 1 s"
    assert recorded.left("nsys hangs") == recorded.left("pretend/nsys.py") == recorded.framework.servers() == []
    assert list(Path("results").glob("traces/*")) == []
    (row,) = recorded.rows()
    assert (row["status"], row["reason"]) == ("failed", outcome.reason)


def test_a_node_without_nsys_costs_no_start_of_a_server(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(nsys.VARIABLE, "/no/such/nsys")
    (outcome,) = recorded.measure(recorded.trace.launch).values()
    assert outcome.status != "ok"
    assert "/no/such/nsys" in (outcome.reason or "")
    assert "/no/such/nsys" in recorded.rows()[0]["reason"]
