"""What the doctor makes of `sinfo`, before it submits a job."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from servegauge.cli import doctor
from servegauge.submit import slurm_commands


@pytest.mark.parametrize(
    ("slurm", "rows", "asked", "found"),
    [
        ({"partition": "gpu"}, "gpu|up|2|idle|1:00\ngpu|up|1|down*|1:00", "gpu", "gpu: 2 nodes in service"),
        ({"sbatch": ["#SBATCH -p fat"]}, "fat|up|3|mixed-|1:00", "fat", "fat: 3 nodes in service"),
        ({"cluster": "big"}, "CLUSTER: big\ncpu*|up|4|reserved|1:00", None, "default: 4 nodes in service"),
        ({}, "cpu*|up|1|planned|1:00\ncpu*|up|1|idle~|1:00", None, "default: 2 nodes in service"),
        ({}, "cpu*|drain|1|idle|1:00\ncpu*|up|1|drained|1:00", None, None),
    ],
)
def test_nodes_that_serve_are_counted_as_every_site_shows_them(
    monkeypatch: pytest.MonkeyPatch, slurm: dict[str, Any], rows: str, asked: str | None, found: str | None
) -> None:
    def sinfo(argv: list[str], cluster: str) -> subprocess.CompletedProcess[str]:
        assert (argv[argv.index("--partition") + 1] if "--partition" in argv else None) == asked
        assert cluster == slurm.get("cluster", "")
        return subprocess.CompletedProcess(argv, 0, rows, "")

    monkeypatch.setattr(slurm_commands, "run_command", sinfo)
    ok, said, _ = doctor.partition({"name": "p", "slurm": slurm})
    assert (ok, said if ok else None) == (found is not None, found)
