"""A recorder that switches a profiler on inside the window, off after a bounded time, and keeps what it wrote.

One trace, of the first instance. Whatever goes wrong is reported as soon as it happens: a server that does not answer
its profiler is not worth the rest of the window. `report` holds `captures` (the files beside the cell) or `error`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servegauge.frameworks.base import PROFILE, Reply
from servegauge.launch.recorder import Recorder

if TYPE_CHECKING:
    from servegauge.launch.live import LiveLaunch
    from servegauge.launch.server import Server

ANSWER_S = 180.0  # longest wait for a profiler that is to end: it writes its file before it answers
POLL_S = 0.2


class ProfilerFailed(Exception):
    """What a profiler did instead; the text is the trace's reason."""


class Profiler(Recorder):
    """Base of the recorders of traces: a thread of its own asks the profiler, so that the load goes on meanwhile."""

    position = 100

    def start(self, live: LiveLaunch, folder: Path, cpus: Sequence[int]) -> None:
        self._live, self._folder = live, folder
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    # -- what each profiler says of itself -----------------------------------

    def _begin(self) -> None:
        """Switch it on; ProfilerFailed where it refuses."""
        raise NotImplementedError

    def _over(self) -> bool:
        """True once it has ended by itself, after the steps that were asked for."""
        return False

    def _end(self) -> None:
        """Switch it off; ProfilerFailed where it refuses. Also called where it has ended by itself."""
        raise NotImplementedError

    def _collect(self) -> list[str]:
        """Bring what it wrote into the folder: the names of the files there, one a rank; none where it wrote none."""
        raise NotImplementedError

    # -- the same for all ------------------------------------------------------

    @property
    def _server(self) -> Server:
        return self._live.servers[0]

    @property
    def _asked(self) -> dict[str, Any]:
        return dict(self._live.launch.trace or {})

    @property
    def _private(self) -> Path:
        """Where the server's profiler leaves its files."""
        return Path(self._server.context.work) / PROFILE

    def window_begins(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._capture()
        except ProfilerFailed as error:
            self.report = {"error": self._live.without_secrets(str(error))}
        except Exception as error:
            self.report = {"error": self._live.without_secrets(f"{type(error).__name__}: {error}")}

    def _capture(self) -> None:
        after_s, most_s = self._asked["after_s"], self._asked["most_s"]
        if self._ended.wait(after_s):
            raise ProfilerFailed(f"the window ended before the capture was to begin, {after_s:g} s after it")
        stamps = {"start": self._stamped(self._begin)}
        started = time.monotonic()
        # A server that has seen enough steps ends by itself.
        while time.monotonic() < started + most_s and not self._over() and not self._ended.wait(POLL_S):
            pass
        on_s = time.monotonic() - started
        stamps["stop"] = self._stamped(self._end)
        self.report = {"on_s": on_s, "stamps_ns": stamps}

    def _stamped(self, call: Callable[[], None]) -> list[int]:
        """Call it; CLOCK_MONOTONIC in ns before and after, which bound the join of the profiler's clock with ours."""
        asked = time.monotonic_ns()
        call()
        return [asked, time.monotonic_ns()]

    def _accepted(self, reply: Reply | None, what: str) -> None:
        """ProfilerFailed with the server's own words where it did not `what` its profiler."""
        if reply is None or not reply.ok:
            answer = "it has none" if reply is None else f"{reply.status} {reply.text[:300]}".strip()
            raise ProfilerFailed(f"the server did not {what} its profiler: {answer}")

    def stop(self, zero_ns: int) -> None:
        """Wait until the profiler has ended, and bring what it wrote into the folder."""
        self._ended.set()
        if self._thread is None:
            self.report = {"error": "the window did not begin"}
            return
        self._thread.join(ANSWER_S)
        if self._thread.is_alive():
            self.report = {"error": f"the profiler did not end within {ANSWER_S:.0f} s"}
            self.cancel()
        if "error" in self.report:
            return
        try:
            captures = self._collect()
        except ProfilerFailed as error:
            self.report = {"error": self._live.without_secrets(str(error))}
            return
        if captures:
            self.report["captures"] = captures
        else:
            self.report["error"] = "the profiler wrote no trace"

    def cancel(self) -> None:
        """Let the thread end by itself: its server is about to be stopped."""
        self._ended.set()
