"""What the streams of a closed loop send next."""

from __future__ import annotations

from collections import deque

from servegauge.instrument.phases import Phase, Row


class Streams:
    """Rows of a phase that are left for the streams of each instance, by part of the phase.

    `sending` are the parts that are sent now, in this order; `parked` the streams that found nothing to send; `quota`
    the requests of the window that are still to be sent, -1 where there is no window.
    """

    def __init__(self, phase: Phase, instances: int) -> None:
        self._instances = phase.stream_instances
        self._rows: dict[str, list[deque[Row]]] = {}
        for name, rows in {"ramp": phase.ramp, "rows": phase.rows, "tail": phase.tail}.items():
            self._rows[name] = [deque() for _ in range(instances)]
            for row in rows if phase.closed_loop else ():
                self._rows[name][row.instance].append(row)
        self.sending: tuple[str, ...] = ()
        self.parked: list[int] = []
        self.quota = -1

    def next_row(self, stream: int) -> Row | None:
        """Take the next row for a stream; one that finds none is parked."""
        for name in self.sending:
            if rows := self._rows[name][self._instances[stream]]:
                return rows.popleft()
        self.parked.append(stream)
        return None

    def left(self, instance: int) -> bool:
        """True where something is left to send to an instance."""
        return any(self._rows[name][instance] for name in self.sending)
