"""Recorders beside a cell: each says what became of it, and none holds up another or the measurement."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from servegauge.launch.recorder import Recorder, Recording
from servegauge.launch.recorders import recorders

LIVE = SimpleNamespace(platform={"placement": {"load_cpus": [3]}})


class Good(Recorder):
    name = "good"
    events: list[str]

    def start(self, live, folder, cpus) -> None:
        self.events = [f"start on {list(cpus)}"]

    def stop(self, zero_ns) -> None:
        self.report = {"events": [*self.events, f"stop at {zero_ns}"]}

    def cancel(self) -> None:
        self.events.append("cancelled")


class StartsBadly(Good):
    name = "starts badly"

    def start(self, live, folder, cpus) -> None:
        super().start(live, folder, cpus)
        raise PermissionError("no counters for you")


class StopsBadly(Good):
    name = "stops badly"

    def stop(self, zero_ns) -> None:
        raise ValueError("half a file")


class Elsewhere(Good):
    name = "elsewhere"

    def unsupported(self, live) -> str:
        return "this node has none"


def recording(*kinds: type[Recorder]) -> Recording:
    return Recording({kind.name: kind for kind in kinds}, LIVE, Path("nowhere"))


def test_a_recorder_is_started_on_the_generators_cpus_and_stopped_at_the_windows_start() -> None:
    one = recording(Good)
    one.stop(17)
    assert one.report == {"good": {"events": ["start on [3]", "stop at 17"]}}


def test_what_fails_is_said_and_the_others_go_on() -> None:
    one = recording(StartsBadly, Elsewhere, StopsBadly, Good)
    one.stop(17)
    assert one.report["starts badly"] == {"error": "PermissionError: no counters for you"}
    assert one.report["elsewhere"] == {"unsupported": "this node has none"}
    assert one.report["stops badly"] == {"error": "ValueError: half a file"}
    assert one.report["good"]["events"][-1] == "stop at 17"


def test_a_cancelled_recording_writes_nothing() -> None:
    one = recording(Good)
    running = one._running[0]
    one.cancel()
    one.stop(17)
    assert running.events[-1] == "cancelled"
    assert one.report == {}


@pytest.mark.parametrize("kind", recorders().values(), ids=lambda kind: kind.name)
def test_every_recorder_says_what_it_records_and_in_which_tables(kind: type[Recorder]) -> None:
    assert kind.records
    assert kind.tables() or kind.profiler  # what a profiler writes is the trace's, not the cell's
    for schema in kind.tables().values():
        assert "t_ns" in schema.names
