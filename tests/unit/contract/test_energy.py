"""Energy of a window from samples whose truth is known."""

from __future__ import annotations

import msgspec
import pyarrow as pa
import pytest

from servegauge.contract import energy, metrics
from servegauge.contract.cell_tables import GPU_RAW
from servegauge.contract.records.cell import CellRecord, Window
from servegauge.contract.records.specs import CellSpec
from servegauge.contract.spec import Cell, Launch, Load
from servegauge.dataset import launch_parts
from tests.unit.contract.test_metrics import MS, row, table

S = 1_000_000_000


def samples(*gpus: dict, every_s: float = 0.1, first_s: float = -1.0, last_s: float = 11.0) -> pa.Table:
    """GPUs that draw `power(t)` watts from t = 0 on and nothing before; `start` is what their counter stood at."""
    rows = []
    count = round((last_s - first_s) / every_s) + 1
    for number, gpu in enumerate(gpus):
        for place in range(count):
            t = first_s + place * every_s
            line = {"t_ns": round(t * S), "gpu": number, "uuid": f"GPU-{number}", "power_w": gpu.get("power")}
            if "counter" in gpu:
                line["energy_j"] = gpu.get("start", 1e6) + gpu["counter"] * (t - first_s)
            rows.append(line)
    return pa.Table.from_pylist(rows, schema=GPU_RAW)


def test_a_counter_goes_before_power():
    used = energy.used(samples({"counter": 400.0, "power": 999.0}), ["0"], 10.0)
    assert (used.source, used.joules) == ("counter", pytest.approx(4000.0))


def test_a_counter_that_stands_still_is_none():
    used = energy.used(samples({"counter": 0.0, "power": 300.0}), ["0"], 10.0)
    assert (used.source, used.joules) == ("power", pytest.approx(3000.0))
    assert energy.used(samples({"counter": 0.0}), ["0"], 10.0) is None


def test_power_is_integrated_where_there_is_no_counter():
    used = energy.used(samples({"power": 300.0}, every_s=0.5), ["0"], 10.0)
    assert (used.source, used.joules) == ("power", pytest.approx(3000.0))


def test_power_that_changes_is_the_area_below_it():
    rows = [{"t_ns": t * S, "gpu": 0, "power_w": 100.0 * t} for t in range(0, 11)]
    assert energy.used(pa.Table.from_pylist(rows, schema=GPU_RAW), ["0"], 10.0).joules == pytest.approx(5000.0)


def test_the_launchs_gpus_are_counted_and_no_others():
    table = samples({"counter": 100.0}, {"counter": 200.0}, {"counter": 5000.0})
    assert energy.used(table, ["0", "1"], 10.0).joules == pytest.approx(3000.0)
    assert energy.used(table, ["GPU-1"], 10.0).joules == pytest.approx(2000.0)
    assert energy.used(table, ["0", "7"], 10.0) is None, "one of them was not sampled"
    assert energy.used(table, ["MIG-7"], 10.0) is None, "a slice's share of its parent is not known"
    assert energy.used(table, [], 10.0) is None


def test_gpus_of_one_launch_are_counted_alike():
    used = energy.used(samples({"counter": 100.0, "power": 110.0}, {"power": 50.0}), ["0", "1"], 10.0)
    assert (used.source, used.joules) == ("power", pytest.approx(1600.0))


def test_a_counter_that_falls_is_not_believed():
    falling = samples({"counter": -5.0, "power": 70.0})
    used = energy.used(falling, ["0"], 10.0)
    assert (used.source, used.joules) == ("power", pytest.approx(700.0))


def test_samples_that_do_not_cover_the_window_tell_nothing():
    assert energy.used(samples({"counter": 1.0, "power": 1.0}, last_s=9.0), ["0"], 10.0) is None
    nearly = energy.used(samples({"counter": 10.0}, last_s=9.7), ["0"], 10.0)
    assert nearly.joules == pytest.approx(100.0), "as the rest of it"
    assert energy.used(samples({"power": 5.0}, every_s=3.0), ["0"], 10.0) is None, "three seconds unseen"
    assert energy.used(None, ["0"], 10.0) is None
    assert energy.used(samples({"counter": 1.0}), ["0"], None) is None
    assert energy.used(samples({}), ["0"], 10.0) is None


def requests() -> pa.Table:
    return table(*(row(n, chunk_ns=[n * S, n * S + 20 * MS], last_ns=n * S + 20 * MS, output_tokens=2) for n in (1, 2)))


def test_energy_per_request_and_per_output_token():
    summary = metrics.summarise(requests(), 10.0, joules=600.0)
    answers, tokens = summary["achieved_rps"] * 10, summary["output_tokens_per_s"] * 10
    assert answers == pytest.approx(2)
    assert summary["gpu_power_w"] == pytest.approx(60.0)
    assert summary["energy_per_request_j"] == pytest.approx(600.0 / answers)
    assert summary["energy_per_output_token_j"] == pytest.approx(600.0 / tokens)
    unknown = metrics.summarise(requests(), 10.0)
    assert {unknown[name] for name in ("gpu_power_w", "energy_per_request_j", "energy_per_output_token_j")} == {None}


def test_a_cell_says_from_what_its_energy_is_known():
    cell = Cell.of(Launch("paced", {"name": "m"}, {"name": "p"}), {"name": "p"}, Load(concurrency=1, requests=1))
    record = CellRecord(
        cell="c", launch="l", attempt=1, window=Window(duration_s=10.0), protocol=2, files={}, spec=CellSpec.of(cell),
        recorders={"sampler": {"launch_gpus": ["0"]}},
    )  # fmt: skip
    given = metrics.derive(requests())
    known = launch_parts.measured(record, given, samples({"counter": 60.0}))
    assert (known["energy_source"], known["energy_per_request_j"]) == ("counter", pytest.approx(300.0))
    for recorders in ({"sampler": {"error": "it died"}}, {}):
        unknown = launch_parts.measured(
            msgspec.structs.replace(record, recorders=recorders), given, samples({"counter": 60.0})
        )
        assert (unknown["energy_source"], unknown["energy_per_request_j"]) == (None, None)
    assert launch_parts.measured(record, given)["energy_source"] is None


def test_the_error_of_a_counter_is_at_most_the_steps_at_the_windows_ends():
    used = energy.used(samples({"counter": 400.0}, every_s=0.5), ["0"], 10.0)
    assert used.error == pytest.approx(2 * 0.5 / 10.0)


def test_the_error_of_power_is_what_fewer_samples_would_have_missed():
    rows = [{"t_ns": t * S, "gpu": 0, "power_w": 100.0 + 40.0 * (t % 2)} for t in range(0, 11)]
    used = energy.used(pa.Table.from_pylist(rows, schema=GPU_RAW), ["0"], 10.0)
    assert used.error == pytest.approx(200.0 / 1200.0), "every second sample has the lower power"
    assert energy.used(samples({"power": 300.0}), ["0"], 10.0).error == pytest.approx(0.0, abs=1e-9)
    assert energy.used(samples({"power": 300.0}, every_s=2.4), ["0"], 3.0).error is None
