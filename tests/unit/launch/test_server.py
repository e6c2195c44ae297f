"""A server's life: ready, dead, hung, and nothing of it left behind, whoever dies first."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from servegauge.base import supervisor
from servegauge.contract.spec import Launch, Layout
from servegauge.frameworks.base import Context, Framework
from servegauge.launch import server
from servegauge.launch.instances import Instances

KEY = "sesame-open-4711"
PROGRAM = textwrap.dedent(
    """
    import http.server, os, signal, subprocess, sys
    mode, port = sys.argv[1], int(sys.argv[2])
    WORKER = "import signal, sys, time\\n" \\
        "signal.signal(signal.SIGTERM, lambda *_: (open('worker-terminated', 'w').close(), sys.exit(0)))\\n" \\
        "print(1, flush=True)\\ntime.sleep(300)"
    if mode == "dies":
        sys.exit("no such model")
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # a grandchild that leaves the process group and loses its parent
        subprocess.Popen(["sh", "-c", "setsid sleep 300 & echo $! > grandchild"])
    if mode in ("with a worker", "with a worker, deaf"):
        # Its worker notes a SIGTERM that did not come from it.
        worker = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE)
        worker.stdout.readline()
        def end(*_):
            worker.kill(); worker.wait(); sys.exit(0)
        signal.signal(signal.SIGTERM, end if mode == "with a worker" else signal.SIG_IGN)
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_): pass
        def do_GET(self):
            self.send_response(503 if mode == "never" else 200); self.end_headers(); self.wfile.write(b"{}")
    print("started", flush=True)
    print("server_args={'api_key': '%s'}" % os.environ.get("TOY_KEY"), flush=True)
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
    """
)


class Toy(Framework):
    name, title, source, exercised = "toy", "Toy", "here", "here"
    needs_gpu = False

    def argv(self, ctx):
        return [sys.executable, "-c", PROGRAM, ctx.launch.options["mode"], str(ctx.port)]

    def environment(self, ctx):
        return {"TOY_KEY": ctx.api_key}


def begin(tmp_path: Path, mode: str, **platform) -> server.Server:
    launch = Launch("toy", {"name": "m"}, {"name": "here", **platform}, options={"mode": mode})
    context = Context(launch, "m", server.free_port(), work=tmp_path, api_key=KEY)
    return server.start(Toy(), context, tmp_path / "server.log")


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_ready_then_stopped(tmp_path):
    running = begin(tmp_path, "good")
    running.wait_ready(20)
    assert running.ready_s > 0
    family = supervisor.descendants(running.process.pid)
    assert family
    assert KEY in running.output(), "it prints its options, as servers do"
    running.stop()
    assert not running.alive()
    assert all(gone(process) for process in family)
    said = (tmp_path / "server.log").read_text()
    assert "started" in said
    assert KEY not in said, "its log is kept"
    assert stat.S_IMODE((tmp_path / "server.log").stat().st_mode) == 0o600


def test_a_server_in_a_clean_environment_sees_its_variables(tmp_path, monkeypatch):
    """As Apptainer does with --cleanenv: what is not named for the container is not in it."""
    program = tmp_path / "bin/apptainer"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\nwhile [ $1 != image ]; do shift; done; shift\n"
        """exec env -i $(env | sed -n 's/^APPTAINERENV_//p') "$@"\n"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    how = {"container": "image", "container_args": ["--cleanenv"]}
    running = begin(tmp_path, "good", frameworks={"toy": how})
    running.wait_ready(20)
    assert KEY in running.output()
    running.stop()


def test_the_end_of_a_log_begins_with_a_whole_line(tmp_path):
    """Half a line can hold half a key, which no search by value finds."""
    log = tmp_path / "log"
    log.write_text(f"options {'x' * 40_000} {KEY} {'y' * (16_384 - 5 - len(KEY))}\nlast\n")
    assert server.tail(log) == "  | last"


def test_a_server_that_dies_says_why(tmp_path):
    running = begin(tmp_path, "dies")
    with pytest.raises(server.ServerError, match=r"(?s)exit status 1.*no such model"):
        running.wait_ready(20)


def test_a_server_that_is_never_ready_is_given_up(tmp_path):
    running = begin(tmp_path, "never")
    with pytest.raises(server.ServerError, match=r"(?s)not ready within 1 s.*started"):
        running.wait_ready(1)
    running.stop()


def test_nothing_survives_a_stubborn_server(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "GRACE_S", 0.5)
    running = begin(tmp_path, "stubborn")
    running.wait_ready(20)
    for _ in range(100):
        if (tmp_path / "grandchild").exists() and (tmp_path / "grandchild").read_text():
            break
        time.sleep(0.05)
    grandchild = int((tmp_path / "grandchild").read_text())
    assert not gone(grandchild)
    running.stop()
    assert gone(grandchild)
    assert "SIGKILL" in running.how_it_ended()


def test_a_server_is_asked_to_end_before_its_workers_are(tmp_path, monkeypatch):
    running = begin(tmp_path, "with a worker")
    running.wait_ready(20)
    began = time.monotonic()
    running.stop()
    assert running.how_it_ended() == "exit status 0"
    assert not (tmp_path / "worker-terminated").exists(), "its worker was ended by it, not by us"
    assert time.monotonic() - began < 5, "nobody waits for a server that has ended"
    monkeypatch.setattr(server, "GRACE_S", 2.0)
    running = begin(tmp_path, "with a worker, deaf")
    running.wait_ready(20)
    running.stop()
    assert (tmp_path / "worker-terminated").exists(), "a server that does not end is not waited for alone"
    assert "SIGKILL" in running.how_it_ended()


def test_nothing_survives_its_owner(tmp_path):
    """kill -9 of the job: the pipe to the guard closes and the server ends."""
    owner = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys, time\n"
         f"p = subprocess.Popen([sys.executable, '-I', '-S', {supervisor.__file__!r}, '--grace', '1', '--',"
         " 'sleep', '300'], stdin=subprocess.PIPE)\nprint(p.pid, flush=True)\ntime.sleep(300)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    watcher = int(owner.stdout.readline())
    for _ in range(100):
        if family := supervisor.descendants(watcher):
            break
        time.sleep(0.05)
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    for _ in range(100):
        if all(gone(process) for process in [watcher, *family]):
            break
        time.sleep(0.05)
    assert all(gone(process) for process in [watcher, *family])


def test_the_guard_being_killed_kills_the_server(tmp_path):
    running = begin(tmp_path, "good")
    running.wait_ready(20)
    (first,) = supervisor.descendants(running.process.pid)
    running.process.kill()
    for _ in range(100):
        if gone(first):
            break
        time.sleep(0.05)
    assert gone(first)


def test_what_a_killed_guard_leaves_is_found_by_its_mark(tmp_path):
    running = begin(tmp_path, "stubborn")
    running.wait_ready(20)
    for _ in range(100):
        if (tmp_path / "grandchild").exists() and (tmp_path / "grandchild").read_text():
            break
        time.sleep(0.05)
    grandchild = int((tmp_path / "grandchild").read_text())
    running.process.kill()
    running.process.wait()
    assert not gone(grandchild)
    running.stop()
    assert gone(grandchild)


def test_a_missing_program_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "argv", lambda self, ctx: ["no-such-engine", "serve"])
    with pytest.raises(server.ServerError, match="no program 'no-such-engine'"):
        begin(tmp_path, "good")


def test_a_container_wraps_the_command(tmp_path):
    platform = {"name": "p", "gpus_per_node": 4, "frameworks": {"toy": {"container": "/images/toy.sif"}}}
    launch = Launch("toy", {"name": "m"}, platform, options={"mode": "good"})
    argv = server.command(Toy(), Context(launch, "m", 1))
    assert argv[:3] == ["apptainer", "exec", "--nv"]
    assert "/images/toy.sif" in argv


def test_no_answer_is_a_status_of_zero():
    reply = server.HttpClient(f"http://127.0.0.1:{server.free_port()}").get("/health", 1)
    assert (reply.status, reply.ok) == (0, False)
    assert "refused" in reply.text.lower()


def test_a_servers_last_words_reach_no_terminal_as_commands(tmp_path):
    log = tmp_path / "server.log"
    log.write_bytes(b"\x1b]0;title\x07\x1b[31mred\x1b[2J\r\x08\nlast \x9b line\n")
    shown = server.tail(log)
    assert not [letter for letter in shown if ord(letter) < 32 and letter != "\n"]
    assert "\\x1b[31mred\\x1b[2J" in shown
    assert shown.splitlines()[-1].startswith("  | last ")


@pytest.mark.parametrize(
    ("environment", "platform", "found"),
    [
        ({}, {"gpus_per_node": 4}, [("0", "1"), ("2", "3")]),
        (
            {"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b,MIG-c,MIG-d"},
            {"gpus_per_node": 4},
            [("MIG-a", "MIG-b"), ("MIG-c", "MIG-d")],
        ),
        (
            {"ROCR_VISIBLE_DEVICES": "4,5,6"},
            {"gpus_per_node": 8},
            [("4", "5"), "needs GPUs 2 to 3 of this job, which has 3"],
        ),
        ({"CUDA_VISIBLE_DEVICES": ""}, {"gpus_per_node": 4}, ["needs GPUs 0 to 1 of this job, which has 0"]),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, {"gpus_per_node": 4}, ["this job, which has 0: correct gres"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, {"gpus_per_node": 0}, [(), ()]),
        ({"CUDA_VISIBLE_DEVICES": ""}, {"gpus_per_node": 4, "frameworks": {"toy": {"device": "cpu"}}}, [()]),
    ],
)
def test_the_gpus_of_each_instance_are_the_jobs(tmp_path, monkeypatch, environment, platform, found):
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launch = Launch("toy", {"name": "m"}, {"name": "here", **platform}, layout=Layout(tp=2, instances=2))
    servers = object.__new__(Instances)
    servers.launch, servers.framework, servers.node = launch, Toy(), SimpleNamespace(nodes=1, rank=0)
    for number, expected in enumerate(found):
        if isinstance(expected, tuple):
            assert servers._gpus(number) == expected
        else:
            with pytest.raises(server.ServerError, match=expected):
                servers._gpus(number)
