"""Files of the dataset, held against the schemas that they must have."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from servegauge.contract.columns import SchemaError


def check_file(path: Path, schema: pa.Schema) -> int:
    """Rows of the Parquet file at `path`, whose columns must be those of `schema`; reads only the footer.

    Raises SchemaError where the columns differ, pyarrow.ArrowInvalid or OSError where the file cannot be read.
    """
    found = pq.read_metadata(path)
    columns = found.schema.to_arrow_schema()
    for field in schema:
        index = columns.get_field_index(field.name)
        if index < 0:
            raise SchemaError(f"{path}: column {field.name} is absent")
        if columns.field(index).type != field.type:
            raise SchemaError(f"{path}: column {field.name} is {columns.field(index).type}, asked is {field.type}")
    unknown = sorted(set(columns.names) - set(schema.names))
    if unknown:
        raise SchemaError(f"{path}: unknown columns {', '.join(unknown)}")
    return int(found.num_rows)
