"""A launch has the user's environment, whoever started it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servegauge.base import environment


def test_what_the_workflow_sets_for_a_rule_is_taken_back() -> None:
    of_the_user = {"OMP_NUM_THREADS": "8", "PATH": "/bin"}
    environment.remember(of_the_user)
    in_a_rule = {**of_the_user, **dict.fromkeys(environment.THREADS, "1")}
    environment.restore(in_a_rule)
    assert in_a_rule == {"OMP_NUM_THREADS": "8", "PATH": "/bin"}


def test_without_a_workflow_nothing_changes() -> None:
    by_hand = {"OMP_NUM_THREADS": "8"}
    environment.restore(by_hand)
    assert by_hand == {"OMP_NUM_THREADS": "8"}


def test_the_workflow_in_a_workflow_keeps_the_first_word() -> None:
    outer = {"MKL_NUM_THREADS": "4"}
    environment.remember(outer)
    outer["MKL_NUM_THREADS"] = "1"
    environment.remember(outer)
    environment.restore(outer)
    assert outer == {"MKL_NUM_THREADS": "4"}


def test_folders_of_modules_leave_the_python_path(tmp_path: Path) -> None:
    (tmp_path / "ours" / "servegauge").mkdir(parents=True)
    (tmp_path / "theirs" / "numpy").mkdir(parents=True)
    given = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "theirs"), str(tmp_path / "ours"), ""])}
    environment.remember(given)
    assert given["PYTHONPATH"] == str(tmp_path / "ours")
    alone = {"PYTHONPATH": str(tmp_path / "theirs")}
    environment.remember(alone)
    assert "PYTHONPATH" not in alone


LOOPBACK = "localhost,127.0.0.1,::1"


@pytest.mark.parametrize(
    ("around", "added"),
    [
        ({}, None),
        ({"http_proxy": ""}, None),
        ({"HTTP_PROXY": "http://proxy:3128", "no_proxy": "*"}, None),
        ({"https_proxy": "http://proxy:3128"}, LOOPBACK),
        ({"http_proxy": "http://proxy:3128", "NO_PROXY": ".site"}, f".site,{LOOPBACK}"),
        ({"ALL_PROXY": "socks5://proxy", "no_proxy": "a", "NO_PROXY": "b"}, f"a,{LOOPBACK}"),
    ],
)
def test_a_server_that_asks_itself_is_not_sent_to_a_proxy(around: dict[str, str], added: str | None) -> None:
    assert environment.past_proxies(around) == ({"no_proxy": added, "NO_PROXY": added} if added else {})
