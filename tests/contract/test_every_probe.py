"""What every probe must do, tried on this machine with the smallest sizes."""

from __future__ import annotations

import json
import math
import os

import pytest

from servegauge.probes import registry
from servegauge.probes.harness.base import VARIANT_KEYS, Context, run

TINY = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 256, "torch_dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(registry()))
def measured(request, tmp_path_factory):
    """(probe, its rows, the models it was given) for every probe that there is."""
    probe = registry()[request.param]
    scratch = tmp_path_factory.mktemp(probe.name)
    model = tmp_path_factory.mktemp("model")
    (model / "config.json").write_text(json.dumps(TINY))
    models = [{"name": "tiny", "source": str(model), "tp": [1, 2]}]
    before = os.sched_getaffinity(0)
    rows = list(run(probe, Context({"name": "here"}, size="test", models=models, scratch=scratch, time_limit_s=60)))
    assert os.sched_getaffinity(0) == before, "a probe leaves the process as it found it"
    return probe, rows, models


def test_it_is_described(measured):
    probe, _, _ = measured
    assert probe.name
    assert probe.title
    assert probe.measures
    assert probe.needs in ("numpy", "torch")
    assert set(probe.primary) <= set(probe.units)
    assert probe.primary


def test_it_gives_rows_and_none_failed(measured):
    probe, rows, _ = measured
    assert rows
    assert [row.reason for row in rows if row.status == "failed"] == []
    if probe.needs == "numpy":
        assert any(row.status == "ok" for row in rows)


def test_rows_are_numbers_or_reasons(measured):
    probe, rows, _ = measured
    for row in rows:
        assert (row.platform, row.probe) == ("here", probe.name)
        assert set(row.variant) <= set(VARIANT_KEYS)
        if row.metric == "any":  # all of it is skipped, for example where torch is missing
            assert (row.status, row.unit, bool(row.reason)) == ("skipped", "", True)
            continue
        assert row.unit == probe.units[row.metric]
        if row.status == "ok":
            assert math.isfinite(row.value)
            assert row.value > 0
            assert row.low is None or row.low <= row.value <= row.high
            assert len(row.samples) >= 6
        else:
            assert row.reason
            assert row.value is None


def test_no_two_rows_are_the_same_variant_of_a_metric(measured):
    _, rows, _ = measured
    keys = [(row.metric, tuple(sorted(row.variant.items()))) for row in rows]
    assert len(keys) == len(set(keys))


def test_the_same_variants_come_again(measured, tmp_path):
    """Platforms are compared variant by variant, so a variant must not hold what changes from run to run."""
    probe, rows, models = measured
    context = Context({"name": "there"}, size="test", models=models, scratch=tmp_path, time_limit_s=0.0)
    again = [row.variant for row in run(probe, context)]
    if probe.unsupported(context) is None:
        assert {tuple(sorted(variant.items())) for variant in again} >= {
            tuple(sorted(row.variant.items())) for row in rows
        }
