"""A server's life: started behind a random key on a free port of the loopback, watched, stopped to the last process."""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servegauge.base import redact, supervisor
from servegauge.base.files import write_text
from servegauge.base.http import direct_opener
from servegauge.base.text import visible
from servegauge.contract.config_types import Platform
from servegauge.frameworks.base import Context, Framework, Reply
from servegauge.inputs.containers import carried, contained, vendor
from servegauge.launch.first_error import first_error
from servegauge.node import gpus

GRACE_S = 10.0  # between SIGTERM and SIGKILL
MARK = "SERVEGAUGE_SERVER"


Around = Callable[[list[str], Context, Mapping[str, str]], list[str]]
"""A server's command, its context and environment -> the command that starts it (`Recorder.around`)."""


class ServerError(Exception):
    """The server could not be started or died; the text says why and ends with the log's last lines."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that no process listens on now. Another may take it before the server does: `start` then tries another."""
    with socket.socket() as listener:
        listener.bind((host, 0))
        return listener.getsockname()[1]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other; following it would take the API key along."""

    def redirect_request(self, *_: Any) -> None:
        return None


class HttpClient:
    """Control requests to one server (never the measured ones): ready, metrics, reset, evidence."""

    def __init__(self, base_url: str, api_key: str = "") -> None:
        self.base_url = base_url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._opener = direct_opener(_NoRedirect)  # a redirection would hand our key to another host

    def get(self, path: str, timeout_s: float = 10.0) -> Reply:
        """GET `path`; an answer of status 0 says why there was none."""
        return self._send(urllib.request.Request(self.base_url + path, headers=self._headers), timeout_s)

    def post(self, path: str, body: Any = None, timeout_s: float = 30.0) -> Reply:
        """POST `body` as JSON to `path`."""
        import json

        data = b"" if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        return self._send(urllib.request.Request(self.base_url + path, data, headers, method="POST"), timeout_s)

    def _send(self, request: urllib.request.Request, timeout_s: float) -> Reply:
        try:
            with self._opener.open(request, timeout=timeout_s) as answer:
                return Reply(answer.status, answer.read().decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.read().decode("utf-8", "replace"))
        except (OSError, ValueError, http.client.HTTPException) as error:  # also a server that dies in its answer
            return Reply(0, f"{type(error).__name__}: {error}")


@dataclass
class Server:
    """One running instance. Make it with `start`; `stop` may be called at any time, more than once."""

    framework: Framework
    context: Context
    argv: Sequence[str]
    environment: Mapping[str, str]  # what was added to the inherited one, with secrets
    log: Path
    client: HttpClient
    process: subprocess.Popen[bytes]
    log_start: int  # where this start begins in a log that a restart appends to, in bytes
    mark: str  # an environment variable that every process of this server inherits
    started_ns: int = field(default_factory=time.monotonic_ns)
    ready_s: float | None = None

    @property
    def base_url(self) -> str:
        return self.client.base_url

    def alive(self) -> bool:
        """True while the server's first process runs."""
        return self.process.poll() is None

    def why(self) -> str:
        """`: ` and the first error in the log, where one is found; then, on lines of their own, its last lines."""
        family = self.framework
        first = first_error(self.log, family.log_causes, family.log_follows, self.log_start)
        return f"{f': {first}' if first else ''}\n{tail(self.log)}"

    def output(self) -> str:
        """All that it wrote since this start."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            return file.read().decode("utf-8", "replace")

    def how_it_ended(self) -> str:
        """For people: exit status or signal, with what a signal usually means."""
        code = self.process.poll()
        if code is None:
            return "it is still running"
        if code == 128 + signal.SIGKILL:
            return "killed by SIGKILL (out of memory, or kill -9; see the node's log)"
        if code > 128:
            return f"killed by {signal.Signals(code - 128).name}"
        return f"exit status {code}"

    def wait_ready(self, deadline_s: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Wait until requests are answered; ServerError when it ends, is not ready in `deadline_s`, or `stop()`."""
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            if not self.alive():
                raise ServerError(f"the server ended before it was ready: {self.how_it_ended()}{self.why()}")
            if self.framework.ready(self.client):
                self.ready_s = (time.monotonic_ns() - self.started_ns) / 1e9
                return
            if stop():
                raise ServerError("stopped while the server was starting")
            time.sleep(0.05)
        raise ServerError(f"the server was not ready within {deadline_s:.0f} s{self.why()}")

    def stop(self) -> None:
        """SIGTERM to the first process, then to every one, then SIGKILL; when none is left, its log is sealed."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(GRACE_S + 20)
        except subprocess.TimeoutExpired:  # a process in uninterruptible sleep, or a guard that hangs
            self.process.kill()
        # Where the guard itself was killed, what it would have ended still carries our mark.
        end = time.monotonic() + GRACE_S
        while (left_overs := marked(self.mark)) and time.monotonic() < end:
            for process in left_overs:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
        # Servers print their options, API key included.
        redact.seal(self.log, [self.context.api_key, *redact.secret_values({**os.environ, **self.environment})])


def tail(log: Path, lines: int = 15) -> str:
    """The last `lines` lines of a log file, indented; says so where there is none."""
    try:
        with log.open("rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - 16_384)
            file.seek(begin)
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return "  (no log)"
    # Half a line may hold half a secret, which nothing recognises.
    whole = text.splitlines()[1 if begin else 0 :]
    last = [line.rstrip() for line in whole if line.strip()][-lines:]
    return "\n".join(f"  | {visible(line)}" for line in last) or "  (the log is empty)"


def marked(mark: str) -> list[int]:
    """Processes of ours whose environment holds `mark`, but for the one that asks."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # another user's, or gone
                if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def command(framework: Framework, context: Context) -> list[str]:
    """The framework's argv, run the way its platform says: plain, or inside a container."""
    launch, platform = context.launch, context.launch.platform
    # In the private folder, which is visible already, where nothing is kept.
    kept = None if context.cache.is_relative_to(context.work) else context.cache
    variables = seen_variables(framework, context)
    return contained(framework.argv(context), launch.framework, platform, context.work, variables, kept)


def seen_variables(framework: Framework, context: Context) -> list[str]:
    """Names of the variables that a server must see, in a container too."""
    launch, platform = context.launch, context.launch.platform
    own = {*framework.environment(context), *(platform.get("environment") or {}), *launch.environment}
    return sorted({*own, MARK, *(visible_variables(platform) if context.gpus else [])})


def visible_variables(platform: Platform) -> list[str]:
    """The variables that name a server's GPUs: those that the job has, else that of the GPUs' maker.

    AMD's runtime reads HIP's and, without it, CUDA's: where the job has both, both must name the same.
    """
    pair = [f"{maker}_VISIBLE_DEVICES" for maker in ("CUDA", "HIP")]
    name = gpus.visible()[0] or pair[vendor(platform) == "amd"]
    return [one for one in pair if one in os.environ] if name in pair and name in os.environ else [name]


def start(
    framework: Framework,
    context: Context,
    log: Path,
    cpus: Sequence[int] = (),
    base_env: Mapping[str, str] | None = None,
    around: Around | None = None,
) -> Server:
    """Start one instance under its guard, in a session of its own, its output in `log` (0600).

    `around` gives the command that starts the server's command.
    """
    argv = command(framework, context)
    added = dict(framework.environment(context))
    if context.gpus:
        for name in visible_variables(context.launch.platform):
            added.setdefault(name, ",".join(context.gpus))
    mark = f"{MARK}={secrets.token_hex(8)}"
    environment = {**(os.environ if base_env is None else base_env), **added, **dict([mark.split("=")])}
    seen = {name: environment[name] for name in seen_variables(framework, context) if name in environment}
    environment |= carried(context.launch.framework, context.launch.platform, seen)
    if shutil.which(argv[0], path=environment.get("PATH")) is None:
        raise ServerError(f"cannot start {framework.title}: there is no program {argv[0]!r} on this node's PATH")
    for name, text in framework.files(context).items():
        write_text(context.work / name, text, mode=0o600)
    if around:
        argv = around(argv, context, environment)
    pinned = ["--cpus", ",".join(map(str, cpus))] if cpus else []
    watch = [sys.executable, "-I", "-S", supervisor.__file__, *pinned, "--grace", str(GRACE_S), "--", *argv]
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    log_start = os.fstat(handle).st_size
    try:
        process = subprocess.Popen(
            watch, stdin=subprocess.PIPE, stdout=handle, stderr=subprocess.STDOUT, env=environment,
            cwd=context.work, start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(handle)
    client = HttpClient(framework.address(context), context.api_key)
    return Server(framework, context, argv, added, log, client, process, log_start, mark)


def new_api_key() -> str:
    """A random key, for one server's lifetime."""
    return secrets.token_urlsafe(24)
