"""Environments of engines and tools: one virtual environment for each lock file `envs/<name>.txt`, built once.

An environment is in `.cache/envs/<name>-<first 12 hex digits of the lock's SHA-256>/`, so a changed lock is another
environment and an old one stays usable. It is built in place, because scripts inside a virtual environment hold its
path, and counts only when its `ready.json`, written last, is there. Building happens on the login node or before a
study, never inside a measured job. The driver never imports an engine: it starts the interpreter that
`environment_python` names.

A file `envs/<name>.post.py`, where there is one, is run by the new environment's interpreter after the install, for
packages that need a correction that no lock file can express. It and every other `envs/<name>.*.py`, which it may copy,
are part of the hash.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from servegauge.base import environment
from servegauge.base.errors import UserError, did_you_mean
from servegauge.base.files import write_json
from servegauge.contract.config_types import Platform

READY = "ready.json"
LOG = "build.log"


def lock_file(name: str, root: Path) -> Path:
    """The lock file of environment `name`; UserError lists the ones that exist."""
    path = root / "envs" / f"{name}.txt"
    if not path.is_file():
        known = sorted(entry.stem for entry in (root / "envs").glob("*.txt"))
        raise UserError(
            f"there is no environment {name!r}: {path} is missing. There are: {', '.join(known) or 'none'}."
            f"{did_you_mean(name, known)}"
        )
    return path


def environment_hash(name: str, root: Path) -> str:
    """First 12 hex digits of the SHA-256 of the lock file's bytes, followed by those of each `<name>.*.py`, by name."""
    content = hashlib.sha256(lock_file(name, root).read_bytes())
    for beside in sorted((root / "envs").glob(f"{name}.*.py")):
        content.update(beside.read_bytes())
    return content.hexdigest()[:12]


def environment_path(name: str, root: Path) -> Path:
    """The folder of environment `name`, whether it is built or not."""
    return root / ".cache" / "envs" / f"{name}-{environment_hash(name, root)}"


def environment_name(folder: str, root: Path) -> str:
    """The environment whose folder in `.cache/envs/` is called `folder`; UserError when its lock has changed since."""
    name = folder.rpartition("-")[0] or folder
    if environment_path(name, root).name != folder:
        raise UserError(
            f"{folder!r} is not the folder of environment {name!r}: its lock file now gives "
            f"{environment_path(name, root).name!r}. Start the run again."
        )
    return name


def environment_ready(name: str, root: Path) -> bool:
    """True when the environment is built and its interpreter still exists (a moved Python breaks the link)."""
    path = environment_path(name, root)
    return (path / READY).is_file() and (path / "bin" / "python").exists()


def environment_python(name: str, root: Path) -> Path:
    """Absolute path of the interpreter of environment `name`; UserError with the command that builds it if absent."""
    if not environment_ready(name, root):
        raise UserError(
            f"the environment {name!r} is not built ({environment_path(name, root)} is absent or unfinished). "
            f"Build it on a machine that reaches a package index: python scripts/build_environment.py {name}"
        )
    return (environment_path(name, root) / "bin" / "python").absolute()


def stamp(name: str, root: Path) -> str:
    """The file that is there when environment `name` is built; what a rule waits for."""
    return str(environment_path(name, root) / READY)


def framework_environment(framework: str, platform: Platform, root: Path) -> str | None:
    """The environment of ours that runs `framework` on `platform`; None where the site provides the framework.

    The site does when the platform's `frameworks: <name>:` has a `venv`, a `container` or an `executable`, or when
    there is no lock file: that of its `lock`, else `envs/<name>-cpu.txt` where there is no GPU (or `device: cpu`), else
    `envs/<name>.txt`. A build, `<name>@<build>`, has an entry of its own, and the lock files of its framework.
    """
    how = (platform.get("frameworks") or {}).get(framework) or {}
    if any(how.get(key) for key in ("venv", "container", "executable")):
        return None
    if how.get("lock"):
        return str(how["lock"])
    framework = framework.partition("@")[0]
    on_cpu = how.get("device") == "cpu" or not platform.get("gpus_per_node")
    names = [f"{framework}-cpu", framework] if on_cpu else [framework]
    return next((name for name in names if (root / "envs" / f"{name}.txt").is_file()), None)


def framework_python(framework: str, platform: Platform, root: Path) -> str:
    """Interpreter that runs `framework` on `platform`: the platform's `venv`, or our environment's, or `python3`."""
    name = framework_environment(framework, platform, root)
    if name:
        return str(environment_python(name, root))
    venv = ((platform.get("frameworks") or {}).get(framework) or {}).get("venv")
    if not venv:
        return "python3"
    # Absolute, because the server's working folder is a private one; as written otherwise: a link is what makes a venv.
    return str(root.absolute() / Path(os.path.expandvars(venv)).expanduser() / "bin" / "python")


def variables(framework: str, platform: Platform, root: Path) -> dict[str, str]:
    """What a framework with packages of its own needs, where a module has set PYTHONPATH before them."""
    own = framework_python(framework, platform, root) != "python3"
    return {"PYTHONPATH": environment.own_path(os.environ)} if own and os.environ.get("PYTHONPATH") else {}


def build_environment(name: str, root: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """Build environment `name` if it is not there; returns its interpreter. Two builders wait for each other.

    `say` gets one line for each step, for people. UserError when the install fails, with the log's last lines.
    """
    path = environment_path(name, root)
    if environment_ready(name, root):
        return environment_python(name, root)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), lambda: say(f"{name}: waiting for another process that builds it")):
        if not environment_ready(name, root):  # the other process may have built it while we waited
            shutil.rmtree(path, ignore_errors=True)
            _build(name, root, path, say)
    return environment_python(name, root)


def _build(name: str, root: Path, path: Path, say: Callable[[str], None]) -> None:
    lock = lock_file(name, root)
    packages = len(re.findall(r"^[A-Za-z0-9]", lock.read_text(encoding="utf-8"), re.MULTILINE))
    started = time.monotonic()
    say(f"{name}: building {path} from {lock} (up to {packages} packages)")
    path.mkdir()
    with (path / LOG).open("w", encoding="utf-8") as log:
        # The driver's pip fills it (--python), which saves installing pip into each environment.
        _run([sys.executable, "-m", "venv", "--without-pip", str(path)], name, log, path)
        interpreter = str(path / "bin" / "python")
        # A lock is complete, so --no-deps resolves nothing and a lock may leave out a package that breaks the others.
        install = [
            sys.executable, "-m", "pip", "--python", interpreter, "install", "--require-hashes", "--no-deps",
            "--no-input", "--progress-bar", "off", "--disable-pip-version-check", "-r", str(lock),
        ]  # fmt: skip
        _run(install, name, log, path, _pip_progress(name, packages, started, say))
        post = _post(name, root)
        if post.is_file():
            say(f"{name}: running {post}")
            _run([interpreter, "-I", str(post)], name, log, path)
    seconds = round(time.monotonic() - started, 1)
    write_json(
        path / READY,
        {"name": name, "lock_sha256": hashlib.sha256(lock.read_bytes()).hexdigest(), "python": sys.version.split()[0],
         "seconds": seconds},
    )  # fmt: skip
    say(f"{name}: ready after {seconds} s")


def _pip_progress(name: str, packages: int, started: float, say: Callable[[str], None]) -> Callable[[str], None]:
    """Turns pip's lines into one of ours for each package and one for the unpacking, with the seconds so far."""
    seen = 0

    def watch(line: str) -> None:
        nonlocal seen
        if line.startswith(("Collecting ", "Processing ")):
            seen += 1
            package = re.split(r"==|-\d", line.split()[1].rpartition("/")[2])[0]
            say(f"{name}: {time.monotonic() - started:4.0f} s  {seen}/{packages} {package}")
        elif line.startswith("Installing collected"):
            say(f"{name}: {time.monotonic() - started:4.0f} s  unpacking {seen} packages")

    return watch


def _run(argv: list[str], name: str, log: TextIO, path: Path, watch: Callable[[str], None] = lambda line: None) -> None:
    """Run one step, each line of its output to `log` and to `watch`. UserError with the last lines when it fails."""
    # PYTHONPATH of the caller would leak packages of other environments into this one.
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    last: deque[str] = deque(maxlen=12)
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            last.append(f"  | {line.rstrip()}")
            watch(line)
    log.flush()
    if process.returncode != 0:
        raise UserError(
            f"building the environment {name!r} failed: {' '.join(argv[:6])} ... exited {process.returncode}. "
            f"The whole output is in {path / LOG}; its end:\n" + "\n".join(last) + "\n"
            "If the package index was not reached, run the same command again where it can be."
        )


def _post(name: str, root: Path) -> Path:
    return root / "envs" / f"{name}.post.py"


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock on `path`; calls `waiting` once if another process has it. Ends with its process."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
