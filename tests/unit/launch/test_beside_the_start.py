"""What a launch does while its servers start, so that no GPU waits for it: calibrate beside them, hash the model."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from servegauge.contract.records.launch import LaunchRecord
from servegauge.contract.records.order import Node
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import Launch
from servegauge.launch import node_calibration, run
from servegauge.launch.node_calibration import NodeCalibration
from servegauge.launch.run import LaunchRun
from servegauge.launch.server import ServerError

APART = {"server_cpus": [0, 1], "load_cpus": [2, 3, 4]}
SHARED = ({}, {"server_cpus": [0], "load_cpus": [1, 2]}, {"server_cpus": [2], "load_cpus": [1, 2, 3]})


class Told(NodeCalibration):
    """A calibration that says when it is asked for."""

    def measure(self, again: bool = False) -> None:
        self.say("calibrated again" if again else "calibrated")
        self.found = SimpleNamespace(points=[self.carried])


class Made(LaunchRun):
    """A launch without a node, servers and cells; `seen` is what happened, in order."""

    def __init__(self, placement: dict, carried: bool = True, fails: Exception | None = None) -> None:
        self.platform = {"name": "here", "placement": placement}
        self.launch = Launch("paced", {"name": "m", "source": "m"}, self.platform)
        self.framework = SimpleNamespace(title="a server")
        self.record = LaunchRecord(launch="l", attempt=0, spec=LaunchSpec.of(self.launch))
        self.node, self.root, self.folder, self.results = Node(), Path(), Path("none"), Path("none")
        self.job = SimpleNamespace(ready_timeout_s=60.0)
        self.stop = SimpleNamespace(left_s=lambda: 60.0)
        self.progress = SimpleNamespace(say=lambda text: None)
        self.seen: list[str] = []
        self.hashed, self.fails = threading.Event(), fails
        self.calibration = Told(self.launch, (), self.results, self.folder, False, self.seen.append)
        self.calibration.carried = carried
        self.instances = SimpleNamespace(start=self._start, evidence=lambda say: (None, []), stop=lambda: None)

    def _start(self, *_: object) -> None:
        self.seen.append("started")
        if self.fails:
            raise self.fails
        assert self.hashed.wait(20), "a server gets ready while the model is hashed"
        self.seen.append("ready")

    def _write_record(self) -> None:
        self.seen.append("recorded")

    def _measure_cells(self) -> None:
        self.seen.append("measured")

    def _check_node(self) -> None: ...

    def _ask_questions(self) -> None: ...


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.forkserver, "prepare", lambda _: None)
    monkeypatch.setattr(node_calibration, "carries", lambda point: point)
    monkeypatch.setattr(run.os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setattr(run.msgspec.structs, "replace", lambda record, **_: record)


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_model(root: object, launch: object, ended: object) -> None:
        made[0].seen.append("hashed")
        made[0].hashed.set()

    made: list[Made] = []
    monkeypatch.setattr(run.provenance, "hash_model", hash_model)
    monkeypatch.setattr(Made, "_live", lambda self: (made.append(self), LaunchRun._live(self))[1])


@pytest.mark.usefixtures("hashing")
def test_with_cpus_apart_it_calibrates_and_hashes_while_servers_start() -> None:
    one = Made(APART)
    one._live()
    first, *rest = one.seen[:4]
    assert {first, *rest} == {"started", "calibrated", "hashed", "ready"}
    assert one.seen.index("calibrated") < one.seen.index("ready")
    assert one.seen[4:] == ["recorded", "measured"]


@pytest.mark.usefixtures("hashing")
@pytest.mark.parametrize("placement", SHARED)
def test_without_it_calibrates_before_any_server_is_there(placement: dict) -> None:
    one = Made(placement, carried=False)
    one._live()
    assert one.seen[0] == "calibrated"
    assert one.seen[-2:] == ["recorded", "measured"], "nothing loaded beside it: not again"


@pytest.mark.usefixtures("hashing")
def test_what_a_loading_server_disturbed_is_calibrated_again_before_the_first_cell() -> None:
    one = Made(APART, carried=False)
    one._live()
    assert one.seen[-3:] == ["recorded", "calibrated again", "measured"]


def test_a_server_that_does_not_start_ends_the_hashing_and_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()

    def hash_model(root: object, launch: object, ended: object) -> None:
        while not ended():  # type: ignore[operator]
            told.wait(0.01)
        told.set()

    monkeypatch.setattr(run.provenance, "hash_model", hash_model)
    with pytest.raises(ServerError, match="no kernel"):
        Made(APART, fails=ServerError("no kernel"))._live()
    assert told.is_set()


def test_a_calibration_that_fails_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Made(APART)
    one.hashed.set()

    def fails(again: bool = False) -> None:
        raise run.UserError("the paced server did not start")

    one.calibration.measure = fails  # type: ignore[method-assign]
    with pytest.raises(run.UserError, match="paced server"):
        one._live()
    assert "measured" not in one.seen


def test_the_paced_server_takes_the_spare_cpu_of_the_load_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple] = []

    def calibrate(short: bool, cpus: list, file: Path, server_cpus: list, points: object, known: object) -> object:
        asked.append((cpus, server_cpus))
        return SimpleNamespace(points=[])

    monkeypatch.setattr(node_calibration.calibrate, "calibrate", calibrate)
    monkeypatch.setattr(node_calibration, "merged", lambda known, new: new)
    monkeypatch.setattr(node_calibration.calibrate, "short_points", lambda loads: ())
    monkeypatch.setattr(node_calibration, "write", lambda *_: None)
    for placement in (APART, SHARED[1]):
        launch = Launch("paced", {"name": "m", "source": "m"}, {"name": "here", "placement": placement})
        NodeCalibration(launch, (), Path("none"), Path("none"), False, lambda text: None).measure()
    assert asked == [((2, 3), (4,)), ((1, 2), (0,))]
