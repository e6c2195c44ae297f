"""The queue as the waiting processes of a results folder see it: asked seldom."""

from __future__ import annotations

import pytest

from servegauge.submit import slurm_commands
from servegauge.submit.slurm_commands import JobState, Queue, SlurmSilent


def test_a_slurm_that_did_not_answer_is_not_asked_again_at_once(tmp_path, monkeypatch):
    asked = []

    def squeue(cluster: str) -> dict[str, JobState]:
        asked.append(cluster)
        raise SlurmSilent("it says nothing")

    monkeypatch.setattr(slurm_commands, "squeue", squeue)
    queue = Queue(tmp_path, 30.0)
    for _ in range(3):
        with pytest.raises(SlurmSilent, match="it says nothing"):
            queue.look()
    assert len(asked) == 1
    queue.poll_s = 0.0
    with pytest.raises(SlurmSilent):
        queue.look()
    assert len(asked) == 2
