"""How many tokens each chunk of an answer held: counted after the window, from the best source there is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from servegauge.errors import UserError
from servegauge.openai_api import Answer


def load_tokenizer(path: str | None) -> Any:
    """The tokenizer in folder (or tokenizer.json) `path`, or null for null. UserError where there is none."""
    if path is None:
        return None
    file = Path(path)
    if file.is_dir():
        file = file / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"no tokenizer at {file}; give a folder with tokenizer.json, or none to count by usage alone")
    import tokenizers  # heavy, and only needed where a server reports no usage

    return tokenizers.Tokenizer.from_file(str(file))


def count(answer: Answer, tokenizer: Any, prompt: str) -> str | None:
    """Fill `output_tokens`, `prompt_tokens` and `chunk_tokens` of `answer`; returns the source of the counts.

    `usage`: the server's own. `tokenizer`: its text, tokenized again (may differ by a token from what was generated).
    `chunks`: one token a chunk is assumed, for want of both. Null where nothing was generated. `chunk_tokens` stays
    null where the tokens cannot be attributed to chunks.
    """
    if not answer.chunks:
        return "usage" if answer.output_tokens is not None else None
    if answer.output_tokens is not None:
        answer.chunk_tokens = _attributed(answer, tokenizer)
        return "usage"
    if tokenizer is not None:
        answer.chunk_tokens = _by_offsets(answer, tokenizer)
        answer.output_tokens = sum(answer.chunk_tokens)
        if answer.prompt_tokens is None:
            answer.prompt_tokens = len(tokenizer.encode(prompt).ids)
        return "tokenizer"
    answer.output_tokens = len(answer.chunks)
    return "chunks"


def _attributed(answer: Answer, tokenizer: Any) -> list[int] | None:
    """Tokens per chunk whose sum is the server's total, or null."""
    total, chunks = answer.output_tokens, len(answer.chunks)
    if total == chunks:
        return [1] * chunks
    if chunks == 1 and total is not None:
        return [total]
    if _rises(answer.counted) and answer.counted[-1] == total:
        return [answer.counted[0], *(after - before for before, after in pairwise(answer.counted))]
    if tokenizer is not None:
        tokens = _by_offsets(answer, tokenizer)
        return tokens if sum(tokens) == total else None
    return None


def _rises(counted: Sequence[int | None]) -> bool:
    return None not in counted and all(before <= after for before, after in pairwise(counted))


def _by_offsets(answer: Answer, tokenizer: Any) -> list[int]:
    """Tokens of the whole text, each attributed to the chunk in which its last character came."""
    tokens = [0] * len(answer.chunks)
    chunk, end = 0, len(answer.chunks[0][0])
    for _, stop in tokenizer.encode(answer.text, add_special_tokens=False).offsets:
        while stop > end and chunk < len(tokens) - 1:
            chunk += 1
            end += len(answer.chunks[chunk][0])
        tokens[chunk] += 1
    return tokens
