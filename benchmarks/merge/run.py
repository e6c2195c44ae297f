#!/usr/bin/env python3
"""Merge made-up cells with the real schema, and compare with pyarrow copying the same bytes.

    python benchmarks/merge/run.py                                   # 100 cells x 2,000 requests, a minute
    python benchmarks/merge/run.py --cells 1000 --requests 10000     # the size that is asked for

Each step runs in a process of its own, so that its peak memory is its own: the merge of everything, the copy (read each
cell's requests, write them one part per launch), then a merge after one cell was added, and one after nothing was.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
DRAWS = 8  # different draws of requests; the cells share them in turn, with their own names
MIB = 1 << 20

COPY = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
results, out = Path(sys.argv[1]), Path(sys.argv[2])
by_launch = {}
for line in (results / "cells.tsv").read_text().splitlines():
    cell, launch = line.split()
    by_launch.setdefault(launch, []).append(cell)
out.mkdir()
for launch, cells in by_launch.items():
    writer = None
    for cell in cells:
        table = pq.read_table(results / "cells" / cell / "requests.parquet")
        writer = writer or pq.ParquetWriter(out / f"{launch}.parquet", table.schema, compression="zstd")
        writer.write_table(table)
    writer.close()
"""

MERGE = """
import sys
from pathlib import Path
from servegauge.contract.records.base import plain
from servegauge.contract.records.specs import CellSpec
from servegauge.dataset.merge import merge, sentences
print("\\n".join(sentences(merge(Path(sys.argv[1])))))
"""


def generate(results: Path, cells: int, requests: int, tokens: int, per_launch: int) -> int:
    """`cells` measured cells in launches of `per_launch`; returns the bytes of their requests."""
    import pyarrow as pa
    import synthetic

    from servegauge.base.files import write_json
    from servegauge.contract.records.base import plain
    from servegauge.contract.records.specs import CellSpec
    from servegauge.contract.spec import Cell, Launch, Load

    model = {"name": "tiny", "source": "models/tiny"}
    shapes = [synthetic.Shape(requests=requests, warmup=0, output_tokens=tokens, seed=seed) for seed in range(DRAWS)]
    tables = [synthetic.raw_requests("cell", "launch", shape) for shape in shapes]
    plan_launches, plan_cells, names, total = [], [], [], 0
    for number in range(cells):
        repeat = number // per_launch + 1
        launch = Launch("llamacpp", model, {"name": "own-cpu"}, repeat=repeat)
        load = Load(rate_rps=float(number % per_launch + 1), requests=requests, output_tokens=tokens)
        cell = Cell.of(launch, {"name": "chat"}, load)
        if number % per_launch == 0:
            plan_launches.append(launch.to_dict())
        plan_cells.append(plain(CellSpec.of(cell)))
        table = tables[number % DRAWS]
        for name, value in (("cell", cell.id), ("launch", launch.id)):
            words = pa.DictionaryArray.from_arrays(pa.array([0] * table.num_rows, pa.int32()), [value])
            table = table.set_column(table.column_names.index(name), table.schema.field(name), words)
        folder = synthetic.write_cell(results, launch, cell, shapes[number % DRAWS], requests=table)
        names.append(f"{cell.id} {launch.id}")
        total += (folder / "requests.parquet").stat().st_size
    study = {"name": "bench", "slo": {"interactive": {"ttft_s": 0.02, "tpot_s": 0.0017}}}
    write_json(results / "plan/bench.json", {"study": study, "launches": plan_launches, "cells": plan_cells})
    (results / "cells.tsv").write_text("\n".join(names) + "\n")
    return total


def run(code: str, *words: str) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak memory of `code` in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    watch = (  # VmHWM is of this program alone; ru_maxrss would count what the parent had when it forked
        "import sys; exec(sys.argv.pop(1)); "
        "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0], file=sys.stderr)"
    )
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", watch, code, *words], capture_output=True, text=True, check=False)
    wall = time.monotonic() - started
    if ended.returncode:
        sys.exit(f"a step failed:\n{ended.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = next(int(line.split()[1]) for line in ended.stderr.splitlines() if line.startswith("VmHWM"))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak / 1024}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--requests", type=int, default=2000, help="per cell")
    parser.add_argument("--tokens", type=int, default=64, help="output tokens, and chunks, per request")
    parser.add_argument("--cells-per-launch", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3, help="of merge and copy in turn; the best of each counts")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="merge-benchmark-") as folder:
        results = Path(folder) / "results"
        size = generate(results, arguments.cells, arguments.requests, arguments.tokens, arguments.cells_per_launch)
        print(
            f"{arguments.cells} cells x {arguments.requests} requests x {arguments.tokens} tokens: {size / MIB:.0f} MiB"
        )
        merges, copies = [], []
        for _ in range(arguments.rounds):
            shutil.rmtree(results / "dataset", ignore_errors=True)
            merges.append(run(MERGE, str(results)))
            copies.append(run(COPY, str(results), f"{folder}/copy"))
            shutil.rmtree(f"{folder}/copy")
        steps = {
            "merge": min(merges, key=lambda step: step["wall_s"]),
            "copy by pyarrow": min(copies, key=lambda step: step["wall_s"]),
        }
        last = (results / "cells.tsv").read_text().splitlines()[-1].split()[0]
        (results / "cells" / last).rename(results / last)
        run(MERGE, str(results))
        (results / last).rename(results / "cells" / last)
        steps["merge after one new cell"] = run(MERGE, str(results))
        steps["merge after nothing new"] = run(MERGE, str(results))
        written = sum(path.stat().st_size for path in (results / "dataset").rglob("*.parquet"))
    print(f"{'':28}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}{'MiB/s':>9}")
    for name, step in steps.items():
        speed = f"{size / MIB / step['wall_s']:9.0f}" if name in ("merge", "copy by pyarrow") else ""
        print(f"{name:28}{step['wall_s']:9.2f}{step['cpu_s']:9.2f}{step['peak_mib']:10.0f}{speed}")
    share = steps["copy by pyarrow"]["wall_s"] / steps["merge"]["wall_s"]
    print(f"speed of the merge / of the copy: {share:.2f} (asked: 0.5); dataset {written / MIB:.0f} MiB")
    if arguments.json:
        arguments.json.write_text(json.dumps({"bytes": size, "share": share, "steps": steps}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
