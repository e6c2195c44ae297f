"""Command lines as people get them wrong: each is refused before any work, with one message that says what is wrong."""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servegauge.base.errors import UserError, run_and_exit
from servegauge.cli import main

WRONG = """
plan ""                               | argument study: found an empty text; is a variable of the shell not set?
plan demo --power abc                 | --power: found 'abc'; expected a difference such as 0.02 for 2 %
plan demo --power nan                 | --power: found 'nan'; expected a difference
status ""                             | argument study: found an empty text
status demo --watch -3                | --watch: found '-3'; expected seconds, 1 to 86400
status demo --watch inf               | --watch: found 'inf'; expected seconds
status demo --watch nan               | --watch: found 'nan'; expected seconds
status demo --watch abc               | --watch: found 'abc'; expected seconds
status demo --results nosuch          | --results: nosuch does not exist (the current folder is
status demo --results a-file          | --results: a-file is a file; give a folder
report ""                             | argument study: found an empty text
report demo --out ""                  | --out: found an empty text
report demo --out a-folder            | --out: a-folder is a folder; give the name of a file
report demo --out a-file/x.html       | --out: a-file/x.html: a-file is a file, not a folder; give another path
report demo --out /proc/x.html        | --out: /proc/x.html: nothing can be written in /proc; give another path
export demo --format csv --out ""     | --out: found an empty text
export demo --format csv --out a-file | --out: a-file: a-file is a file, not a folder; give another path
export demo --format csv --out /proc/x/y | nothing can be written in /proc
import nosuch                         | argument FILE: there is no file nosuch (the current folder is
import a-folder                       | argument FILE: a-folder is a folder; give a file
import ""                             | argument FILE: found an empty text
import a-file --out a-folder          | --out: a-folder is a folder
import a-file --format aiperf         | a-file: is not UTF-8 text (invalid start byte at byte 0); expected AIPerf's
import a-file                         | a-file: no format recognises it; there are aiperf
join nosuch                           | nosuch is not a results folder
join a-folder --label ""              | --label: found an empty text
join a-folder --results a-file        | --results: a-file: a-file is a file, not a folder
trace ""                              | argument FILE: found an empty text
trace a-folder                        | a-folder: a folder; give the profiler's files
trace a-file                          | a-file: not a profile that can be read
trace a-file --out a-file             | --out: a-file: a-file is a file, not a folder
probe --platform ""                   | --platform: found an empty text
probe --platform x --probes ""        | --probes: found an empty text
probe --platform x --tp abc           | --tp: found 'abc'; expected sizes, such as 1,2
probe --platform x --tp 0             | --tp: found '0'; expected sizes
probe --platform x --processes 0      | --processes: found '0'; expected processes, a whole number from 1 on
probe --platform x --processes 1.5    | --processes: found '1.5'; expected processes, a whole number
probe --platform x --nodes -2         | --nodes: found '-2'; expected nodes, a whole number from 1 on
probe --platform x --nodes 2          | --nodes 2: a job of several nodes is one of Slurm; add --submit slurm
probe --platform x --python nosuch    | --python nosuch: there is no such program; give the path of an interpreter
probe --platform x --poll-s -1        | --poll-s: found '-1'; expected seconds, more than 0
probe --platform x --out a-file       | --out: a-file: a-file is a file, not a folder
probe --platform x --stamp a-folder   | --stamp: a-folder is a folder
doctor --profile ""                   | --profile: found an empty text
doctor --profile nosuch               | there is no profile nosuch. There are: none
doctor --study ""                     | --study: found an empty text
load --model m --base-url http://127.0.0.1:9 --rate 1 --requests 1 --seed -1 | --seed: found '-1'; expected a seed
load --model m --base-url http://127.0.0.1:9 --rate 1 --requests 1 --warmup -1 | --warmup: found '-1'; expected requests
load --model m --base-url http://127.0.0.1:9 --rate 1 --requests 1 --workers 1000 | --workers: found '1000'; expected pr
load --model m --base-url http://127.0.0.1:9 --rate 1 --requests 1 --out a-folder | --out: a-folder is a folder
load --model m --base-url http://127.0.0.1:9 --rate 1 --requests 1 --out a-file/x | a-file is a file, not a folder
load --model m --base-url http://127.0.0.1:9 --rate inf --requests 1 | --rate is inf; it must be a number more than 0
load --model m --base-url http://127.0.0.1:9 --rate 1 --requests 1 --prompts a-file | a-file: is not UTF-8 text
load --model m --base-url http://127.0.0.1:9 --rate 1 --requests 1 --cpus 0,x | --cpus: found '0,x'; expected CPUs
load --model m --base-url http://127.0.0.1:9 --rate 1 --requests 1 --cpus 9999 | this process may not use CPU 9999
load --model m --base-url http://127.0.0.1:9 --rate 1 --requests 1 --tokenizer "" | --tokenizer: found an empty text
load --model m --base-url http://127.0.0.1:9 --rate 1 --requests 1 --ca-file nosuch | --ca-file: there is no file nosuch
load --model m --base-url http://127.0.0.1:9 --rate 1 --replay nosuch | --replay: there is no file nosuch
load --model "" --base-url http://127.0.0.1:9 --rate 1 --requests 1 | --model: found an empty text
calibrate --cpus abc                  | --cpus: found 'abc'; expected CPUs, such as 1,2
calibrate --cpus -1                   | --cpus: found '-1'; expected CPUs
calibrate --server-cpus 9999          | --server-cpus: this process may not use CPU 9999; it may use [
calibrate --out a-folder              | --out: a-folder is a folder
calibrate --out a-file/x              | --out: a-file/x: a-file is a file, not a folder
"""
CASES = [tuple(part.strip() for part in line.split("|", 1)) for line in WRONG.strip().splitlines()]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a file that holds no text, and a folder."""
    (tmp_path / "a-file").write_bytes(b"\xff\x00")
    (tmp_path / "a-folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("line", "message"), CASES, ids=[line for line, _ in CASES])
def test_it_is_refused_with_what_is_wrong(
    line: str, message: str, beside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *argv = shlex.split(line)
    module = importlib.import_module(f"servegauge.cli.{name}")
    try:
        status = module.run(main.parser_of(module, f"servegauge {name}").parse_args(argv))
    except UserError as error:
        status, found = 2, str(error)
    except SystemExit as error:
        status, found = error.code, capsys.readouterr().err
    assert status == 2
    assert message in found
    assert sorted(path.name for path in beside.iterdir()) == ["a-file", "a-folder"], "nothing was written"
    assert capsys.readouterr().out == "", "nothing was begun"


def ended(code: str) -> subprocess.CompletedProcess[str]:
    program = f"from servegauge.base.errors import run_and_exit\nimport os\nrun_and_exit(lambda: {code})"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("open('/nosuch/x', 'w')", "error: /nosuch/x: No such file or directory. Give another path"),
        ("open('/tmp', 'w')", "error: /tmp: Is a directory. Give another path"),
        ("open('/tmp/' + 'x' * 300, 'w')", "File name too long. Give another path"),
        ("os.kill(os.getpid(), 2)", "interrupted"),
    ],
)
def test_what_the_system_refuses_is_one_message(code: str, message: str) -> None:
    done = ended(code)
    assert done.returncode in (2, 130)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_ends_early_is_no_error() -> None:
    program = "from servegauge.base.errors import run_and_exit\nrun_and_exit(lambda: print('x\\n' * 100000))"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_file_that_may_not_be_read_is_named(
    beside: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as it is for everybody but the superuser
    with pytest.raises(SystemExit):
        main.run(["import", "a-file"])
    assert "a-file cannot be read; correct its rights" in capsys.readouterr().err


def test_a_broken_connection_is_not_taken_for_a_closed_output() -> None:
    def broken() -> int:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        run_and_exit(broken)
