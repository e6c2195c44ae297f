"""What a server says of itself, held against what was asked of it: each difference is a flag on the launch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from servegauge.contract.flag import ServerCase
from servegauge.contract.flags import raised
from servegauge.contract.spec import Launch
from servegauge.frameworks.base import Evidence

# Names that mean the same type in different frameworks.
SAME = {
    "f16": "float16", "fp16": "float16", "half": "float16", "bf16": "bfloat16", "f32": "float32", "fp32": "float32",
    "float": "float32", "fp8_e4m3": "fp8", "none": "none", "null": "none", "": "none",
}  # fmt: skip
LEFT_TO_THE_SERVER = (None, "auto")


def evidence_flags(launch: Launch, evidence: Evidence) -> list[dict[str, Any]]:
    """Flags {"flag", "value", "threshold", "detail"}: what the server reports, what was asked, both in words.

    Compared are the neutral options and the layout that the server reports. What was left to the server ("auto") and
    what it does not report cannot differ. A KV cache too small for one request of the asked context is a flag too.
    """
    asked = _asked(launch)
    differences = [
        (name, asked[name], have)
        for name, have in evidence.effective.items()
        if name in asked and asked[name] not in LEFT_TO_THE_SERVER and not same(asked[name], have)
    ]
    context = launch.options.get("context_tokens")
    return raised(ServerCase(differences, evidence.kv_blocks, evidence.kv_block_tokens, context))


def _asked(launch: Launch) -> dict[str, Any]:
    layout = dataclasses.asdict(launch.layout)
    return {**launch.options, **{name: layout[name] for name in ("tp", "pp", "dp", "ep")}}


def beside(launch: Launch, effective: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of every option and choice of the server: what was asked, and what it says is in effect.

    `asked` is None where it was left to the server, `effective` where the server does not tell.
    """
    asked = _asked(launch)
    return {name: {"asked": asked.get(name), "effective": effective.get(name)} for name in sorted({*asked, *effective})}


def same(asked: Any, have: Any) -> bool:
    """True when both mean the same: 2048 and "2048", fp16 and float16; a mapping only where every part is the same."""
    if isinstance(asked, Mapping) or isinstance(have, Mapping):
        return asked == have
    if isinstance(asked, bool) or isinstance(have, bool):
        return asked is have
    if isinstance(asked, int | float) and isinstance(have, int | float):
        return abs(asked - have) <= 1e-6 * max(abs(asked), abs(have))
    return _plain(asked) == _plain(have)


def _plain(value: Any) -> str:
    text = str(value).lower()
    return SAME.get(text, text)
