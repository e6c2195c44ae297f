"""The KV cache cannot hold one request of the asked context."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, Doubt, Flag, ServerCase


def check(case: ServerCase) -> Iterator[Doubt]:
    context, blocks, size = case.context_tokens, case.kv_blocks, case.kv_block_tokens
    if context and blocks is not None and size and blocks * size < context:
        detail = f"KV cache: {blocks} blocks of {size} tokens hold less than one request of {context} tokens"
        yield Doubt(blocks * size, context, detail)


KV_CACHE_SMALL = Flag(
    name="kv_cache_small",
    meaning="The server's KV cache holds less than one request of the asked context: requests wait or are preempted.",
    remedy="Lower `context_tokens`, raise `memory_fraction`, or use more GPUs.",
    severity=DOUBT,
    about=ServerCase,
    check=check,
    position=120,
)
