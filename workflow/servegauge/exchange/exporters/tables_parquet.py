"""The dataset of one study alone, in the layout of results/: enough to render its report, and to publish."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.files import whole_file
from servegauge.dataset import merge
from servegauge.exchange.formats import Exporter

KEYS = ("study", "cell", "launch", "platform")


class StudyParquet(Exporter):
    name = "parquet"
    writes = (
        "dataset/ with every table as it is, less the rows of other studies; `servegauge report --results` reads it"
    )

    def export(self, results: Path, study: str, out: Path) -> list[Path]:
        asked = merge.read(results, "study_cells")
        asked = asked.filter(pc.equal(asked["study"], study))
        cells = set(asked["cell"].to_pylist())
        launches = set(asked["launch"].to_pylist())
        platforms = merge.read(results, "launches")
        platforms = platforms.filter(pc.is_in(_text(platforms["launch"]), pa.array(sorted(launches), pa.string())))
        wanted = {
            "study": {study},
            "cell": cells,
            "launch": launches,
            "platform": {name.removesuffix(".again") for name in platforms["platform"].to_pylist() if name},
        }
        dataset, written = results / "dataset", []
        for path in sorted(dataset.rglob("*.parquet")):
            name = path.relative_to(dataset)
            if len(name.parts) > 1 and name.stem not in launches:
                continue  # a part is a launch
            with whole_file(out / "dataset" / name) as temporary:
                if len(name.parts) > 1:
                    shutil.copyfile(path, temporary)  # its footer says in which row groups a cell is
                else:
                    pq.write_table(_rows(pq.read_table(path), wanted, name.stem), temporary, compression="zstd")
            written.append(out / "dataset" / name)
        return written


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())


def _rows(table: pa.Table, wanted: dict[str, set[str]], name: str) -> pa.Table:
    """The rows of the study: by the first key that the table has."""
    keys = KEYS[1:] if name == "attempts" else KEYS  # its study is the one that ordered it; another may use its cells
    key = next((key for key in keys if key in table.column_names), None)
    if key is None:
        return table
    return table.filter(pc.is_in(_text(table[key]), pa.array(sorted(wanted[key]), pa.string())))
