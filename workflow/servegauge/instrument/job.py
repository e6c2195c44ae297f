"""What the load generator is asked to do, as plain data."""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from servegauge.base.errors import UserError
from servegauge.instrument.openai_api import PATHS, Target, wrong_request


@dataclass(frozen=True)
class LoadJob:
    """One run of the load generator. Times in seconds; None means none or not set.

    `workload` is a workload.parquet; its rows are sent to `base_urls` (one per instance, in turn). Open mode sends each
    at its `scheduled_s`, closed mode keeps `concurrency` streams busy; burst mode sends the window in `bursts` equal
    parts, each at once when the one before it was answered. Open and closed mode send the workload's rows of the ramp
    before the window and those of the tail after it, unless `plain`. `api_key` never leaves the process but by a pipe.
    `cpus` pins worker i to the i-th of them.
    """

    base_urls: list[str]
    workload: str
    out: str  # folder that gets requests.parquet
    model: str
    workload_sha256: str | None = None  # refuse other bytes
    endpoint: str = "completions"
    phase: str = "both"  # "warmup", "window", or "both"
    mode: str = "open"  # "open", "closed" or "burst"
    concurrency: int | None = None
    bursts: int = 1
    window_s: float | None = None  # length of an open loop's window; None: until its last request is due
    ramp_s: float | None = None  # least length of the ramp; None: an open loop's is 2 s, or a third of a short window
    start: str = "staggered"  # closed loop: streams start spread over one end-to-end time, or "together"
    expected_e2e_s: float | None = None  # of a request, where no warm-up tells it
    plain: bool = False  # no ramp and no tail
    warmup_streams: int = 8  # streams of an open loop's warm-up, where its requests have no times
    stream: bool = True
    temperature: float = 0.0
    ignore_eos: bool = True
    timeout_s: float = 300.0
    max_in_flight: int | None = None
    think_s: float = 0.0
    duration_s: float | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    length_field: str = "max_tokens"  # which field of a request asks for the answer's length
    adapter_field: str = "model"  # which field of a request names its LoRA adapter, where it asks for one
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
        wrong = None
        if not self.base_urls:
            wrong = "base_urls is empty; give at least one"
        elif self.endpoint not in PATHS:
            wrong = f"endpoint is {self.endpoint!r}; it must be one of {', '.join(PATHS)}"
        elif self.phase not in ("warmup", "window", "both"):
            wrong = f"phase is {self.phase!r}; it must be warmup, window or both"
        elif self.mode not in ("open", "closed", "burst"):
            wrong = f"mode is {self.mode!r}; it must be open, closed or burst"
        elif self.start not in ("staggered", "together"):
            wrong = f"start is {self.start!r}; it must be staggered or together"
        elif self.bursts < 1:
            wrong = f"bursts is {self.bursts}; it must be at least 1"
        elif self.mode == "closed" and (self.concurrency is None or self.concurrency < 1):
            wrong = f"concurrency is {self.concurrency}; a closed loop needs at least 1"
        elif self.mode != "closed" and self.concurrency is not None:
            wrong = f"concurrency is {self.concurrency} without a closed loop; leave it out, or limit max_in_flight"
        elif self.workers < 1:
            wrong = f"workers is {self.workers}; it must be at least 1"
        elif not 0 < self.timeout_s < math.inf:  # false for NaN too
            wrong = f"timeout_s is {self.timeout_s:g}; it must be a positive number of seconds"
        elif self.duration_s is not None and not 0 < self.duration_s < math.inf:
            wrong = f"duration_s is {self.duration_s:g}; it must be a positive number of seconds, or none"
        elif not 0 <= self.temperature < math.inf:
            wrong = f"temperature is {self.temperature:g}; it must be 0 or more"
        elif self.max_in_flight is not None and self.max_in_flight < self.workers:
            wrong = f"max_in_flight is {self.max_in_flight}; it must be at least the number of workers, {self.workers}"
        elif not 0 <= self.think_s < math.inf or (self.think_s and self.mode != "closed"):
            wrong = f"think_s is {self.think_s:g}; it must be 0 or more, and belongs to a closed loop"
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
        return json.dumps({**dataclasses.asdict(self), "api_key": "", "headers": {}}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> LoadJob:
        return cls(**json.loads(text))
