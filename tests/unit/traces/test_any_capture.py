"""Captures drawn at random, of every kind at once: overlapping streams, two ranks with skew, graphs, orphans, labels
that the capture cuts at both ends. What must hold holds on every row, and every format says the same of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servegauge.traces import build
from servegauge.traces.breakdown import COLUMNS
from servegauge.traces.request_ttft import PARTS
from tests.unit.traces import made_up_captures as made_up
from tests.unit.traces.test_known_truth import FORMATS
from tests.unit.traces.test_request_ttft import request, window

NAMES = (made_up.GEMM, made_up.REDUCE, made_up.ARGMAX, made_up.FLASH, made_up.NORM)
CALLS = ("cudaLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaStreamSynchronize")
SPLIT = COLUMNS[2:]


def drawn(seed: int, cut: bool) -> list[made_up.Rank]:
    """Two ranks of about 10 steps; `cut`: the first label began before the capture, the last did not end in it."""
    rng = np.random.default_rng(seed)
    made = made_up.Rank(1000, 0)
    at, number = 1_000_000, 1
    for step in range(10):
        begin = at
        counts = [(1, 40), (1, 7), (0, 0), (0, 0)][int(rng.integers(4))]
        for _ in range(int(rng.integers(1, 9))):
            call = str(rng.choice(CALLS))
            took = int(rng.integers(500, 9_000))
            made.calls.append(made_up.Call(at, at + took, number, call))
            start = at + int(rng.integers(0, 60_000))
            for part in range({"cudaGraphLaunch": 3, "cudaStreamSynchronize": 0}.get(call, 1)):
                end = start + int(rng.integers(1, 40_000))
                about = {"stream": int(rng.choice((7, 9, 11)))}
                if call == "cudaMemcpyAsync":
                    made.ops.append(made_up.Op("memcpy", start, end, number, bytes=64, **about))
                else:
                    node = 100 + part if call == "cudaGraphLaunch" else 0
                    name = str(rng.choice(NAMES))
                    made.ops.append(made_up.Op("kernel", start, end, number, name, graph_node=node, **about))
                start += int(rng.integers(0, 20_000))
            number += 1
            at += took + int(rng.integers(0, 20_000))
        name = f"execute_context_{counts[0]}({counts[1]})_generation_{step % 3}({step % 3})"
        made.ranges.append(
            made_up.Range(-5_000 if cut and not step else begin, None if cut and step == 9 else at, name)
        )
        at += int(rng.integers(0, 30_000))
    orphan = int(rng.integers(1_000_000, at))
    made.ops.append(made_up.Op("kernel", orphan, orphan + 4_000, 9_999, made_up.GEMM))
    return [made, made.later(made_up.SKEW_NS, 1001, 1)]


def tables(folder: Path, form: str, made: list[made_up.Rank]) -> dict[str, list[dict]]:
    if form == "chrome":
        last = max(row.end for rank in made for rows in (rank.ops, rank.calls) for row in rows)
        paths = [folder / f"rank{number}.json" for number in range(len(made))]
        for number, path in enumerate(paths):
            path.write_text(made_up.json.dumps(made_up.chrome(made[number], number, last)))
    else:
        paths = [made_up.write_nsys(folder / f"{form}.sqlite", made, form)]
    sent = [request(at, at + 1_500_000, tokens) for at, tokens in ((900_000, 40), (1_100_000, 7), (1_300_000, 47))]
    found = build.tables("any", build.read(paths), window(folder, made_up.EPOCH_NS, *sent))
    return {name: table.to_pylist() for name, table in found.items()}


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_what_must_hold_holds_on_every_row_of_every_format(tmp_path: Path, seed: int, cut: bool) -> None:
    made = drawn(seed, cut)
    seen = {}
    for form in FORMATS:
        found = seen[form] = tables(tmp_path, form, made)
        for row in (*found["traces"], *found["steps"]):
            if row["span_ns"] is not None:
                assert sum(row[name] for name in SPLIT) == row["span_ns"], row
                assert min(row[name] for name in COLUMNS) >= 0
                assert row["gpu_busy_ns"] == row["span_ns"] - row["idle_ns"]
        for whole in found["traces"]:
            own = {name: [row for row in found[name] if row["rank"] == whole["rank"]] for name in found}
            assert sum(row["total_ns"] for row in own["gaps"]) == whole["idle_ns"]
            assert sum(row["calls"] for row in own["kernels"]) == whole["kernels"]
            in_steps = sum(row["kernels"] for row in own["steps"])
            assert in_steps == whole["kernels_attributed"] == whole["kernels"] - 1, "the orphan is of no step"
            if whole["phase_source"] == "annotated" and whole["attributed_share"] >= 0.7:
                assert sum(row["calls"] for row in own["kernels"] if row["phase"]) == in_steps
        for row in found["request_ttft"]:
            told = [row[name] for name in PARTS if row[name] is not None]
            assert (sum(told) == row["ttft_ns"] and min(told) >= 0) if told else row["reason"]
        assert [row["cut"] for row in found["steps"] if row["rank"] == 0][:: len(found["steps"]) // 2 - 1] == [
            cut and form != "chrome"
        ] * 2
    # Ends of labels that were cut are each format's own; everything else is the same.
    for name in ("gaps", "kernels", "copies", "launches"):
        for form in FORMATS[1:]:
            assert seen[form][name] == seen[FORMATS[0]][name], (name, form)
    for form in FORMATS[1:]:
        for ours, theirs in zip(seen[form]["steps"], seen[FORMATS[0]]["steps"], strict=True):
            for column in ("phase", "kernels", "launches", *COLUMNS):
                assert ours[column] == theirs[column], (form, column)
