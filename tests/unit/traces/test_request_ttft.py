"""The parts of a request's TTFT: exact where the truth is known, and a sum without remainder on real captures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servegauge.traces import build, requests, ttft_means
from servegauge.traces.membership import Member, Prefill, members
from servegauge.traces.request_ttft import PARTS
from servegauge.traces.requests import Sent
from servegauge.traces.view import view
from tests.unit.traces import made_up_captures as made_up
from tests.unit.traces.test_known_truth import FORMATS

CAPTURES = Path(__file__).parent / "captures"
MONOTONIC_NS = 5_000_000_000_000


def window(folder: Path, zero_ns: int, *rows: dict) -> requests.Requests:
    """Requests whose times are a capture's own: `zero_ns` is its Unix time."""
    names = ("request", "phase", "sent_ns", "first_byte_ns", "first_token_ns", "last_ns", "end_ns", "prompt_tokens")
    rows = [dict.fromkeys(names) | {"request": n, "phase": "window"} | row for n, row in enumerate(rows)]
    table = pa.table({name: [row[name] for row in rows] for name in names})
    clock = {"window_start_ns": MONOTONIC_NS, "epoch_offset_start_ns": zero_ns - MONOTONIC_NS}
    pq.write_table(table.replace_schema_metadata({"clock": json.dumps(clock)}), folder / "run.parquet")
    return requests.read(folder / "run.parquet")


def request(sent: int, token: int | None, tokens: int | None = None, byte: int | None = None, **more) -> dict:
    ends = {"last_ns": token, "end_ns": token}
    return {"sent_ns": sent, "first_token_ns": token, "first_byte_ns": byte, "prompt_tokens": tokens} | ends | more


def ttft(folder: Path, form: str, made: list[made_up.Rank], *rows: dict, **how) -> list[dict]:
    if form == "chrome":
        paths = made_up.write_chrome(folder, made)
    else:
        paths = [made_up.write_nsys(folder / "made.sqlite", made, form, **how)]
    found = build.tables("made", build.read(paths), window(folder, made_up.EPOCH_NS, *rows))["request_ttft"].to_pylist()
    for row in found:
        told = [row[name] for name in PARTS if row[name] is not None]
        assert sum(told) == row["ttft_ns"] if told else row["reason"]
    return found


def parts(row: dict) -> tuple:
    return tuple(row[name] for name in PARTS)


@pytest.mark.parametrize("form", FORMATS)
def test_every_part_of_every_request(tmp_path: Path, form: str) -> None:
    traffic = (request(950_000, 1_700_000, 100, byte=970_000), request(1_200_000, 2_100_000, 50))
    rows = ttft(tmp_path, form, made_up.ranks(), *traffic)
    assert [(row["rank"], row["request"], row["membership"], row["prefill_steps"]) for row in rows] == [
        (0, 0, "tokens", 1), (0, 1, "tokens", 1), (1, 0, "tokens", 1), (1, 1, "tokens", 1),
    ]  # fmt: skip
    # Worked out by hand from made_up_captures.rank: the GPU is busy with a step before until 1,005,000.
    assert parts(rows[0]) == (20_000, 30_000, 5_000, 10_000, 245_000, 180_000, 0, 260_000)
    assert rows[0]["reason"] is None
    # Its rotary embedding runs while the next step is under way; the head of its answer was not seen.
    assert parts(rows[1]) == (None, 300_000, 160_000, 150_000, 140_000, 0, 0, 150_000)
    assert "client is part of queue" in rows[1]["reason"]
    late = made_up.SKEW_NS
    assert (rows[2]["queue_ns"], rows[2]["return_ns"]) == (30_000 + late, 260_000 - late)


def test_a_prompt_in_two_chunks_has_both_steps(tmp_path: Path) -> None:
    (row,) = ttft(tmp_path, "3.20.3", made_up.ranks(count=1), request(950_000, 2_100_000, 150))
    assert (row["membership"], row["prefill_steps"]) == ("tokens", 2)
    # Beside both steps' own parts: from 1,440,000 to 1,500,000 the host is late with the second.
    assert parts(row) == (None, 50_000, 5_000 + 60_000 + 160_000, 160_000, 385_000, 180_000, 0, 150_000)


def test_work_whose_call_is_not_known_is_not_explained(tmp_path: Path) -> None:
    made = made_up.rank()
    made.ops.append(made_up.Op("kernel", 1_300_000, 1_310_000, 777, made_up.GEMM))
    (row,) = ttft(tmp_path, "3.20.3", [made], request(950_000, 1_700_000, 100))
    assert (row["unattributed_ns"], row["kernels_ns"], row["sampling_ns"]) == (40_000, 255_000, 130_000)


def test_a_server_without_a_gpu_has_what_its_host_did(tmp_path: Path) -> None:
    gpu = tuple(f"CUPTI_ACTIVITY_KIND_{name}" for name in ("KERNEL", "MEMCPY", "RUNTIME"))
    made = made_up.rank()
    made.ranges.append(made_up.Range(1_350_000, 1_390_000, "gpu_model_runner: sample"))
    (row,) = ttft(tmp_path, "3.20.3", [made], request(950_000, 1_700_000, 100), without=gpu)
    assert parts(row) == (None, 50_000, 360_000, None, None, 40_000, None, 300_000)
    assert "no GPU work" in row["reason"]


def test_what_cannot_be_told_is_null_with_the_reason(tmp_path: Path) -> None:
    made = made_up.ranks(count=1)
    labels = ["step[MIXED bs=1]" if "context_1" in one.name else one.name for one in made[0].ranges]  # without counts
    made[0].ranges = [replace(one, name=name) for one, name in zip(made[0].ranges, labels, strict=True)]
    traffic = (
        request(1_450_000, 2_000_000), request(1_000_000, 2_100_000), request(1_450_000, 1_490_000),
        request(100, 1_300_000), request(2_310_000, None), request(10, 20), request(2_320_000, 9_000_000),
    )  # fmt: skip
    rows = {row["request"]: row for row in ttft(tmp_path, "3.20.3", made, *traffic)}
    assert set(rows) == {0, 1, 2, 3, 6}  # a request without TTFT, and one that was over before, are none of them
    assert (rows[0]["membership"], rows[0]["return_ns"]) == ("time", 50_000)
    assert "2 steps with prefill lie between its sending and its first token" in rows[1]["reason"]
    assert "the labels do not say whose" in rows[1]["reason"]
    assert "no step with prefill lies between" in rows[2]["reason"]
    for number in (3, 6):
        assert "the capture does not hold all" in rows[number]["reason"]
    assert {rows[number]["membership"] for number in (1, 2, 3, 6)} == {None}
    assert {value for number in (1, 2, 3, 6) for value in parts(rows[number])} == {None}


@pytest.mark.parametrize(
    ("end", "worked", "reason"),
    [
        (2_500_000, False, "the capture holds no GPU work of a step of its prefill"),
        (None, False, "the capture cut a step of its prefill"),
        (None, True, "the capture cut a step of its prefill"),
    ],
)
def test_a_prefill_that_the_capture_does_not_hold_whole_has_no_parts(
    tmp_path: Path, end: int | None, worked: bool, reason: str
) -> None:
    """Its end is not known: what comes after the last operation would be of no part, or of `return`."""
    made = made_up.rank()
    made.ranges[-1] = replace(made.ranges[-1], end=2_350_000)
    made.ranges.append(made_up.Range(2_400_000, end, "execute_context_1(30)_generation_0(0)"))
    made.calls.append(made_up.Call(2_450_000, 2_460_000, 77, "cudaLaunchKernel"))
    if worked:
        made.ops.append(made_up.Op("kernel", 2_465_000, 2_470_000, 77, made_up.GEMM))
    traffic = (request(950_000, 1_700_000, 100), request(1_200_000, 2_100_000, 50), request(2_350_000, 3_000_000, 30))
    rows = ttft(tmp_path, "3.20.3", [made], *traffic)
    assert rows[1]["return_ns"] == 150_000
    assert (rows[2]["membership"], rows[2]["reason"], set(parts(rows[2]))) == ("tokens", reason, {None})


def test_the_mean_of_parts_is_the_mean(tmp_path: Path) -> None:
    traffic = (request(950_000, 1_700_000, 100, byte=970_000), request(1_200_000, 2_100_000, 50))
    export = made_up.write_nsys(tmp_path / "made.sqlite", made_up.ranks())
    tables = build.tables("made", build.read([export]), window(tmp_path, made_up.EPOCH_NS, *traffic))
    found = ttft_means.mean([tables["request_ttft"]])
    assert found
    assert (found.requests, found.ttft_ns, found.parts["client_ns"]) == (2, 825_000, None)
    assert found.parts["queue_ns"] == (50_000 + 300_000 + made_up.SKEW_NS * 2) / 2 - made_up.SKEW_NS / 2
    assert sum(value or 0 for value in found.parts.values()) == found.ttft_ns
    said = ttft_means.sentences([tables["request_ttft"]])
    assert said[0].startswith("time to first token of 2 requests, 0.82 ms on average: queue 0.18 ms, CPU 0.0")
    assert said[1].startswith("time to first token of 1 request: client is part of queue: the head of the answer came")
    assert ttft_means.mean([]) is None


def steps(*rows: tuple[int, int, int, int]) -> list[Prefill]:
    return [Prefill(number, *row) for number, row in enumerate(rows)]


def held(found: list[Member | str]) -> list:
    return [[step.index for step in one.steps] if isinstance(one, Member) else one for one in found]


def sent(at: int, token: int | None, tokens: int | None, request: int = 0) -> Sent:
    return Sent(request, True, at, None, token, tokens)


def test_prompts_end_where_their_tokens_do() -> None:
    # 300 tokens in chunks of 256 at most: the first prompt's end and the second share a step.
    made = steps((10, 20, 1, 256), (20, 30, 2, 256), (30, 40, 2, 88), (40, 50, 1, 1))
    traffic = [sent(1, 45, 300), sent(2, 46, 250), sent(25, 47, 50), sent(26, 60, 1)]
    assert held(members(made, traffic, 0, 100)) == [[0, 1], [1, 2], [2], [3]]


def test_requests_of_before_the_capture_take_tokens_too() -> None:
    made = steps((10, 20, 2, 200), (30, 40, 1, 100))
    # The first was already done and its token on the way; the second waited; the third came during the capture.
    traffic = [sent(-9, 12, 100), sent(-5, 25, 100), sent(-3, 26, 100), sent(15, 45, 100)]
    found = held(members(made, traffic, 5, 100))
    assert found[1:] == [[0], [0], [1]]
    assert "does not hold all" in found[0]


def test_tokens_that_can_be_handed_out_in_two_ways_are_not() -> None:
    made = steps((10, 20, 1, 100), (30, 40, 1, 100))
    # One of before the capture may have been done: then each of the two steps is of another.
    traffic = [sent(-9, 50, 100), sent(-5, 50, 100), sent(-4, 50, 100)]
    assert not [one for one in members(made, traffic, 0, 100) if isinstance(one, Member)]


def test_an_order_that_is_not_that_of_sending_ends_what_is_told() -> None:
    made = steps((10, 20, 1, 100), (20, 30, 1, 70), (30, 40, 1, 50))
    traffic = [sent(1, 60, 100), sent(2, 61, 50), sent(3, 62, 70)]
    found = members(made, traffic, 0, 100)
    assert held(found)[0] == [0]
    assert all("from step 1 on the labels' tokens are not those" in str(one) for one in found[1:])
    # A first token that came before the step's end is another's.
    assert isinstance(members(steps((10, 20, 1, 100)), [sent(1, 15, 100)], 0, 100)[0], str)
    assert "lengths of the prompts" in str(members(made, [sent(1, 60, None)], 0, 100)[0])


@pytest.mark.parametrize("profiler", ["nsys", "torch"])
def test_the_parts_of_real_requests_add_up_to_what_was_measured(tmp_path: Path, profiler: str) -> None:
    name = {"nsys": "vllm_h100_eager.sqlite.gz", "torch": "torch_vllm_h100_eager.json.gz"}[profiler]
    capture = build.read([CAPTURES / name])
    # By fit, to 1 ms (captures/README.md): good enough to see which step is whose.
    fitted = 1_255_000_000 if profiler == "nsys" else view("x", capture).steps[0].start - 8_000_000
    table = pq.read_table(CAPTURES / f"requests_{profiler}.parquet")
    clock = {
        "window_start_ns": MONOTONIC_NS,
        "epoch_offset_start_ns": (capture.epoch_zero_ns or 0) + fitted - MONOTONIC_NS,
    }
    pq.write_table(table.replace_schema_metadata({"clock": json.dumps(clock)}), tmp_path / "run.parquet")
    tables = build.tables("h100", capture, requests.read(tmp_path / "run.parquet"))
    rows = tables["request_ttft"].to_pylist()
    asked = {row["request"]: row["first_token_ns"] - row["sent_ns"] for row in table.to_pylist()}
    assert {row["request"]: row["ttft_ns"] for row in rows} == asked
    assert [sum(row[name] for name in PARTS) for row in rows] == list(asked.values())
    assert {row["membership"] for row in rows} == {"tokens"}
    # 1(256), 2(512) twice: the first of each round is alone in its step, the other two wait for the next one.
    of = {row["step"]: row for row in tables["steps"].to_pylist() if row["context_requests"]}
    assert [row["context_requests"] for row in of.values()] == [1, 2, 1, 2]
    alone, together = (rows[0], rows[3]), (rows[1], rows[2], rows[4], rows[5])
    assert all(row["kernels_ns"] == pytest.approx(8.3e6, rel=0.02) for row in alone)
    assert all(row["kernels_ns"] == pytest.approx(12.4e6, rel=0.02) for row in together)
    # The engine hands a token out after it has launched the next step: a step's CPU time is in `return`.
    least = {"nsys": 19e6, "torch": 29e6}[profiler]
    assert all(least < row["return_ns"] < 1.6 * least for row in rows)
    assert max(row["queue_ns"] for row in alone) < 5e6 < min(row["queue_ns"] for row in together)
