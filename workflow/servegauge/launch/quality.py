"""The graded questions that a launch answers after its cells: whether an option is fast because it answers otherwise.

They are sent one after the other at temperature 0, after everything that is timed, so they change no measured number.
"""

from __future__ import annotations

import hashlib
from typing import Any

from servegauge.frameworks.base import Reply
from servegauge.instrument.openai_api import PATHS
from servegauge.launch.live import LiveLaunch
from servegauge.workloads.graded import ANSWER_TOKENS, Item, items

FILE = "quality.json"
LIMIT_S = 120.0  # of one answer
REASONING = ("reasoning_content", "reasoning")  # where servers put what a model thinks
MOST_FAILED = 3  # one after the other; a server that is gone need not be asked fifty times


def ask(live: LiveLaunch, count: int, endpoint: str) -> list[dict[str, Any]]:
    """A row per item, in their order: `item`, `kind`, `prompt_sha256`, `text`, `correct`, or the `reason` why not.

    The first instance answers. Items that were not sent, because the job ends or the server is gone, have no row.
    """
    rows: list[dict[str, Any]] = []
    failed = 0
    for number, item in enumerate(items(count)):
        if live.stop() or failed >= MOST_FAILED:
            break
        body = _body(item, live.launch.model["name"], endpoint)
        reply = live.servers[0].client.post(PATHS[endpoint], body, LIMIT_S)
        text = _text(reply, endpoint)
        failed = failed + 1 if text is None else 0
        row = {"item": number, "kind": item.kind, "prompt_sha256": hashlib.sha256(item.prompt.encode()).hexdigest()}
        if text is None:
            reason = live.without_secrets(f"HTTP {reply.status}: {reply.text[:200]}")
            rows.append({**row, "text": None, "correct": None, "reason": reason})
        else:
            rows.append({**row, "text": text, "correct": item.correct(text), "reason": None})
    return rows


def _body(item: Item, model: str, endpoint: str) -> dict[str, Any]:
    shared = {"model": model, "max_tokens": ANSWER_TOKENS, "temperature": 0, "stream": False}
    if endpoint == "chat":
        return {**shared, "messages": [{"role": "user", "content": item.question}]}
    return {**shared, "prompt": item.prompt, "stop": ["\nQuestion:"]}


def _text(reply: Reply, endpoint: str) -> str | None:
    """The answer's text; null where there is none, which is not the same as an empty one."""
    try:
        choice = reply.json()["choices"][0]
        text = choice["message"]["content"] if endpoint == "chat" else choice["text"]
        if text is None and endpoint == "chat" and any(choice["message"].get(name) for name in REASONING):
            text = ""  # it thought until the limit: an answer without a word of its own
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return text if reply.ok and isinstance(text, str) else None
