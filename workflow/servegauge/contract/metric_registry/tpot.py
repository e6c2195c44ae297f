"""Time per output token."""

from servegauge.contract.metric import CARD, COMPARED, LESS, LOAD, PRIMARY, TABLE, TERMINAL, Metric

TPOT = Metric(
    name="tpot",
    title="TPOT",
    formula="(last token - first token) / (output tokens - 1) of one request, null below two tokens",
    stamps="(last_ns - first_token_ns) / 1e9 / (output_tokens - 1); null below 2 tokens",
    note="null below two tokens, where others put 0",
    unit="s",
    position=52,
    version=2,
    better=LESS,
    per_request=lambda requests: requests.seconds_per_token("last_ns", "first_token_ns"),
    failed_is_infinite=True,
    pooled="answered requests of the window",
    limit="Longest mean time for each token after the first.",
    views={"p50": (COMPARED, CARD, TABLE, TERMINAL, PRIMARY, LOAD), "p99": (COMPARED, TERMINAL, LOAD)},
)
