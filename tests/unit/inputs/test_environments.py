"""Environments from lock files: built once, whole or not at all, found by the hash of what they were built from."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from servegauge.base.errors import UserError
from servegauge.inputs import environments


def wheel(folder: Path, name: str, needs: str = "") -> str:
    """Write a wheel of one module into `folder`; returns its lock lines."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", "answer = 42\n")
        file.writestr(f"{info}/METADATA", metadata)
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return f"{name}==1.0 \\\n    --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one environment whose wheels lie on the disk: nothing is fetched."""
    (tmp_path / "envs").mkdir()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    # What is not in the lock is not installed: the second wheel needs a package that does not exist.
    (tmp_path / "envs" / "one.txt").write_text(wheel(wheels, "first") + wheel(wheels, "second", "absent>=3"))
    return tmp_path


def test_it_is_built_once_and_works(root: Path) -> None:
    lines: list[str] = []
    python = environments.build_environment("one", root, lines.append)
    assert python.is_absolute()
    assert subprocess.run([python, "-c", "import first, second; print(first.answer)"], check=True, capture_output=True)
    assert any("1/2 first" in line for line in lines)
    assert lines[-1].startswith("one: ready after")
    stamp = json.loads(Path(environments.stamp("one", root)).read_text())
    assert stamp["lock_sha256"] == hashlib.sha256((root / "envs/one.txt").read_bytes()).hexdigest()
    lines.clear()
    assert (
        environments.build_environment("one", root, lines.append)
        == python
        == environments.environment_python("one", root)
    )
    assert lines == []


def test_the_callers_packages_do_not_leak_in(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root / "leak"))
    (root / "leak").mkdir()
    (root / "leak" / "first.py").write_text("raise SystemExit('the caller\\'s module')")
    python = environments.build_environment("one", root)
    assert "numpy" not in subprocess.run(
        [python, "-I", "-c", "import pkgutil; print([m.name for m in pkgutil.iter_modules()])"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def test_a_failure_leaves_nothing_that_counts(root: Path) -> None:
    good = (root / "envs/one.txt").read_text()
    (root / "envs/one.txt").write_text(good.replace("sha256:", "sha256:0000", 1))
    with pytest.raises(UserError, match=r"build\.log") as caught:
        environments.build_environment("one", root)
    assert "hash" in str(caught.value).lower()
    assert not environments.environment_ready("one", root)
    with pytest.raises(UserError, match=r"python scripts/build_environment\.py one"):
        environments.environment_python("one", root)
    (root / "envs/one.txt").write_text(good)
    assert environments.build_environment("one", root).exists()


def test_a_half_built_one_is_built_again(root: Path) -> None:
    path = environments.environment_path("one", root)
    (path / "lib").mkdir(parents=True)
    (path / "lib" / "rubbish").write_text("x")
    environments.build_environment("one", root)
    assert not (path / "lib" / "rubbish").exists()
    # A Python that was removed: the stamp alone does not count.
    (path / "bin" / "python").unlink()
    assert not environments.environment_ready("one", root)
    environments.build_environment("one", root)
    assert environments.environment_ready("one", root)


def test_two_builders_wait_for_each_other(root: Path) -> None:
    lines: list[str] = []
    builders = [
        threading.Thread(target=environments.build_environment, args=("one", root, lines.append)) for _ in range(3)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert sum("building" in line for line in lines) == 1
    assert sum("waiting" in line for line in lines) == 2


def test_the_hash_follows_the_lock_and_the_correction(root: Path) -> None:
    before = environments.environment_path("one", root)
    (root / "envs" / "one.post.py").write_text(
        "import pathlib, sysconfig\npathlib.Path(sysconfig.get_path('purelib'), 'corrected.py').write_text('x = 1')\n"
    )
    after = environments.environment_path("one", root)
    assert before != after
    python = environments.build_environment("one", root)
    assert subprocess.run([python, "-c", "import corrected"], check=False).returncode == 0
    with pytest.raises(UserError, match="its lock file now gives"):
        environments.environment_name(before.name, root)
    assert environments.environment_name(after.name, root) == "one"


def test_a_file_that_the_correction_copies_is_part_of_the_hash(root: Path) -> None:
    stubs = root / "envs" / "one.stubs.py"
    found = [environments.environment_hash("one", root)]
    for text in ("x = 1", "x = 2"):
        stubs.write_text(text)
        found.append(environments.environment_hash("one", root))
    (root / "envs" / "one-cpu.stubs.py").write_text("another environment's")
    assert environments.environment_hash("one", root) == found[-1]
    assert len(set(found)) == 3


def test_a_correction_that_fails_is_a_failure(root: Path) -> None:
    (root / "envs" / "one.post.py").write_text("raise SystemExit('nothing to correct here')")
    with pytest.raises(UserError, match="nothing to correct here"):
        environments.build_environment("one", root)
    assert not environments.environment_ready("one", root)


def test_who_runs_a_framework(root: Path) -> None:
    def platform(**how: str) -> dict:
        return {"frameworks": {"one": how}}

    assert environments.framework_environment("one", {}, root) == "one"
    assert environments.framework_environment("unknown", {}, root) is None
    for how in ({"venv": "/v"}, {"container": "x.sif"}, {"executable": "/bin/x"}):
        assert environments.framework_environment("one", platform(**how), root) is None
    assert environments.framework_python("one", platform(venv="/v"), root) == "/v/bin/python"
    assert environments.framework_python("one", platform(container="x.sif"), root) == "python3"
    with pytest.raises(UserError, match="is not built"):
        environments.framework_python("one", {}, root)


def test_the_script_names_what_there_is(root: Path, repository: Path) -> None:
    script = str(repository / "scripts" / "build_environment.py")
    wrong = subprocess.run([sys.executable, script, "ome"], cwd=root, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "Did you mean 'one'?" in wrong.stderr
    folder = environments.environment_path("one", root).name
    right = subprocess.run([sys.executable, script, "--folder", folder], cwd=root, capture_output=True, text=True)
    assert right.returncode == 0, right.stderr
    assert right.stdout.strip().endswith(f"{folder}/bin/python")


def test_every_lock_is_hashed_and_names_no_index(repository: Path) -> None:
    locks = sorted((repository / "envs").rglob("*.txt"))
    assert {lock.parent.name for lock in locks} == {"envs", "extra", "pack"}
    for lock in locks:
        text = lock.read_text()
        assert "--hash=sha256:" in text, lock
        assert "--index" not in text, lock
        assert "://" not in text, lock
        assert lock.with_suffix(".in").is_file(), lock
