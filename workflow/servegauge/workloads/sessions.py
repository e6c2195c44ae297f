"""Sessions: requests that follow each other, each holding all turns before it.

Every answer is frozen with the prompts: what the next request holds is what was generated or recorded here, and not
what a server answered, so that each server does the same work. A further request is sent `pause_s` (a person who reads
and thinks, a tool that runs) after the end of the answer before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from servegauge.contract.config_types import Pause, Prompts
from servegauge.workloads.data_sets import data_set_path, fits, in_file_order, sharegpt_turns
from servegauge.workloads.prompts import Drawn, Prompt, exact_texts, lengths
from servegauge.workloads.tokenizer import Tokenizer

PHASES = ("warmup", "window", "ramp", "tail")  # in the order in which they are drawn
BETWEEN = "\n\n"  # turns of a recorded conversation, for the completions endpoint


@dataclass(frozen=True)
class Turn:
    """A request of a session before its text is made: tokens that it adds, those of its answer, the pause before it."""

    new_tokens: int
    output_tokens: int
    pause_s: float


def generated(
    spec: Prompts,
    tokenizer: Tokenizer,
    counts: Mapping[str, int],
    draw: np.random.Generator,
    output: int | None,
    _root: Path,
) -> Drawn:
    """Sessions of the kind `sessions`: random words, lengths and pauses by the set's distributions."""
    count = sum(counts[phase] for phase in PHASES)
    sizes = lengths(spec["turns"], count, draw)
    total = int(sizes.sum())
    new, answers = (lengths(spec[key], total, draw) for key in ("input_tokens", "output_tokens"))
    waits = pauses(spec.get("pause_s", 0.0), total, draw)
    if output is not None:
        answers = np.full(total, output, np.int64)
    prefix = spec.get("prefix")
    starts = [""] * count
    if prefix:
        whole = exact_texts(tokenizer, np.full(prefix["groups"], prefix["tokens"]), [""] * prefix["groups"], draw)
        starts = [whole[number % prefix["groups"]] for number in range(count)]
    first = np.cumsum(sizes) - sizes
    plans = [
        [
            Turn(int(new[place]), int(answers[place]), float(waits[place]) if place > begin else 0.0)
            for place in range(begin, begin + size)
        ]
        for begin, size in zip(first, sizes, strict=True)
    ]
    least = tokenizer.special_tokens + 1
    for plan in plans:
        if not prefix and plan[0].new_tokens < least:
            plan[0] = Turn(least, plan[0].output_tokens, 0.0)
    return Drawn([], {}, conversations(tokenizer, plans, starts, prefix["tokens"] if prefix else 0, draw))


def conversations(
    tokenizer: Tokenizer,
    plans: Sequence[Sequence[Turn]],
    starts: Sequence[str],
    start_tokens: int,
    draw: np.random.Generator,
) -> list[list[Prompt]]:
    """The sessions of `plans`, each beginning with its text of `starts` (`start_tokens` long), turn by turn.

    A prompt has exactly the tokens of the one before it, of its frozen answer, and its own new ones.
    """
    texts, totals = list(starts), [start_tokens if start else 0 for start in starts]
    turns: list[list[dict[str, str]]] = [[] for _ in plans]
    made: list[list[Prompt]] = [[] for _ in plans]
    for number in range(max(map(len, plans), default=0)):
        live = [place for place, plan in enumerate(plans) if number < len(plan)]
        before = [plans[place][number - 1].output_tokens if number else 0 for place in live]
        sizes = [
            totals[place] + answer + plans[place][number].new_tokens for place, answer in zip(live, before, strict=True)
        ]
        longer = exact_texts(tokenizer, np.array(sizes), [texts[place] for place in live], draw)
        for place, answer, size, text in zip(live, before, sizes, longer, strict=True):
            words = text[len(texts[place]) :].split(" ")
            words = words[1:] if texts[place] and number else words
            if number:
                turns[place].append({"role": "assistant", "content": " ".join(words[:answer])})
            own = " ".join(words[answer:]) if number else text
            turns[place].append({"role": "user", "content": own})
            texts[place], totals[place] = text, size
            turn = plans[place][number]
            messages = json.dumps(turns[place], ensure_ascii=False)
            made[place].append(
                Prompt(text, messages, size, turn.output_tokens, turn=number, pause_s=turn.pause_s if number else None)
            )
    return made


def recorded_conversations(
    spec: Prompts,
    tokenizer: Tokenizer,
    counts: Mapping[str, int],
    draw: np.random.Generator,
    output: int | None,
    root: Path,
) -> Drawn:
    """Sessions of the kind `conversations`: ShareGPT's format, every turn of it, with the recorded answers.

    In file order from where the seed says. Turns beyond the filters' limits end their session; one that has fewer
    requests than `min_requests` is left out.
    """
    path = data_set_path(spec, root)
    count = sum(counts[phase] for phase in PHASES)

    def long_enough(texts: Sequence[str]) -> list[Prompt] | None:
        session = _recorded(spec, tokenizer, texts, output)
        return session if len(session) >= spec.get("filters", {}).get("min_requests", 2) else None

    taken, source = in_file_order(spec, path, sharegpt_turns(path), count, draw, long_enough)
    waits = iter(pauses(spec.get("pause_s", 0.0), sum(map(len, taken)), draw))
    sessions = [
        [
            Prompt(one.text, one.messages, one.prompt_tokens, one.output_tokens, turn=one.turn,
                   pause_s=float(wait) if one.turn else None)
            for one, wait in zip(session, waits, strict=False)
        ]
        for session in taken
    ]  # fmt: skip
    return Drawn([], source, sessions)


def _recorded(spec: Prompts, tokenizer: Tokenizer, texts: Sequence[str], output: int | None) -> list[Prompt]:
    """The requests of one conversation of alternating texts, question first."""
    filters = spec.get("filters") or {}
    session: list[Prompt] = []
    messages: list[dict[str, str]] = []
    for number in range(len(texts) // 2):
        question, answer = texts[2 * number], texts[2 * number + 1]
        messages.append({"role": "user", "content": question})
        text = BETWEEN.join(texts[: 2 * number + 1])
        size, asked = tokenizer.count(text), output or tokenizer.count(answer, special=False)
        if not asked or not fits(filters, size, asked):
            break
        session.append(Prompt(text, json.dumps(messages, ensure_ascii=False), size, asked, turn=number))
        messages.append({"role": "assistant", "content": answer})
    return session


def pauses(spec: Pause, count: int, draw: np.random.Generator) -> np.ndarray:
    """`count` pauses in seconds (float64) by `$defs/pause` of the schema."""
    if not isinstance(spec, Mapping):
        return np.full(count, float(spec))
    kind, mean = spec["distribution"], spec.get("mean", 0.0)
    if kind == "uniform":
        drawn = draw.uniform(spec["min"], spec["max"], count)
    elif kind == "exponential":
        drawn = draw.exponential(mean, count)
    else:
        sigma = np.sqrt(np.log1p((spec["std"] / mean) ** 2))
        drawn = draw.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(drawn, spec.get("min", 0.0), spec.get("max", np.inf))


def mean_pause_s(spec: Pause) -> float:
    """Mean of a pause's distribution, about."""
    if not isinstance(spec, Mapping):
        return float(spec)
    return float(spec["mean"]) if "mean" in spec else (spec["min"] + spec["max"]) / 2


def staggered(sessions: list[list[Prompt]]) -> list[list[Prompt]]:
    """Sessions of which the j-th begins at its turn j (modulo its length), so that streams start at every stage."""
    return [session[number % len(session) :] for number, session in enumerate(sessions)]
