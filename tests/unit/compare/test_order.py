"""What really happened, read back from start times and nodes."""

from __future__ import annotations

import numpy as np
import pytest

from servegauge.base.progress import seconds_of
from servegauge.compare.compare import compare
from servegauge.compare.order import drift, pairs
from tests.simulated_studies import Setting, SimulatedStudy, simulated


class Placed(SimulatedStudy):
    """A study whose launches have start times and nodes."""

    def node_of(self, row):
        return row["node"]


class Joined(Placed):
    def place_of(self, row):
        return None if is_base(row) else "b"


def placed(start, node) -> list[str]:
    study = simulated(np.random.default_rng(1), Setting(repeats=4))
    for row in study.cells:
        row["started_utc"] = f"2026-11-{20 + row['repeat']}T{start(row):02d}:00:00Z"
        row["node"] = node(row)
    found = compare(Placed(study.cells, study.axes))
    assert found
    said = [warning for warning in found.overall[0].warnings if "repeat" not in warning]
    assert all(any(text.lower().startswith(one.lower()[:20]) for text in found.notes) for one in said)
    return said


def is_base(row) -> bool:
    return row["platform"] == "base"


def first_in_turn(row) -> bool:
    return is_base(row) == (row["repeat"] % 2 == 0)


def test_pairs_side_by_side_in_turn_on_the_same_nodes_are_nothing_to_say():
    assert placed(lambda row: 10 if first_in_turn(row) else 11, lambda row: f"n{row['repeat']}") == []


def test_pairs_hours_apart_are_said():
    (said,) = placed(lambda row: 1 if first_in_turn(row) else 22, lambda row: "n1")
    assert said == "24 of 24 pairs were measured more than 6 hours apart, the farthest 21"


def test_sides_that_were_joined_are_said_with_their_distance():
    study = simulated(np.random.default_rng(1), Setting(repeats=4))
    for row in study.cells:
        row["started_utc"] = f"2026-11-{20 + row['repeat']}T{10 if first_in_turn(row) else 12:02d}:00:00Z"
        row["node"] = f"n{row['repeat']}"
    found = compare(Joined(study.cells, study.axes))
    assert found
    said = "the sides were measured apart and joined, one side here, the other in b; their pairs lie 2.0 hours apart"
    assert any(warning.startswith(said) for warning in found.overall[0].warnings)


def test_a_side_that_is_always_first_is_said():
    (said,) = placed(lambda row: 1 if is_base(row) else 2, lambda row: "n1")
    assert said == "the baseline was measured first in every pair"


def test_a_node_for_each_side_is_said():
    (said,) = placed(lambda row: 1 if first_in_turn(row) else 2, lambda row: row["platform"][0])
    assert said == "one side ran on b, the other on o: node and platform cannot be distinguished"


def test_a_drift_of_the_ratio_stands_beside_the_verdict():
    study = simulated(np.random.default_rng(1), Setting(repeats=8, deviation=0.001))
    for row in study.cells:
        row["started_utc"] = (
            f"2026-11-20T{row['repeat']:02d}:{0 if is_base(row) == (row['repeat'] % 2 == 0) else 30:02d}:00Z"
        )
    steady = compare(study)
    for row in study.cells:
        if not is_base(row):
            row["e2e_p50_s"] *= 1 + 0.01 * row["repeat"]
    drifting = compare(study)
    assert steady
    assert drifting
    said = {one.metric.name: one.warnings for one in drifting.overall}
    assert said["e2e_p50"][0].startswith("the ratio drifts with time (p = ")
    assert not any(one.warnings for one in steady.overall)


def test_a_drift_is_a_correlation_with_time():
    assert drift([0.01, 0.02, 0.03, 0.041, 0.05], range(5)) < 0.001
    assert drift([0.01, -0.02, 0.015, -0.01, 0.0], range(5)) > 0.5
    assert drift([0.0, 0.1, 0.2], range(3)) is None
    assert drift([0.01, 0.02, 0.03, 0.041, 0.05], [1, 1, 1, 2, 2]) is None, "two times are before and after, no drift"
    assert seconds_of("2026-11-21T10:00:00Z") - seconds_of("2026-11-21T09:59:00+00:00") == pytest.approx(60)
    assert seconds_of(None) is None


def test_a_launch_of_two_servers_is_two_pairs_each_with_its_distance_in_time():
    """The second half of repeat 2's cells on the other side: measured a day later, by a server started anew."""
    study = simulated(np.random.default_rng(1), Setting(repeats=4))
    for row in study.cells:
        late = row["repeat"] == 2 and not is_base(row) and int(row["prompts"][-1]) >= 3
        row |= {"server": int(late), "attempt": int(late), "node": "n1"}
        day, hour = 20 + row["repeat"] + late, 10 if first_in_turn(row) else 11
        row["started_utc"] = f"2026-11-{day}T{hour}:00:0{row['prompts'][-1]}Z"
    found = compare(Placed(study.cells, study.axes))
    assert found
    told = pairs(found.sides, lambda row: row["node"])
    assert [(one.repeat, one.cells, one.server) for one in told] == [
        (1, 6, 0),
        (2, 3, 0),
        (2, 3, 1),
        (3, 6, 0),
        (4, 6, 0),
    ]
    assert [round(one.apart_s) for one in told] == [-3600, 3600, 25 * 3600, -3600, 3600]
    assert any(note.startswith("1 launch was measured by several servers") for note in found.notes)
    assert any("3 of 24 pairs were measured more than 6 hours apart" in note for note in found.notes)
    assert {one.pairs for one in found.overall} == {4}, "one repeat, whoever measured it"
