"""The types of what people write have the keys of the schemas, at every depth."""

from __future__ import annotations

import copy
import types
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import pytest

from servegauge.contract.config_types import Model, Platform, Prompts, Study
from servegauge.contract.yaml_schema import schema

ADDED = {
    "model": {"name"},
    "platform": {"name"},
    "prompts": {"name", "default_output_tokens"},
    "study": {
        *("name", "path", "files", "text", "sha256", "models", "platforms", "prompts", "recorded_rps", "shapes"),
        "planning",
    },
}


def typed(hint: Any) -> Any:
    """The TypedDict in a hint: itself, or one side of a union; None where there is none."""
    sides = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((one for one in sides if is_typeddict(one)), None)


def differences(kind: Any, rule: dict[str, Any], defs: dict[str, Any], where: str, added: set[str]) -> list[str]:
    hints = get_type_hints(kind)
    found = [f"{where}: {key} is in one alone" for key in sorted({*hints} ^ {*rule["properties"], *added})]
    for key, below in rule["properties"].items():
        inner = {**defs[below["$ref"].rpartition("/")[2]], **below} if "$ref" in below else below
        hint = hints.get(key)
        if get_origin(hint) is dict and isinstance(inner.get("additionalProperties"), dict):
            hint, inner = get_args(hint)[1], inner["additionalProperties"]
        if (nested := typed(hint)) and "properties" in inner:
            found += differences(nested, inner, defs, f"{where}.{key}", set())
    return found


@pytest.mark.parametrize(
    ("kind", "name"), [(Model, "model"), (Platform, "platform"), (Prompts, "prompts"), (Study, "study")]
)
def test_the_keys_are_those_of_the_schema(kind: Any, name: str) -> None:
    whole = schema(name)
    assert differences(kind, whole, whole.get("$defs", {}), name, ADDED[name]) == []


def test_a_key_that_one_side_lacks_is_found_at_any_depth() -> None:
    whole = copy.deepcopy(schema("platform"))
    whole["properties"]["frameworks"]["additionalProperties"]["properties"]["new"] = {"type": "string"}
    found = differences(Platform, whole, whole["$defs"], "platform", {"name"})
    assert found == ["platform.frameworks: new is in one alone"]
