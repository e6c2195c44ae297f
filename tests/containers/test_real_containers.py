"""A real server in a real container: ready, key, answer, log, end; nothing left, whatever died first."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from servegauge.contract.spec import Launch
from servegauge.frameworks import framework
from servegauge.frameworks.base import Context
from servegauge.frameworks.llamacpp import DOOR
from servegauge.launch import server
from tests.conftest import ROOT

pytestmark = [pytest.mark.containers, pytest.mark.timeout(120)]
REQUIRED = os.environ.get("SERVEGAUGE_REQUIRE_CONTAINERS") == "1"
PROGRAMS = {"charliecloud": "ch-run", "podman": "podman"}
KEY = "sesame-open-4711"
SYSTEM = ("usr", "bin", "lib", "lib64", "sbin", "etc")


@pytest.fixture(params=PROGRAMS)
def started(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tiny_model: Path,
    llamacpp_python: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[server.Server]:
    """llama.cpp's server in an image that is a folder: the system's own folders, the repository and scratch mounted."""
    kind = request.param
    if not shutil.which(PROGRAMS[kind]):
        assert not REQUIRED, f"{PROGRAMS[kind]} is not installed: apt-get install charliecloud podman runc"
        pytest.skip(f"no {PROGRAMS[kind]} on this machine")
    image, work = tmp_path / "image", tmp_path / "work"
    work.mkdir()
    interpreter = Path(sys.base_prefix)
    mounts = [f"/{name}" for name in SYSTEM if Path("/", name).is_dir()]
    mounts += [] if str(interpreter).startswith("/usr") else [str(interpreter)]
    for folder in (*mounts, "/proc", "/sys", "/dev", "/tmp", "/root", "/home", str(work), str(ROOT)):
        (image / folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
    for name in ("passwd", "group", "hosts", "hostname", "resolv.conf"):
        (image / "etc" / name).touch()  # ch-run mounts the node's over them
    words = {"charliecloud": ["--bind"], "podman": ["--volume"]}[kind]
    arguments = [word for mount in mounts for word in (*words, f"{mount}:{mount}")]
    if kind == "podman":
        # Of this test alone, where cgroups and limits belong to an outer container: crun wants cgroups of version 2.
        settings = tmp_path / "containers.conf"
        settings.write_text(
            '[engine]\ncgroup_manager = "cgroupfs"\nruntime = "runc"\n'
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=2048:2048"]\n'
        )
        monkeypatch.setenv("CONTAINERS_CONF", str(settings))
    monkeypatch.setenv("USER", os.environ.get("USER", "root"))  # ch-run asks for it
    monkeypatch.chdir(ROOT)
    program = image / "opt/engine/llama-server"  # of the image alone
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec {llamacpp_python} {DOOR} "$@"\n')
    program.chmod(0o755)
    how = {
        "container": str(image), "runtime": kind, "container_args": arguments, "executable": "/opt/engine/llama-server",
    }  # fmt: skip
    platform = {"name": "here", "frameworks": {"llamacpp": how}, "environment": {"SEEN_INSIDE": "1"}}
    launch = Launch("llamacpp", {"name": "tiny", "gguf": "x"}, platform, options={"context_tokens": 128})
    kept = tmp_path / "kept"  # compile caches of an earlier launch are a folder apart, and writable in there
    kept.mkdir()
    context = Context(
        launch, str(tiny_model.with_suffix(".gguf")), server.free_port(), api_key=KEY, python=llamacpp_python,
        work=work, cache=kept, served_name="tiny",
    )  # fmt: skip
    running = server.start(
        framework("llamacpp"), context, tmp_path / "log", base_env={**os.environ, "SEEN_INSIDE": "1"}
    )
    try:
        running.wait_ready(60)
        yield running
    finally:
        running.stop()


def inside(running: server.Server) -> list[int]:
    """Processes of the server that see another root than we do."""
    return [pid for pid in server.marked(running.mark) if os.stat(f"/proc/{pid}/root").st_ino != os.stat("/").st_ino]


@contextmanager
def gone(seconds: float, running: server.Server) -> Iterator[None]:
    yield
    end = time.monotonic() + seconds
    while server.marked(running.mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert server.marked(running.mark) == []


def test_a_server_in_a_container_answers_with_its_key_and_ends(started: server.Server) -> None:
    body = {"model": "tiny", "prompt": "Hello there", "max_tokens": 4, "temperature": 0}
    reply = started.client.post("/v1/completions", body)
    assert reply.ok, reply.text
    assert server.HttpClient(started.client.base_url).post("/v1/completions", body).status == 401
    assert len(inside(started)) == 1, "the server does not run in the container"
    environment = Path(f"/proc/{inside(started)[0]}/environ").read_bytes().split(b"\0")
    assert b"SEEN_INSIDE=1" in environment
    assert started.log.stat().st_mode & 0o077 == 0
    with gone(0, started):
        started.stop()
    text = started.log.read_text()
    assert "llama" in text
    assert KEY not in text


def test_a_container_outlives_neither_its_runtime_nor_its_guard(started: server.Server) -> None:
    """kill -9 of the server's own process: the launch sees it; of the guard: what it started goes with it."""
    (pid,) = inside(started)
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 20
    while started.process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    assert started.process.poll() is not None, "a dead server was not seen"
    with gone(10, started), contextlib.suppress(Exception):
        started.stop()
