"""A copy of the tree in a temporary folder, in which the real Snakefile runs on a real engine."""

from __future__ import annotations

import subprocess

import pytest

from tests.pretend.tree import Copy


class Project(Copy):
    """One copy of the repository; `run` is a user at its prompt."""

    def run(self, *argv: str, check: bool = True, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
        """`snakemake --profile profiles/local ...` in this copy; output in one string, `check` raises on failure."""
        command = self.argv(*argv)
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, text=True, timeout=timeout_s,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{command} exited {done.returncode}:\n{done.stdout}")
        return done


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """One copy for the tests of a module, which build on each other."""
    return Project(tmp_path_factory.mktemp("project"))
