"""Columns of the dataset that come from specifications and from launch.json, not from requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from servegauge.contract.records.base import plain
from servegauge.contract.records.launch import LaunchRecord
from servegauge.contract.spec import LATER, Launch, Load, canonical_json
from servegauge.frameworks.reported_config import beside


def factors(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that say what a launch's server is, from `Launch.to_dict()`."""
    layout = spec["layout"]
    return {
        "configuration": spec.get("configuration") or Launch.from_dict(spec).configuration,
        "framework": spec["framework"],
        "model": spec["model"]["name"],
        "platform": spec["platform"]["name"],
        **{name: layout.get(name, 1) for name in ("tp", "pp", "dp", "ep", "instances")},
        "share_gpu": bool(layout.get("share_gpu")),
        "repeat": spec["repeat"],
        "options": canonical_json(spec.get("options") or {}),
    }


def load_factors(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that say what a cell is put under, from `Cell.to_dict()`."""
    load = spec["load"]
    protocol = spec.get("protocol", 1)
    searched = load.get("capacity")
    return {
        "prompts": spec["prompts"]["name"],
        "capacity": None if searched is None else searched["slo"],
        **{name: load.get(name) for name in ("rate_rps", "concurrency", "burst", "cache")},
        "protocol": protocol,
        "loop": Load(**load).loop,
        "arrival": (load.get("arrival") or {}).get("process"),
        "sampling": canonical_json({"temperature": load.get("temperature", 0), **(load.get("sampling") or {})}),
        "load": canonical_json({name: value for name, value in load.items() if name not in LATER or value is not None}),
        "workload": spec["workload"]["id"],
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
