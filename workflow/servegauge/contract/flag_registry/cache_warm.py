"""A cell that asked for a cold prefix cache was served from it."""

from collections.abc import Iterator, Mapping
from typing import Any

from servegauge.contract.flag import UNFIT, CellCase, Doubt, Flag, Threshold, above

SHARING = ("shared_prefix", "mooncake")  # kinds of prompt sets whose prompts begin alike on purpose
SESSIONS = ("sessions", "conversations")  # kinds whose requests hold those before them


def check(case: CellCase) -> Iterator[Doubt]:
    """By the answers of the window themselves, else by the server's own count, which holds the warm-up, too.

    The tokens with which every prompt begins (`<s>`, a chat template's first words) are left out: the first request of
    the cell leaves them to all others, however cold the cache was, and a cache with pages of one token has them.
    """
    prompts = case.cell.prompts
    if case.cell.load.cache != "cold" or prompts.get("kind") in SHARING or "prefix" in prompts:
        return  # what prompts share is found in a cache, as it should be
    opening = case.record.get("prompt_opening_tokens") or 0
    ok, source = case.window.ok, "the answers' usage"
    sessions = prompts.get("kind") in SESSIONS  # of these, the first requests share nothing
    share = (ok.first_of_sessions if sessions else ok).cached_share_beyond(opening)
    if share is None and not sessions:
        share = _server_hit_share(case.record, opening, case.window.count)
        source = "the server's metrics, warm-up included"
    beyond = f", without the {opening} that every prompt begins with" if opening else ""
    beyond += ", first requests of sessions only" if sessions else ""
    detail = f"share of prompt tokens from the prefix cache{beyond}, by {source}"
    yield from above(case, "cached_share", share, detail)


def _server_hit_share(record: Mapping[str, Any], opening: int, requests: int) -> float | None:
    """`requests` is how many there were at least, for servers that do not count them."""
    before, after = record.get("metrics_before") or {}, record.get("metrics_after") or {}

    def grown(name: str) -> float | None:
        return after[name] - before[name] if name in before and name in after else None

    hits, queries = grown("cache_hit_tokens"), grown("cache_query_tokens")
    if queries is None and hits is not None and (computed := grown("prompt_tokens")) is not None:
        queries = max(hits, computed)
    if hits is None or not queries:
        return None
    return max(0.0, hits - opening * (grown("requests_finished") or requests)) / queries


CACHE_WARM = Flag(
    name="cache_warm",
    meaning="Prompts of a cell with a cold cache were partly served from the prefix cache, so TTFT is too short.",
    remedy="See whether the framework's cache reset works and whether prompts share a prefix; or set `cache: warm`.",
    severity=UNFIT,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold(
            "cached_share",
            0.01,
            "prompt tokens from a prefix cache, but for those that every prompt begins with, / prompt tokens, in a "
            "cell with a cold cache, is above",
        ),
    ),
    position=20,
)
