"""Acceptance length from what servers count, whose truth is known."""

from __future__ import annotations

import pyarrow as pa
import pytest

from servegauge.contract import cell_tables, speculation, tables
from servegauge.dataset import merge
from servegauge.frameworks import framework
from servegauge.launch.recorders.scrape import parse
from tests import synthetic

S = 1_000_000_000


def samples(*series: tuple[str, int, dict[float, float]]) -> pa.Table:
    """Rows of SERVER_METRICS of (metric, instance, time in seconds -> value)."""
    rows = [
        {"cell": "c", "launch": "l", "t_ns": int(t * S), "instance": instance, "metric": name, "raw": name,
         "labels": "{}", "value": value}
        for name, instance, values in series
        for t, value in values.items()
    ]  # fmt: skip
    return tables.from_rows(rows, cell_tables.SERVER_METRICS)


def test_counters_are_those_of_the_window() -> None:
    """50 steps with 80 accepted tokens in the window; before and after it the drafts were always or never right."""
    steps = ("draft_steps", 0, {-1: 0, 0: 100, 5: 120, 10: 150, 12: 900})
    accepted = ("accepted_tokens", 0, {-1: 0, 0: 400, 5: 430, 10: 480, 12: 480})
    assert speculation.acceptance_length(samples(steps, accepted), 10.0) == pytest.approx(1 + 80 / 50)


def test_instances_are_counted_together() -> None:
    table = samples(
        ("draft_steps", 0, {0: 0, 10: 10}), ("draft_steps", 1, {0: 5, 10: 35}),
        ("accepted_tokens", 0, {0: 0, 10: 20}), ("accepted_tokens", 1, {0: 9, 10: 9}),
    )  # fmt: skip
    assert speculation.acceptance_length(table, 10.0) == pytest.approx(1 + 20 / 40)


def test_a_servers_own_average_is_taken_where_it_counts_nothing() -> None:
    table = samples(("acceptance_length", 0, {-1: 9.0, 0: 0.0, 2: 2.0, 4: 3.0, 11: 9.0}))
    assert speculation.acceptance_length(table, 10.0) == pytest.approx(2.5)


def test_without_it_there_is_none() -> None:
    assert speculation.acceptance_length(samples(("requests_running", 0, {0: 1.0})), 10.0) is None
    assert speculation.acceptance_length(samples(("draft_steps", 0, {0: 7, 10: 7})), 10.0) is None, "no step"
    assert speculation.acceptance_length(None, 10.0) is None


@pytest.mark.parametrize(
    ("name", "page", "found"),
    [
        (
            "vllm",
            '# TYPE vllm:spec_decode_num_drafts counter\nvllm:spec_decode_num_drafts_total{engine="0"} 12.0\n'
            "# TYPE vllm:spec_decode_num_accepted_tokens counter\n"
            'vllm:spec_decode_num_accepted_tokens_total{engine="0"} 30\n',
            {"draft_steps": 12.0, "accepted_tokens": 30.0},
        ),
        (
            "sglang",
            "# TYPE sglang:spec_accept_length gauge\nsglang:spec_accept_length 2.75\n",
            {"acceptance_length": 2.75},
        ),
    ],
)  # fmt: skip
def test_the_servers_own_names(name: str, page: str, found: dict[str, float]) -> None:
    said = {one.metric: one.value for one in parse(page, framework(name).metrics)}
    assert found.items() <= said.items()


def test_a_cell_without_it_says_why(tmp_path) -> None:
    synthetic.make_results(tmp_path)
    merge.merge(tmp_path / "results")
    rows = merge.read(tmp_path / "results", "cells").to_pylist()
    said = {row["acceptance_reason"] for row in rows if row["status"] == "ok"}
    assert said == {"the server runs without speculative decoding"}
    assert all(row["acceptance_length"] is None for row in rows)


def test_a_cell_has_what_its_server_counted(tmp_path, monkeypatch) -> None:
    schema = pa.schema([field for field in cell_tables.SERVER_METRICS if field.name not in ("cell", "launch")])

    def counted(_shape, window_s: float) -> pa.Table:
        both = (("draft_steps", 40.0), ("accepted_tokens", 60.0))
        rows = [
            {"t_ns": int(t * S), "instance": 0, "metric": name, "raw": name, "labels": "{}", "value": value}
            for name, most in both
            for t, value in ((-1.0, 0.0), (0.0, 0.0), (window_s, most))
        ]
        return tables.from_rows(rows, schema)

    monkeypatch.setattr(synthetic, "raw_server_metrics", counted)
    synthetic.make_results(tmp_path)
    merge.merge(tmp_path / "results")
    rows = [row for row in merge.read(tmp_path / "results", "cells").to_pylist() if row["status"] == "ok"]
    assert {row["acceptance_length"] for row in rows} == {2.5}
    assert {row["acceptance_reason"] for row in rows} == {None}
