"""Faults under the whole workflow: the right cells fail, said so, the others stay, and the same command completes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time

import pytest

from tests.pretend.clone import Clone
from tests.pretend.pretend_site import wait_for

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own, of 24 MB; needs the right to mount."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


# The second cell, in the order of the plan, lasts 8 s and the others little more than 2.
LONG = {"load": {"requests": 48}, "matrix": {"rate": [20, 6, 24]}}


def during_cell(clone: Clone, number: int) -> None:
    """Until that cell of the launch has been measured for a while, in the middle of a long one."""

    def begun() -> bool:
        said = "".join(path.read_text() for path in clone.results.glob("launches/*/attempt-*/progress.log"))
        return f"cell {number}/" in said

    wait_for(begun, 120, f"cell {number}")
    assert list(clone.cells())[number - 1] == "6", "the plan has another order: choose other rates for LONG"
    time.sleep(3.5)  # opening connections takes a moment


def test_a_server_that_is_never_ready(clone):
    clone.study("--fault", "slow_start:start_s=600", job={"ready_timeout_s": 3})
    status, said = clone.run()
    assert status != 0
    assert set(clone.statuses().values()) == {"failed"}
    assert "ready" in clone.outcome()["reason"], said
    assert set(clone.dataset().values()) == {"failed"}


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSEGV"])
def test_a_server_that_dies_in_mid_cell_fails_that_cell_alone(clone, how):
    """SIGKILL is what the kernel's out-of-memory killer sends."""
    clone.study(**LONG)
    process = clone.start()
    during_cell(clone, 2)
    [server] = clone.servers()
    os.kill(server, getattr(signal, how))
    said = process.communicate(timeout=250)[0]
    assert process.returncode != 0
    assert sorted(clone.statuses().values()) == ["failed", "ok", "ok"], said
    [(_, reason)] = [one for one in clone.reasons().values() if one[0] == "failed"]
    assert "died during the cell" in reason
    assert ("out of memory" if how == "SIGKILL" else "SIGSEGV") in reason
    assert sorted(clone.dataset().values()) == ["failed", "ok", "ok"]
    clone.completes()


def test_a_server_that_hangs_in_mid_answer_fails_the_cell_with_the_timeout(clone):
    clone.study("--fault", "stall:every=1,stall_s=600,after=2", load={"timeout_s": 1.5, "requests": 3})
    status, said = clone.run()
    assert status != 0, said
    assert {status for status, _ in clone.reasons().values()} == {"failed"}
    assert all("timeout" in reason for _, reason in clone.reasons().values())


def test_a_cell_that_the_job_has_no_time_for_is_not_started(clone):
    clone.study(load={"requests": 200}, job={"minutes": 1, "continue": False})
    status, said = clone.run()
    assert status != 0, said  # nothing failed, but not all that was asked for is measured
    assert "3 not run yet" in said
    assert "not measured: 3 cells" in said
    assert set(clone.statuses().values()) == {"not_run"}
    assert "left of the job" in clone.outcome()["reason"]
    clone.study(load={"requests": 200}, job={"continue": False}, matrix={"rate": [100, 110, 120]})
    assert clone.run()[0] == 0


def test_a_port_that_is_taken_by_somebody_else(clone, tmp_path):
    """The port was free when it was chosen and is not when the server wants it."""
    # Beside the package: other folders of PYTHONPATH do not reach a launch.
    (clone.root / "workflow" / "sitecustomize.py").write_text(
        "import os\n"
        "def taken_once(free):\n"
        "    marker = os.environ['TAKEN'] + '.used'\n"
        "    def port(*args):\n"
        "        if os.path.exists(marker): return free(*args)\n"
        "        open(marker, 'w').close(); return int(os.environ['TAKEN'].rpartition('/')[2])\n"
        "    return port\n"
        "if 'TAKEN' in os.environ and 'submitit' in ' '.join(__import__('sys').orig_argv):\n"
        "    from servegauge.launch import server\n"
        "    server.free_port = taken_once(server.free_port)\n"
    )
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        status, said = clone.run(TAKEN=f"{tmp_path}/{other.getsockname()[1]}")
    assert status == 0, said
    assert "a port was taken by another process meanwhile" in said
    assert set(clone.statuses().values()) == {"ok"}


def test_a_disk_that_fills_up_in_mid_cell(clone, small_disk):
    clone.use(small_disk)
    clone.study(**LONG)
    process = clone.start()
    during_cell(clone, 2)
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    said = process.communicate(timeout=250)[0]
    assert process.returncode != 0
    assert "No space left on device" in said
    [folder] = clone.results.glob("cells/[!.]*")  # the first cell, whole; of the others, nothing
    assert json.loads((folder / "cell.json").read_text())["status"] == "ok"
    ballast.unlink()
    clone.completes()


def test_a_results_folder_that_is_read_only(clone, small_disk):
    clone.use(small_disk)
    clone.run("--until", "compile_workloads")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, said = clone.run()
    assert status != 0
    assert "Read-only file system" in said
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    clone.completes()


@pytest.mark.parametrize("file", ["cell.json", "requests.parquet"])
def test_a_damaged_file_of_an_earlier_run_is_found_and_measured_again(clone, file):
    assert clone.run()[0] == 0
    target = clone.results / "cells" / clone.cells()["5"] / file
    whole = target.read_bytes()
    target.write_bytes(whole[: len(whole) // 2])
    others = {path: stamp for path, stamp in clone.stamps().items() if clone.cells()["5"] not in path}
    clone.study(matrix={"rate": [4, 5, 6, 7]})  # something to do, so that the dataset is merged again
    status, said = clone.run()
    assert status != 0, said
    assert clone.dataset() == {"4": "ok", "5": "failed", "6": "ok", "7": "ok"}
    assert clone.measured() == {"4", "6", "7"}
    clone.completes()
    assert all(clone.stamps()[path] == stamp for path, stamp in others.items())


def test_a_study_edited_between_two_runs_keeps_what_both_ask_for(clone):
    assert clone.run()[0] == 0
    before = clone.stamps()
    clone.study(matrix={"rate": [5, 6, 7]})
    assert clone.run()[0] == 0
    assert all(clone.stamps()[path] == stamp for path, stamp in before.items())
    assert list(clone.statuses(1)) == ["7"]
    assert len(list((clone.results / "cells").iterdir())) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_end_in_mid_cell_it_keeps_what_is_measured(clone, number):
    clone.study(**LONG)
    process = clone.start()
    during_cell(clone, 2)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    said = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert "cancelling its process" in said
    assert len(clone.measured()) == 1
    wait_for(lambda: not clone.processes(), 20, "everything to end")
    clone.completes()


def test_kill_9_of_everything_in_mid_cell(clone):
    clone.study(**LONG)
    process = clone.start()
    during_cell(clone, 2)
    for number in clone.processes():
        os.kill(number, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: not clone.servers(), 20, "the server to end")
    assert clone.run("--unlock")[0] == 0
    clone.completes()


LOUD = r"""#!/bin/sh
printf '\033]0;title\007\033[31mred\033[2J <script>alert(1)</script> \r\010\n'
echo "key=$(env | sed -n 's/^[A-Z_]*API_KEY=//p')"
exit 3
"""


def test_what_a_server_prints_is_shown_and_never_obeyed(clone):
    """Escape sequences, markup and its key: in reasons, progress, terminal, dataset and page."""
    program = clone.root / "loud-server"
    program.write_text(LOUD)
    program.chmod(0o755)
    here = {"description": "This machine.", "gpus_per_node": 0}
    here["frameworks"] = {"llamacpp": {"executable": str(program)}}
    clone.write("config/platforms/here.yaml", here)
    clone.study(matrix={"framework": "llamacpp", "rate": [4]})
    study = clone.root / "config/studies/faults.yaml"
    study.write_text(study.read_text().split("server:")[0])
    status, said = clone.run()
    assert status != 0
    reason = clone.outcome()["reason"]
    assert "\\x1b[31mred\\x1b[2J" in reason, said
    kept = [path for path in clone.results.rglob("*") if path.suffix in (".json", ".html", ".csv", ".txt")]
    kept += list(clone.results.rglob("progress.log"))
    for text in (said, reason, *(path.read_text() for path in kept)):
        assert not set(text) & set("\x1b\x07\x08\x9b")
    pages = [path.read_text() for path in kept if path.suffix == ".html"]
    assert not [page for page in pages if "<script>alert" in page]
