"""Collectives of traces beside what a platform's probe predicts; MFU and MBU beside what traces say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from servegauge.report.roofline import Utilisation
from servegauge.report.trace_collectives import collectives, time_at
from servegauge.report.trace_section import trace_section
from servegauge.report.trace_utilisation import agreements
from servegauge.report.traced import Traced
from servegauge.traces import build
from tests import trace_results
from tests.unit.traces import made_up_captures as made_up
from tests.unit.traces.test_request_ttft import request, window


def probe(size: int, us: float, **more) -> dict:
    variant = {"operation": "all_reduce", "size_bytes": size, "ranks": 2, "dtype": "bf16", "backend": "nccl", **more}
    row = {"platform": "bare", "probe": "collectives", "variant": json.dumps(variant), "metric": "time_us"}
    return row | {"value": us, "status": "ok"}


PROBES = [probe(500, 10.0), probe(2_000, 40.0)]


def traced(folder: Path, chrome: bool = True, requests: bool = True) -> Traced:
    """Two ranks: in the prefill step one all-reduce of 1,000 bytes, 100 us, of which 80 exposed."""
    made = made_up.ranks()
    paths = made_up.write_chrome(folder, made) if chrome else [made_up.write_nsys(folder / "made.sqlite", made)]
    sent = window(folder, made_up.EPOCH_NS, request(900_000, 1_900_000, 100)) if requests else None
    return Traced("short", "bare", build.tables("made", build.read(paths), sent), {"cell": "c", "platform": "bare"})


def test_predicted_is_the_probes_time_at_the_messages_size(tmp_path: Path) -> None:
    (one,) = collectives([traced(tmp_path)], PROBES)
    assert (one.condition, one.level, one.phase, one.kind) == ("short", "bare", "prefill", "all_reduce")
    assert (one.calls, one.message_bytes, one.measured_ns, one.exposed_ns) == (1, 1_000, 100_000, 80_000)
    # In the middle of 500 and 2,000 on a logarithmic scale: the middle of 10 and 40 us.
    assert one.predicted_ns == pytest.approx(20_000)
    assert one.ratio == pytest.approx(5)
    # The request waited for one step with prefill, and 1 ms for its token.
    assert one.predicted_ttft_share == pytest.approx(0.02)
    assert one.measured_ttft_share == pytest.approx(0.08)
    assert one.reason is None


def test_beyond_what_was_probed_latency_and_bandwidth_rule() -> None:
    times = {1_000: 5.0, 4_000: 8.0}
    assert [time_at(times, size) for size in (1, 1_000, 4_000, 8_000)] == [5.0, 5.0, 8.0, 16.0]


@pytest.mark.parametrize(
    ("probes", "how", "reason"),
    [
        ([], {}, "bare has no probe of collectives"),
        ([{**PROBES[0], "platform": "vm"}], {}, "bare has no probe of collectives"),
        ([{**PROBES[0], "status": "failed", "value": None}], {}, "bare has no probe of collectives"),
        (
            [probe(1_000, 1.0, ranks=8)],
            {},
            "all_reduce over 2 ranks was not probed on bare (probed: all_reduce over 8)",
        ),
        (PROBES, {"chrome": False}, "nsys does not say how many bytes a collective carried"),
    ],
)
def test_without_bytes_or_probe_there_is_no_prediction(tmp_path: Path, probes: list, how: dict, reason: str) -> None:
    (one,) = collectives([traced(tmp_path, **how)], probes)
    assert (one.predicted_ns, one.ratio, one.predicted_ttft_share) == (None, None, None)
    assert one.measured_ns == 100_000
    assert one.measured_ttft_share == pytest.approx(0.08)
    assert reason in (one.reason or "")


SHAPE = SimpleNamespace(hidden=5, dtype="bfloat16")


def test_the_model_says_what_an_all_reduce_carries_where_the_profiler_does_not(tmp_path: Path) -> None:
    one = traced(tmp_path, chrome=False)
    cell = {"cell": "c", "platform": "bare", "model": "m", "tp": 2, "pp": 1, "dp": 1, "ep": None}
    (found,) = collectives([replace(one, cell=cell)], PROBES, {"m": SHAPE})
    # 100 tokens of 5 numbers of 2 bytes.
    assert (found.message_bytes, found.by_model, found.predicted_ns) == (1_000, True, pytest.approx(20_000))
    for other in ({"tp": 4}, {"pp": 2}, {"ep": 2}, {"model": "another"}):
        (found,) = collectives([replace(one, cell=cell | other)], PROBES, {"m": SHAPE})
        assert (found.message_bytes, found.by_model, found.predicted_ns) == (None, False, None)
    # What the trace says counts.
    (tmp_path / "torch").mkdir()
    (found,) = collectives([replace(traced(tmp_path / "torch"), cell=cell)], PROBES, {"m": SHAPE})
    assert (found.message_bytes, found.by_model) == (1_000, False)


def test_without_a_requests_prefill_there_is_no_share_of_its_ttft(tmp_path: Path) -> None:
    (one,) = collectives([traced(tmp_path, requests=False)], PROBES)
    assert (one.predicted_ttft_share, one.measured_ttft_share) == (None, None)
    assert "no share of TTFT" in (one.reason or "")


def test_in_place_is_what_engines_do(tmp_path: Path) -> None:
    rows = [probe(1_000, 7.0, in_place=True), probe(1_000, 9.0, in_place=False), probe(1_000, 90.0, nodes=2)]
    (one,) = collectives([traced(tmp_path)], rows)
    assert one.predicted_ns == 7_000


H100 = Traced("short", "own", trace_results.h100(), {"cell": "c", "platform": "own"})


def with_overhead(ratio: float | None) -> Traced:
    table = H100.tables["traces"]
    values = pa.array([ratio] * table.num_rows, pa.float64())
    table = table.set_column(table.column_names.index("overhead_ratio"), "overhead_ratio", values)
    return replace(H100, tables={**H100.tables, "traces": table})


def test_a_low_mbu_is_explained_by_the_time_in_which_nothing_runs() -> None:
    # The GPU is busy for 32.7 % of a traced decode step; untraced the step is shorter by 1.5.
    (one,) = agreements([with_overhead(1.5)], {"c": Utilisation(mfu=0.02, mbu=0.3, batch=3)})
    assert one.decode_computes == pytest.approx(1.5 * 0.3275, abs=1e-3)
    assert one.mbu_running == pytest.approx(0.3 / (1.5 * 0.3275), abs=1e-3)
    assert one.computes is not None
    assert one.mfu_running == pytest.approx(0.02 / one.computes)
    assert one.says.startswith("they agree: decode waits for the CPU: GPU busy 33 % of a step")
    assert "what profiling cost is not known" in agreements([H100], {"c": Utilisation(mfu=0.02, mbu=0.3)})[0].says


def test_kernels_that_would_beat_the_probe_are_a_disagreement_with_its_reason() -> None:
    (one,) = agreements([with_overhead(1.0)], {"c": Utilisation(mfu=0.02, mbu=0.6, batch=30)})
    assert "they disagree: at this MBU kernels would reach 183 % of the probed ceiling" in one.says
    assert "the traced steps decoded 2.91 requests together, the timed cell 30" in one.says
    (one,) = agreements([with_overhead(1.0)], {"c": Utilisation(mfu=0.9, mbu=0.1, batch=3)})
    assert "they disagree: at this MFU" in one.says
    assert "ceilings are too low" in one.says


def test_without_probes_it_is_said_once_and_no_table_is_shown() -> None:
    section = trace_section([H100, replace(H100, condition="long")])
    assert section.agreements == []
    assert sum("no MFU or MBU of the timed cell (its platform has no probes)" in one for one in section.reasons) == 1
    assert trace_section([H100], used={"c": Utilisation(mbu=0.1)}).agreements
