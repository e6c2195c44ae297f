"""What a recorder is: it writes down what happens beside a cell while the load runs. One file each in `recorders/`.

A launch starts every recorder before a cell's load and stops it after; what a recorder says of itself stands in
cell.json under `recorders`, by its name. A recorder is evidence beside the measurement: whatever goes wrong in it is
reported there, and the measurement stands.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from servegauge.base.forkserver import ForkedProcess
from servegauge.contract.spec import Placement

if TYPE_CHECKING:
    import pyarrow as pa

    from servegauge.frameworks.base import Context
    from servegauge.launch.live import LiveLaunch

STOP_TIMEOUT_S = 30.0


class Recorder:
    """Base of every recorder: one instance records one cell. Subclass it once in `recorders/<name>.py`."""

    name: ClassVar[str]
    records: ClassVar[str]  # what, in words, for docs and messages
    position: ClassVar[int] = 1000  # they are started in this order and stopped in the same
    profiler: ClassVar[str] = ""  # what studies call it, of one that records traces only; empty: it records every cell

    def __init__(self) -> None:
        self.report: dict[str, Any] = {}  # after `stop`: what became of it; `error` where it failed

    @classmethod
    def tables(cls) -> Mapping[str, pa.Schema]:
        """Table -> schema of the `<table>.parquet` that it leaves in the cell's folder.

        A table that the dataset has not yet becomes one of its tables, one part per launch, with the keys of cell and
        launch before these columns.
        """
        return {}

    @classmethod
    def around(cls, argv: list[str], context: Context, environment: Mapping[str, str]) -> list[str]:
        """The command that starts the server, for what has to start it itself; UserError where that cannot be.

        `environment` is all that the server sees.
        """
        return argv

    def unsupported(self, live: LiveLaunch) -> str | None:
        """Why there is nothing to record of this launch; None where there is."""
        return None

    def start(self, live: LiveLaunch, folder: Path, cpus: Sequence[int]) -> None:
        """Begin to record. Files go into `folder`; `cpus`: where its own processes may run, off the server's."""
        raise NotImplementedError

    def window_begins(self) -> None:
        """The window opens: warm-up and ramp are over, and the load is on."""

    def stop(self, zero_ns: int) -> Any:
        """End, and write the files. `zero_ns`: the CLOCK_MONOTONIC moment that is 0 in them, the window's start."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End without writing; may be called at any time."""


class ProcessRecorder(Recorder):
    """A recorder in a process of its own: `main` of its module.

    The process is given its job on standard input as one line of JSON; a second line, `zero_ns`, ends it, and it prints
    what it has to say as JSON. The end of the input without a second line, because the owner died, ends it, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._process: ForkedProcess | None = None
        self._out: Path | None = None

    def _begin(self, job: Mapping[str, Any]) -> None:
        try:
            self._process = ForkedProcess(type(self).__module__)
            self._process.tell(job)
        except OSError as error:
            self.report = {"error": f"the {self.name} could not be started: {error}"}

    def stop(self, zero_ns: int = 0) -> Any:
        """End the process; it never raises. What it wrote, or that it wrote nothing, is in `report`."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.tell(zero_ns)
            self.report = json.loads(process.rest_of_output(STOP_TIMEOUT_S))
        except TimeoutError:
            self.report = {"error": f"the {self.name} did not end within {STOP_TIMEOUT_S:.0f} s"}
        except (ValueError, OSError):
            self.report = {"error": f"the {self.name} ended with status {process.wait()} before it wrote"}
        finally:
            process.kill()

    def cancel(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()


class Recording:
    """Every recorder of one cell, together."""

    def __init__(self, kinds: Mapping[str, type[Recorder]], live: LiveLaunch, folder: Path) -> None:
        self._running: list[Recorder] = []
        self.report: dict[str, dict[str, Any]] = {}
        cpus = Placement.of(live.platform).load_cpus
        for name, kind in kinds.items():
            one = kind()
            try:
                reason = one.unsupported(live)
                if reason is None:
                    one.start(live, folder, cpus)
                    self._running.append(one)
                else:
                    self.report[name] = {"unsupported": reason}
            except Exception as error:  # evidence may fail; the measurement may not because of it
                one.cancel()
                self.report[name] = {"error": f"{type(error).__name__}: {error}"}

    def window_begins(self) -> None:
        """Tell them all; one that fails is stopped all the same."""
        for one in self._running:
            with contextlib.suppress(Exception):
                one.window_begins()

    @property
    def trouble(self) -> str | None:
        """What went wrong so far, of the first recorder that says so while it runs."""
        return next((one.report["error"] for one in self._running if "error" in one.report), None)

    def stop(self, zero_ns: int) -> None:
        """Stop them all; what each reports is in `report`."""
        for one in self._running:
            try:
                one.stop(zero_ns)
                self.report[one.name] = one.report
            except Exception as error:
                one.cancel()
                self.report[one.name] = {"error": f"{type(error).__name__}: {error}"}
        self._running = []

    def cancel(self) -> None:
        """End them all without writing."""
        for one in self._running:
            one.cancel()
        self._running = []
