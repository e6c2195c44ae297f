"""What of a gap is a pause between steps, where the host has no work."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from servegauge.traces.gaps import _between_steps


def pauses(bounds: list[tuple[int, int]], begin: int, late: int, synchronised: int) -> int:
    view = SimpleNamespace(steps=[SimpleNamespace(process=0)] * len(bounds), bounds=bounds)
    parts = {"host_late": np.array([late]), "synchronisation": np.array([synchronised])}
    (found,) = _between_steps(view, 0, np.array([begin]), parts)  # type: ignore[arg-type]
    return int(found)


def test_a_pause_is_what_of_the_hosts_delay_lies_in_no_step():
    steps = [(0, 100), (150, 300)]
    assert pauses(steps, 80, 30, 0) == 10
    assert pauses(steps, 100, 50, 0) == 50
    assert pauses(steps, 120, 60, 0) == 30
    assert pauses(steps, 160, 40, 0) == 0
    assert pauses([], 80, 30, 0) == 0, "nothing has steps"


def test_a_wait_for_the_gpu_between_steps_is_no_pause():
    assert pauses([(0, 100)], 100, 20, 30) == 20, "never more than the host was late"
