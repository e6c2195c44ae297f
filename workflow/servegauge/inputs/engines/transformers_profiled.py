"""transformers serve for a traced launch: its own command, with a profiler and labels around its steps.

transformers serve has no profiler of its own. This file adds what vLLM has: POST /start_profile and /stop_profile, and
around each step a label of vLLM's grammar, which says its requests and tokens. PyTorch's profiler records the thread
that starts it, so the thread that computes does, between two steps. With nsys the same calls are CUDA's profiler
calls, which mark the range, and the labels are NVTX ranges; without a GPU `nvtx` makes them, where it is installed.

Run by the interpreter of the engine's environment, as a file: `python transformers_profiled.py OPTIONS serve ...`, with
OPTIONS as JSON: `profiler` (torch or nsys), `steps`, `folder` (of the trace), `max_batch`.

Written for transformers 5.23; what it replaces is named in `install`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch
import transformers

ANSWER_S = 60.0


class Range:
    """What is recorded, by PyTorch's profiler or by nsys."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.profile: Any = None
        try:
            import nvtx
        except ImportError:
            nvtx = None
        self.nvtx = nvtx

    def begin(self) -> None:
        if self.kind == "torch":
            on = [torch.profiler.ProfilerActivity.CPU]
            on += [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            self.profile = torch.profiler.profile(activities=on)
            self.profile.start()
        elif torch.cuda.is_available():
            torch.cuda.profiler.start()

    def end(self) -> None:
        """End it, and write the trace whole."""
        if self.kind == "nsys":
            if torch.cuda.is_available():
                torch.cuda.profiler.stop()
            return
        self.profile.stop()
        self.folder.mkdir(exist_ok=True)
        unfinished = self.folder / "unfinished.gz"
        self.profile.export_chrome_trace(str(unfinished))
        os.replace(unfinished, self.folder / "rank-0.json.gz")
        self.profile = None

    def label(self, name: str) -> Any:
        if self.kind == "torch":
            return torch.profiler.record_function(name)
        if torch.cuda.is_available():
            return torch.cuda.nvtx.range(name)
        return self.nvtx.annotate(name) if self.nvtx else contextlib.nullcontext()


class Control:
    """Asked by requests to the server, carried out by the thread that computes, between two steps."""

    def __init__(self, steps: int, recorded: Range) -> None:
        self.steps, self.range = steps, recorded
        self.wanted = self.on = False
        self.left = 0
        self.changed = threading.Condition()
        self.error = ""

    def ask(self, wanted: bool) -> dict[str, Any]:
        """Start or stop it; returns when that is done, also where it has ended by itself."""
        with self.changed:
            self.wanted, self.error = wanted, ""
            if not self.changed.wait_for(lambda: self.on == self.wanted, ANSWER_S):
                self.wanted, self.error = self.on, f"the computing thread did not answer within {ANSWER_S:.0f} s"
            if self.error:
                raise RuntimeError(self.error)
        return {"on": wanted}

    def between_steps(self) -> None:
        if self.on == self.wanted:
            return
        with self.changed:
            try:
                if self.wanted:
                    self.range.begin()
                    self.left = self.steps
                else:
                    self.range.end()
                self.on = self.wanted
            except Exception as error:  # the server goes on without it
                self.error, self.on, self.wanted = f"{type(error).__name__}: {error}", False, False
            self.changed.notify_all()

    def step(self, name: str, compute: Any) -> None:
        """One step: labelled, and counted while it is recorded."""
        with self.range.label(name):
            compute()
        if self.on:
            self.left -= 1
            self.wanted = self.wanted and self.left > 0


def label(processor: Any) -> str:
    """The step's requests and tokens in vLLM's grammar; a piece of a prompt of one token counts as generation."""
    inputs = processor.inputs_and_outputs
    if hasattr(inputs, "io_pairs"):  # two batches are under way at once
        inputs = inputs.io_pairs[inputs.current_pair].host_io
    tokens = [one.query_length for one in inputs.requests_in_batch]
    context = [count for count in tokens if count > 1]
    generation = len(tokens) - len(context)
    return f"execute_context_{len(context)}({sum(context)})_generation_{generation}({generation})"


def install(control: Control, max_batch: int) -> None:
    """Put `control` into transformers' loop, step, sampling and server; fix two fields that its command line lacks."""
    from transformers.cli.serving import server
    from transformers.generation.continuous_batching import continuous_api, model_runner

    config = functools.partial(
        transformers.ContinuousBatchingConfig, allow_block_sharing=False, max_requests_per_batch=max_batch
    )

    def told(**given: Any) -> Any:  # as frameworks/transformers.py has it, which reads what is printed
        print(made := config(**given), flush=True)
        return made

    transformers.ContinuousBatchingConfig = told
    manager, processor = continuous_api.ContinuousBatchingManager, continuous_api.ContinuousBatchProcessor
    body, step = manager._generation_loop_body, processor._generation_step

    def loop_body(self: Any, *args: Any, **named: Any) -> Any:
        control.between_steps()
        return body(self, *args, **named)

    def generation_step(self: Any, model: Any) -> None:
        control.step(label(self), lambda: step(self, model))

    manager._generation_loop_body, processor._generation_step = loop_body, generation_step
    runner: Any = next(one for one in vars(model_runner).values() if "_sample" in getattr(one, "__dict__", ()))
    sample = runner._sample

    def labelled_sample(self: Any, *args: Any, **named: Any) -> Any:
        if not control.on or torch.compiler.is_compiling():
            return sample(self, *args, **named)
        with control.range.label("sampling"):
            return sample(self, *args, **named)

    runner._sample = labelled_sample
    build = server.build_server

    def build_server(*args: Any, **named: Any) -> Any:
        app = build(*args, **named)
        app.post("/start_profile")(lambda: control.ask(True))
        app.post("/stop_profile")(lambda: control.ask(False))
        return app

    server.build_server = build_server


def main() -> None:
    options = json.loads(sys.argv.pop(1))
    install(
        Control(options["steps"], Range(options["profiler"], Path(options["folder"]))),
        options["max_batch"],
    )
    from transformers.cli.transformers import app

    app()


if __name__ == "__main__":
    main()
