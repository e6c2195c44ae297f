"""A copy of the repository without results, in which the real Snakefile runs, and a user at its prompt."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
_PARTS = ("Snakefile", "workflow", "config", "profiles", "envs", "scripts", "pyproject.toml")


def copy_of_the_tree(target: Path) -> None:
    """Copy what a run needs to `target`; the engines' environments and the tiny model are shared with the real tree.

    Compiled modules too, so that a run starts as in a clone that is in use; not those that are being written just now.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in _PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("*.egg-info", "*.pyc.*"))
        else:
            shutil.copy2(source, target / name)
    (ROOT / ".cache").mkdir(exist_ok=True)
    (target / ".cache").symlink_to(ROOT / ".cache")


class Copy:
    """A copy of the repository at `root`; classes of this one are users who work in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        copy_of_the_tree(root)

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def environment(self) -> dict[str, str]:
        """The copy's own package wins over the installed one."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "PYTHONPATH": str(self.root / "workflow"), "PATH": path}

    @property
    def own_lock(self) -> dict[str, str]:
        """What makes the machine this copy's alone: tests do not wait for what else is measured here."""
        return {"SERVEGAUGE_MACHINE_LOCK": str(self.root / "machine.lock")}

    def argv(self, *more: str, profile: str = "profiles/local") -> list[str]:
        """The one command."""
        return [sys.executable, "-m", "snakemake", "--profile", profile, *more]

    def write(self, path: str, data: object) -> None:
        """Write a YAML file of the copy."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(yaml.safe_dump(data, sort_keys=False))

    def read(self, path: str) -> dict:
        """Read a YAML file of the copy."""
        return yaml.safe_load((self.root / path).read_text())

    def measured(self) -> set[str]:
        """The measured cells."""
        return {path.parent.name for path in self.results.glob("cells/*/cell.json")}

    def stamps(self) -> dict[str, int]:
        """Modification time of every measured file: an untouched cell keeps all of them.

        Not those of `.<cell>.<random>`, a cell in the making: a kill leaves it half-written, the next run sweeps it.
        """
        return {str(path): path.stat().st_mtime_ns for path in self.results.glob("cells/[!.]*/*")}

    def dataset(self) -> dict[str, str]:
        """Cell -> status, as the dataset has them."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.results / "dataset" / "cells.parquet", columns=["cell", "status"])
        return dict(zip(*(table.column(name).to_pylist() for name in ("cell", "status")), strict=True))
