"""A pretended Slurm: programs that keep a queue in a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ACCEPT = 'echo "$n|{state}||n1|${{*: -1}}" >> "$STATE/queue"\n'


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write the programs of a pretended Slurm; returns the function that writes sbatch, from its body in bash."""
    programs, state = tmp_path / "bin", tmp_path / "state"
    programs.mkdir()
    state.mkdir()
    monkeypatch.setenv("STATE", str(state))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def write(name: str, body: str) -> Path:
        path = programs / name
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)
        return state

    write("srun", "exit 0")
    write("squeue", 'cat "$STATE/queue" 2>/dev/null; exit 0')
    write("scancel", 'sed -i "s/|[A-Z_]*|/|CANCELLED|/" "$STATE/queue"')
    write("scontrol", 'if [ "$2" = config ]; then echo "AccountingStorageType = none"; else exit 1; fi')
    count = 'n=$(( $(cat "$STATE/n" 2>/dev/null || echo 500) + 1 )); echo $n > "$STATE/n"\n'
    return lambda body="", name="sbatch", job="RUNNING": write(
        name, count + body.replace("ACCEPT", ACCEPT.format(state=job)) if name == "sbatch" else body
    )
