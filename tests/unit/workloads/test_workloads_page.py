"""docs/workloads.md names every process, kind, shipped prompt set and column, so that it cannot fall behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegauge.contract import yaml_schema
from servegauge.inputs import config_files
from servegauge.workloads import arrivals
from servegauge.workloads import compile as workload_compile


@pytest.fixture(scope="module")
def page(repository: Path) -> str:
    return (repository / "docs" / "workloads.md").read_text(encoding="utf-8")


def test_every_arrival_process_is_there(page: str) -> None:
    assert [name for name in arrivals.PROCESSES if f"| `{name}` |" not in page] == []


def test_every_kind_and_every_shipped_set_is_there(page: str, repository: Path) -> None:
    kinds = yaml_schema.schema("prompts")["properties"]["kind"]["enum"]
    assert [kind for kind in kinds if f"- **{kind}**" not in page] == []
    assert [name for name in config_files.names(repository, "prompts") if f"`{name}`" not in page] == []


def test_every_column_is_there(page: str) -> None:
    assert ", ".join(workload_compile.SCHEMA.names) in page


def test_the_processes_are_the_studies_schemas(repository: Path) -> None:
    arrival = yaml_schema.schema("study")["properties"]["load"]["properties"]["arrival"]
    assert set(arrival["properties"]["process"]["enum"]) == set(arrivals.PROCESSES)
