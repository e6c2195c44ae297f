"""Prompt sets: the texts, their true lengths in the model's own tokens, and the answer lengths asked for.

Four kinds (config/prompts/*.yaml, checked by workflow/servegauge/contract/schemas/prompts.schema.yaml):

- synthetic: random English words; every prompt has exactly the number of tokens drawn for it, special tokens included,
  as the completions endpoint counts it. Each prompt is encoded again to prove it.
- shared_prefix: the same, where request i begins with prefix number i modulo `groups`. A prefix's tokens include the
  special tokens in front; the rest of the prompt has `input_tokens` more.
- sharegpt: a JSON list of `{"conversations": [{"from", "value"}, ...]}` (or `messages` of `{"role", "content"}`). The
  prompt is the first turn, the answer's length is that of the second turn. The standard filters of the field are: at
  least 2 turns; prompt and answer at least 4 tokens; prompt at most 1024; both together at most 2048. They are written
  out in the set's `filters`; only `min_turns: 2` holds without being written.
- jsonl: one JSON object a line, with a prompt or chat messages and perhaps the answer's length.

Data sets are used in file order, never shuffled. The seed chooses at which entry a draw begins, so that repeats get
other prompts; at the end of the file it goes on at the beginning. A prompt's tokens include the special tokens, an
answer's do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from servegauge.base.errors import UserError
from servegauge.contract.config_types import Length, Prompts
from servegauge.workloads.data_sets import Entry, data_set_path, fits, in_file_order, jsonl_entries, sharegpt_entries
from servegauge.workloads.tokenizer import Tokenizer

MIN_TURNS = 2
MOST_TRIES = 50


@dataclass(frozen=True)
class Prompt:
    """One request's input: text, chat messages as JSON (None where there are none), lengths in tokens."""

    text: str
    messages: str | None
    prompt_tokens: int
    output_tokens: int
    turn: int | None = None  # of a session: its number in it, from 0
    pause_s: float | None = None  # of a session: from the answer before it until it is sent


@dataclass(frozen=True)
class Drawn:
    """Prompts in the order of their requests, and where they are from (`source`: file, hash, entries used).

    Of a set of sessions, `sessions` has the prompts instead, those of each session in their order.
    """

    prompts: list[Prompt]
    source: Mapping[str, Any]
    sessions: list[list[Prompt]] | None = None


def draw_prompts(
    spec: Prompts,
    tokenizer: Tokenizer,
    count: int,
    seed: int,
    output_tokens: int | None = None,
    root: Path = Path(),
) -> Drawn:
    """`count` prompts of the set `spec`. `output_tokens` replaces the answer length that the set would give.

    UserError where the set cannot give them: lengths below the special tokens, a data set that is missing, that is not
    the one with the given hash, or of which the filters leave nothing.
    """
    draw = np.random.default_rng(seed)
    kinds = {"synthetic": _synthetic, "shared_prefix": _shared_prefix, "sharegpt": _data_set, "jsonl": _data_set}
    if spec.get("kind") not in kinds:
        raise UserError(
            f"prompt set {spec.get('name')}: unknown kind {spec.get('kind')!r}; there are: {', '.join(kinds)}"
        )
    return kinds[spec["kind"]](spec, tokenizer, count, draw, output_tokens, root)


def lengths(spec: Length, count: int, draw: np.random.Generator) -> np.ndarray:
    """`count` whole numbers (int64) from a length's distribution, see `$defs/length` of the schema.

    normal and lognormal have `mean` and `std` as those of the lengths themselves; what falls outside `min` to `max`
    after rounding is drawn again. UserError where that never succeeds.
    """
    if isinstance(spec, int):
        return np.full(count, spec, np.int64)
    kind = spec["distribution"]
    if kind == "constant":
        return np.full(count, spec["value"], np.int64)
    if kind == "uniform":
        return draw.integers(spec["min"], spec["max"], size=count, endpoint=True)
    if kind == "choice":
        weights = np.asarray(spec.get("weights") or [1] * len(spec["values"]), np.float64)
        return draw.choice(np.asarray(spec["values"], np.int64), size=count, p=weights / weights.sum())
    least, most = spec.get("min", 1), spec.get("max", np.inf)
    mean, std = float(spec["mean"]), float(spec["std"])
    sigma = np.sqrt(np.log1p((std / mean) ** 2))
    values = np.zeros(count, np.int64)
    missing = np.arange(count)
    for _ in range(1000):
        size = missing.size
        if kind == "normal":
            drawn = draw.normal(mean, std, size)
        else:
            drawn = draw.lognormal(np.log(mean) - sigma**2 / 2, sigma, size)
        rounded = np.rint(drawn)
        good = (rounded >= least) & (rounded <= most)
        values[missing[good]] = rounded[good].astype(np.int64)
        missing = missing[~good]
        if not missing.size:
            return values
    raise UserError(
        f"lengths with mean {mean:g} and std {std:g} hardly ever fall between {least} and {most}; correct one"
    )


# -- synthetic --------------------------------------------------------------


def _synthetic(
    spec: Prompts, tokenizer: Tokenizer, count: int, draw: np.random.Generator, output: int | None, root: Path
) -> Drawn:
    sizes = lengths(spec["input_tokens"], count, draw)
    answers = _answers(spec, count, draw, output)
    _long_enough(spec, sizes, tokenizer.special_tokens + 1, "input_tokens")
    texts = exact_texts(tokenizer, sizes, [""] * count, draw)
    return Drawn(_prompts(texts, sizes, answers), {})


def _shared_prefix(
    spec: Prompts, tokenizer: Tokenizer, count: int, draw: np.random.Generator, output: int | None, root: Path
) -> Drawn:
    groups, tokens = spec["prefix"]["groups"], spec["prefix"]["tokens"]
    sizes = lengths(spec["input_tokens"], count, draw)
    answers = _answers(spec, count, draw, output)
    _long_enough(spec, [tokens], tokenizer.special_tokens + 1, "prefix.tokens")
    prefixes = exact_texts(tokenizer, np.full(groups, tokens), [""] * groups, draw)
    totals = sizes + tokens
    texts = exact_texts(tokenizer, totals, [prefixes[request % groups] for request in range(count)], draw)
    return Drawn(_prompts(texts, totals, answers), {"prefix_groups": groups, "prefix_tokens": tokens})


def _prompts(
    texts: Sequence[str], sizes: Sequence[int] | np.ndarray, answers: Sequence[int] | np.ndarray
) -> list[Prompt]:
    return [
        Prompt(text, None, int(size), int(answer)) for text, size, answer in zip(texts, sizes, answers, strict=True)
    ]


def _answers(spec: Prompts, count: int, draw: np.random.Generator, output: int | None) -> np.ndarray:
    # Drawn even if replaced: then `output_tokens` of a study changes answers and not the prompts.
    drawn = lengths(spec["output_tokens"], count, draw)
    return drawn if output is None else np.full(count, output, np.int64)


def _long_enough(spec: Prompts, sizes: Sequence[int] | np.ndarray, least: int, key: str) -> None:
    if len(sizes) and min(sizes) < least:
        raise UserError(
            f"prompt set {spec.get('name')}: {key} gives a length of {min(sizes)}, but with the special tokens "
            f"of this model the shortest is {least}; raise it, or set `min`"
        )


def exact_texts(tokenizer: Tokenizer, sizes: np.ndarray, starts: Sequence[str], draw: np.random.Generator) -> list[str]:
    """Texts of random words, text i beginning with `starts[i]` and having exactly `sizes[i]` tokens when encoded.

    Words are chosen that are one token each; where two of them merge after all, words are added or taken from the end
    until the count is true.
    """
    words = np.asarray(tokenizer.words)
    begun = np.asarray(tokenizer.count_many(starts)) if any(starts) else np.full(len(starts), tokenizer.special_tokens)
    chosen = [
        [*([start] if start else []), *words[draw.integers(len(words), size=int(size - have))]]
        for start, size, have in zip(starts, sizes, begun, strict=True)
    ]
    texts = [" ".join(parts) for parts in chosen]
    wrong = np.arange(len(texts))
    for _ in range(MOST_TRIES):
        counts = np.asarray(tokenizer.count_many([texts[index] for index in wrong]), np.int64)
        surplus = counts - sizes[wrong]
        wrong, surplus = wrong[surplus != 0], surplus[surplus != 0]
        if not wrong.size:
            return texts
        for index, more in zip(wrong, surplus, strict=True):
            fixed = bool(starts[index])
            # One word more than the surplus is replaced, so that a pair that merges is not met again for ever.
            keep = max(fixed, len(chosen[index]) - max(int(more), 0) - 1)
            removed = len(chosen[index]) - keep
            fresh = words[draw.integers(len(words), size=max(0, removed - int(more)))]
            chosen[index] = [*chosen[index][:keep], *fresh]
            texts[index] = " ".join(chosen[index])
    raise UserError(
        f"{tokenizer.path}: no text of exactly {int(sizes[wrong[0]])} tokens was found in {MOST_TRIES} tries; use a "
        "prompt set of kind sharegpt or jsonl with this model"
    )


# -- data sets --------------------------------------------------------------


def _data_set(
    spec: Prompts, tokenizer: Tokenizer, count: int, draw: np.random.Generator, output: int | None, root: Path
) -> Drawn:
    path = data_set_path(spec, root)
    entries = sharegpt_entries(path) if spec["kind"] == "sharegpt" else jsonl_entries(path, spec.get("fields"))
    forced = lengths(spec["output_tokens"], count, draw) if "output_tokens" in spec else None
    usable = partial(_counted, spec, tokenizer, output, forced is not None)
    prompts, source = in_file_order(spec, path, entries, count, draw, usable)
    if output is None and forced is not None:
        prompts = [replace(prompt, output_tokens=int(size)) for prompt, size in zip(prompts, forced, strict=True)]
    return Drawn(prompts, source)


def _counted(spec: Prompts, tokenizer: Tokenizer, output: int | None, forced: bool, entry: Entry) -> Prompt | None:
    """The entry with its lengths; None where a filter takes it out or the length of the answer is not given."""
    filters = spec.get("filters") or {}
    if entry.turns is not None and entry.turns < filters.get("min_turns", MIN_TURNS):
        return None
    if entry.messages is not None:
        rendered, prompt_tokens = tokenizer.chat(entry.messages)
        text = tokenizer.completion_text(rendered)
        messages = json.dumps(entry.messages, ensure_ascii=False)
    else:
        text, prompt_tokens, messages = entry.prompt, tokenizer.count(entry.prompt), None
    recorded = entry.output_tokens
    if recorded is None and entry.answer is not None:
        recorded = tokenizer.count(entry.answer, special=False)
    kept = prompt_tokens and recorded != 0 and fits(filters, prompt_tokens, recorded)
    asked = output if output is not None else recorded if recorded is not None else spec.get("default_output_tokens")
    if asked is None and forced:
        asked = 1  # replaced by the set's own distribution
    return Prompt(text, messages, prompt_tokens, asked) if kept and asked else None
