"""The schemas: complete metadata, a strict door, and a data dictionary that says what they say."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servegauge.cli.docs.data_dictionary import data_dictionary
from servegauge.contract import cell_tables, tables
from tests.parquet_files import check_file

ROOT = Path(__file__).parents[3]
UNITS = {"_s": "s", "_ns": "ns", "_rps": "1/s"}


def test_data_dictionary_is_what_the_schemas_say():
    found = (ROOT / "docs/data-dictionary.md").read_text(encoding="utf-8")
    assert found == data_dictionary(), "run: python -m servegauge.cli.docs"


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_column_is_described_and_its_unit_agrees_with_its_name(name):
    for field in tables.TABLES[name]:
        metadata = {key.decode(): value.decode() for key, value in field.metadata.items()}
        assert metadata["description"].strip()
        suffix = re.search(r"(?<!_gb)_(s|ns|rps)$", field.name)
        if suffix and not field.name.endswith("tokens_per_s"):
            assert metadata["unit"] == UNITS[suffix[0]], field.name
            whole = pa.list_(pa.int64()) if field.name == "chunk_ns" else pa.int64()
            assert field.type == (whole if suffix[1] == "ns" else pa.float64()), field.name


def test_raw_requests_are_as_the_load_generator_writes_them():
    assert cell_tables.REQUESTS_RAW.names == [
        *("cell", "launch", "request", "request_id", "phase", "instance", "worker"),
        *("scheduled_ns", "sent_ns", "first_byte_ns", "first_token_ns", "first_answer_ns", "last_ns", "end_ns"),
        *("chunk_ns", "chunk_tokens", "connection_reused", "http_status", "status", "error", "finish_reason"),
        *("prompt_tokens_asked", "output_tokens_asked", "prompt_tokens", "output_tokens", "tokens_source"),
        *("cached_tokens", "text_sha256", "session", "turn", "adapter"),
    ]
    derived = ["ttft_s", "ttfat_s", "ttft_scheduled_s", "tpot_s", "e2e_s", "e2e_scheduled_s"]
    derived += ["lateness_s", "session_s", "session_answers_s"]
    assert cell_tables.REQUESTS.names == cell_tables.REQUESTS_RAW.names + derived


def test_summary_columns_hold_each_quantile_with_its_interval():
    for metric in ("ttft", "tpot", "itl", "e2e", "ttft_scheduled", "e2e_scheduled", "lateness"):
        for quantile in ("p50", "p90", "p99"):
            for suffix in ("s", "low_s", "high_s"):
                assert f"{metric}_{quantile}_{suffix}" in tables.CELLS.names


def row(**changes):
    return {"study": "a", "cell": "c", "launch": "l", "position": 3, **changes}


def test_a_table_survives_parquet_with_its_schema_and_metadata(tmp_path):
    table = tables.from_rows([row(), row(position=None)], tables.STUDY_CELLS)
    pq.write_table(table, tmp_path / "t.parquet")
    back = pq.read_table(tmp_path / "t.parquet")
    assert back.schema.equals(tables.STUDY_CELLS, check_metadata=False)
    assert back.schema.field("cell").metadata[b"description"] == b"id of the cell: one load run on a live launch"
    assert back.to_pylist() == [row(), row(position=None)]
    assert check_file(tmp_path / "t.parquet", tables.STUDY_CELLS) == 2


def test_every_empty_table_survives_parquet(tmp_path):
    for name, schema in {**tables.TABLES, "raw": cell_tables.REQUESTS_RAW}.items():
        pq.write_table(tables.from_rows([], schema), tmp_path / f"{name}.parquet")
        assert check_file(tmp_path / f"{name}.parquet", schema) == 0


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (row(study=None), "column study has 1 nulls"),
        (row(colour="red"), "unknown columns colour"),
    ],
)
def test_rows_outside_the_schema_are_refused(broken, said):
    with pytest.raises(tables.SchemaError, match=said):
        tables.from_rows([broken], tables.STUDY_CELLS)


def test_conform_casts_orders_and_refuses():
    words = pa.table({"launch": ["l"], "cell": ["c"], "study": ["a"]})
    table = tables.conform(words, tables.STUDY_CELLS)
    assert table.column_names == tables.STUDY_CELLS.names
    assert table.column("position").null_count == 1
    with pytest.raises(tables.SchemaError, match="column study is absent"):
        tables.conform(words.drop(["study"]), tables.STUDY_CELLS)
    with pytest.raises(tables.SchemaError, match="column position is string, asked is int32"):
        tables.conform(words.append_column("position", [["high"]]), tables.STUDY_CELLS)


def test_a_file_with_another_type_or_a_missing_column_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"study": ["a"], "cell": ["c"], "launch": ["l"], "position": ["3"]}), path)
    with pytest.raises(tables.SchemaError, match="column study is string"):
        check_file(path, tables.STUDY_CELLS)
    table = tables.from_rows([row()], tables.STUDY_CELLS)
    pq.write_table(table.drop(["position"]), path)
    with pytest.raises(tables.SchemaError, match="column position is absent"):
        check_file(path, tables.STUDY_CELLS)
    pq.write_table(table.append_column("colour", [["red"]]), path)
    with pytest.raises(tables.SchemaError, match="unknown columns colour"):
        check_file(path, tables.STUDY_CELLS)
