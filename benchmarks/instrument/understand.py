"""CPU time after a window, per chunk: from the raw reads of answers to the written table.

Prints microseconds of CPU a chunk, the least and the median of several turns, for completions, chat and reasoning: 400
answers of 128 chunks, as a generator process does it, with the garbage collector off.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from pathlib import Path

from servegauge.contract.spec import Load
from servegauge.instrument import request_rows
from servegauge.instrument.connection import InFlight
from servegauge.instrument.job import LoadJob
from servegauge.instrument.share import Done, Share

REQUESTS, CHUNKS, TURNS = 400, 128, 5
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BASE = {
    "id": "cmpl-8f4ab3c1d2e94b0a",
    "object": "chat.completion.chunk",
    "created": 1732600000,
    "model": "org/model-8B",
}


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(choice: dict[str, object], finish: str | None = None) -> bytes:
    data = {**BASE, "choices": [{"index": 0, **choice, "finish_reason": finish}]}
    return framed(b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n")


def choice_of(kind: str, text: str) -> dict[str, object]:
    if kind == "completions":
        return {"text": text, "logprobs": None}
    return {"delta": {"content" if kind == "chat" else "reasoning_content": text}}


def flight(number: int, kind: str) -> InFlight:
    """A request whose answer came one chunk a read, 10 ms apart."""
    made = InFlight(number, b"", 0, 0)
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":%d}}\n\n' % CHUNKS
    tail = event(choice_of(kind, ""), "length") + framed(usage) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    made.reads = [HEAD, *(event(choice_of(kind, f" w{chunk}")) for chunk in range(CHUNKS)), tail]
    made.stamps = [10**7 * (read + 1) for read in range(len(made.reads))]
    made.sent_ns, made.end_ns = 1, made.stamps[-1]
    return made


def turn(kind: str, folder: Path) -> float:
    """CPU time a chunk of one turn, in microseconds."""
    columns = {
        "request": list(range(REQUESTS)),
        "phase": ["window"] * REQUESTS,
        "prompt": ["x"] * REQUESTS,
        "prompt_tokens": [7] * REQUESTS,
        "output_tokens": [CHUNKS] * REQUESTS,
    }
    job = LoadJob(["http://host"], "workload", str(folder), "m", Load(concurrency=1))
    flights = [flight(number, kind) for number in range(REQUESTS)]
    done = Done(Share(columns, {}), {"window": flights}, {"window": 0})
    gc.collect()
    gc.freeze()
    gc.disable()
    before = time.process_time()
    request_rows.write_part(job, 0, done, folder / "part.parquet")
    return (time.process_time() - before) / (REQUESTS * CHUNKS) * 1e6


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        for kind in ("completions", "chat", "reasoning"):
            turns = [turn(kind, Path(name)) for _ in range(TURNS)]
            print(f"{kind:12} {min(turns):.2f} us a chunk at least, {statistics.median(turns):.2f} in the median")


if __name__ == "__main__":
    main()
