"""Ids stay what they are: what was measured under a name is found under it. A change here measures everything again.

Measuring protocol 2 and its workloads are other things than those of protocol 1 and have other names; the plan still
knows the name that each had before. The names of today are held by tests/golden/plans.
"""

from __future__ import annotations

import json
from dataclasses import replace
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
        "cells": {earlier.id for planned in plan.cells for earlier in planned.cell.earlier},
        "workloads": {replace(spec.workload, version=1).id for spec in plan.workloads},
    }
    for kind, ids in GOLDEN[study].items():
        assert ids
        assert set(ids) <= found[kind], sorted(set(ids) - found[kind])[:3]
