"""The package as a wheel, not as this folder: it plans and measures the demo with nothing of the sources beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.pretend.tree import ROOT, copy_of_the_tree


@pytest.mark.heavy
def test_a_wheel_plans_and_measures_the_demo(tmp_path: Path) -> None:
    source, root, home = tmp_path / "source", tmp_path / "root", tmp_path / "venv"
    copy_of_the_tree(source)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("servegauge-*.whl")
    venv.create(home, with_pip=False)
    site = next(home.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(site)
    # The dependencies are those of this environment, whose link to our sources is not followed from here.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    copy_of_the_tree(root)
    shutil.rmtree(root / "workflow" / "servegauge")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{home / 'bin'}{os.pathsep}{environment['PATH']}"

    def run(*argv: str) -> str:
        done = subprocess.run(
            [home / "bin" / "python", *argv], cwd=root, env=environment, text=True, timeout=250,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    where = run("-c", "import servegauge; print(servegauge.__file__)")
    assert where.startswith(str(site))
    assert "study demo: " in run("-m", "servegauge.cli", "plan", "demo")
    one = run("-m", "servegauge.cli", "plan", "demo", "--format", "csv").splitlines()[1].partition(",")[0]
    run("-m", "snakemake", "--profile", "profiles/local", "--config", "study=demo", f"cells={one}")
    assert (root / "results" / "cells" / one / "cell.json").is_file()
    assert (root / "results" / "report" / "demo.html").stat().st_size > 10_000
