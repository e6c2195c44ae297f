"""Why and when a launch stops before all of its cells are measured."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

STOP_MARGIN_S = 30.0  # kept free at the end of a job for stopping and writing


class Stop:
    """Asked to stop, and why: by a signal, or because the job's time is nearly over."""

    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline  # seconds since the epoch, or none
        self.reason: str | None = None

    def ask(self, reason: str) -> None:
        """Stop as soon as possible; the first reason stays."""
        self.reason = self.reason or reason

    def left_s(self) -> float:
        """Seconds that may still be measured in."""
        return float("inf") if self.deadline is None else self.deadline - STOP_MARGIN_S - time.time()

    def __call__(self) -> bool:
        if self.left_s() <= 0:
            self.ask("the job's time limit is near")
        return self.reason is not None

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """In the block SIGTERM (scancel, preemption), SIGINT and SIGUSR2 (Slurm's warning) ask to stop, and no more."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

        def handle(number: int, _frame: object) -> None:
            self.ask(f"the job got {signal.Signals(number).name} (cancelled, preempted or out of time)")

        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
