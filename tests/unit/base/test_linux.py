"""What is asked of Linux, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CHILD = """
import ctypes, os, platform, resource, struct
from servegauge.base.linux import hold_many_connections, run_soon
os.nice(3)
resource.setrlimit(resource.RLIMIT_NOFILE, (50, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
{before}
run_soon()
hold_many_connections()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
assert soft == hard > 50, (soft, hard)
print(open("/proc/self/timerslack_ns").read().strip(), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))
said = ctypes.create_string_buffer(48)
number = {{"x86_64": 315, "aarch64": 275, "ppc64le": 356}}[platform.machine()]
assert ctypes.CDLL(None).syscall(number, 0, said, 48, 0) == 0
print(struct.unpack("=IIQiIQQQ", said.raw)[5])
"""


def said(before: str = "") -> list[str]:
    run = subprocess.run([sys.executable, "-c", CHILD.format(before=before)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_timers_are_exact_slices_short_and_the_priority_is_left():
    slack, nice, policy, slice_ns = said()
    assert (slack, nice, policy) == ("1", str(min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)), "0")
    if tuple(int(part) for part in platform.release().split(".")[:2]) >= (6, 12):
        assert slice_ns == "100000"


def test_another_policy_is_left_as_it_is():
    allowed = "import os; os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))"
    asked = subprocess.run([sys.executable, "-c", allowed], capture_output=True, text=True)
    if "PermissionError" in asked.stderr:
        pytest.skip("this machine allows no batch policy")
    assert said("os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))")[2] == "3"


FAULTS = """
import resource
from servegauge.base.linux import keep_memory
{before}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for number in range(20):
        pieces = [bytes(1 << 16) for _ in range(50)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def page_faults(before: str) -> int:
    """Of 20 times 50 reads of 64 KiB, kept together and then freed, after the first 20."""
    return int(subprocess.check_output([sys.executable, "-c", FAULTS.format(before=before)], text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only GNU's C library is asked")
def test_memory_that_was_freed_is_used_again():
    assert page_faults("keep_memory()") < 500 < page_faults("")
