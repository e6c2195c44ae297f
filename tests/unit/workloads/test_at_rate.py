"""A workload in mean gaps at a rate of a search: the same window, and a ramp and a tail as long as the rate needs."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from servegauge.workloads.at_rate import at_rate
from servegauge.workloads.compile import SCHEMA
from servegauge.workloads.load_times import SPARE_LEAST, spare_requests

GAPS = {"warmup": [0.0, 1.0], "ramp": [0.0, 1.5, 2.0, 2.5], "window": [0.0, 0.5, 2.0, 4.0], "tail": [5.5, 6.0, 9.0]}
WINDOW = 5.0  # mean gaps, at whose end the tail begins


def workload(**gaps: list[float]) -> pa.Table:
    rows = [(phase, time) for phase, times in (GAPS | gaps).items() for time in times]
    texts = {"prompt_tokens": 1, "output_tokens": 1, "messages": None}
    return pa.Table.from_pylist(
        [
            {"request": number, "phase": phase, "scheduled_s": time, "prompt": f"{phase} {time:g}", **texts}
            for number, (phase, time) in enumerate(rows)
        ],
        SCHEMA,
    )


def phase_of(table: pa.Table, phase: str) -> dict[str, list]:
    return table.filter(pc.equal(table["phase"], phase)).to_pydict()


@pytest.mark.parametrize("rate", [0.5, 2.0, 40.0])
def test_warm_up_and_window_are_the_same_requests_faster_or_slower(rate):
    made = at_rate(workload(), WINDOW, rate, 10.0)
    assert made.schema.equals(SCHEMA, check_metadata=True)
    assert made["request"].to_pylist() == list(range(made.num_rows))
    for phase in ("warmup", "window"):
        found, asked = phase_of(made, phase), phase_of(workload(), phase)
        assert found["prompt"] == asked["prompt"]
        assert found["scheduled_s"] == pytest.approx([gap / rate for gap in asked["scheduled_s"]])


def test_ramp_and_tail_are_repeated_round_after_round():
    made = at_rate(workload(), WINDOW, 2.0, 10.0)
    ramp, tail = phase_of(made, "ramp"), phase_of(made, "tail")
    # Four requests that took less than their share of mean gaps: a round is four, so that the rate is the one asked.
    assert ramp["scheduled_s"] == [(4.0 * round_ + gap) / 2 for round_ in range(4) for gap in GAPS["ramp"]]
    assert ramp["prompt"] == 4 * [f"ramp {gap:g}" for gap in GAPS["ramp"]]
    # Three that took more: the round ends a mean gap after its last one. The first begins where the window ends.
    assert tail["scheduled_s"][:6] == [(5.0 * round_ + gap) / 2 for round_ in (0, 1) for gap in GAPS["tail"]]
    assert tail["prompt"][:4] == ["tail 5.5", "tail 6", "tail 9", "tail 5.5"]


@pytest.mark.parametrize(("rate", "tokens"), [(2.0, 10.0), (100.0, 50.0), (100.0, None)])
def test_there_are_enough_for_a_server_that_keeps_up_with_half_the_rate(rate, tokens):
    made = at_rate(workload(), WINDOW, rate, tokens)
    spare = spare_requests(rate, tokens)
    assert spare >= SPARE_LEAST
    assert len(phase_of(made, "ramp")["request"]) == spare
    assert len(phase_of(made, "tail")["request"]) == spare + len(GAPS["window"])


def test_a_phase_without_requests_stays_without():
    made = at_rate(workload(ramp=[], warmup=[]), WINDOW, 2.0, 10.0)
    assert set(made["phase"].to_pylist()) == {"window", "tail"}
