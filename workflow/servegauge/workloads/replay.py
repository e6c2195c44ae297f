"""Prompts and times of recorded traffic: from a `Recording` to a workload.

The window holds the recording from its first request on, in its order; the tail goes on where the window ends. Ramp and
warm-up have lengths of the recording and blocks of their own, so that nothing of the window is in a cache before it.
A recording that is used up begins again, with other texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from servegauge.contract.config_types import Prompts
from servegauge.workloads.data_sets import data_set_path, unchanged_sha256
from servegauge.workloads.prompts import Drawn, Prompt, exact_texts
from servegauge.workloads.recording import BLOCK_TOKENS, Recorded, Recording, Texts, recording
from servegauge.workloads.recordings import formats
from servegauge.workloads.sessions import Turn, conversations
from servegauge.workloads.tokenizer import Tokenizer

AT_ONCE = 256  # prompts that are counted together


def recording_of(spec: Prompts, root: Path) -> Recording | None:
    """The recording that a prompt set names; None for a set of another kind. UserError where it cannot be read."""
    kind = formats().get(str(spec.get("kind")))
    return recording(spec, data_set_path(spec, root), kind) if kind else None


def draw(
    spec: Prompts, tokenizer: Tokenizer, counts: Mapping[str, int], seed: int, output: int | None, root: Path
) -> Drawn:
    """Prompts of every phase in the order warm-up, window, ramp, tail; `counts` of sessions, where it has such."""
    found = recording_of(spec, root)
    assert found is not None
    window, tail = counts["window"], counts["tail"]
    begins = {"window": 0, "tail": window, "ramp": window + tail, "warmup": window + tail + counts["ramp"]}
    salts = {"window": 0, "tail": 0, "ramp": 1 << 32, "warmup": 2 << 32}
    many = len(found.sessions)
    taken: list[tuple[tuple[Recorded, ...], int, int]] = []  # session, salt of its blocks, number
    for phase in ("warmup", "window", "ramp", "tail"):
        for number in range(begins[phase], begins[phase] + counts[phase]):
            taken.append((found.sessions[number % many], salts[phase] + number // many, number))
    source = {
        "path": spec["path"], "sha256": unchanged_sha256(data_set_path(spec, root)), "entries": found.entries,
        "failed": found.failed, "filtered": found.filtered, "sessions": many,
        "repeated": max(0, window + tail - many), "rate_rps": found.rate_rps,
    }  # fmt: skip
    # A number: the schema lets a recording have no distribution.
    answers: Any = spec.get("output_tokens") if output is None else output
    in_sessions = any(one.session is not None for session in found.sessions for one in session)
    accumulate = in_sessions and not any(one.blocks for session in found.sessions for one in session)
    if accumulate:
        least = tokenizer.special_tokens + 1  # as in `Texts.size`
        plans = [
            [
                Turn(max(one.input_tokens, 0 if turn else least), answers or one.output_tokens, one.pause_s or 0.0)
                for turn, one in enumerate(session)
            ]
            for session, _, _ in taken
        ]
        made = conversations(tokenizer, plans, [""] * len(plans), 0, np.random.default_rng(seed))
        return Drawn([], source, made)
    flat = [(one, salt, number) for session, salt, number in taken for one in session]
    texts = _texts(Texts(tokenizer, seed, spec.get("block_tokens", BLOCK_TOKENS)), flat, seed)
    prompts = iter(
        Prompt(text, None, size, answers or one.output_tokens, pause_s=one.pause_s)
        for (text, size), (one, _, _) in zip(texts, flat, strict=True)
    )
    if not in_sessions:
        return Drawn(list(prompts), source)
    sessions = []
    for session, _, _ in taken:
        turns = [next(prompts) for _ in session]
        sessions.append([Prompt(**{**vars(one), "turn": turn}) for turn, one in enumerate(turns)])
    return Drawn([], source, sessions)


def _texts(made: Texts, requests: list[tuple[Recorded, int, int]], seed: int) -> list[tuple[str, int]]:
    """Text and tokens of each request: encoded again, and corrected in its last block where words have merged."""
    found: list[tuple[str, int]] = []
    for place in range(0, len(requests), AT_ONCE):
        these = requests[place : place + AT_ONCE]
        parts = [made.parts(one, salt, number) for one, salt, number in these]
        sizes = [made.size(one) for one, _, _ in these]
        texts = [" ".join(word for block in blocks for word in block) for blocks in parts]
        counted = made.tokenizer.count_many(texts)
        for index, (size, tokens) in enumerate(zip(sizes, counted, strict=True)):
            if size != tokens:
                start = " ".join(word for block in parts[index][:-1] for word in block)
                again = np.random.default_rng([seed, 3, these[index][2]])
                texts[index] = exact_texts(made.tokenizer, np.array([size]), [start], again)[0]
        found += zip(texts, sizes, strict=True)
    return found
