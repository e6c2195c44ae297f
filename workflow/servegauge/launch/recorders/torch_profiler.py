"""PyTorch's profiler in the servers of a traced launch: asked through the server, which bounds the steps."""

from __future__ import annotations

import shutil
from pathlib import Path

from servegauge.launch.profiler import Profiler


class TorchProfiler(Profiler):
    """What each rank wrote is copied beside the cell."""

    name = "torch_profiler"
    records = "what the servers' own threads and GPUs do, by PyTorch's profiler"
    profiler = "torch"

    def _begin(self) -> None:
        reply = self._live.framework.start_profile(self._server.client, self._live.launch)
        self._accepted(reply, "start")

    def _over(self) -> bool:
        return bool(self._written())

    def _end(self) -> None:
        reply = self._live.framework.stop_profile(self._server.client, self._live.launch)
        ended_by_itself = reply is not None and reply.status >= 400 and self._over()
        if not ended_by_itself:
            self._accepted(reply, "stop")

    def _written(self) -> list[Path]:
        """The traces so far, one a rank, in the order of their names."""
        return sorted(
            one for one in self._private.rglob("*") if one.name.endswith((".json", ".json.gz")) and one.is_file()
        )

    def _collect(self) -> list[str]:
        captures = []
        for rank, path in enumerate(self._written()):
            captures.append(f"capture-{rank}{'.json.gz' if path.name.endswith('.gz') else '.json'}")
            shutil.copyfile(path, self._folder / captures[-1])
        return captures
