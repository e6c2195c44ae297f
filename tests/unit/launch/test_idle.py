"""Idle power on an nvidia-smi that is a script of ours."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from servegauge.launch import idle
from tests.unit.node.test_sampling import fake_smi

__all__ = ["fake_smi"]


def live(tmp_path, *gpus: str, nodes: int = 1):
    """As much of a launch as is asked: servers on these GPUs."""
    context = SimpleNamespace(gpus=gpus, nodes=nodes)
    return SimpleNamespace(servers=[SimpleNamespace(context=context)], platform={}, work=tmp_path, stop=lambda: False)


def test_the_idle_power_is_that_of_the_launchs_gpus(tmp_path, fake_smi, monkeypatch):
    fake_smi()
    monkeypatch.setattr(idle, "SETTLE_S", 3.0)
    monkeypatch.setattr(idle, "MEASURE_S", 1.0)
    found = idle.idle_power(live(tmp_path, "0", "1"))
    assert found.power_w == pytest.approx(2 * 312.5)
    assert found.source == "power"


def test_why_there_is_none_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(idle, "SETTLE_S", 0.1)
    monkeypatch.setattr(idle, "MEASURE_S", 0.1)
    assert idle.idle_power(live(tmp_path)) is None, "no GPU, nothing to say"
    assert idle.idle_power(live(tmp_path, "0", nodes=2)).reason == "GPUs of other nodes are not sampled"
    assert "nvidia-smi" in idle.idle_power(live(tmp_path, "0")).reason
