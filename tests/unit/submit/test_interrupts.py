"""Asked to end again and again: each time one message, and never a traceback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

RUN = """
import contextlib, time
from servegauge.submit.interrupts import cancel_on_signals
cancel_on_signals("demo")
try:
    with contextlib.suppress(KeyboardInterrupt):  # as Snakemake ends its jobs
        print("measuring", flush=True)
        time.sleep(60)
    print("merging", flush=True)  # in its `onerror`
    time.sleep(60)
finally:
    print("unlocked", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_again_while_the_dataset_is_made_a_run_says_what_it_leaves_undone(number: signal.Signals) -> None:
    run = subprocess.Popen([sys.executable, "-c", RUN], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for phase in ("measuring\n", "merging\n"):
        assert run.stdout.readline() == phase
        run.send_signal(number)
    said, errors = run.communicate(timeout=20)
    assert run.returncode != 0
    assert said == "unlocked\n"
    assert errors.count("\n") == 1, errors
    assert "`servegauge report demo` makes them" in errors
