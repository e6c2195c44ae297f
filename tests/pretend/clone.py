"""A user's clone of the repository with a study on the paced server: everything real but the engine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from servegauge.base.files import read_json
from tests.pretend.tree import Copy

STUDY: dict[str, Any] = {
    "question": "Does a fault lose anything?",
    "matrix": {
        "model": "tiny",
        "framework": "paced",
        "platform": ["here"],
        "prompts": ["chat-short"],
        "rate": [4, 5, 6],
    },
    "load": {"requests": 8, "seed": 1, "timeout_s": 5},
    "job": {"continue": False, "calibrate": "once"},
}
FAST = ["--first-s", "0.01", "--gap-s", "0.001"]


class Clone(Copy):
    """The tree without results, at `root`; environments and models are the real tree's."""

    def __init__(self, root: Path, calibrations: Path) -> None:
        super().__init__(root)
        self.calibrations = calibrations
        self.write("config/platforms/here.yaml", {"description": "This machine.", "gpus_per_node": 0})
        self.study()
        self.results.mkdir()
        (self.results / "calibrations").symlink_to(calibrations)

    def use(self, disk: Path) -> None:
        """Keep the results on another file system."""
        (self.results / "calibrations").unlink()
        self.results.rmdir()
        self.results.symlink_to(disk)
        shutil.copytree(self.calibrations, disk / "calibrations")

    def study(self, *server_arguments: str, **changes: Any) -> None:
        """Write the study, its server with these arguments, `changes` merged into its sections."""
        study = {key: dict(value) if isinstance(value, dict) else value for key, value in STUDY.items()}
        for section, change in changes.items():
            study[section] = {**study.get(section, {}), **change}
        study["server"] = {"extra_args": [*FAST, *server_arguments]}
        self.write("config/studies/faults.yaml", study)

    def start(self, *more: str, **environment: str) -> subprocess.Popen[str]:
        """The one command, in a session of its own."""
        return subprocess.Popen(
            self.argv("--config", "study=faults", *more), cwd=self.root, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True, env={**self.environment, **self.own_lock, **environment},
        )  # fmt: skip

    def run(self, *more: str, **environment: str) -> tuple[int, str]:
        """The one command, to its end: exit status and what it said."""
        process = self.start(*more, **environment)
        said = process.communicate(timeout=250)[0]
        return process.returncode, said

    def cells(self) -> dict[str, str]:
        """Rate -> cell, as planned."""
        plan = read_json(self.results / "plan" / "faults.json")
        return {f"{cell['load']['rate_rps']:g}": cell["id"] for cell in plan["cells"]}

    def outcome(self, attempt: int = 0) -> dict[str, Any]:
        """`attempt-<k>.json` of the only launch."""
        [path] = self.results.glob(f"launches/*/attempt-{attempt}.json")
        return read_json(path)

    def reasons(self, attempt: int = 0) -> dict[str, tuple[str, str | None]]:
        """Rate -> (status, reason) in an attempt."""
        names = {cell: rate for rate, cell in self.cells().items()}
        return {
            names[cell]: (one["status"], one["reason"])
            for cell, one in self.outcome(attempt)["cells"].items()
            if cell in names
        }

    def statuses(self, attempt: int = 0) -> dict[str, str]:
        return {rate: status for rate, (status, _) in self.reasons(attempt).items()}

    def measured(self) -> set[str]:
        """Rates that are measured."""
        cells = super().measured()
        return {rate for rate, cell in self.cells().items() if cell in cells}

    def dataset(self) -> dict[str, str]:
        """Rate -> status, as the dataset has it."""
        rows = super().dataset()
        return {rate: rows[cell] for rate, cell in self.cells().items()}

    def completes(self) -> None:
        """The same command measures what is missing, and only that; afterwards the dataset has every cell, ok."""
        before = self.stamps()
        status, said = self.run()
        assert status == 0, said
        after = self.stamps()
        assert all(after[path] == stamp for path, stamp in before.items())
        assert set(self.dataset().values()) == {"ok"}

    def processes(self) -> list[int]:
        """Living processes that belong to this clone: by command line, or by working folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes() + os.fsencode(os.readlink(entry / "cwd"))
            except OSError:
                continue
            if os.fsencode(str(self.root)) in words and int(entry.name) != os.getpid():
                found.append(int(entry.name))
        return found

    def servers(self) -> list[int]:
        """Process ids of living paced servers, not of their guards."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                argv = (entry / "cmdline").read_bytes().split(b"\0")
                ours = str(self.root).encode() in (entry / "environ").read_bytes()
            except OSError:
                continue
            if ours and argv[1:3] == [b"-m", b"servegauge.inputs.engines.paced.server"]:
                found.append(int(entry.name))
        return found
