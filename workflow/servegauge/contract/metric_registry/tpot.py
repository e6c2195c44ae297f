"""Time per output token."""

from servegauge.contract.metric import CARD, COMPARED, LESS, LOAD, PRIMARY, TABLE, TERMINAL, Metric

TPOT = Metric(
    name="tpot",
    title="TPOT",
    formula="(last token - first token) / (tokens after the first chunk) of one request, null where there are none",
    stamps="(last_ns - first_token_ns) / 1e9 / (output_tokens - those of the first chunk)",
    note="null, where others put 0 or guess: one token, an answer in one piece, a first chunk of an unknown number",
    unit="s",
    position=52,
    version=3,
    better=LESS,
    per_request=lambda requests: requests.seconds_per_token("last_ns", "first_token_ns"),
    failed_is_infinite=True,
    pooled="answered requests of the window",
    limit="Longest mean time for each token after the first.",
    views={"p50": (COMPARED, CARD, TABLE, TERMINAL, PRIMARY, LOAD), "p99": (COMPARED, TERMINAL, LOAD)},
)
