"""`job.stop`: repeats are added until the primary intervals are narrow; every look is kept, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from servegauge.base.files import read_json, write_json
from servegauge.cli.measure import measure_launch
from servegauge.compare.looks import look, reason_to_stop
from servegauge.contract.records.base import write
from servegauge.contract.records.looks import Look, Looks, Width
from servegauge.contract.records.plan import Plan
from servegauge.dataset import merge
from servegauge.plan import documents, stop
from servegauge.report.page import render
from tests import synthetic

REPEATS, AT_MOST = 5, 7


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Five measured repeats of a study that asks for five to seven."""
    root = tmp_path_factory.mktemp("stopped")
    synthetic.make_results(root, repeats=AT_MOST)
    results = root / "results"
    plan = read_json(results / "plan" / "demo.json")
    plan["study"]["matrix"]["repeat"] = REPEATS
    plan["study"]["job"] = {"stop": {"half_width": 0.2, "at_most": AT_MOST}}
    write_json(results / "plan" / "demo.json", plan)
    for launch in plan["launches"]:
        if launch["repeat"] > REPEATS:
            for cell in plan["cells"]:
                if cell["launch"] == launch["id"]:
                    for file in (results / "cells" / cell["id"]).glob("*"):
                        file.unlink()
                    if (results / "cells" / cell["id"]).exists():
                        (results / "cells" / cell["id"]).rmdir()
            (results / "launches" / launch["id"] / "attempt-0.json").unlink()
    return results


def launches(results: Path, repeat: int) -> list[str]:
    plan = read_json(results / "plan" / "demo.json")
    return [one["id"] for one in plan["launches"] if one["repeat"] == repeat]


def asks(results: Path, half_width: float) -> dict:
    plan = read_json(results / "plan" / "demo.json")
    plan["study"]["job"]["stop"]["half_width"] = half_width
    write_json(results / "plan" / "demo.json", plan)
    return plan


def test_a_launch_of_the_first_repeats_is_needed_and_nobody_looks(results):
    assert reason_to_stop(results / "plan" / "demo.json", launches(results, 5)[0], results) is None
    assert not stop.looks_file(results, "demo").exists()


def test_a_wide_interval_asks_for_more_and_a_narrow_one_for_none(results):
    plan_file, fourth = results / "plan" / "demo.json", launches(results, 6)
    asks(results, 0.0001)
    assert reason_to_stop(plan_file, fourth[0], results) is None
    [first] = stop.looks(results, "demo").looks
    assert first.after == 5
    assert {one.metric for one in first.widths} == {"ttft_p50", "tpot_p50", "output_tokens_per_s"}
    assert all(0 < one.half < 0.2 for one in first.widths)
    assert reason_to_stop(plan_file, fourth[1], results) is None
    assert stop.looks(results, "demo").looks == (first,), "launches of a repeat share a look"
    asks(results, 0.2)
    assert reason_to_stop(plan_file, fourth[0], results) == (
        "not needed: after 5 repeats every primary interval is within ±20 % (job.stop)"
    )
    assert reason_to_stop(plan_file, launches(results, 5)[0], results) is None


def test_a_launch_that_is_not_needed_is_an_attempt_with_the_reason_and_its_cells_are_skipped(results, no_figures):
    data = asks(results, 0.2)
    plan = msgspec.convert(data, Plan)
    fourth = launches(results, 6)[0]
    out = results / "launches" / fourth / "attempt-0.json"
    assert measure_launch(results / "plan" / "demo.json", fourth, 0, "local", out, look=True) == 0
    assert read_json(out)["reason"].startswith("not needed: after 5 repeats")
    state = documents.state(plan, results)
    for launch in (*launches(results, 6), *launches(results, 7)):
        assert state[launch].missing == (), "nothing is left for the next run"
        assert len(state[launch].unneeded) == 6
    assert "12 not needed" not in documents.total(plan, state, results)
    assert "24 not needed" in documents.total(plan, state, results)
    merge.merge(results)
    rows = merge.read(results, "cells").to_pylist()
    late = [row for row in rows if row["repeat"] and row["repeat"] > 5]
    assert {row["status"] for row in late} == {"skipped"}
    assert all("job.stop" in row["reason"] for row in late)
    seen = merge.read(results, "looks").to_pylist()
    assert [(row["after"], row["asked"], row["narrow"]) for row in seen] == [(5, 0.2, True)] * 3
    page = results / "report" / "demo.html"
    render(results, "demo", page)
    assert 'id="looks"' in page.read_text(encoding="utf-8")


def test_a_study_that_asks_for_more_goes_on(results):
    plan = msgspec.convert(asks(results, 0.0001), Plan)
    state = documents.state(plan, results)
    assert all(len(state[launch].missing) == 6 for launch in launches(results, 6))
    assert all(state[launch].attempts == 1 for launch in launches(results, 6)[:1])


def test_a_look_holds_for_the_cells_that_it_saw_and_for_what_the_study_compares(results):
    data = asks(results, 0.2)
    plan_file, fourth = results / "plan" / "demo.json", launches(results, 6)[0]
    assert reason_to_stop(plan_file, fourth, results)
    seen = stop.looks(results, "demo").looks
    one = next(cell["id"] for cell in data["cells"] if cell["launch"] == launches(results, 5)[0])
    hidden = results / "aside"
    (results / "cells" / one).rename(hidden)
    reason_to_stop(plan_file, fourth, results)
    fewer = stop.looks(results, "demo").looks
    assert [(look.after, look.cells) for look in fewer[len(seen) :]] == [(5, seen[-1].cells - 1)], "a cell is missing"
    assert len(stop.valid_looks(data["study"], results)) == 1, "the last one counts"
    hidden.rename(results / "cells" / one)
    other = {**data["study"], "matrix": {**data["study"]["matrix"], "platform": ["own-cpu", "shared-cpu", "third"]}}
    assert stop.stopped_after(data["study"], results) == 5
    assert stop.stopped_after(other, results) is None, "its third level was never looked at"


def test_what_cannot_be_compared_is_not_narrow(tmp_path, results):
    def width(low, high):
        return Width(metric="m", level="l", ratio=1.0, low=low, high=high)

    assert not Look(after=10, utc="").narrow(1.0)
    assert not Look(after=10, utc="", widths=(width(0.99, 1.01), width(None, None))).narrow(0.02)
    assert not Look(after=10, utc="", widths=(width(0.99, 1.01), width(0.9, 1.1))).narrow(0.02)
    assert Look(after=10, utc="", widths=(width(0.98, 1.018),)).narrow(0.02)
    by_repeats = [Look(after=after, utc="", widths=(width(0.99, 1.01),)).narrow(0.02) for after in range(3, 9)]
    assert by_repeats == [False, False, False, True, True, True], "few repeats must be narrower, and fewer than 5 never"
    study = {"name": "x", "matrix": {"repeat": 3}, "job": {"stop": {"half_width": 0.02, "at_most": 9}}}
    asks = stop.question(study)
    wide, narrow = (
        Look(after=after, utc="", question=asks, widths=(width(1, 1 + w),)) for after, w in ((6, 0.2), (7, 0.01))
    )
    write(stop.looks_file(tmp_path, "x"), Looks(study="x", looks=(wide, narrow)))
    assert stop.stopped_after(study, tmp_path) == 7
    assert stop.stopped_after({**study, "matrix": {"repeat": 8}}, tmp_path) is None
    assert stop.stopped_after({**study, "job": {}}, tmp_path) is None
    assert stop.repeats(study) == 9
    stop.looks_file(tmp_path, "x").write_text("{", encoding="utf-8")
    assert stop.stopped_after(study, tmp_path) is None, "looking again does no harm"
    assert look(results, "demo", 1).narrow(1.0) is False, "one repeat has no interval"
