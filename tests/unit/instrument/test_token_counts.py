"""Tokens of each chunk: from what the server says with it, else from its words, and never from a guess."""

from __future__ import annotations

import pytest

from servegauge.instrument.answers import Answer
from servegauge.instrument.token_counts import count


@pytest.mark.parametrize(
    ("texts", "counted", "total", "tokens"),
    [
        (["a", "b", "c d"], [None, None, None], 3, [1, 1, 1]),
        (["a b c"], [None], 7, [7]),
        (["a b", " c"], [None, None], 3, [2, 1]),
        (["a b c", " ", "d"], [None, None, None], 4, None),  # no chunk is without a token
        (["a b", " c"], [None, None], 4, None),
        (["ab", "c", "de"], [2, 3, 5], 5, [2, 1, 2]),
        (["ab", "c", "de"], [2, None, 5], 5, None),
        (["ab", "c", "de"], [3, 2, 5], 5, None),  # not counts of tokens so far
        (["ab", "c", "de"], [2, 3, 5], 6, None),  # of something else than the total
        (["ab", "c", "de"], [2, 3, 5], None, [2, 1, 2]),
    ],
)
def test_a_total_is_attributed_only_where_it_can_be_told(texts, counted, total, tokens):
    answer = Answer(texts=texts, stamps=list(range(len(texts))), counted=counted, output_tokens=total)
    assert count(answer, None, "") == "usage"
    assert answer.chunk_tokens == tokens
    assert answer.output_tokens == (total or counted[-1])
