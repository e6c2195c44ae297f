"""Ids stay what they are: what was measured under a name is found under it. A change here measures everything again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servegauge.plan.config import load_study
from servegauge.plan.expand import expand

ROOT = Path(__file__).parents[3]
GOLDEN = json.loads((ROOT / "tests" / "golden" / "ids.json").read_text())  # as commit 5cffbef named them


@pytest.mark.parametrize("study", GOLDEN)
def test_launches_cells_and_workloads_of_the_repositorys_studies_keep_their_ids(study: str) -> None:
    plan = expand(load_study(ROOT, study))
    found = {
        "launches": {launch.id for launch in plan.launches},
        "cells": {planned.cell.id for planned in plan.cells},
        "workloads": {workload.id for workload in plan.workloads},
    }
    for kind, ids in GOLDEN[study].items():
        assert ids
        assert set(ids) <= found[kind], sorted(set(ids) - found[kind])[:3]
