"""Of two jobs of one attempt, one measures."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from servegauge.submit.claim import claim


def test_the_first_has_it_and_the_second_is_told(tmp_path: Path) -> None:
    assert claim(tmp_path, "7", lambda job: True) is None
    assert claim(tmp_path, "8", lambda job: True) == "7"


def test_a_requeued_job_keeps_it(tmp_path: Path) -> None:
    assert claim(tmp_path, "7", lambda job: True) is None
    assert claim(tmp_path, "7", lambda job: False) is None


def test_a_dead_job_is_followed_and_stays_followed(tmp_path: Path) -> None:
    assert claim(tmp_path, "7", lambda job: True) is None
    assert claim(tmp_path, "8", lambda job: job != "7") is None
    assert claim(tmp_path, "9", lambda job: job != "7") == "8"
    assert claim(tmp_path, "8", lambda job: False) is None, "requeued"
    assert claim(tmp_path, "9", lambda job: False) is None, "the second died too"


def test_of_many_that_follow_a_dead_one_at_once_one_gets_it(tmp_path: Path) -> None:
    assert claim(tmp_path, "7", lambda job: True) is None
    barrier, found = threading.Barrier(8), []

    def follow(job: str) -> None:
        barrier.wait()
        found.append(claim(tmp_path, job, lambda other: other != "7"))

    threads = [threading.Thread(target=follow, args=(str(number),)) for number in range(10, 18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(None) == 1
    winner = (tmp_path / "claim-1").read_text().strip()
    assert {other for other in found if other} == {winner}


def test_a_claim_that_nobody_can_read_is_another_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)  # what it says may be seen late: five seconds of looking
    (tmp_path / "claim-0").touch()
    assert claim(tmp_path, "7", lambda job: False) == "unknown"
