"""CPU time of a tree of processes: what ended counts, what others use does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from servegauge.launch.recorders.gpu_sample import NodeReader
from servegauge.node.process_tree import cpu_ticks

BURN = "import time; end = time.process_time() + {}\nwhile time.process_time() < end: pass"


def stat(pid: int, parent: int, ticks: tuple[int, int, int, int]) -> str:
    return f"{pid} (a (name) 1 2) S {parent} 0 0 0 0 0 0 0 0 0 {' '.join(map(str, ticks))} 0 0\n"


def test_a_process_its_descendants_and_those_that_ended(tmp_path: Path) -> None:
    for pid, parent, ticks in (
        (10, 1, (1, 2, 100, 200)),
        (11, 10, (5, 5, 0, 0)),
        (12, 11, (7, 0, 0, 0)),
        (20, 1, (9,) * 4),
    ):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(stat(pid, parent, ticks))
    (tmp_path / "13").mkdir()  # it ended while we looked
    assert cpu_ticks(10, tmp_path) == 1 + 2 + 100 + 200 + 10 + 7
    assert cpu_ticks(99, tmp_path) is None


def test_this_process_and_a_child_that_ended() -> None:
    before = cpu_ticks(os.getpid())
    assert before is not None
    subprocess.run([sys.executable, "-c", BURN.format(0.3)], check=True)
    after = cpu_ticks(os.getpid())
    assert after - before >= 0.25 * os.sysconf("SC_CLK_TCK")


def test_work_that_is_ours_is_not_others() -> None:
    """The same second of work, by our child and by a process that is none of ours."""
    shares = []
    for owner in (os.getpid(), None):
        idle = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        reader = NodeReader(owner=owner or idle.pid)  # to the idle process, our work is that of others
        subprocess.run([sys.executable, "-c", BURN.format(1.0)], check=True)
        shares.append(reader.others)
        idle.communicate(b"\n")
    ours, others = (one["others_share"] for one in shares)
    assert 0 <= ours < others <= 1
    assert shares[0]["cpus"] == os.cpu_count()
    assert shares[0]["cpus_allowed"] == len(os.sched_getaffinity(0))
    assert NodeReader().others == {"others_share": None, "cpus": None, "cpus_allowed": None}
