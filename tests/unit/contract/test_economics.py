"""Money and energy of a cell whose truth is worked out by hand."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.compare.compare import compare
from servegauge.contract.economics import of_cell
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.report import page
from tests import synthetic
from tests.unit.study_tree import STUDY, Tree, tree

__all__ = ["tree"]

ROW = {
    "output_tokens_per_s": 1500.0, "input_tokens_per_s": 4500.0, "achieved_rps": 10.0, "gpu_power_w": 600.0,
    "energy_per_output_token_j": 0.4, "energy_source": "counter", "energy_error": 0.003,
}  # fmt: skip
API = {"currency": "USD", "input_per_million": 0.5, "output_per_million": 2.0}


def test_a_published_row_of_tokens_for_a_dollar():
    """An H100 at 4.5 USD/h with 1500 tokens/s gives 1,200,000 tokens for a dollar."""
    got = of_cell(ROW, {"prices": {"currency": "USD", "gpu_hour": 4.5}}, 1, 1, 150.0, API)
    assert got["output_tokens_per_currency"] == pytest.approx(1_200_000)
    assert got["cost_per_million_output_tokens"] == pytest.approx(4.5 / 5.4)
    assert got["cost_per_million_tokens"] == pytest.approx(4.5 / 21.6)
    assert got["cost_per_thousand_requests"] == pytest.approx(4.5 / 36)
    assert got["tokens_per_s_per_gpu"] == 1500.0
    assert got["energy_per_token_j"] == pytest.approx(0.1)
    assert got["energy_above_idle_per_output_token_j"] == pytest.approx(0.3)
    assert got["api_cost_per_million_output_tokens"] == pytest.approx(2.0 + 0.5 * 3)
    assert got["break_even_utilisation"] == pytest.approx(4.5 / 5.4 / 3.5)
    assert got["break_even_output_tokens_per_month"] == pytest.approx(4.5 * 730 / 3.5 * 1e6)
    assert set(got["reasons"]) == {"power_price_per_hour"}


def test_four_gpus_and_electricity_beside_the_hour():
    prices = {"currency": "EUR", "gpu_hour": 2.0, "kwh": 0.5}
    got = of_cell({**ROW, "gpu_power_w": 2000.0}, {"prices": prices}, 4, 1, None, None)
    assert (got["price_per_hour"], got["power_price_per_hour"]) == (8.0, pytest.approx(1.0))
    assert got["cost_per_hour"] == pytest.approx(9.0)
    assert got["tokens_per_s_per_gpu"] == 375.0
    assert got["reasons"]["idle_power_w"] == "idle power was not measured in this launch"
    assert got["reasons"]["break_even_utilisation"] == "the study has no `economics.api`"


def test_a_machine_of_ones_own_costs_its_electricity():
    """The guide's own 4090: 0.3 USD/h for power, 400 tokens/s, 4,800,000 tokens for a dollar."""
    row = {**ROW, "output_tokens_per_s": 400.0, "gpu_power_w": 1000.0}
    got = of_cell(row, {"prices": {"currency": "USD", "kwh": 0.3}}, 1, 1, None, None)
    assert got["cost_per_hour"] == pytest.approx(0.3)
    assert got["output_tokens_per_currency"] == pytest.approx(4_800_000)


def test_what_is_not_known_is_null_and_says_why():
    cpu = {**ROW, "gpu_power_w": None, "energy_per_output_token_j": None, "energy_source": None, "energy_error": None}
    got = of_cell(cpu, {"prices": {"currency": "EUR", "gpu_hour": 2.0}}, 0, 1, None, None)
    assert got["cost_per_hour"] is None
    assert got["reasons"]["cost_per_million_tokens"] == "the platform has no GPU, and `prices` has no `node_hour`"
    assert got["reasons"]["energy_per_token_j"] == got["reasons"]["tokens_per_s_per_gpu"] == "the platform has no GPU"
    node = of_cell(cpu, {"prices": {"currency": "EUR", "node_hour": 0.9}}, 0, 1, None, None)
    assert node["cost_per_million_output_tokens"] == pytest.approx(0.9 / 5.4)
    unseen = of_cell(cpu, {"prices": {"currency": "EUR", "gpu_hour": 2.0, "kwh": 0.3}}, 2, 1, None, None)
    assert unseen["cost_per_hour"] is None, "a sum without one of its parts is not the cost"
    assert "no power was read" in unseen["reasons"]["cost_per_hour"]
    silent = of_cell({**ROW, "output_tokens_per_s": None}, {}, 1, 1, None, None)
    assert silent["reasons"]["cost_per_hour"] == "the platform has no `prices`"
    assert "no output token" in silent["reasons"]["tokens_per_s_per_gpu"]
    other = of_cell(ROW, {"prices": {"currency": "EUR", "gpu_hour": 2.0}}, 1, 1, None, API)
    assert "in EUR, the API's in USD" in other["reasons"]["break_even_utilisation"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The synthetic results, with a node's price on each platform: 1 EUR and 0.5 EUR an hour."""
    root = tmp_path_factory.mktemp("economics")
    synthetic.make_results(root, repeats=3)
    path = root / "results" / "plan" / "demo.json"
    plan = read_json(path)
    prices = {"own-cpu": 1.0, "shared-cpu": 0.5}
    plan["study"]["platforms"] = {
        name: {"name": name, "prices": {"currency": "EUR", "node_hour": price}} for name, price in prices.items()
    }
    plan["study"]["economics"] = {"api": {"currency": "EUR", "input_per_million": 1.0, "output_per_million": 4.0}}
    write_json(path, plan)
    merge.merge(root / "results")
    return root / "results"


def test_every_measured_cell_of_a_study_has_a_row(results):
    table = pq.read_table(results / "dataset" / "economics.parquet").to_pylist()
    cells = {row["cell"]: row for row in merge.read(results, "cells").to_pylist()}
    assert len(table) == sum(row["status"] == "ok" for row in cells.values())
    for row in table:
        cell = cells[row["cell"]]
        hour = {"own-cpu": 1.0, "shared-cpu": 0.5}[cell["platform"]]
        assert row["cost_per_million_output_tokens"] == pytest.approx(hour / (cell["output_tokens_per_s"] * 3600) * 1e6)
        assert json.loads(row["reasons"])["energy_per_output_token_j"] == "the platform has no GPU"


def test_costs_are_compared_with_intervals_like_everything_else(results):
    comparison = compare(Study(results, "demo"))
    ratios = comparison.of("cost_per_million_output_tokens")
    assert ratios
    assert all(one.metric.unit == "EUR" for one in ratios)
    with_intervals = [one for one in ratios if one.low is not None]
    assert with_intervals
    assert all(one.low <= one.ratio <= one.high for one in with_intervals)
    for one in ratios:  # half the price, so half the cost at the same tokens per second
        rate = comparison.of("output_tokens_per_s", one.condition, one.level)[0]
        assert one.ratio == pytest.approx(0.5 / rate.ratio)


def test_the_page_has_them_with_intervals_and_reasons(results, tmp_path, no_figures):
    page.render(results, "demo", tmp_path / "demo.html")
    html = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert '<section id="economics">' in html
    assert "Cost per million output tokens" in html
    assert "Energy per output token: the platform has no GPU" in html
    lines = (tmp_path / "demo" / "economics.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "condition,level,metric,unit,value,low,high,launches,reason"
    assert any(",cost_per_million_output_tokens,EUR," in line and line.split(",")[-2] == "3" for line in lines)


def test_a_primary_metric_of_money_without_a_price_is_refused(tree: Tree):
    compare = {"factor": "platform", "baseline": "metal", "primary": ["ttft_p50", "output_tokens_per_currency"]}
    with pytest.raises(UserError, match=r"compare.primary\[1\]: .* no platform of the study has `prices`"):
        tree.study(compare=compare)
    tree.study(compare={**compare, "primary": ["energy_per_output_token_j"]})


def test_prices_in_two_currencies_are_refused(tree: Tree):
    for name, currency in (("metal", "EUR"), ("virtual", "USD")):
        tree.write(f"config/platforms/{name}.yaml", {"description": "x", "prices": {"currency": currency, "kwh": 1}})
    with pytest.raises(UserError, match=r"several currencies: .*metal.yaml has EUR, .*virtual.yaml has USD"):
        tree.study()
    tree.write("config/platforms/virtual.yaml", {"description": "x", "prices": {"currency": "EUR", "kwh": 1}})
    with pytest.raises(UserError, match=r"economics.api.currency: 'USD', but "):
        tree.study({**STUDY, "economics": {"api": API}})
    assert tree.study()["platforms"]["metal"]["prices"]["kwh"] == 1


def test_an_api_without_prices_to_hold_against_it_is_refused(tree: Tree):
    with pytest.raises(UserError, match="no platform of the study has `prices`"):
        tree.study({**STUDY, "economics": {"api": API}})
