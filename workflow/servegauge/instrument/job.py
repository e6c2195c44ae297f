"""What the load generator is asked to do, as plain data."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from servegauge.base.errors import UserError
from servegauge.contract.spec import Load
from servegauge.instrument.openai_api import PATHS, Target, wrong_request


@dataclass(frozen=True)
class LoadJob:
    """One run of the load generator. Times in seconds; None means none or not set.

    `workload` is a workload.parquet; its rows are sent to `base_urls` (one per instance, in turn). An open loop sends
    each at its `scheduled_s`, a closed one keeps `load.concurrency` streams busy; a burst sends the window in
    `load.bursts` equal parts, each at once when the one before it was answered. Open and closed loops send the
    workload's rows of the ramp before the window and those of the tail after it, unless `plain`. `api_key` never leaves
    the process but by a pipe. `cpus` pins worker i to the i-th of them.
    """

    base_urls: list[str]
    workload: str
    out: str  # folder that gets requests.parquet
    model: str
    load: Load
    workload_sha256: str | None = None  # refuse other bytes
    phase: str = "both"  # "warmup", "window", or "both"
    window_s: float | None = None  # length of an open loop's window; None: until its last request is due
    expected_e2e_s: float | None = None  # of a request, where no warm-up tells it
    plain: bool = False  # no ramp and no tail
    warmup_streams: int = 8  # streams of an open loop's warm-up, where its requests have no times
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    length_field: str = "max_tokens"  # which field of a request asks for the answer's length
    adapter_field: str = "model"  # which field of a request names its LoRA adapter; empty: none asks for one
    path: str | None = None  # path of the endpoint, where it is not that of PATHS
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # added to each request; by a pipe, too
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))  # in every X-Request-Id
    api_key: str = field(default="", repr=False)
    cpus: list[int] | None = None
    workers: int = 1
    reserve: int = 64  # connections opened before an open loop, per worker and instance; it opens more when needed
    tokenizer: str | None = None  # folder with tokenizer.json, for servers that report no usage
    warm_path: str | None = "/ping"  # asked once on each connection before the window; any answer will do
    verify_tls: bool = True
    ca_file: str | None = None
    cell: str = ""
    launch: str = ""

    def __post_init__(self) -> None:
        """UserError for values that cannot work."""
        for url in self.base_urls:
            Target.of(url)
        load, wrong = self.load, None
        if not self.base_urls:
            wrong = "base_urls is empty; give at least one"
        elif load.endpoint not in PATHS:
            wrong = f"endpoint is {load.endpoint!r}; it must be one of {', '.join(PATHS)}"
        elif self.phase not in ("warmup", "window", "both"):
            wrong = f"phase is {self.phase!r}; it must be warmup, window or both"
        elif load.start not in ("staggered", "together"):
            wrong = f"start is {load.start!r}; it must be staggered or together"
        elif load.bursts < 1:
            wrong = f"bursts is {load.bursts}; it must be at least 1"
        elif load.concurrency is not None and load.concurrency < 1:
            wrong = f"concurrency is {load.concurrency}; a closed loop needs at least 1"
        elif self.workers < 1:
            wrong = f"workers is {self.workers}; it must be at least 1"
        elif not 0 < load.timeout_s < math.inf:  # false for NaN too
            wrong = f"timeout_s is {load.timeout_s:g}; it must be a positive number of seconds"
        elif load.duration_s is not None and not 0 < load.duration_s < math.inf:
            wrong = f"duration_s is {load.duration_s:g}; it must be a positive number of seconds, or none"
        elif not 0 <= load.temperature < math.inf:
            wrong = f"temperature is {load.temperature:g}; it must be 0 or more"
        elif load.max_in_flight is not None and load.max_in_flight < self.workers:
            wrong = f"max_in_flight is {load.max_in_flight}; it must be at least the number of workers, {self.workers}"
        elif not 0 <= load.think_s < math.inf or (load.think_s and load.loop != "closed"):
            wrong = f"think_s is {load.think_s:g}; it must be 0 or more, and belongs to a closed loop"
        elif not self.api_key.isprintable() or not self.api_key.isascii():
            wrong = "the API key has characters that no HTTP header can carry; check it for a line break"
        wrong = wrong or wrong_request(self.path, self.headers)
        if wrong:
            raise UserError(f"load job: {wrong}")

    @property
    def phases(self) -> tuple[str, ...]:
        """What to run, in order; `window` stands for the measured load, its ramp and tail included."""
        return ("warmup", "window") if self.phase == "both" else (self.phase,)

    @property
    def secrets(self) -> dict[str, Any]:
        """What goes to a generator process by a pipe and stands in no file."""
        return {"api_key": self.api_key, "headers": dict(self.headers)}

    def to_json(self) -> str:
        """The job without its API key and its headers."""
        return msgspec.json.encode(replace(self, api_key="", headers={})).decode()

    @classmethod
    def from_json(cls, text: str) -> LoadJob:
        return msgspec.json.decode(text, type=cls)
