"""Golden numbers: what every metric gives for one fixed window. A number that changes needs a new version.

The dataset's parts carry the versions; they are made again where those differ. `pytest --fix` writes the numbers of new
metrics and of new versions, and refuses to write a number that changed under its old version.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from servegauge.base.files import write_text
from servegauge.contract import metric_registry, metrics
from tests.unit.contract.test_metrics import MS, row, table

GOLDEN = Path(__file__).parents[2] / "golden" / "formulas.json"
LIMITS = {"ttft_s": 0.35, "tpot_s": 0.021}


def numbers() -> dict[str, dict[str, Any]]:
    """Metric -> its version and its numbers of one window in which requests differ, fail and are short."""
    rows = []
    for number in range(80):
        chunks = [number * 1000 * MS + (100 + 7 * number + 20 * chunk + number % 3) * MS for chunk in range(3)]
        rows.append(
            row(number, sent_ns=chunks[0] - 100 * MS, first_token_ns=chunks[0], first_answer_ns=chunks[1],
                last_ns=chunks[-1], chunk_ns=chunks, cached_tokens=number % 4, end_ns=chunks[-1] + MS,
                session=number // 2, turn=number % 2)
        )  # fmt: skip
    rows += [
        row(80, status="timeout", first_token_ns=None, last_ns=None, chunk_ns=[], output_tokens=None),
        row(81, status="http_error", sent_ns=None, first_token_ns=None, last_ns=None, chunk_ns=[]),
        row(82, output_tokens=1, last_ns=82 * 1000 * MS + 101 * MS, chunk_ns=[82 * 1000 * MS + 101 * MS]),
    ]
    window = table(*rows)
    got = {
        **metrics.summarise(window, 83.5, joules=33400.0, acceptance_length=2.5, capacity=3.0),
        **metrics.goodput(window, LIMITS, 83.5),
    }
    found = {}
    for metric in metric_registry.metrics().values():
        names = [metric.column]
        if metric.is_distribution:
            kinds = ("", "_low", "_high")
            names = [metric.column_of(name) for name in ("mean", *(f"{q}{k}" for q in metric.quantiles for k in kinds))]
        found[metric.name] = {"version": metric.version, "numbers": {name: got[name] for name in names}}
    return found


def test_no_number_changes_without_a_version(request: pytest.FixtureRequest) -> None:
    now = numbers()
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    silent = [
        name
        for name, one in now.items()
        if golden.get(name, one)["version"] == one["version"] and not _same(golden.get(name, one), one)
    ]
    assert silent == [], "these metrics give other numbers; raise `version` in their declarations, then pytest --fix"
    if request.config.getoption("--fix"):
        write_text(GOLDEN, json.dumps(now, indent=1, sort_keys=True) + "\n")
        golden = now
    assert {name: one["version"] for name, one in golden.items()} == {n: one["version"] for n, one in now.items()}, (
        f"metrics or versions are new; run: pytest --fix {request.node.nodeid}"
    )


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal but for the last digits, which a library may round otherwise."""

    def near(a: float | None, b: float | None) -> bool:
        return a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-12)

    left, right = one["numbers"], other["numbers"]
    return left.keys() == right.keys() and all(near(left[name], right[name]) for name in left)


def test_the_window_has_a_number_for_every_metric() -> None:
    for name, one in numbers().items():
        assert any(value for value in one["numbers"].values()), name


def test_another_version_is_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = metrics.formulas_version()
    monkeypatch.setitem(
        metric_registry.metrics(), "ttft", metric_registry.metrics()["ttft"].__class__(
            **{**vars(metric_registry.metrics()["ttft"]), "version": 99}
        )
    )  # fmt: skip
    assert metrics.formulas_version() != before
