"""The reference manual of the files under config/, printed from their schemas into docs/study-files.md.

The tables are between the marks `<!-- schema: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import servegauge.workloads.recordings  # noqa: F401 - kinds of prompt sets that a schema names
from servegauge.cli import docs
from servegauge.contract.yaml_schema import schema

PAGE = Path("docs") / "study-files.md"
_MARKED = re.compile(r"(<!-- schema: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_KINDS = {"string": "text", "integer": "whole number", "boolean": "true, false", "array": "list", "object": "mapping"}


def filled(page: str) -> str:
    """`page` with each table between marks replaced by what the schema says now."""
    return _MARKED.sub(lambda mark: f"{mark[1]}\n{table(mark[2])}\n{mark[3]}", page)


def table(name: str) -> str:
    """The schema `name` as Markdown: its description, and a row for each key."""
    top = schema(name)
    return f"{top['description']}\n\n" + docs.table(("key", "value", "without it", "meaning"), _rows(top, top, ""))


def _rows(top: dict[str, Any], rule: dict[str, Any], before: str) -> Iterator[tuple[str, str, str, str]]:
    required = rule.get("required", ())
    for key, below in rule.get("properties", {}).items():
        found = _resolved(top, below)
        if "not" in found:
            continue
        name = f"{before}{key}"
        default = "required" if key in required and not before.endswith("[].") else _default(found)
        yield f"`{name}`", _value(top, found), default, found.get("description", "")
        if found.get("type") == "array":
            items = _resolved(top, found.get("items", {}))
            if "properties" in items and below.get("items", {}).get("$ref") != "#/$defs/axes":
                yield from _rows(top, items, f"{name}[].")
        else:
            yield from _rows(top, found, f"{name}.")
    others = rule.get("additionalProperties")
    if isinstance(others, dict):
        found = _resolved(top, others)
        yield f"`{before}<name>`", _value(top, found), "", found.get("description", "")
        yield from _rows(top, found, f"{before}<name>.")


def _resolved(top: dict[str, Any], rule: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in rule:
        return rule
    target = _resolved(top, top["$defs"][rule["$ref"].rpartition("/")[2]])
    return {**target, **{key: value for key, value in rule.items() if key != "properties"}}


def _value(top: dict[str, Any], rule: dict[str, Any]) -> str:
    if "enum" in rule:
        return ", ".join(f"`{value}`" for value in rule["enum"])
    kinds = rule.get("type", [])
    words = [_KINDS.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    text = " or ".join(words)
    if kinds == "array":
        text += f" of {_value(top, _resolved(top, rule.get('items', {})))}"
    limits = {"minimum": "from {}", "exclusiveMinimum": "more than {}", "maximum": "to {}"}
    return " ".join([text, *(how.format(rule[key]) for key, how in limits.items() if key in rule)])


def _default(rule: dict[str, Any]) -> str:
    return f"`{json.dumps(rule['default'])}`" if rule.get("default") not in (None, {}) else ""


def pages() -> dict[Path, str]:
    return {PAGE: filled(PAGE.read_text(encoding="utf-8"))}
