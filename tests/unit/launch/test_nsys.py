"""nsys around a traced server: how it is called, what is kept of a report, and what becomes of one that fails."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from servegauge.base import supervisor
from servegauge.base.errors import UserError
from servegauge.contract.spec import Launch
from servegauge.frameworks.base import Context, Reply
from servegauge.launch.recorder import Recording
from servegauge.launch.recorders import nsys as recorder
from servegauge.launch.recorders.nsys import Nsys, session_of
from servegauge.node import nsys
from servegauge.traces import build
from tests.pretend.nsys import program
from tests.unit.traces import made_up_captures as made_up

ASKED = {"cell": "c", "profiler": "nsys", "steps": 8, "after_s": 0.1, "most_s": 0.1}
LAUNCH = Launch("llamacpp", {"name": "m"}, {"name": "p"}, trace=ASKED)
SERVER = ["llama-server", "-m", "model.gguf"]


def context(work: Path, **fields: object) -> Context:
    work.mkdir(exist_ok=True)
    return Context(LAUNCH, "model.gguf", 8000, work=work, **fields)


def around(home: Path, one: Context, **variables: str) -> list[str]:
    environment = {"PATH": "/usr/bin:/bin", nsys.VARIABLE: str(program(home)), "PRETEND_NSYS": str(home)} | variables
    return Nsys.around(SERVER, one, environment)


def test_the_first_instance_is_started_in_a_session_of_its_own(tmp_path: Path) -> None:
    one = context(tmp_path / "instance-0")
    argv = around(tmp_path, one)
    assert argv[-len(SERVER) :] == SERVER
    assert f"--session-new={session_of(one)}" in argv
    assert {"--trace=nvtx,osrt", "--trace-fork-before-exec=true", "--wait=primary"} <= set(argv)
    assert not any("cuda" in word for word in argv), "there is none on a CPU"
    assert around(tmp_path, context(tmp_path / "instance-1", instance=1)) == SERVER, "one trace, of the first"
    assert session_of(one) != session_of(replace(one, work=tmp_path / "elsewhere"))
    assert session_of(one) != session_of(replace(one, port=8001)), "a server that is started again"


def test_its_files_are_the_launchs_and_the_servers_are_where_they_were(tmp_path: Path) -> None:
    argv = around(tmp_path, context(tmp_path / "work"), TMPDIR="/scratch/mine")
    assert argv[:2] == ["env", f"TMPDIR={tmp_path}/work/nsys"]
    assert "--env-var=TMPDIR=/scratch/mine" in argv


def test_graphs_are_one_row_unless_the_study_asks(tmp_path: Path) -> None:
    one = context(tmp_path / "work", gpus=("0",))
    argv = around(tmp_path, one)
    assert {"--trace=cuda-sw,nvtx,osrt", "--cuda-graph-trace=graph"} <= set(argv)
    nodes = replace(one, launch=replace(LAUNCH, trace={**ASKED, "graphs": "node"}))
    assert "--cuda-graph-trace=node" in around(tmp_path, nodes)


@pytest.mark.parametrize(
    ("named", "said"),
    [(None, "there is no nsys on this node"), ("/no/such/nsys", "SERVEGAUGE_NSYS is '/no/such/nsys'")],
)
def test_a_node_without_nsys_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str | None, said: str
) -> None:
    monkeypatch.setattr(nsys, "PLACES", ())
    variables = {"PATH": str(tmp_path)} | ({nsys.VARIABLE: named} if named else {})
    with pytest.raises(UserError, match=said):
        Nsys.around(SERVER, context(tmp_path / "work"), variables)


def test_one_that_does_not_run_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "nsys"
    broken.write_text("#!/bin/sh\necho libnsys.so: cannot open shared object file\nexit 127\n")
    broken.chmod(0o755)
    with pytest.raises(UserError, match=r"does not run here: `nsys launch` failed \(127\): libnsys\.so: cannot open"):
        Nsys.around(SERVER, context(tmp_path / "work"), {"PATH": "/usr/bin:/bin", nsys.VARIABLE: str(broken)})


def test_the_newest_of_the_usual_places_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("2024.1.1", "2025.3.1"):
        program = tmp_path / version / "bin" / "nsys"
        program.parent.mkdir(parents=True)
        program.touch(mode=0o755)
    monkeypatch.setattr(nsys, "PLACES", (f"{tmp_path}/*/bin/nsys",))
    assert nsys.find({"PATH": str(tmp_path)}) == str(tmp_path / "2025.3.1/bin/nsys")


@pytest.mark.parametrize(
    ("place", "importer"),
    [
        ("usr/lib/x86_64-linux-gnu/nsight-systems/target-linux-x64", "usr/lib/nsight-systems/host-linux-x64"),
        ("opt/nsight-systems/2025.3.1/target-linux-x64", "opt/nsight-systems/2025.3.1/host-linux-x64"),
        (
            "opt/nsight-compute/2025.3/host/target-linux-x64",
            "opt/nsight-compute/2025.3/host/linux-desktop-glibc_2_11_3",
        ),
    ],
)
def test_the_importer_is_found_beside_it(tmp_path: Path, place: str, importer: str) -> None:
    real = tmp_path / place / "nsys"
    real.parent.mkdir(parents=True)
    real.touch()
    link = tmp_path / "usr" / "bin" / "nsys"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(real)
    assert nsys.importer(str(link)) is None
    (tmp_path / importer).mkdir(parents=True)
    (tmp_path / importer / nsys.IMPORTER).touch()
    assert nsys.importer(str(link)) == tmp_path / importer / nsys.IMPORTER


@pytest.mark.parametrize("generation", made_up.GENERATIONS)
def test_only_what_was_recorded_is_kept_of_a_report(tmp_path: Path, generation: str) -> None:
    """Reports of nsys hold the environments of all processes of the node, its host's name and what servers printed."""
    path = made_up.write_nsys(tmp_path / "export.sqlite", made_up.ranks(), generation)
    before = build.tables("x", build.read([path]), None)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE TARGET_INFO_SYSTEM_ENV (name TEXT, value TEXT)")
        database.execute("INSERT INTO TARGET_INFO_SYSTEM_ENV VALUES ('DeviceEnvironment', 'HF_TOKEN=hf_sesame')")
        database.execute("CREATE TABLE META_DATA_CAPTURE (name TEXT, value TEXT)")
        database.execute("INSERT INTO META_DATA_CAPTURE VALUES ('COMMAND_LINE', 'sesame')")
        database.execute("CREATE TABLE ThreadNames (nameId INTEGER, globalTid INTEGER)")
        foreign, ours = (1 << 48) | (77 << 24) | 77, made_up.ranks()[0].pid
        database.execute("INSERT INTO StringIds VALUES (9001, 'WANDB_API_KEY=sesame'), (9002, 'vim diary-sesame.txt')")
        database.execute("INSERT INTO StringIds VALUES (9003, 'worker of sesame')")
        database.execute(f"INSERT INTO ThreadNames VALUES (9002, {foreign}), (9003, {(1 << 48) | (ours << 24) | ours})")
        database.execute("CREATE TABLE IF NOT EXISTS PROCESSES (globalPid INTEGER, pid INTEGER, name TEXT)")
        database.execute(f"INSERT INTO PROCESSES (globalPid, pid, name) VALUES ({foreign}, 77, 'diary of sesame')")
        database.execute("CREATE TABLE NVTX_PAYLOAD_SCHEMAS (name TEXT, data TEXT, size INTEGER)")
        database.execute("INSERT INTO NVTX_PAYLOAD_SCHEMAS VALUES ('payload of sesame', ?, 4)", (b"blob of sesame",))
        meta = [name for name in nsys._ABOUT if database.execute(
            "SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone()]  # fmt: skip
        for name in meta:
            database.execute(f"INSERT INTO {name} (name, value) VALUES ('EXPORT_HOST', 'sesame')")
        database.commit()
    assert path.read_bytes().count(b"sesame") >= 8
    nsys.clean(path, lambda text: text.replace("sesame", "***"))
    assert b"sesame" not in path.read_bytes()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT value FROM StringIds WHERE id > 9000").fetchall() == [("worker of ***",)]
    assert build.tables("x", build.read([path]), None) == before


class Server:
    """What the recorder needs of a framework and of its server, which nsys would have started."""

    def __init__(self, home: Path, marks: bool = False) -> None:
        if not (home / "export.sqlite").exists():
            made_up.write_nsys(home / "export.sqlite", made_up.ranks())
        self.context = context(home / "work")
        self.argv, self.client = around(home, self.context), self
        self.asked: list[str] = []
        self.marks, self.answer = marks, Reply(200, "")

    def marks_range(self, launch: Launch) -> bool:
        return self.marks

    def start_profile(self, client: object, launch: Launch) -> Reply:
        self.asked.append("start")
        return self.answer

    def stop_profile(self, client: object, launch: Launch) -> Reply:
        self.asked.append("stop")
        return Reply(500, "it has ended by itself")


def record(one: Server, folder: Path, wait_s: float = 0.3) -> dict:
    """What is said after a window of `wait_s`."""
    folder.mkdir()
    live = SimpleNamespace(
        launch=LAUNCH, framework=one, servers=[one], platform={}, without_secrets=lambda text: text.replace("key", "*")
    )
    recording = Recording({"nsys": Nsys}, live, folder)
    recording.window_begins()
    time.sleep(wait_s)
    recording.stop(0)
    return recording.report["nsys"]


def calls(home: Path) -> list[list[str]]:
    """What nsys was called with since the server's start."""
    return [json.loads(line)["argv"] for line in (home / "calls").read_text().splitlines()][1:]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRETEND_NSYS", str(tmp_path))
    monkeypatch.setattr(recorder, "SETTLED_S", 0.05)
    monkeypatch.setattr(recorder, "REPORT_S", 0.5)
    monkeypatch.setattr(recorder, "STOP_S", 2.0)
    return tmp_path


def test_it_is_started_and_stopped_and_its_export_is_kept(home: Path) -> None:
    said = record(Server(home), home / "cell")
    assert said["captures"] == ["capture-0.sqlite.gz"]
    assert set(said["stamps_ns"]) == {"start", "stop"}
    assert [path.name for path in (home / "cell").iterdir()] == said["captures"], "no report, which holds environments"
    start, stop, export = calls(home)
    assert (start[0], stop[0], export[0]) == ("start", "stop", "export")
    assert {"--sample=none", "--cpuctxsw=none"} <= set(start)
    assert not any("capture-range" in word for word in start)
    kept = build.tables("x", build.read([home / "cell" / "capture-0.sqlite.gz"]), None)
    assert kept["steps"] == build.tables("x", build.read([home / "export.sqlite"]), None)["steps"]


def test_a_server_that_marks_the_range_is_asked_and_may_have_ended_it(home: Path) -> None:
    one = Server(home, marks=True)
    assert record(one, home / "cell")["captures"]
    assert {"--capture-range=cudaProfilerApi", "--capture-range-end=stop"} <= set(calls(home)[0])
    assert one.asked == ["start", "stop"]


def test_a_server_that_refuses_to_mark_it_is_said(home: Path) -> None:
    one = Server(home, marks=True)
    one.answer = Reply(404, "no such path with key")
    assert record(one, home / "cell") == {"error": "the server did not start its profiler: 404 no such path with *"}


@pytest.mark.parametrize(
    ("goes_wrong", "reason"),
    [
        ("refuses", "`nsys start` failed (1): There is no session of that name."),
        ("hangs", "`nsys stop` did not end within 2 s"),
        ("writes nothing", "it wrote no report"),
        ("no importer", "captured, but its QdstrmImporter is not on this node"),
        ("cannot export", "`nsys export` failed (1): Exportation error: the report is damaged."),
    ],
)
def test_what_went_wrong_is_said(home: Path, goes_wrong: str, reason: str) -> None:
    (home / "goes_wrong").write_text(goes_wrong)
    said = record(Server(home), home / "cell")
    assert reason in said["error"]
    assert "captures" not in said
    family = [Path(f"/proc/{one}/cmdline") for one in supervisor.descendants(os.getpid())]
    assert not [path for path in family if path.exists() and b"nsys hangs" in path.read_bytes()]


def test_what_was_captured_is_imported_where_nsys_does_not(home: Path) -> None:
    (home / "goes_wrong").write_text("no importer")
    importer = home / "bin" / "host-linux-x64" / nsys.IMPORTER
    importer.parent.mkdir(parents=True)
    importer.write_text('#!/bin/sh\ncp "$2" "$4"\n')
    importer.chmod(0o755)
    assert record(Server(home), home / "cell")["captures"]
    importer.write_text("#!/bin/sh\necho libdw.so.1: cannot open shared object file >&2\nexit 127\n")
    (home / "work" / "profile" / "report.nsys-rep").unlink()
    said = record(Server(home), home / "another")
    assert said["error"] == "`QdstrmImporter` failed (127): libdw.so.1: cannot open shared object file"
