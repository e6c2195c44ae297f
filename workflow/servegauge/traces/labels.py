"""Labels that engines put around a step: what each grammar says of the step's requests and tokens.

Grammars, as the engines write them (vLLM with its layerwise or profiler annotations, SGLang's step ranges, ATOM):

    execute_context_1(256)_generation_3(3)                          C requests (T tokens) in prefill, G(T) in decode
    execute_15360_context_15(sq15360sk15360...)_generation_0(sq0...)  sq: tokens of the step, sk: tokens attended to
    step[EXTEND bs=15 toks=15360], step[DECODE bs=32], step[MIXED bs=2 c=1 g=1 c_sq=5 g_sq=1]
    prefill[bs=2 tok=14721 ...], decode[bs=117/128 tok=117 d=117]
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SQL_PATTERNS = ("%execute%context_%generation_%", "step[%", "prefill[%", "decode[%", "%sampl%", "%servegauge%")
"""LIKE patterns that let through every name that this module can read; readers may skip all others."""

_VLLM = re.compile(r"execute_(?:\d+_)?context_(\d+)\(([^)]*)\)_generation_(\d+)\(([^)]*)\)$")
_SGLANG = re.compile(r"step\[(EXTEND|PREFILL|DECODE|MIXED|TARGET_VERIFY|DRAFT_EXTEND|IDLE)\b([^\]]*)\]$", re.IGNORECASE)
_ATOM = re.compile(r"(prefill|decode)\[([^\]]*(?:\[[^\]]*\][^\]]*)*)\]$")
_SAMPLING = re.compile(r"(?<![a-z])sampl(?:e|er|ing)(?![a-z])", re.IGNORECASE)
_MARKER = re.compile(r"servegauge[:_.]clock[:_.](\d+)$")


@dataclass(frozen=True)
class Label:
    """Requests and tokens of a step; None where the label does not say."""

    context_requests: int | None
    context_tokens: int | None
    generation_requests: int | None
    generation_tokens: int | None
    kind: str | None = None  # the phase, where the label names it without counts

    @property
    def phase(self) -> str:
        """prefill | mixed | decode | idle."""
        if self.kind:
            return self.kind
        context, generation = bool(self.context_requests), bool(self.generation_requests)
        return "mixed" if context and generation else "prefill" if context else "decode" if generation else "idle"


def parse(name: str) -> Label | None:
    """What `name` says of a step, or None where it is no step's label."""
    name = name.strip()
    if match := _VLLM.search(name):
        context, generation = int(match[1]), int(match[3])
        return Label(context, _tokens(match[2]), generation, _tokens(match[4]))
    if match := _SGLANG.match(name):
        return _sglang(match[1].upper(), _fields(match[2]))
    if match := _ATOM.match(name):
        found = _fields(match[2])
        count, tokens = found.get("bs"), found.get("tok")
        kind = match[1] if count != 0 else "idle"
        return Label(count, tokens, 0, 0, kind) if match[1] == "prefill" else Label(0, 0, count, tokens, kind)
    return None


def is_sampling(name: str) -> bool:
    """Whether a range is named after sampling."""
    return parse(name) is None and bool(_SAMPLING.search(name))


def clock_marker(name: str) -> int | None:
    """CLOCK_MONOTONIC in ns at the beginning of a marker range `servegauge:clock:<ns>`, or None."""
    match = _MARKER.match(name)
    return int(match[1]) if match else None


def _tokens(text: str) -> int | None:
    """Tokens of a group: `256`, `888_788544` (tokens, then their squares' sum), or `sq8155sk8430...`."""
    match = re.match(r"(?:sq)?(\d+)", text)
    return int(match[1]) if match else None


def _fields(text: str) -> dict[str, int]:
    """`bs=117/128 toks=5` as numbers; of a padded size the real one."""
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", text)}


def _sglang(mode: str, found: dict[str, int]) -> Label:
    count = found.get("bs")
    if mode == "IDLE" or count == 0:
        return Label(0, 0, 0, 0)
    if mode in ("DECODE", "TARGET_VERIFY"):
        return Label(0, 0, count, found.get("g_sq", count if mode == "DECODE" else None), "decode")
    if mode == "MIXED":
        return Label(found.get("c"), found.get("c_sq"), found.get("g"), found.get("g_sq"), "mixed")
    return Label(count, found.get("c_sq", found.get("toks")), 0, 0, "prefill")
