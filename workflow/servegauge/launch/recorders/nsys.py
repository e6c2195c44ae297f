"""NVIDIA's nsys around the server of a traced launch: it starts the server and is ordered when to record.

A server that can mark the range itself (`Framework.marks_range`) does, between two steps of its own; any other is
recorded from one call of nsys to another. Only what was recorded is kept: see `node/nsys.py`.
"""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from servegauge.base.errors import UserError
from servegauge.contract.spec import digest
from servegauge.frameworks.base import PROFILE, Context
from servegauge.launch.profiler import Profiler, ProfilerFailed
from servegauge.node import nsys

CAPTURE = "capture-0.sqlite.gz"
HELP_S, START_S, STOP_S, CONVERT_S = 30.0, 60.0, 150.0, 300.0  # most time of each call of nsys
REPORT_S, SETTLED_S = 30.0, 0.5  # for a report to come once its range has ended; it is whole when it grows no more


class Nsys(Profiler):
    """One report, of all ranks of the first instance, as a compressed sqlite file."""

    name = "nsys"
    records = "what the servers' threads and GPUs do, by NVIDIA's nsys"
    profiler = "nsys"
    _call: nsys.Call | None = None

    @classmethod
    def around(cls, argv: list[str], context: Context, environment: Mapping[str, str]) -> list[str]:
        """Start the first instance in a session of nsys that is named after it; nothing is recorded yet."""
        if context.instance:
            return argv
        program = nsys.find(environment)
        if program is None:
            raise UserError(f"this cell cannot be traced: {nsys.absent(environment)}")
        try:
            known = nsys.Call([program, "launch", "--help"], environment).finish(HELP_S)
        except (nsys.NsysError, OSError) as error:
            raise UserError(f"this cell cannot be traced: {program} does not run here: {error}") from error
        for folder in (scratch(context), context.work / PROFILE):
            folder.mkdir(mode=0o700, exist_ok=True)
        return [
            "env", f"TMPDIR={scratch(context)}", program, "launch", f"--session-new={session_of(context)}",
            *_scope(context, known), f"--env-var=TMPDIR={environment.get('TMPDIR', '/tmp')}", *argv,
        ]  # fmt: skip

    # -- in the window ---------------------------------------------------------

    def _begin(self) -> None:
        marked = ["--capture-range=cudaProfilerApi", "--capture-range-end=stop"] if self._marks else []
        # Without hardware counters its sampling of CPUs hangs for half a minute.
        quiet = ["--sample=none", "--cpuctxsw=none", "--backtrace=none", "--stop-on-exit=false"]
        self._ask("start", *marked, *quiet, "--force-overwrite=true", f"--output={self._stem}", limit_s=START_S)
        if self._marks:
            reply = self._live.framework.start_profile(self._server.client, self._live.launch)
            self._accepted(reply, "start")

    def _over(self) -> bool:
        return bool(self._files())

    def _end(self) -> None:
        if self._marks:  # a server that has seen enough steps has marked the end itself, and may refuse
            self._live.framework.stop_profile(self._server.client, self._live.launch)
        refused = "it wrote no report"
        try:
            self._ask("stop", limit_s=STOP_S)
        except ProfilerFailed as error:  # also where the range has ended by itself: then there is a report
            refused = str(error)
        if not self._came():
            raise ProfilerFailed(refused)

    # -- after it ----------------------------------------------------------------

    def _collect(self) -> list[str]:
        report, target = self._stem.with_suffix(".nsys-rep"), self._stem.with_suffix(".sqlite")
        if not report.is_file():  # an nsys that does not find its own importer leaves what it captured
            importer = nsys.importer(self._program)
            if importer is None:
                raise ProfilerFailed(
                    f"{self._program} captured, but its {nsys.IMPORTER} is not on this node: the host part of Nsight "
                    "Systems has it"
                )
            self._run_nsys([str(importer), "-i", str(self._stem.with_suffix(".qdstrm")), "-o", str(report)], CONVERT_S)
        self._run_nsys(nsys.export_argv(self._program, report, target), CONVERT_S)
        nsys.clean(target, self._live.without_secrets)
        with target.open("rb") as plain, gzip.open(self._folder / CAPTURE, "wb", compresslevel=6) as packed:
            shutil.copyfileobj(plain, packed)
        return [CAPTURE]

    def cancel(self) -> None:
        super().cancel()
        if self._call:
            self._call.cancel()

    # -- with nsys ---------------------------------------------------------------

    @property
    def _stem(self) -> Path:
        return self._private / "report"

    @property
    def _marks(self) -> bool:
        return self._live.framework.marks_range(self._live.launch)

    @property
    def _program(self) -> str:
        """The nsys that started the server."""
        return self._server.argv[self._server.argv.index("launch") - 1]

    def _files(self) -> list[Path]:
        return [one for one in self._private.glob("report.*") if one.suffix in (".nsys-rep", ".qdstrm")]

    def _came(self) -> bool:
        """Wait until there is a report that does not grow any more."""
        end, before = time.monotonic() + REPORT_S, 0
        while time.monotonic() < end:
            size = sum(one.stat().st_size for one in self._files())
            if size and size == before:
                return True
            before = size
            time.sleep(SETTLED_S)
        return False

    def _ask(self, command: str, *words: str, limit_s: float) -> None:
        session = f"--session={session_of(self._server.context)}"
        self._run_nsys([self._program, command, session, *words], limit_s)

    def _run_nsys(self, argv: list[str], limit_s: float) -> None:
        """Run it to its end; ProfilerFailed with what it printed."""
        variables = {**os.environ, "TMPDIR": str(scratch(self._server.context))}
        try:
            self._call = nsys.Call(argv, variables)
            self._call.finish(limit_s)
        except (nsys.NsysError, OSError) as error:
            raise ProfilerFailed(str(error)) from error


def session_of(context: Context) -> str:
    """The name of this server's session, which no other on the node has."""
    return f"servegauge-{digest([str(context.work), context.port], 12)}"


def scratch(context: Context) -> Path:
    """Where nsys puts what it needs for a while: it ends with the launch."""
    return context.work / "nsys"


def _scope(context: Context, known: str) -> list[str]:
    """What is recorded once it begins. `known`: the help of this nsys.

    A graph is one row unless the study asks for its nodes, which slows it. `cuda-sw`: the way that new versions choose
    by themselves on new GPUs crashes servers.
    """
    cuda = ["cuda-sw" if "cuda-sw" in known else "cuda"] if context.gpus else []
    words = [f"--trace={','.join([*cuda, 'nvtx', 'osrt'])}", "--trace-fork-before-exec=true", "--wait=primary"]
    if cuda:
        words.append(f"--cuda-graph-trace={(context.launch.trace or {}).get('graphs', 'graph')}")
    return words
