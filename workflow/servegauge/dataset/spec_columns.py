"""Columns of the dataset that come from specifications and from launch.json, not from requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from servegauge.contract.records.base import plain
from servegauge.contract.records.launch import LaunchRecord
from servegauge.contract.records.specs import CellSpec, LaunchSpec
from servegauge.contract.spec import canonical_json
from servegauge.frameworks.reported_config import beside


def factors(spec: LaunchSpec) -> dict[str, Any]:
    """The columns that say what a launch's server is."""
    return {
        "configuration": spec.configuration or spec.launch.configuration,
        "framework": spec.framework,
        "model": spec.model["name"],
        "platform": spec.platform["name"],
        **asdict(spec.layout),
        "repeat": spec.repeat,
        "options": canonical_json(spec.options),
    }


def load_factors(spec: CellSpec) -> dict[str, Any]:
    """The columns that say what a cell is put under."""
    load = spec.load
    return {
        "prompts": spec.prompts["name"],
        "capacity": load.capacity and load.capacity["slo"],
        **{name: getattr(load, name) for name in ("rate_rps", "concurrency", "burst", "cache", "loop")},
        "protocol": spec.protocol,
        "arrival": load.arrival.get("process"),
        "sampling": canonical_json({"temperature": load.temperature, **(load.sampling or {})}),
        "load": load.canonical,
        "workload": spec.workload.id,
    }


def attempt_columns(record: LaunchRecord | None) -> dict[str, Any]:
    """Columns of ATTEMPTS from launch.json; where there is none, the server was not started."""
    if record is None:
        return {"server_starts": 0, "flags": []}
    starts = record.server_starts
    instances = starts[0].instances if starts else ()
    evidence = instances[0].evidence if instances else {}
    caches = {one.compile_cache for one in instances}
    settings = beside(record.spec.launch, evidence["effective"]) if "effective" in evidence else None
    return {
        "hostname": _hostname(record.provenance),
        "framework_version": evidence.get("version"),
        "server_starts": len(starts),
        "startup_s": starts[0].ready_s if starts else None,
        "startup_parts": canonical_json(evidence["startup_s"]) if evidence.get("startup_s") else None,
        "compile_cache": None if None in caches or not caches else "warm" if caches == {"warm"} else "cold",
        "settings": canonical_json(settings) if settings else None,
        "flags": sorted({flag.flag for flag in record.flags}),
        "provenance": canonical_json(plain(record)),
    }


def _hostname(provenance: Mapping[str, Any]) -> str | None:
    """The node's name among the platform's facts."""
    facts = (provenance.get("platform") or {}).get("value") or {}
    for name in ("hostname", "host"):
        fact = facts.get(name)
        value = fact.get("value") if isinstance(fact, Mapping) else fact
        if isinstance(value, str):
            return value
    return None
