"""How many tokens each chunk of an answer held: counted after the window, from the best source there is."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.instrument.answers import Answer


class Encoder:
    """The tokenizer in folder (or tokenizer.json) `path`, read when it is first used: most servers report usage.

    UserError, before anything is sent, where there is none.
    """

    def __init__(self, path: str) -> None:
        file = Path(path)
        self.file = file / "tokenizer.json" if file.is_dir() else file
        if not self.file.is_file():
            raise UserError(f"no tokenizer at {self.file}; give a folder with tokenizer.json, or none")

    @cached_property
    def _tokenizer(self) -> Any:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(self.file))
        # A file may ask to cut or fill every text; then no count of a long answer would be true.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def count(self, text: str) -> int:
        """Tokens of a prompt, the special ones around it included."""
        return len(self._tokenizer.encode(text).ids)

    def ends(self, text: str) -> list[int]:
        """Where each token of an answer ends, in characters."""
        whole = text.encode("utf-8", "replace").decode()  # half characters, which JSON allows, have no bytes
        return [stop for _, stop in self._tokenizer.encode(whole, add_special_tokens=False).offsets]


def count(answer: Answer, tokenizer: Encoder | None, prompt: str) -> str | None:
    """Fill `output_tokens`, `prompt_tokens` and `chunk_tokens` of `answer`; returns the source of the counts.

    `usage`: the server's own. `tokenizer`: its text, tokenized again (may differ by a token from what was generated).
    `chunks`: one token a chunk is assumed, for want of both. None where nothing was generated. `chunk_tokens` stays
    None where the tokens cannot be attributed to chunks.
    """
    if not answer.stamps:
        return "usage" if answer.output_tokens is not None else None
    if answer.output_tokens:  # none beside a text is no count
        answer.chunk_tokens = _attributed(answer, answer.output_tokens, tokenizer)
        return "usage"
    if told := _told(answer):
        answer.output_tokens = told[-1]
        answer.chunk_tokens = _steps(told)
        return "usage"
    if tokenizer is not None:
        answer.chunk_tokens = _by_offsets(answer, tokenizer)
        answer.output_tokens = sum(answer.chunk_tokens)
        if answer.prompt_tokens is None:
            answer.prompt_tokens = tokenizer.count(prompt)
        return "tokenizer"
    answer.output_tokens = len(answer.stamps)
    return "chunks"


def _attributed(answer: Answer, total: int, tokenizer: Encoder | None) -> list[int] | None:
    """Tokens per chunk whose sum is the server's total, or None."""
    chunks = len(answer.stamps)
    if total == chunks:
        return [1] * chunks
    if chunks == 1:
        return [total]
    told = _told(answer)
    if told and told[-1] == total:
        return _steps(told)
    if tokenizer is not None:
        tokens = _by_offsets(answer, tokenizer)
        return tokens if sum(tokens) == total else None
    # Made-up and benchmark models often speak words of one token each; where the total says so, too, this is told.
    words = [len(text.split()) for text in answer.texts]
    return words if sum(words) == total and min(words) else None


def _told(answer: Answer) -> list[int] | None:
    """How many tokens there were with each chunk, where each says so and they never fall; else None."""
    counted = [count for count in answer.counted if count is not None]
    whole = len(counted) == len(answer.counted) and all(a <= b for a, b in pairwise(counted))
    return counted if counted and whole else None


def _steps(counted: list[int]) -> list[int]:
    return [after - before for before, after in pairwise([0, *counted])]


def _by_offsets(answer: Answer, tokenizer: Encoder) -> list[int]:
    """Tokens of the whole text, each attributed to the chunk in which its last character came."""
    tokens = [0] * len(answer.texts)
    chunk, end = 0, len(answer.texts[0])
    for stop in tokenizer.ends(answer.text):
        while stop > end and chunk < len(tokens) - 1:
            chunk += 1
            end += len(answer.texts[chunk])
        tokens[chunk] += 1
    return tokens
