"""The table of what cells cost; `economics.py` has its formulas."""

from __future__ import annotations

import pyarrow as pa

from servegauge.contract.columns import KEYS, WORD, column, table_schema
from servegauge.contract.economics import MONEY
from servegauge.contract.study_tables import STUDY

ECONOMICS = table_schema(
    "economics",
    "What each measured cell of a study costs in money and energy, by the prices of its platform.",
    [
        STUDY,
        *KEYS,
        column("currency", WORD, "currency of every price; null where the platform has no prices"),
        column("gpus", pa.int32(), "GPUs of the launch", "GPUs"),
        column("nodes", pa.int32(), "nodes of the launch", "nodes"),
        column("tokens_per_s_per_gpu", pa.float64(), "output tokens per second / GPUs of the launch", "tokens/s"),
        column("energy_per_output_token_j", pa.float64(), "as in `cells`", "J"),
        column("energy_per_token_j", pa.float64(), "power / (prompt + output tokens per second)", "J"),
        column("energy_source", WORD, "counter (the GPUs' own) | power (sampled, integrated)"),
        column("energy_error", pa.float64(), "what sampling may have missed of the energy, as a share of it", "1"),
        column("gpu_power_w", pa.float64(), "as in `cells`", "W"),
        column("idle_power_w", pa.float64(), "power of the launch's GPUs with the server loaded and idle", "W"),
        column(
            "energy_above_idle_per_output_token_j",
            pa.float64(),
            "(power - idle power) / output tokens per second",
            "J",
        ),
        column("price_per_hour", pa.float64(), "price of the launch's GPUs or nodes for an hour", MONEY),
        column("power_price_per_hour", pa.float64(), "prices.kwh x power of an hour; null without `kwh`", MONEY),
        column("cost_per_hour", pa.float64(), "price_per_hour + power_price_per_hour, of those that are asked", MONEY),
        column("cost_per_million_output_tokens", pa.float64(), "cost_per_hour / output tokens of an hour", MONEY),
        column("cost_per_million_tokens", pa.float64(), "cost_per_hour / (prompt + output tokens of an hour)", MONEY),
        column("cost_per_thousand_requests", pa.float64(), "cost_per_hour / requests answered in an hour", MONEY),
        column("output_tokens_per_currency", pa.float64(), "output tokens for one unit of the currency", "tokens"),
        column(
            "api_cost_per_million_output_tokens",
            pa.float64(),
            "the study's API price for this traffic, prompts included, for a million output tokens",
            MONEY,
        ),
        column(
            "break_even_utilisation",
            pa.float64(),
            "own cost / API cost: the share of the measured load above which the own server is cheaper; above 1: never",
            "1",
        ),
        column(
            "break_even_output_tokens_per_month",
            pa.float64(),
            "output tokens of a month (730 h) from which on the own server, paid for all of it, is cheaper",
            "tokens",
        ),
        column("reasons", pa.string(), "why a column is null, as JSON: column to reason", null=False),
    ],
)
