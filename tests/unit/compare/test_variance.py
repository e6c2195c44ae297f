"""Parts of the scatter: what was put in comes out, and what cannot be distinguished is said."""

from __future__ import annotations

import numpy as np
import pytest

from servegauge.compare.measured import _positions
from servegauge.compare.variance import components, limiting


def drawn(rng, launches: int = 120, nodes: int = 12, cells: int = 4):
    """Launches on nodes, `cells` conditions each; deviations: node 3 %, launch 2 %, cell 1 %, requests 0.5 %."""
    of_launch, of_node = rng.normal(0, 0.02, launches), rng.normal(0, 0.03, nodes)
    rows = [(launch, launch % nodes, cell) for launch in range(launches) for cell in range(cells)]
    logs = [cell + of_launch[launch] + of_node[node] + rng.normal(0, 0.01) for launch, node, cell in rows]
    groups = {"launch": [row[0] for row in rows], "node": [row[1] for row in rows]}
    return logs, [row[2] for row in rows], groups


def test_what_was_put_in_comes_out_on_average():
    rng = np.random.default_rng(1)
    found: dict[str, list[float]] = {}
    for _ in range(30):
        logs, fixed, groups = drawn(rng)
        for one in components(logs, fixed, groups, [0.005**2] * len(logs)):
            found.setdefault(one.part, []).append(one.variance)
    means = {part: np.mean(values) ** 0.5 for part, values in found.items()}
    assert means == {
        "request": pytest.approx(0.005),
        "cell": pytest.approx(np.sqrt(0.01**2 - 0.005**2), rel=0.05),
        "launch": pytest.approx(0.02, rel=0.05),
        "node": pytest.approx(0.03, rel=0.12),
    }


def test_balanced_data_by_hand():
    """Two launches of two cells: mean squares of a one-way layout."""
    logs, launches = [1.0, 1.2, 3.0, 3.4], ["a", "a", "b", "b"]
    found = {one.part: one for one in components(logs, ["x"] * 4, {"launch": launches})}
    within = (0.1**2 * 2 + 0.2**2 * 2) / 2
    between = 2 * ((1.1 - 2.15) ** 2 + (3.2 - 2.15) ** 2)
    assert found["cell"].variance == pytest.approx(within)
    assert found["launch"].variance == pytest.approx((between - within) / 2)
    assert found["request"].variance is None
    assert found["request"].reason == "the statistic has no interval inside its cells"


def test_levels_of_the_study_are_no_scatter():
    rng = np.random.default_rng(2)
    logs = [10.0 * level + rng.normal(0, 0.01) for level in range(3) for _ in range(50)]
    found = components(logs, [level for level in range(3) for _ in range(50)], {"launch": range(150)})
    assert sum(one.variance or 0 for one in found) == pytest.approx(1e-4, rel=0.3)


def test_what_cannot_be_told_apart_is_null_with_the_reason():
    rng = np.random.default_rng(3)
    logs, fixed, groups = drawn(rng)
    groups |= {"day": groups["node"], "order": [0] * len(logs)}
    found = {one.part: one for one in components(logs, fixed, groups)}
    assert (found["day"].variance, found["day"].reason) == (None, "day and node cannot be distinguished")
    assert (found["order"].variance, found["order"].reason) == (None, "one order")
    by_level = components([1.0, 1.1, 2.0, 2.1], ["x", "x", "y", "y"], {"node": ["n", "n", "m", "m"]})
    assert by_level[-1].reason == "each level of the study has its own node"
    alone = components([1.0, 2.0], ["x", "y"], {"launch": [1, 2]})
    assert all(one.variance is None and one.reason == "nothing was repeated" for one in alone)


def test_the_part_that_limits_is_named():
    logs, fixed, groups = drawn(np.random.default_rng(4))
    said = limiting(components(logs, fixed, groups))
    assert said.endswith("of the variance is between nodes: repeat on more nodes")
    assert limiting([]) is None


def test_a_server_has_one_place_however_many_cells_of_the_block_it_measured():
    rows = [
        {
            "launch": launch,
            "server": 0,
            "repeat": 1,
            "prompts": "chat",
            "started_utc": f"2026-11-26T12:{minute:02d}:00Z",
        }
        for minute, launch in enumerate(["a", "a", "b", "b"])  # searches of two SLOs
    ]
    assert _positions(rows) == [0, 0, 1, 1]
