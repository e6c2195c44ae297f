"""A program that is called as nsys is and does as nsys does, or what goes wrong with it. Its reports are made up.

The folder that the variable PRETEND_NSYS names has `export.sqlite`, which is what it records, and may have
`goes_wrong`, a word for what it does instead: see the code. Each call is a line of `calls` there.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

HOME = Path(os.environ.get("PRETEND_NSYS", ""))


def program(folder: Path) -> Path:
    """An nsys in `folder`/bin that is this one."""
    path = folder / "bin" / "nsys"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} "$@"\n')
    path.chmod(0o755)
    return path


def wrong(what: str) -> bool:
    file = HOME / "goes_wrong"
    return file.exists() and file.read_text() == what


def state(name: str) -> Path:
    """What it keeps of a session, between its calls."""
    return HOME / name.replace("/", "_")


def main(words: list[str]) -> int:
    with (HOME / "calls").open("a") as calls:
        calls.write(json.dumps({"argv": words, "tmp": os.environ.get("TMPDIR")}) + "\n")
    options = dict(word.partition("=")[::2] for word in words if word.startswith("-"))
    if "--help" in words:
        print("-t, --trace=  Possible values are 'cuda', 'cuda-sw', 'nvtx', 'osrt'")
        return 0
    if words[0] == "launch":
        state(options["--session-new"]).write_text("launched")
        rest = words[1:]
        while rest[0].startswith("-"):
            if rest[0].startswith("--env-var="):
                name, _, value = rest[0].removeprefix("--env-var=").partition("=")
                os.environ[name] = value
            rest = rest[1:]
        return subprocess.call(rest)
    if words[0] == "start":
        if wrong("refuses"):
            print("There is no session of that name.", file=sys.stderr)
            return 1
        state(options["--session"]).write_text(options["--output"])
        return 0
    if words[0] == "stop":
        if wrong("hangs"):  # a child, too, that does not listen
            code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
            subprocess.Popen([sys.executable, "-c", code, "nsys hangs"])
            time.sleep(60)
        output = Path(state(options["--session"]).read_text())
        if not wrong("writes nothing"):
            shutil.copyfile(HOME / "export.sqlite", f"{output}.{'qdstrm' if wrong('no importer') else 'nsys-rep'}")
        return 0
    if words[0] == "export":
        if wrong("cannot export"):
            print("Exportation error: the report is damaged.", file=sys.stderr)
            return 1
        shutil.copyfile(words[-1], words[words.index("--output") + 1])
        return 0
    raise SystemExit(f"unexpected: {words}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
