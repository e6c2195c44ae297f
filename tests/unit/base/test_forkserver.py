"""Children of the fork server: they are who they should be, and leave when they should."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import psutil
import pytest

from servegauge.base import forkserver
from servegauge.base.forkserver import ForkedProcess
from servegauge.instrument.coordinator import PRELOADED

CHILD = """
import json, os, sys, time

def main():
    line = sys.stdin.readline()
    print("a word on standard error", file=sys.stderr, flush=True)
    if line == '"hang"\\n':
        time.sleep(60)
    modules = [name in sys.modules for name in ("pyarrow", "pandas", "servegauge.instrument.worker")]
    variables = [os.environ.get(name) for name in ("MADE_UP", "OPENBLAS_NUM_THREADS")]
    print(json.dumps([line, sys.argv[1:], *variables, modules]), flush=True)
    return 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch) -> str:
    (tmp_path / "a_child_of_the_test.py").write_text(CHILD)
    monkeypatch.syspath_prepend(tmp_path)
    return "a_child_of_the_test"


def test_it_is_its_module_with_our_words_and_environment(module, tmp_path, monkeypatch):
    monkeypatch.setenv("MADE_UP", "now")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    forkserver.prepare(PRELOADED)
    child = ForkedProcess(module, "one", "two", log=tmp_path / "log")
    child.tell({"some": "order"})
    said = child.rest_of_output(20)
    assert said == b'["{\\"some\\": \\"order\\"}\\n", ["one", "two"], "now", null, [true, true, true]]\n'
    assert child.wait(5) == 3
    child.close()
    assert (tmp_path / "log").read_text() == "a word on standard error\n"


def test_one_that_hangs_is_waited_for_no_longer_than_asked_and_killed(module, tmp_path):
    child = ForkedProcess(module, log=tmp_path / "log")
    child.tell("hang")
    with pytest.raises(TimeoutError):
        child.rest_of_output(0.1)
    assert child.wait(0.1) is None
    child.kill()
    assert child.wait(0) == -9
    assert not psutil.pid_exists(child.pid)


def test_nobody_outlives_a_killed_owner_and_a_script_is_not_run_again(module, tmp_path):
    """The script has no guard: a child that imported it would start children of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(tmp_path)!r})
        from servegauge.base.forkserver import ForkedProcess
        print(ForkedProcess({module!r}).pid, flush=True)
        time.sleep(60)
    """)
    )
    owner = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    pid = int(owner.stdout.readline())
    family = psutil.Process(owner.pid).children(recursive=True)
    assert pid in [process.pid for process in family]
    owner.kill()
    owner.wait()
    assert not owner.stdout.read(), "the script began again"
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_the_fork_server_has_one_thread_of_blas_and_a_child_our_environment(module, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.setenv("MADE_UP", "now")
    child = ForkedProcess(module, log=tmp_path / "log")
    server = psutil.Process(child.pid).parent()
    assert server.environ()["OPENBLAS_NUM_THREADS"] == "1"
    child.tell({})
    assert b'"now", "7"' in child.rest_of_output(20)
    child.wait(5)
    child.close()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7"


def test_a_long_tmpdir_is_no_obstacle(module, tmp_path):
    long = tmp_path / ("x" * 60) / ("y" * 60)
    long.mkdir(parents=True)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from servegauge.base.forkserver import ForkedProcess
        child = ForkedProcess({module!r})
        child.tell("go")
        print(child.rest_of_output(30).decode(), end="")
    """)
    )
    environment = {**os.environ, "TMPDIR": str(long)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert '"go' in done.stdout
