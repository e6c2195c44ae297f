"""A recorder that nobody needs: it writes when it was started and stopped."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.contract.columns import column
from servegauge.launch.recorder import Recorder


class MadeUp(Recorder):
    name = "made_up_recorder"
    records = "made-up: moments"

    @classmethod
    def tables(cls):
        moment = column("t_ns", pa.int64(), "made-up: a moment, on the clock of the requests", "ns", null=False)
        return {"made_up_moments": pa.schema([moment])}

    def start(self, live, folder: Path, cpus) -> None:
        self.out, self.began_ns = folder / "made_up_moments.parquet", time.monotonic_ns()

    def stop(self, zero_ns: int) -> None:
        moments = [self.began_ns - zero_ns, time.monotonic_ns() - zero_ns]
        pq.write_table(pa.table({"t_ns": moments}, schema=self.tables()["made_up_moments"]), self.out)
        self.report = {"moments": len(moments)}
