"""docs/data-dictionary.md, printed from the schemas: `python -m servegauge.data_dictionary --fix` writes it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pyarrow as pa

from servegauge.errors import UserError, door
from servegauge.files import write_text
from servegauge.tables import PARTED, TABLES

_PREFACE = """# Data dictionary

Generated from the schemas in `workflow/servegauge/tables.py` by `python -m servegauge.data_dictionary --fix`; a test holds the
two together. The same descriptions and units are in the metadata of every Parquet file.

`results/dataset/` holds {count} tables. Most are one file, `<table>.parquet`; {parted} are folders with one Parquet
file per launch, so that one new cell rewrites one part. Tables join on `cell` and `launch`.

- `_s` is seconds, `_ns` nanoseconds on a monotonic clock with 0 at the start of the cell's window, `_rps` requests per
  second. Add `cells.epoch_offset_ns` to a stamp for Unix time.
- Undefined is null, never 0 or NaN. The latencies of a request that failed are null, so it enters no quantile.
- Rows with `phase = "warmup"` are kept in `requests`, and are in no metric of `cells`.
- A `word` is a string that repeats, dictionary-encoded (pandas and polars read a categorical, DuckDB an enum or text).

## What the latencies are

Well-known tools disagree about these words. Here:

| metric | per request | note |
|---|---|---|
| `ttft_s` | first token - sent | client side; the empty first chunk of a chat answer is no token |
| `ttft_scheduled_s` | first token - *scheduled* | with it, a client that sends late cannot hide queueing |
| `e2e_s`, `e2e_scheduled_s` | last token - sent, - scheduled | to the last token, not to the trailer that follows it |
| `tpot_s` | (last token - first token) / (output tokens - 1) | null below two tokens, where others put 0 |
| `itl` | each gap between two chunks | not stored: differences of `chunk_ns`; `chunk_tokens`: tokens in each |
| `lateness_s` | sent - scheduled | the load generator's own delay |

vLLM's bench: TPOT as here, but 0 for a single token; its ITL also pools gaps between chunks. aiperf: "ITL" is what TPOT
is here. guidellm: "TPOT" is (last token - *sent*) / output tokens, so it contains TTFT; its "ITL" is what TPOT is here.

Quantiles are over the ok requests of the window (ITL: over its gaps). Their 95 % intervals are distribution-free (order
statistics), null where the sample cannot carry them: a p99 needs 368 requests, a p90 36, a median 6.
"""


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return "word"
    return str(kind).replace("element", "item").replace("list<item: ", "list<").replace("double", "float64")


def data_dictionary() -> str:
    """The data dictionary as Markdown: every table, every column with its type, unit and meaning."""
    parted = ", ".join(f"`{name}`" for name in PARTED)
    parts = [_PREFACE.format(count=len(TABLES), parted=parted)]
    for name, schema in TABLES.items():
        where = f"`results/dataset/{name}/<launch>.parquet`" if name in PARTED else f"`results/dataset/{name}.parquet`"
        lines = [f"## {name}", "", (schema.metadata[b"description"]).decode(), f"In {where}.", ""]
        lines += ["| column | type | unit | null | meaning |", "|---|---|---|---|---|"]
        for field in schema:
            metadata = {key.decode(): value.decode() for key, value in field.metadata.items()}
            meaning = metadata["description"].replace("|", "\\|")
            null = "yes" if field.nullable else "no"
            lines.append(f"| `{field.name}` | {_kind(field.type)} | {metadata.get('unit', '')} | {null} | {meaning} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def main() -> int:
    """Print the data dictionary, or write it where the repository keeps it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--fix", action="store_true", help="write docs/data-dictionary.md instead of printing")
    if parser.parse_args().fix:
        path = Path("docs/data-dictionary.md")
        if not path.parent.is_dir():
            raise UserError(f"there is no folder docs/ in {Path.cwd()}: run this from the repository's root")
        write_text(path, data_dictionary())
    else:
        sys.stdout.write(data_dictionary())
    return 0


if __name__ == "__main__":
    door(main)
