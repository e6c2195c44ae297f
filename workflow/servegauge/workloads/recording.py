"""Recorded traffic: when requests came, how long they and their answers were, and which prompts began alike.

A recording holds no text. Prompts are made from the workload's seed: of exactly the recorded number of tokens, and two
that share the number of a block share its text, so that a prefix cache finds in the replay what it found then. A
format is one file in `recordings/`, and a kind of prompt set.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from servegauge.base.errors import UserError
from servegauge.contract.config_types import Prompts
from servegauge.contract.spec import canonical_json
from servegauge.workloads.data_sets import fits
from servegauge.workloads.tokenizer import Tokenizer

BLOCK_TOKENS = 512  # of a block, where the set does not say: that of the traces that have blocks


@dataclass(frozen=True)
class Recorded:
    """One recorded request: seconds from the first one, tokens, and the numbers of the blocks that make up its prompt.

    Requests of one `session` follow each other: the next one comes `pause_s` after the answer to the one before it.
    """

    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    session: str | None = None
    pause_s: float | None = None


@dataclass(frozen=True)
class Format:
    """A format of recordings. `read` gives the file's requests, in its order, or a UserError with file and line.

    A request without a prompt or without an answer (0 tokens) is one that failed when it was recorded. `keys` are keys
    of a prompt set that do something for this format, beside those for every recording.
    """

    name: str
    title: str
    read: Callable[[Path, Prompts], Iterable[Recorded]]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recording:
    """What is replayed of a file: sessions in order of time (of one request each, where there are none)."""

    sessions: tuple[tuple[Recorded, ...], ...]
    entries: int  # in the file
    failed: int  # left out: without a prompt or an answer
    filtered: int  # left out by `filters`, `where` and `cut`

    @property
    def times_s(self) -> np.ndarray:
        """When each session begins, from 0."""
        return np.array([session[0].at_s for session in self.sessions])

    @property
    def rate_rps(self) -> float | None:
        """Sessions a second; None where all begin at once."""
        times = self.times_s
        return float((len(times) - 1) / times[-1]) if len(times) > 1 and times[-1] > 0 else None


def recording(spec: Prompts, path: Path, kind: Format) -> Recording:
    """What the prompt set `spec` takes of the file at `path`; read once in this process while both stay the same."""
    kept = {key: spec.get(key) for key in ("filters", "where", "cut", *kind.keys)}
    return _recording(kind, path, path.stat().st_mtime_ns, canonical_json(kept))


@lru_cache(maxsize=4)
def _recording(kind: Format, path: Path, _mtime_ns: int, kept: str) -> Recording:
    spec = json.loads(kept)
    cut, filters = spec["cut"] or {}, spec["filters"] or {}
    everything = sorted(kind.read(path, spec), key=lambda one: one.at_s)
    if not everything:
        raise UserError(f"{path}: it holds no request" + (" with what `where` asks" if spec["where"] else ""))
    good = [one for one in everything if one.input_tokens > 0 and one.output_tokens > 0]
    failed, first = len(everything) - len(good), everything[0].at_s
    sessions: dict[Any, list[Recorded]] = {}
    for number, one in enumerate(good):
        sessions.setdefault(number if one.session is None else one.session, []).append(
            replace(one, at_s=one.at_s - first)
        )
    taken = [
        tuple(session)
        for session in sessions.values()
        if cut.get("from_s", 0.0) <= session[0].at_s < cut.get("to_s", np.inf)
        and all(fits(filters, one.input_tokens, one.output_tokens) for one in session)
    ][: cut.get("requests")]
    if not taken:
        raise UserError(
            f"{path}: of {len(everything)} requests none is left by `filters` {filters} and `cut` {cut}; {failed} have "
            "no prompt or no answer (0 tokens)"
        )
    start = taken[0][0].at_s
    moved = tuple(tuple(replace(one, at_s=one.at_s - start) for one in session) for session in taken)
    return Recording(moved, len(everything), failed, len(good) - sum(map(len, moved)))


# -- prompts ------------------------------------------------------------------


class Texts:
    """Prompts of recorded lengths, whose blocks say which of them begin alike."""

    def __init__(self, tokenizer: Tokenizer, seed: int, block_tokens: int) -> None:
        self.tokenizer, self.seed, self.block_tokens = tokenizer, seed, block_tokens
        self._words = np.asarray(tokenizer.words)

    def size(self, one: Recorded) -> int:
        """Tokens of the prompt: as recorded, but not fewer than a word and the special tokens."""
        return max(one.input_tokens, self.tokenizer.special_tokens + 1)

    def parts(self, one: Recorded, salt: int, number: int) -> list[list[str]]:
        """The words of a prompt, block by block; what no block covers is its own. `salt`: of another set of blocks."""
        left = self.size(one)
        special = self.tokenizer.special_tokens
        found: list[list[str]] = []
        for block in one.blocks:
            here = min(left, self.block_tokens)
            words = self._drawn([1, salt, block & (2**63 - 1)], self.block_tokens)[: max(0, here - special)]
            found.append(words)
            left, special = left - here, 0
            if not left:
                return found
        return [*found, self._drawn([2, salt, number], left - special)]

    def _drawn(self, key: list[int], count: int) -> list[str]:
        draw = np.random.default_rng([self.seed, *key])
        return list(self._words[draw.integers(len(self._words), size=count)])


# -- what formats are made of -------------------------------------------------


def csv_rows(
    path: Path, columns: Sequence[str], where: Mapping[str, Any] | None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and row of a CSV file with these columns, of those that `where` (column to value) asks for."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            found = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = found
            if missing := [name for name in (*columns, *(where or {})) if name not in found]:
                raise UserError(
                    f"{path}:1: the column {missing[0]!r} is missing; it has: {', '.join(found) or 'nothing'}. "
                    "Is it another format?"
                )
            for row in reader:
                if all(row[name] == str(value) for name, value in (where or {}).items()):
                    yield reader.line_num, row
        except UnicodeDecodeError as error:  # read ahead, so that the line is not known
            raise UserError(f"{path}: not text in UTF-8: {error}. Write it as UTF-8, for example by iconv") from error
        except csv.Error as error:
            raise UserError(f"{path}:{reader.line_num}: not a line of a CSV file: {error}") from error


def whole(value: Any, path: Path, line: int, name: str) -> int:
    """A number of tokens; UserError with the line where it is none."""
    try:
        number = float(value)
        if isinstance(value, bool) or number < 0 or number != int(number):
            raise ValueError
        return int(number)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{path}:{line}: {name} is {value!r}, expected a whole number of tokens, 0 or more") from None


def seconds(value: Any, path: Path, line: int, name: str, scale: float = 1.0) -> float:
    """A time in seconds, `scale` of the file's own unit; UserError with the line where it is none."""
    try:
        number = float(value) * scale
        if isinstance(value, bool) or not np.isfinite(number):
            raise ValueError
        return number
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{path}:{line}: {name} is {value!r}, expected a number") from None
