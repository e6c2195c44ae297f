"""A copy of the repository without results, in which the real Snakefile runs."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PARTS = ("Snakefile", "workflow", "config", "profiles", "envs", "scripts", "pyproject.toml")


def copy_of_the_tree(target: Path) -> None:
    """Copy what a run needs to `target`; the engines' environments and the tiny model are shared with the real tree."""
    target.mkdir(parents=True, exist_ok=True)
    for name in _PARTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy2(source, target / name)
    (ROOT / ".cache").mkdir(exist_ok=True)
    (target / ".cache").symlink_to(ROOT / ".cache")
