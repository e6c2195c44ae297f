"""What every probe must do, tried on this machine with the smallest sizes."""

from __future__ import annotations

import math
import os

import pytest

from servegauge.probes import registry
from servegauge.probes.base import VARIANT_KEYS, Context, run


@pytest.fixture(scope="module", params=sorted(registry()))
def measured(request, tmp_path_factory):
    """(probe, its rows) for every probe that there is."""
    probe = registry()[request.param]
    scratch = tmp_path_factory.mktemp(probe.name)
    before = os.sched_getaffinity(0)
    rows = list(run(probe, Context({"name": "here"}, size="test", scratch=scratch, time_limit_s=60)))
    assert os.sched_getaffinity(0) == before, "a probe leaves the process as it found it"
    return probe, rows


def test_it_is_described(measured):
    probe, _ = measured
    assert probe.name
    assert probe.title
    assert probe.measures
    assert probe.needs in ("numpy", "torch")


def test_it_gives_rows_and_none_failed(measured):
    probe, rows = measured
    assert rows
    assert [row.reason for row in rows if row.status == "failed"] == []
    if probe.needs == "numpy":
        assert any(row.status == "ok" for row in rows)


def test_rows_are_numbers_or_reasons(measured):
    probe, rows = measured
    for row in rows:
        assert (row.platform, row.probe) == ("here", probe.name)
        assert set(row.variant) <= set(VARIANT_KEYS)
        if row.status == "ok":
            assert row.unit
            assert math.isfinite(row.value)
            assert row.value > 0
            assert row.low is None or row.low <= row.value <= row.high
            assert len(row.samples) >= 6
        else:
            assert row.reason
            assert row.value is None


def test_no_two_rows_are_the_same_variant_of_a_metric(measured):
    _, rows = measured
    keys = [(row.metric, tuple(sorted(row.variant.items()))) for row in rows]
    assert len(keys) == len(set(keys))


def test_the_same_variants_come_again(measured):
    """Platforms are compared variant by variant, so a variant must not hold what changes from run to run."""
    probe, rows = measured
    context = Context({"name": "there"}, size="test", time_limit_s=0.0)
    again = [row.variant for row in run(probe, context)]
    if probe.unsupported(context) is None:
        assert {tuple(sorted(variant.items())) for variant in again} >= {
            tuple(sorted(row.variant.items())) for row in rows
        }
