"""A copy of the tree in a temporary folder, in which the real Snakefile runs on a real engine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.pretend.tree import copy_of_the_tree


@dataclass
class Project:
    """One copy of the repository; `run` is a user at its prompt."""

    root: Path

    def run(self, *argv: str, check: bool = True, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
        """`snakemake --profile profiles/local ...` in this copy; output in one string, `check` raises on failure."""
        command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local", *argv]
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, text=True, timeout=timeout_s,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{command} exited {done.returncode}:\n{done.stdout}")
        return done

    @property
    def environment(self) -> dict[str, str]:
        """The copy's own package wins over the installed one."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "PYTHONPATH": str(self.root / "workflow"), "PATH": path}

    def write(self, path: str, data: object) -> None:
        """Write a YAML file of the copy."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(yaml.safe_dump(data, sort_keys=False))

    def read(self, path: str) -> dict:
        """Read a YAML file of the copy."""
        return yaml.safe_load((self.root / path).read_text())

    def cells(self) -> set[str]:
        """The measured cells."""
        return {path.parent.name for path in self.root.glob("results/cells/*/cell.json")}

    def stamps(self) -> dict[str, int]:
        """Modification time of every measured file: an untouched cell keeps all of them.

        Not those of `.<cell>.<random>`, a cell in the making: a kill leaves it half-written, the next run sweeps it.
        """
        files = self.root.glob("results/cells/[!.]*/*")
        return {str(path.relative_to(self.root)): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """One copy for the tests of a module, which build on each other."""
    root = tmp_path_factory.mktemp("project")
    copy_of_the_tree(root)
    return Project(root)
