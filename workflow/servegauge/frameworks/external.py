"""Any OpenAI-compatible server that runs already. Nothing is launched: a placeholder waits in its place.

The platform's file says where and what it is: `frameworks: {external: {url: ..., note: ...}}`. Its API key, if it wants
one, is in SERVEGAUGE_EXTERNAL_API_KEY in the environment of the job, never in a file of the project.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from servegauge.base.errors import UserError
from servegauge.base.redact import MIN_SECRET
from servegauge.contract.spec import Launch
from servegauge.frameworks.base import Client, Context, Evidence, Framework, Reset

KEY = "SERVEGAUGE_EXTERNAL_API_KEY"


class External(Framework):
    name = "external"
    title = "a server that runs already"
    source = "the OpenAI API's /v1/models, /v1/completions and /v1/chat/completions"
    exercised = "real server, CPU"
    api_key = "environment"
    weights = "none"
    needs_gpu = False
    profilers = ()
    ready_path = "/v1/models"
    metrics_path = None
    differences: ClassVar = {
        "prefix_cache": "not ours to set or to empty, nor do we know what it has seen before: every cell is flagged",
        "requests": "a server may refuse or ignore ignore_eos",
    }
    fair_defaults: ClassVar = {}

    def argv(self, ctx: Context) -> list[str]:
        return [sys.executable, "-c", "import signal; signal.pause()"]

    def unsupported(self, launch: Launch) -> str | None:
        if not place(launch).get("url"):
            name = launch.platform.get("name")
            return f"platform {name} has no address: frameworks: {{external: {{url: ..., note: ...}}}} in its file"
        return super().unsupported(launch)

    def address(self, ctx: Context) -> str:
        return str(place(ctx.launch)["url"]).rstrip("/").removesuffix("/v1")

    def given_api_key(self) -> str:
        """The key, or nothing. UserError for one that could not be taken out of logs and answers."""
        key = os.environ.get(KEY, "")
        if key and len(key) < MIN_SECRET:
            raise UserError(
                f"{KEY} has {len(key)} characters, it needs {MIN_SECRET} or more: a shorter one looks like ordinary "
                "text, so it would stay in logs and answers that are kept. Give the server a longer key, or unset the "
                "variable where it wants none."
            )
        return key

    def reset_cache(self, client: Client, launch: Launch) -> Reset:
        return Reset(False, "none", "the server is not ours; whether its prefix cache is on is not known")

    def evidence(self, client: Client, log: str) -> Evidence:
        asked = {path: client.get(path).text[:20_000] for path in ("/v1/models", "/version")}
        return Evidence(raw=asked)


def place(launch: Launch) -> Mapping[str, Any]:
    """Where and what the server is, from the platform's file."""
    return Framework.here(launch)
