"""PyTorch's profiler in the servers of a traced launch: switched on inside the window, off after a bounded time.

The server bounds the steps; the seconds are bounded here. What each rank wrote is copied beside the cell. Whatever goes
wrong is said as soon as it happens: a server that does not answer its profiler is not worth the rest of the window.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servegauge.frameworks.base import PROFILE, Reply
from servegauge.launch.recorder import Recorder

if TYPE_CHECKING:
    from servegauge.launch.live import LiveLaunch

ANSWER_S = 180.0  # longest wait for a profiler that is to end: it writes its file before it answers
POLL_S = 0.2


class TorchProfiler(Recorder):
    """One trace, of the first instance; `said` holds `captures` (the files beside the cell, one a rank) or `error`."""

    name = "torch_profiler"
    records = "what the servers' own threads and GPUs do, by PyTorch's profiler"
    position = 100
    profiler = "torch"

    def start(self, live: LiveLaunch, folder: Path, cpus: Sequence[int]) -> None:
        self._live, self._folder = live, folder
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._stamps_ns: dict[str, list[int]] = {}  # CLOCK_MONOTONIC around each call: they bound the trace's clock

    def window_begins(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._capture()
        except Exception as error:
            self.said = {"error": f"{type(error).__name__}: {error}"}

    def _capture(self) -> None:
        asked = self._live.launch.trace or {}
        if self._ended.wait(asked["after_s"]):
            self.said = {"error": f"the window ended before the capture was to begin, {asked['after_s']:g} s after it"}
            return
        framework = self._live.framework
        if not self._ask(framework.start_profile, "start"):
            return
        started = time.monotonic()
        end = started + asked["most_s"]
        # A server that has seen enough steps ends by itself, and its file is there.
        while time.monotonic() < end and not self._written() and not self._ended.wait(POLL_S):
            pass
        on_s = time.monotonic() - started
        if self._ask(framework.stop_profile, "stop"):
            self.said = {"on_s": on_s, "stamps_ns": self._stamps_ns}

    def _ask(self, ask: Callable[[Any], Reply | None], what: str) -> bool:
        """Ask the server; false, with its refusal in `said`."""
        asked = time.monotonic_ns()
        reply = ask(self._live.servers[0].client)
        self._stamps_ns[what] = [asked, time.monotonic_ns()]
        if reply is None or not reply.ok:
            said = "it has none" if reply is None else f"{reply.status} {reply.text[:300]}".strip()
            self.said = {"error": f"the server did not {what} its profiler: {self._live.without_secrets(said)}"}
            return False
        return True

    def _written(self) -> list[Path]:
        """The traces so far, one a rank, in the order of their names."""
        folder = self._live.servers[0].context.work / PROFILE
        return sorted(one for one in folder.rglob("*") if one.name.endswith((".json", ".json.gz")) and one.is_file())

    def stop(self, zero_ns: int) -> None:
        """Wait until the profiler has ended, and copy what it wrote into the folder."""
        self._ended.set()
        if self._thread is None:
            self.said = {"error": "the window did not begin"}
            return
        self._thread.join(ANSWER_S)
        if self._thread.is_alive():
            self.said = {"error": f"the profiler did not end within {ANSWER_S:.0f} s"}
        if "error" in self.said:
            return
        captures = []
        for rank, path in enumerate(self._written()):
            captures.append(f"capture-{rank}{'.json.gz' if path.name.endswith('.gz') else '.json'}")
            shutil.copyfile(path, self._folder / captures[-1])
        if captures:
            self.said["captures"] = captures
        else:
            self.said["error"] = "the profiler wrote no trace"

    def cancel(self) -> None:
        """Let the thread end by itself: its server is about to be stopped."""
        self._ended.set()
