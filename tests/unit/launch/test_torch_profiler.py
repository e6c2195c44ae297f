"""PyTorch's profiler as a recorder of traced launches, against servers that do as they should and ones that do not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from servegauge.contract.spec import Launch
from servegauge.frameworks.base import PROFILE, Reply
from servegauge.launch import profiler
from servegauge.launch.recorder import Recording
from servegauge.launch.recorders import of_launch, recorders, torch_profiler

ASKED = {"cell": "c", "profiler": "torch", "steps": 2, "after_s": 0.02, "most_s": 0.3}
LAUNCH = Launch("vllm", {"name": "m"}, {"name": "p"}, trace=ASKED)


class Server:
    """What the recorder needs of a framework and of its server; `ranks` traces are written when it is stopped."""

    def __init__(self, work: Path, ranks: int = 1, early: bool = False) -> None:
        self.context, self.client = SimpleNamespace(work=work), self
        self.ranks, self.early = ranks, early
        self.asked: list[str] = []
        self.answers = {"start": Reply(200, ""), "stop": Reply(200, "")}

    def write(self) -> None:
        (self.context.work / PROFILE).mkdir(exist_ok=True)
        for rank in range(self.ranks):
            (self.context.work / PROFILE / f"rank{rank}.json.gz").write_bytes(b"trace %d" % rank)

    def start_profile(self, client: object, launch: Launch) -> Reply | None:
        self.asked.append("start")
        if self.early:
            self.write()
        return self.answers["start"]

    def stop_profile(self, client: object, launch: Launch) -> Reply | None:
        self.asked.append("stop")
        self.write()
        return self.answers["stop"]


def live(one: Server, **asked: object) -> SimpleNamespace:
    launch = replace(LAUNCH, trace={**ASKED, **asked})
    return SimpleNamespace(
        launch=launch, framework=one, servers=[one], platform={}, without_secrets=lambda text: text.replace("key", "*")
    )


def record(one: Server, folder: Path, wait_s: float = 0.1, **asked: object) -> tuple[dict, float]:
    """What is said after a window of `wait_s`, and how long stopping took."""
    kinds = {"torch_profiler": torch_profiler.TorchProfiler}
    recording = Recording(kinds, live(one, **asked), folder)
    recording.window_begins()
    time.sleep(wait_s)
    began = time.monotonic()
    recording.stop(0)
    return recording.report["torch_profiler"], time.monotonic() - began


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("work", "cell"):
        (tmp_path / name).mkdir()
    return tmp_path / "work", tmp_path / "cell"


def test_a_timed_launch_has_no_profiler_beside_it() -> None:
    usual = set(of_launch(replace(LAUNCH, trace=None)))
    assert "torch_profiler" not in usual
    assert set(of_launch(LAUNCH)) == usual | {"torch_profiler"}
    assert set(of_launch(replace(LAUNCH, trace={**ASKED, "profiler": "other"}))) == usual
    assert set(of_launch(replace(LAUNCH, trace={**ASKED, "profiler": "nsys"}))) == usual | {"nsys"}
    assert set(recorders()) == usual | {"torch_profiler", "nsys"}


def test_every_rank_is_copied_beside_the_cell(place: tuple[Path, Path]) -> None:
    one = Server(place[0], ranks=2)
    said, _ = record(one, place[1])
    assert said["captures"] == ["capture-0.json.gz", "capture-1.json.gz"]
    assert [(place[1] / name).read_bytes() for name in said["captures"]] == [b"trace 0", b"trace 1"]
    assert one.asked == ["start", "stop"]


def test_it_ends_by_itself_with_the_steps_or_the_seconds(place: tuple[Path, Path]) -> None:
    early = Server(place[0], early=True)
    said, took = record(early, place[1], wait_s=0.15, most_s=60)
    assert (early.asked, "captures" in said, took < 1) == (["start", "stop"], True, True)
    assert said["on_s"] < 0.15
    late = Server(place[0] / "late")
    (place[0] / "late").mkdir()
    said, _ = record(late, place[1], wait_s=0.6, most_s=0.2)
    assert 0.2 <= said["on_s"] < 0.6
    assert late.asked == ["start", "stop"]


def test_its_stamps_bound_the_recording(place: tuple[Path, Path]) -> None:
    before = time.monotonic_ns()
    said, _ = record(Server(place[0]), place[1], wait_s=0.2, most_s=0.1)
    (asked, answered), (stop_asked, stopped) = said["stamps_ns"]["start"], said["stamps_ns"]["stop"]
    assert before < asked < answered < stop_asked < stopped < time.monotonic_ns()
    assert stop_asked - answered >= 0.1e9


def test_a_server_that_has_ended_by_itself_may_refuse_to_stop(place: tuple[Path, Path]) -> None:
    """SGLang does; one that does not answer, or refuses before it wrote, has not ended well."""
    one = Server(place[0], early=True)
    one.answers["stop"] = Reply(500, "Profiling is not in progress")
    assert record(one, place[1])[0]["captures"] == ["capture-0.json.gz"]
    one.answers["stop"] = Reply(0, "TimeoutError: timed out")
    assert "did not stop its profiler: 0" in record(one, place[1])[0]["error"]


def test_a_window_that_is_too_short_is_said(place: tuple[Path, Path]) -> None:
    one = Server(place[0])
    said, _ = record(one, place[1], after_s=60)
    assert said == {"error": "the window ended before the capture was to begin, 60 s after it"}
    assert one.asked == []


@pytest.mark.parametrize(
    ("what", "reply", "text"),
    [
        ("start", None, "start its profiler: it has none"),
        (
            "start",
            Reply(404, "no such path with key"),
            "start its profiler: 404 no such path with *",
        ),
        (
            "stop",
            Reply(0, "TimeoutError: timed out"),
            "stop its profiler: 0 TimeoutError: timed out",
        ),
    ],
)
def test_a_refusal_is_said_while_the_window_goes_on(place, what: str, reply: Reply | None, text: str) -> None:
    one = Server(place[0])
    one.answers[what] = reply
    said = f"the server did not {text}"
    recording = Recording({"torch_profiler": torch_profiler.TorchProfiler}, live(one, most_s=0.02), place[1])
    recording.window_begins()
    end = time.monotonic() + 5
    while recording.trouble is None and time.monotonic() < end:
        time.sleep(0.02)
    assert recording.trouble == said
    recording.stop(0)
    assert recording.report["torch_profiler"] == {"error": said}
    assert list(place[1].iterdir()) == []


def test_one_that_hangs_is_left_to_its_servers_end(place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiler, "ANSWER_S", 0.2)
    one = Server(place[0])
    monkeypatch.setattr(one, "stop_profile", lambda client, launch: time.sleep(2))
    said, took = record(one, place[1])
    assert said == {"error": "the profiler did not end within 0 s"}
    assert took < 1.5


def test_a_profiler_that_writes_nothing_is_said(place: tuple[Path, Path]) -> None:
    assert record(Server(place[0], ranks=0), place[1])[0]["error"] == "the profiler wrote no trace"
