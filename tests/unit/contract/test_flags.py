"""Each doubt about a cell is raised when it is due, with its number, and not otherwise."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from servegauge.base.errors import UserError
from servegauge.cli.docs.flags import flags_page
from servegauge.contract import flag_registry, metric_registry
from servegauge.contract.flag import CellCase, Flag, ServerCase, ServersCase, TextsCase
from servegauge.contract.flags import cell_flags, thresholds_of
from servegauge.contract.flags import raised as raised_by
from servegauge.contract.formulas import Requests
from servegauge.contract.spec import PROTOCOLS, Cell, Load, Workload
from tests import simulated_queues as queues
from tests.unit.contract.test_metrics import MS, row, table


def cell(**load: object) -> Cell:
    load = {"rate_rps": 1.0, "requests": 400, **load}
    if load.get("concurrency"):
        load["rate_rps"] = None
    load = Load(**load)
    return Cell("l", "l-r1", {"name": "p"}, load, Workload({"name": "p"}, {"name": "m"}, {}), load.protocol)


GOOD = [row(number) for number in range(400)]


def raised(rows=GOOD, record=None, thresholds=None, gpu=None, **load: object) -> dict[str, dict]:
    found = cell_flags(table(*rows), cell(**load), record or {}, thresholds, gpu)
    for flag in found:
        assert set(flag) == {"flag", "value", "threshold", "detail"}
        assert flag["detail"]
    return {flag["flag"]: flag for flag in found}


def test_a_good_cell_has_no_flag():
    calibration = {"load": {"streams": None, "rate_rps": 1.0}, "ttft_error_s": {"p99": 0.0002}, "beyond": False}
    record = {
        "instrument": {"lateness_p99_s": 0.0003, "busiest_cpu_share": 0.2, "calibration": calibration},
        "cache_reset": {"ok": True},
    }
    assert raised(record=record) == {}


@pytest.mark.parametrize(
    ("prompts", "first", "later", "doubted"),
    [
        ({"kind": "synthetic"}, 50, 50, True),
        ({"kind": "shared_prefix", "prefix": {}}, 50, 50, False),
        ({"kind": "mooncake"}, 50, 50, False),
        ({"kind": "sessions"}, 0, 50, False),
        ({"kind": "sessions"}, 50, 50, True),
        ({"kind": "sessions", "prefix": {}}, 50, 50, False),
        ({"kind": "conversations"}, 0, 50, False),
    ],
)
def test_what_prompts_share_on_purpose_is_no_warm_cache(prompts, first, later, doubted):
    rows = [
        row(number, session=number // 2, turn=number % 2, cached_tokens=later if number % 2 else first)
        for number in range(400)
    ]
    one = replace(cell(), prompts={"name": "p", **prompts})
    names = [flag["flag"] for flag in cell_flags(table(*rows), one, {}, None, None)]
    assert ("cache_warm" in names) == doubted


def test_late_requests():
    record = {"instrument": {"lateness_p99_s": 0.02}}
    flag = raised(record=record)["generator_limited"]
    assert (flag["value"], flag["threshold"]) == (0.02, 0.002)
    assert "20.00 ms" in flag["detail"]
    assert raised(record=record, thresholds={"generator_lateness_s": 0.05}) == {}
    assert raised(record=record, max_in_flight=4) == {}
    assert raised(record=record, concurrency=4) == {}


def test_a_load_that_the_calibration_does_not_carry():
    point = {"load": {"streams": 64, "rate_rps": None}, "ttft_error_s": {"p99": -0.004}, "beyond": True}
    flag = raised(record={"instrument": {"calibration": point}}, concurrency=64)["generator_limited"]
    assert flag["value"] == pytest.approx(0.004)
    assert "64 streams" in flag["detail"]
    held_up = {**point, "beyond": False, "disturbed": True}  # other work had the node while it was calibrated
    assert "generator_limited" not in raised(record={"instrument": {"calibration": held_up}}, concurrency=64)
    axis = {"axis": "streams", "value": 512, "carried": 64}
    far = {**point, "ttft_error_s": {"p99": 0.0001}, "beyond_axis": axis}
    flag = raised(record={"instrument": {"calibration": far}}, concurrency=512)["generator_limited"]
    assert (flag["value"], flag["threshold"]) == (512, 64)


def test_a_busy_generator():
    assert "generator_limited" in raised(record={"instrument": {"busiest_cpu_share": 0.97}})


def test_a_cold_cell_that_was_served_from_the_cache():
    rows = [row(number, cached_tokens=5) for number in range(400)]
    flag = raised(rows)["cache_warm"]
    assert (flag["value"], flag["threshold"]) == (0.5, 0.01)
    assert raised(rows, cache="warm") == {}


@pytest.mark.parametrize(
    ("opening", "cached", "value"), [(1, 1, None), (1, 0, None), (4, 4, None), (4, 9, 0.5), (0, 1, 0.1)]
)
def test_what_every_prompt_begins_with_is_no_warm_cache(opening, cached, value):
    """With pages of one token `<s>` is found from the second request on, and so are a chat template's first words."""
    rows = [row(number, cached_tokens=cached) for number in range(400)]
    flag = raised(rows, record={"prompt_opening_tokens": opening}).get("cache_warm")
    assert (flag and flag["value"]) == (value and pytest.approx(value))
    if flag and opening:
        assert f"without the {opening} that every prompt begins with" in flag["detail"]


def test_what_every_prompt_begins_with_is_taken_out_of_the_servers_count_too():
    record = {
        "prompt_opening_tokens": 2,
        "metrics_before": {"cache_hit_tokens": 0.0, "cache_query_tokens": 0.0, "requests_finished": 0.0},
        "metrics_after": {"cache_hit_tokens": 20.0, "cache_query_tokens": 400.0, "requests_finished": 10.0},
    }
    assert "cache_warm" not in raised(record=record)
    record["metrics_after"]["cache_hit_tokens"] = 220.0
    assert raised(record=record)["cache_warm"]["value"] == pytest.approx(0.5)


def test_a_cold_cell_that_the_servers_metrics_call_warm():
    record = {
        "metrics_before": {"cache_hit_tokens": 10.0, "cache_query_tokens": 100.0},
        "metrics_after": {"cache_hit_tokens": 110.0, "cache_query_tokens": 300.0},
    }
    assert raised(record=record)["cache_warm"]["value"] == pytest.approx(0.5)
    # What the answers themselves say is about the window alone, so it comes first.
    assert raised([row(number, cached_tokens=0) for number in range(400)], record=record) == {}


def test_a_refused_reset():
    record = {"cache_reset": {"ok": False, "how": "POST /reset_prefix_cache", "answer": '{"success": false}'}}
    assert "success" in raised(record=record)["reset_refused"]["detail"]
    assert raised(record=record, thresholds={"refused_resets": 1}) == {}
    assert raised(record=record, cache="warm") == {}


def test_answers_without_a_token():
    rows = [*GOOD, row(400, status="no_tokens", output_tokens=0)]
    assert raised(rows)["zero_tokens"]["value"] == 1


def test_errors_beyond_the_share():
    rows = [*GOOD, *(row(number, status="timeout") for number in range(400, 410))]
    flag = raised(rows)["errors"]
    assert flag["value"] == pytest.approx(10 / 410)
    assert "10 timeout" in flag["detail"]
    assert raised(rows, thresholds={"error_share": 0.03}) == {}


def test_output_of_another_length():
    rows = [row(number, output_tokens=2 if number < 8 else 3) for number in range(400)]
    assert raised(rows)["output_length"]["value"] == pytest.approx(0.02)
    assert raised(rows, ignore_eos=False) == {}


@pytest.mark.parametrize(
    ("count", "expected"),
    [(400, set()), (368, set()), (367, {"p99_not_supported"}), (71, {"p99_not_supported", "p95_not_supported"})],
)
def test_samples_too_small_for_a_tail(count, expected):
    assert set(raised(GOOD[:count])) == expected


def test_a_queue_that_grew_under_protocol_1():
    rows = [row(number, end_ns=number * 1000 * MS + (10 + number * 2000) * MS) for number in range(400)]
    found = cell_flags(table(*rows), replace(cell(), protocol=1), {})
    assert "not_steady" in {flag["flag"] for flag in found}
    assert "not_steady" not in raised(rows)


CAPACITY = [(1, "lognormal 0.5"), (8, "fixed"), (8, "exponential"), (64, "fixed")]


@pytest.mark.parametrize(("slots", "service"), CAPACITY)
def test_power_and_false_alarms_of_saturated(slots, service):
    """At 1.05 of the capacity in at least 80 % from 1,000 requests on, or 200 of equal length; at 0.9 in at most 5 %.

    Two standard errors are allowed; docs/instrument.md has the figures of many.
    """
    seed, tries = [slots, len(service)], 24

    def share(load: float, requests: int) -> float:
        draw = partial(queues.queue, slots=slots, load=load, requests=requests, service=service)
        return queues.share_raised(draw, seed, tries)

    assert share(1.05, 200 if service == "fixed" else 1000) >= 0.8 - 2 * math.sqrt(0.2 * 0.8 / tries)
    assert share(0.9, 200) + share(0.9, 500) <= 2 * 0.05 + 4 * math.sqrt(0.05 * 0.95 / (2 * tries))


@pytest.mark.parametrize("arrival", ["constant", "poisson"])
def test_a_growth_by_chance_is_none_and_a_queue_that_grows_is_seen_in_spite_of_few_arrivals(arrival):
    rng = np.random.default_rng(7)
    for service in ("fixed", "lognormal 0.5"):
        assert not queues.is_raised(*queues.queue(rng, 8, 0.3, 200, service, arrival))
        assert queues.is_raised(*queues.queue(rng, 8, 1.2, 200, service, arrival))


def test_a_closed_loop_is_not_saturated_by_its_streams():
    draw = partial(queues.closed, slots=8, streams=32, requests=300, service="exponential")
    assert queues.share_raised(draw, [3], 20) == 0


@pytest.mark.parametrize("streams", [64, 256])
def test_power_and_false_alarms_of_saturated_where_streams_think(streams):
    """From 0.9 to twice the capacity in at least 80 %; in the steady state at 0.9 in at most 5 %."""
    draw = partial(queues.closed, slots=8, streams=streams, requests=1000, service="lognormal 0.5", load=0.9)
    tries = 24
    assert queues.share_raised(draw, [5], tries) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tries)
    assert queues.share_raised(partial(draw, becomes=2.0), [5], tries) >= 0.8 - 2 * math.sqrt(0.2 * 0.8 / tries)


def test_a_load_whose_streams_are_not_known_is_not_taken_for_one_stream():
    """A frozen workload that `servegauge load` sends has neither a rate nor a number of streams."""

    rows = [row(n, scheduled_ns=n * 100 * MS, end_ns=(n * 102 + 450) * MS) for n in range(200)]  # from 4 to 8 in flight
    closed = Load(requests=200, arrival={"process": "closed"})
    assert queues.is_raised(table(*rows), 20.0, replace(closed, concurrency=1))
    assert not queues.is_raised(table(*rows), 20.0, closed)


def test_a_closed_loop_whose_requests_pile_up_is_saturated():
    """Streams that think at first, until the server becomes so slow that all of them wait."""
    rows = [row(n, scheduled_ns=n * 100 * MS, end_ns=(n * 200 + 50) * MS) for n in range(200)]
    assert queues.is_raised(table(*rows), 20.0, Load(concurrency=200, requests=200, arrival={"process": "closed"}))


def test_a_server_that_is_overrun_is_known_from_few_requests():
    assert queues.share_raised(partial(queues.queue, slots=4, load=2.0, requests=40, service="fixed"), [3], 20) >= 0.9


def test_saturation_is_not_asked_of_loads_that_are_not_steady():
    steady = queues.queue(np.random.default_rng(1), 4, 2.0, 200, "fixed")
    assert queues.is_raised(*steady)
    ramp = replace(steady[2], arrival={"process": "ramp", "factors": [1, 2]})
    assert not queues.is_raised(*steady[:2], ramp)


@pytest.mark.parametrize("first_s", [0.5, 2.0])
def test_a_ramp_that_was_too_short(first_s):
    rng = np.random.default_rng(4)

    def rows(early: float) -> list[dict]:
        took = [(early if number < 100 else 1.0) * (1 + 0.2 * rng.random()) for number in range(400)]
        return [row(number, end_ns=number * 1000 * MS + int(s * 1e9)) for number, s in enumerate(took)]

    flag = raised(rows(first_s))["ramp_short"]
    assert flag["value"] == pytest.approx(abs(first_s - 1), rel=0.1)
    assert "ramp_short" not in raised(rows(1.05))
    assert "ramp_short" not in raised(rows(first_s), arrival={"process": "steps", "factors": [1, 2]})


def test_power_and_false_alarms_of_ramp_short():
    """docs/instrument.md has the figures of more settings."""
    draw = partial(queues.queue, slots=8, load=0.9, requests=200, service="fixed")
    assert queues.share_raised(draw, [1], 30, "ramp_short") <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 30)
    slow = partial(queues.slow_start, factor=1.3, requests=1000, spread=0.5)
    assert queues.share_raised(slow, [2], 20, "ramp_short") >= 0.8 - 2 * math.sqrt(0.8 * 0.2 / 20)


def test_a_workload_that_ran_out():
    record = {"window": {"duration_s": 400.0, "exhausted_ns": 390_000 * MS}}
    flag = raised(record=record)["workload_exhausted"]
    assert flag["value"] == pytest.approx(10 / 400)
    assert "10 of 400 answers" in flag["detail"]
    # What came before, and what timed out, does not depend on it.
    assert "workload_exhausted" not in raised(record={"window": {"duration_s": 400.0, "exhausted_ns": 400_500 * MS}})
    timed_out = [*GOOD[:389], *(row(number, status="timeout") for number in range(389, 400))]
    assert "workload_exhausted" not in raised(timed_out, record)
    assert "workload_exhausted" not in raised(record={"window": {"duration_s": 400.0, "exhausted_ns": None}})


def test_other_work_on_the_node():
    assert raised(record={"node": {"others_share": 0.3}})["node_busy"]["value"] == 0.3
    assert raised(record={"node": {"others_share": 0.05}}) == raised(record={"node": {"others_share": None}}) == {}


def test_a_part_of_a_node():
    flag = raised(record={"node": {"cpus": 64, "cpus_allowed": 16}})["node_shared"]
    assert (flag["value"], flag["threshold"]) == (0.25, 1.0)
    assert "16 of the node's 64 CPUs" in flag["detail"]
    assert raised(record={"node": {"cpus": 64, "cpus_allowed": 64}}) == raised(record={"node": {}}) == {}


def test_a_recorder_that_failed():
    said = {"scraper": {"errors": 0}, "sampler": {"error": "the sampler ended with status -9 before it wrote"}}
    flag = raised(record={"recorders": said})["recorder_failed"]
    assert flag["value"] == 1
    assert "sampler: the sampler ended with status -9" in flag["detail"]
    assert raised(record={"recorders": {"scraper": {}, "other": {"unsupported": "no GPU"}}}) == {}


def test_throttled_clocks():
    reasons = ["hw_slowdown", "", "sw_power_cap", "", "sw_power_cap,hw_slowdown", None]
    gpu = pa.table({"t_ns": [-1, 0, 1, 2, 3, 4], "throttle_reasons": reasons})  # the first lies before the window
    flag = raised(gpu=gpu)["clocks_throttled"]
    assert flag["value"] == pytest.approx(1 / 4)
    assert flag["detail"].endswith("1 of 4 GPU samples were throttled: hw_slowdown")
    assert raised(gpu=gpu.slice(0, 3)) == {}


def test_stolen_cpu_time():
    assert raised(record={"node": {"steal_share": 0.1}})["cpu_stolen"]["value"] == pytest.approx(0.1)


def test_windows_too_short_to_see_a_small_overload():
    window = {"duration_s": 10.0}
    found = raised(record={"capacity": {"limits": {"e2e_s": 4.0, "tpot_s": 9.0}}, "window": window})["capacity_coarse"]
    assert 0.05 < found["value"] < 0.4
    assert "one of less than" in found["detail"]
    assert raised(record={"capacity": {"limits": {"tpot_s": 9.0}}, "window": window}) == {}, "waiting is not in it"
    for limit in {one.column for one in metric_registry.metrics().values() if one.limit} - {"tpot_s"}:
        assert "capacity_coarse" in raised(record={"capacity": {"limits": {limit: 4.0}}, "window": window}), limit
    assert raised(record={"capacity": {"limits": {"e2e_s": 4.0}}, "window": {"duration_s": 400.0}}) == {}


def test_an_unknown_threshold_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'error_share'"):
        thresholds_of({"eror_share": 0.1})


class _Noted(dict):
    """Thresholds that note which of them were read."""

    def __init__(self, values: dict[str, float]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> float:
        self.read.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("flag", flag_registry.flags().values(), ids=lambda flag: flag.name)
def test_a_check_reads_its_own_thresholds_and_no_others(flag: Flag) -> None:
    """A threshold that nobody reads would be a setting without effect."""
    gpu = pa.table({"t_ns": [1], "throttle_reasons": ["hw_slowdown"], "gpu": [0], "other_processes": [1]})
    record = {
        "instrument": {"calibration": {"load": {"streams": None, "rate_rps": 1.0}, "ttft_error_s": {"p99": 1.0}}},
        "cache_reset": {"ok": False},
        "window": {"duration_s": 400.0, "exhausted_ns": 0},
        "node": {"cpus": 2, "cpus_allowed": 1},
        "capacity": {"limits": {"e2e_s": 9000.0}},
    }
    noted = _Noted(thresholds_of())
    rows = [row(number, end_ns=number * 1000 * MS + (10 + number * 2000) * MS) for number in range(400)]
    window = Requests(table(*rows))
    loads = cell(), cell(concurrency=4, arrival={"process": "closed"})
    cases = [
        *(CellCase(window, replace(one, protocol=number), record, noted, gpu) for number in PROTOCOLS for one in loads),
        ServerCase([("dtype", "a", "b")], 1, 1, 4096, noted),
        TextsCase(1, 2, "other", noted),
        ServersCase(1, 2, "1 min 00 s", noted),
    ]
    for case in cases:
        if type(case) is flag.about:
            list(flag.check(case))
    assert noted.read == {one.name for one in flag.thresholds}


def test_what_a_server_reports_otherwise_is_raised_with_both_values() -> None:
    case = ServerCase([("dtype", "float16", "bfloat16")], 10, 16, 4096)
    assert [(one["flag"], one["value"], one["threshold"]) for one in raised_by(case)] == [
        ("server_differs", "bfloat16", "float16"),
        ("kv_cache_small", 160, 4096),
    ]


def test_other_texts_are_raised_beyond_the_share_that_the_study_allows() -> None:
    flag = raised_by(TextsCase(1, 4, "bare-metal", thresholds_of()))[0]
    assert (flag["flag"], flag["value"], flag["threshold"]) == ("text_differs", 0.25, 0.0)
    assert flag["detail"] == "1 of 4 answers differ in text from bare-metal at temperature 0"
    assert raised_by(TextsCase(1, 4, "bare-metal", thresholds_of({"differing_text_share": 0.5}))) == []
    assert raised_by(TextsCase(0, 0, "bare-metal", thresholds_of())) == []


def test_a_flag_without_a_known_severity_or_a_sentence_is_refused() -> None:
    good = vars(flag_registry.flags()["errors"])
    with pytest.raises(ValueError, match="severity 'bad'; there are unfit"):
        Flag(**{**good, "severity": "bad"})
    with pytest.raises(ValueError, match="remedy is a sentence"):
        Flag(**{**good, "remedy": "Do something"})


def test_the_page_is_what_the_declarations_say() -> None:
    page = (Path(__file__).parents[3] / "docs" / "flags.md").read_text(encoding="utf-8")
    assert page == flags_page(), "run: python -m servegauge.cli.docs"
    for name in flag_registry.flags():
        assert f"## {name}\n" in page


def test_answers_in_one_piece_though_a_stream_was_asked_for():
    held = {"first_token_ns": None, "first_answer_ns": None}
    rows = [row(number, **(held if number < 5 else {})) for number in range(400)]
    flag = raised(rows)["not_streamed"]
    assert (flag["value"], flag["threshold"]) == (5 / 400, 0.01)
    assert raised(rows, stream=False) == {}, "nothing else was asked for"
    assert raised(rows[2:4] + GOOD) == {}


def test_reads_that_carry_many_chunks():
    merged = [row(number, chunk_ns=[number * 1000 * MS + at * MS for at in (100, 100, 140)]) for number in range(400)]
    flag = raised(merged)["coalesced"]
    assert (flag["value"], flag["threshold"]) == (0.5, 0.1)
    assert raised(merged[:40] + GOOD[40:]) == {}


def test_a_first_chunk_of_nobody_knows_how_many_tokens():
    untold = [row(number, output_tokens=9, output_tokens_asked=9, chunk_tokens=None) for number in range(400)]
    assert raised(untold)["tpot_unknown"]["value"] == 1.0
    assert raised([dict(one, tokens_source="chunks") for one in untold]) == {}, "chunks stand for tokens"
    ones = [row(number, output_tokens=1, output_tokens_asked=1, chunk_tokens=None) for number in range(400)]
    assert raised(ones) == {}, "one token has no TPOT and needs none"


@pytest.mark.parametrize(
    ("asked", "counted", "load", "fires"),
    [
        (512, 34, {}, True),  # truncated
        (512, 34, {"endpoint": "chat"}, True),  # a template takes nothing away
        (512, 537, {"endpoint": "chat"}, False),  # a template's constant
        (512, 537, {}, True),  # a completion has no template
        (16, 18, {}, False),  # special tokens
        (1000, 1020, {}, False),
        (1000, 1021, {}, True),
        (512, None, {}, False),  # not told
    ],
)
def test_a_prompt_of_another_length_than_asked(asked, counted, load, fires):
    rows = [row(number, prompt_tokens_asked=asked, prompt_tokens=counted) for number in range(400)]
    found = raised(rows, **load)
    assert set(found) == ({"prompt_length"} if fires else set())
    if fires:
        assert f"{asked} tokens asked, {counted} counted" in found["prompt_length"]["detail"]


def test_a_few_prompts_that_were_cut_show_beside_the_templates_constant():
    lengths = [(100 + 20 * (number % 10), 125 + 20 * (number % 10)) for number in range(400)]
    cut = [(asked, counted if number % 50 else 90) for number, (asked, counted) in enumerate(lengths)]

    def rows(pairs):
        return [row(n, prompt_tokens_asked=asked, prompt_tokens=counted) for n, (asked, counted) in enumerate(pairs)]

    assert raised(rows(lengths), endpoint="chat") == {}
    assert raised(rows(cut), endpoint="chat")["prompt_length"]["value"] == 8 / 400
    assert raised(rows(cut), endpoint="chat", thresholds={"prompt_length_share": 0.05}) == {}
