"""A dataset that names no host, person, place on disk or device: the same numbers, for everybody.

Names are found as names.py says and replaced everywhere: the same name by the same word in every table. Names of
studies, platforms and models stay: people chose them to be read; where one holds a name of those (a platform called by
its host), that part is replaced. Afterwards the copy is searched for every name that was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.base.files import whole_file, whole_folder
from servegauge.exchange.names import Names, collect


def anonymise(dataset: Path, out: Path) -> list[tuple[str, str, str, int]]:
    """Write the tables of `dataset`, a folder, to `out` without names.

    Returns (kind, what it was, what it is now, how often) for each name; that list can undo it. UserError where
    `out` exists, a name would remain, or there is nothing to copy.
    """
    tables = {path.relative_to(dataset): path for path in sorted(dataset.rglob("*.parquet"))}
    if not tables:
        raise UserError(f"{dataset} holds no tables; `snakemake` writes them, or `scripts/merge_dataset.py`.")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; give a folder that is not there yet.")
    names = Names()
    for path in tables.values():
        for column, text in _texts(pq.read_table(path), path):
            collect(column, text, names)
    if others := names.others():
        for path in tables.values():
            for _, text in _texts(pq.read_table(path), path):
                for name in others.findall(text):
                    names.add("host", name)
    names.number()
    with whole_folder(out) as folder:
        for name, path in tables.items():
            # A part is called by its launch, which is called by its platform, which may be called by its host.
            target = folder / (name.with_name(names.text(name.name)) if len(name.parts) > 1 else name)
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, target, names.text)
        _nothing_left(folder, names)
    return sorted((kind, name, word, names.uses[kind, name]) for (kind, name), word in names.words.items())


def write_list(path: Path, replaced: Sequence[tuple[str, str, str, int]]) -> None:
    """The list of what was replaced, readable by its owner alone."""
    with whole_file(path, 0o600) as temporary:
        lines = ["kind\twas\tis\tuses", *("\t".join(map(str, row)) for row in replaced)]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _texts(table: pa.Table, path: Path) -> Iterator[tuple[str, str]]:
    """Every different text of a table and of its schema, with its column's name; UserError for other types."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        flat = column
        while pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type):
            flat = pc.list_flatten(flat)
        if _is_text(flat.type):
            for text in pc.unique(_decoded(flat)).to_pylist():
                if text:
                    yield name, text
        elif pa.types.is_nested(flat.type) or pa.types.is_binary(flat.type) or pa.types.is_large_binary(flat.type):
            raise UserError(f"{path}: the column {name} is of type {flat.type}, in which names are not searched for.")
    for one in (table.schema, *table.schema):
        for key, value in (one.metadata or {}).items():
            yield key.decode(errors="replace"), value.decode(errors="replace")


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if column.type != pa.string() else column


def _replaced(table: pa.Table, change: Callable[[str, str], str]) -> pa.Table:
    """The table with every text changed; types stay."""
    for index, name in enumerate(table.column_names):
        column = table.column(index)
        inner = column.type
        nested = pa.types.is_list(inner) or pa.types.is_large_list(inner)
        if nested and _is_text(inner.value_type):
            lists = [
                None if one is None else [word and change(word, name) for word in one] for one in column.to_pylist()
            ]
            table = table.set_column(index, table.schema.field(name), pa.array(lists, inner))
        elif _is_text(inner):
            known = {text: change(text, name) for text in pc.unique(_decoded(column)).to_pylist() if text is not None}
            values = [known.get(text) for text in _decoded(column).to_pylist()]
            table = table.set_column(index, table.schema.field(name), pa.array(values, pa.string()).cast(inner))
    return table


def _copy(path: Path, target: Path, change: Callable[[str, str], str]) -> None:
    """Write a table anew, row group by row group: a part's footer says in which of them a cell is."""

    def changed(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
        texts = {key.decode(): value.decode() for key, value in (metadata or {}).items() if key != b"ARROW:schema"}
        return {key: change(value, key) for key, value in texts.items()}

    with pq.ParquetFile(path) as file:
        old = file.schema_arrow
        schema = pa.schema([one.with_metadata(changed(one.metadata)) for one in old], changed(old.metadata))
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for group in range(file.num_row_groups):
                table = _replaced(file.read_row_group(group), change).cast(schema)
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            footer = changed(file.metadata.metadata)
            if own := {key: value for key, value in footer.items() if key.encode() not in (old.metadata or {})}:
                writer.add_key_value_metadata(own)


def _nothing_left(folder: Path, names: Names) -> None:
    """UserError where a name is still in a table."""
    for path in sorted(folder.rglob("*.parquet")):
        for column, text in _texts(pq.read_table(path), path):
            if left := names.left_in(text):
                raise UserError(
                    f"{path.name}: the column {column} would still hold {left!r}; nothing was written. Report it, "
                    "with the column's name."
                )
