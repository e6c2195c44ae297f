"""The paced mock server as a framework: the whole pipeline can be tried, faults included, without an engine."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from servegauge import __version__
from servegauge.base.errors import UserError
from servegauge.contract.spec import Launch
from servegauge.frameworks.base import Client, Context, Evidence, Framework, Reset
from servegauge.inputs.engines.paced.options import Pace, parser


class Paced(Framework):
    name: ClassVar[str] = "paced"
    api_key: ClassVar[str] = "environment"
    title: ClassVar[str] = "the paced mock server"
    source: ClassVar[str] = f"servegauge {__version__}, python -m servegauge.inputs.engines.paced.server --help"
    exercised: ClassVar[str] = "real server, CPU"
    needs_gpu: ClassVar[bool] = False
    version_argv: ClassVar[Sequence[str]] = (sys.executable, "-c", f"print('{__version__}')")
    supported: ClassVar[Mapping[str, str]] = {"max_batch": "--slots", "prefix_cache": "--prefix-cache /"}
    fair_defaults: ClassVar[Mapping[str, Any]] = {"prefix_cache": False, "max_batch": 256}
    differences: ClassVar[Mapping[str, str]] = {
        "prefix_cache": "only a request whose whole body was seen before counts as cached, and it is no faster for it "
        "unless --prefill-s-per-token is set"
    }
    metrics: ClassVar[Mapping[str, Sequence[str]]] = {
        "requests_running": ("paced_requests_running",),
        "requests_waiting": ("paced_requests_waiting",),
        "prompt_tokens": ("paced_prompt_tokens_total",),
        "cache_hit_tokens": ("paced_cached_tokens_total",),
        "cache_query_tokens": ("paced_prompt_tokens_total",),
        "output_tokens": ("paced_generation_tokens_total",),
    }

    def argv(self, ctx: Context) -> list[str]:
        # It needs this package, so it runs in the driver's own environment.
        argv = [sys.executable, "-m", "servegauge.inputs.engines.paced.server", "--host", ctx.host]
        return [*argv, "--port", str(ctx.port), *self.option_argv(ctx.launch), *ctx.launch.extra_args]

    def environment(self, ctx: Context) -> dict[str, str]:
        return {"PACED_API_KEY": ctx.api_key} if ctx.api_key else {}

    def unsupported(self, launch: Launch) -> str | None:
        if launch.layout.gpus_per_instance > 1 or launch.layout.ep > 1:
            return "the paced mock server has no GPUs to spread over (it has: instances)"
        try:
            Pace.of(parser().parse_args(list(launch.extra_args)))
        except UserError as error:
            return f"{self.title} does not take {' '.join(launch.extra_args)}: {error}"
        return super().unsupported(launch)

    def reset_cache(self, client: Client, launch: Launch) -> Reset:
        reply = client.post("/reset_prefix_cache")
        done = reply.ok and reply.fields.get("success") is True
        return Reset(done, "POST /reset_prefix_cache", reply.text[:200])

    def evidence(self, client: Client, log: str) -> Evidence:
        models = client.get("/v1/models")
        return Evidence(version=__version__, raw={"/v1/models": models.json()})
