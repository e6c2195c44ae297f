"""Rows of STUDY_MODELS and STUDY_PLATFORMS: what a plan resolved, and the models' own descriptions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from servegauge.contract.spec import canonical_json
from servegauge.inputs.models import source_folder


def model_rows(plans: Iterable[Mapping[str, Any]], before: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per study and model. `before`: the rows of the last merge, whose config.json may be gone by now."""
    kept = {(row["model"], row["file"]): row["config"] for row in before}
    rows = []
    for plan in plans:
        for name, model in (plan["study"].get("models") or {}).items():
            file = canonical_json(model)
            config = _config(model) or kept.get((name, file))
            rows.append({"study": plan["study"]["name"], "model": name, "file": file, "config": config})
    return rows


def _config(model: Mapping[str, Any]) -> str | None:
    """The model's config.json as canonical JSON; None where it is not here, or is none."""
    try:
        text = (source_folder(model) / "config.json").read_text(encoding="utf-8")
        return canonical_json(json.loads(text))
    except (OSError, ValueError, KeyError):
        return None


def platform_rows(plans: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per study and platform."""
    return [
        {
            "study": plan["study"]["name"],
            "platform": name,
            "gpus_per_node": platform.get("gpus_per_node"),
            "vendor_bf16_tflops": (platform.get("gpu") or {}).get("bf16_tflops"),
            "vendor_memory_gb_s": (platform.get("gpu") or {}).get("memory_gb_s"),
            "file": canonical_json(platform),
        }
        for plan in plans
        for name, platform in (plan["study"].get("platforms") or {}).items()
    ]
