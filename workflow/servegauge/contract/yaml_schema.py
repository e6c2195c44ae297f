"""Reading YAML that people write, and telling them what is wrong with it.

Every file under config/ is read by `read_yaml` and held against its schema in `schemas/` by `validate`. All mistakes
of a file are reported at once, each with its line, its key, what was found, what is allowed and, for a name, the
nearest allowed one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from servegauge.base.errors import UserError, did_you_mean
from servegauge.base.text import OBEYED, visible
from servegauge.contract import flag_registry, metric_registry

SCHEMAS = Path(__file__).with_name("schemas")
Keys = list[str | int]
Mistake = tuple[Keys, str]
"""Where in a file, and what is wrong there."""

SHOWN = 10  # mistakes of one file that are printed

_Loader: type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times faster, where it was built in


class _StrictLoader(_Loader):  # type: ignore[misc]
    """SafeLoader that refuses a key given twice: YAML's own rule is that the last one silently wins."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in first and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is given twice, first on line {first[name]}", key.start_mark
                )
            first[name] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: yaml.ScalarNode) -> float:
        """4.0 as 4: the schemas take both for an integer, and a count of 4.0 is none."""
        value = self.construct_yaml_float(_decimal(node))
        return int(value) if value.is_integer() else value

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        return self.construct_yaml_int(_decimal(node))

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """A text that a terminal can show: questions and descriptions are printed as they are."""
        text: str = self.construct_yaml_str(node)
        if found := OBEYED.search(text):
            why = f"{visible(found[0])} is a control character, or turns the direction of writing; leave it out"
            raise yaml.constructor.ConstructorError(None, None, why, node.start_mark)
        return text


def _decimal(node: yaml.ScalarNode) -> yaml.ScalarNode:
    """`node`, unless it is written as a time: YAML 1.1 reads 4:00:00 as the number 14400."""
    if ":" in node.value:
        why = f"{node.value} is a number in base 60 to YAML; write one number, or put the text into quotes"
        raise yaml.constructor.ConstructorError(None, None, why, node.start_mark)
    return node


_StrictLoader.add_constructor("tag:yaml.org,2002:float", _StrictLoader.construct_whole)
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_integer)
_StrictLoader.add_constructor("tag:yaml.org,2002:str", _StrictLoader.construct_text)


def read_yaml(path: Path) -> tuple[dict[str, Any], str]:
    """The mapping in the file at `path`, and the file's text. UserError names the line where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    try:
        data = yaml.load(text, _StrictLoader)
        if _has_no_end(data):
            raise UserError(f"{path}: an alias (*name) stands inside of what it names, which has no end")
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_trouble(error, text)}") from error
    except ValueError as error:  # of a date that does not exist, for example
        raise UserError(f"{path}: a value cannot be read: {error}; put it in quotes, or correct it") from error
    except RecursionError:
        raise UserError(f"{path}: is nested too deep") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: found {_shown(data)}, expected keys with values, one a line, as `question: ...`")
    return data, text


def _has_no_end(data: object) -> bool:
    """Whether something holds itself."""
    try:
        json.dumps(data, default=str, skipkeys=True)
    except ValueError:
        return True
    return False


def _trouble(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f": not YAML: {error}"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f":{mark.line + 1}: a tab at the start of the line; YAML allows only spaces there"
    problem = getattr(error, "problem", None) or str(error)
    return f":{mark.line + 1}: {problem} (column {mark.column + 1}: {line.strip()!r})"


@cache
def schema(name: str) -> dict[str, Any]:
    """The schema called `name`, for example "study"; its file is `schemas/<name>.schema.yaml`.

    Where a part of it follows from a registry, `x-registry` names that registry, and its part is filled in here.
    """
    found = yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text(encoding="utf-8"))
    _fill(found)
    return found


def _fill(rule: Any) -> None:
    """Put the parts of registries where `rule` names them, in place, at any depth; lists are appended."""
    if isinstance(rule, dict):
        if (registry := rule.pop("x-registry", None)) is not None:
            for key, part in REGISTRIES[registry]().items():
                rule[key] = [*rule.get(key, ()), *part] if isinstance(part, list) else part
        for below in rule.values():
            _fill(below)
    elif isinstance(rule, list):
        for below in rule:
            _fill(below)


def _slo_limits() -> dict[str, Any]:
    limits = [metric for metric in metric_registry.stored() if metric.limit]
    rules = {one.column: {"type": "number", "exclusiveMinimum": 0, "description": one.limit} for one in limits}
    return {"properties": rules}


def _thresholds() -> dict[str, Any]:
    rules = {
        one.name: {
            "type": "number",
            "minimum": 0,
            "default": one.default,
            "description": f"{flag.name}: {one.description}.",
        }
        for flag in flag_registry.flags().values()
        for one in flag.thresholds
    }
    return {"properties": rules}


REGISTRIES: dict[str, Callable[[], dict[str, Any]]] = {"slo_limits": _slo_limits, "thresholds": _thresholds}
"""Name -> what it gives a schema. A registry of a package that comes later adds itself."""


@cache
def _validator(name: str) -> Any:
    import jsonschema  # takes 0.1 s; a process that only waits for a job never needs it

    return jsonschema.Draft202012Validator(schema(name))


def not_among(found: object, allowed: Iterable[object], there_are: str = "There are") -> str:
    """The end of a message on something that is none of `allowed`: the nearest of them, and all."""
    known = list(allowed)
    return f"{did_you_mean(found, known)} {there_are}: {', '.join(map(_plain, known)) or 'none'}"


def refuse(mistakes: Iterable[Mistake], path: Path, text: str) -> None:
    """UserError with the line and the key in `text`, the contents of `path`, of each mistake, if there is one."""
    lines = [f"{path}:{line_of(text, keys)}: {dotted(keys)}: {message}" for keys, message in mistakes]
    if lines:
        raise UserError("\n".join(lines))


def validate(data: dict[str, Any], name: str, path: Path, text: str = "") -> None:
    """Hold `data`, read from `path`, against the schema `name`; UserError lists what is wrong, each with its line."""
    errors = sorted(
        _validator(name).iter_errors(data),
        key=lambda error: ([str(part) for part in error.absolute_path], error.validator != "type"),
    )
    seen: list[str] = []
    for keys in _not_finite(data, []):  # NaN is neither above nor below any limit
        seen.append(f"{path}{_line(text, keys)}: {dotted(keys)}: found a number without a value, expected a finite one")
    mistyped: list[list[str | int]] = []  # of a value that is of the wrong kind, nothing else is worth saying
    for error in errors:
        for keys, message in _messages(error, name):
            if keys not in mistyped:
                line = f"{path}{_line(text, keys)}: {dotted(keys) or 'the file'}: {message}"
                seen += [line] if line not in seen else []
        if error.validator == "type":
            mistyped.append(list(error.absolute_path))
    if seen:
        more = [f"... and {len(seen) - SHOWN} more"] if len(seen) > SHOWN else []
        raise UserError("\n".join([*seen[:SHOWN], *more]))


def _not_finite(data: Any, keys: list[str | int]) -> Iterator[list[str | int]]:
    """Where `.nan` and `.inf` stand."""
    if isinstance(data, float) and not math.isfinite(data):
        yield keys
    elif isinstance(data, dict | list):
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _not_finite(value, [*keys, key])


def dotted(keys: list[str | int]) -> str:
    """`matrix.include[0].tp` for ["matrix", "include", 0, "tp"]."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def line_of(text: str, keys: list[str | int]) -> int | None:
    """Line in `text` (1 is the first) of the value at `keys`, or of its nearest parent; null where there is no text."""
    node = yaml.compose(text, _StrictLoader) if text else None
    if node is None:
        return None
    line = node.start_mark.line + 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(name, value) for name, value in node.value if name.value == str(key)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _line(text: str, keys: list[str | int]) -> str:
    line = line_of(text, keys)
    return "" if line is None else f":{line}"


def _messages(error: Any, name: str) -> Iterator[tuple[list[str | int], str]]:
    """One or more (keys, message) of a jsonschema error."""
    keys, found, limit = list(error.absolute_path), error.instance, error.validator_value
    match error.validator:
        case "additionalProperties":
            allowed = list(error.schema.get("properties", {}))
            for key in found:
                if key not in allowed:
                    choices = ", ".join(sorted(allowed))
                    yield [*keys, key], f"unknown key.{did_you_mean(key, allowed)} Allowed here: {choices}"
        case "required":
            for key in (key for key in limit if key not in found):
                meaning = rule_at(name, [*keys, key]).get("description", "").partition(". ")[0].rstrip(".")
                yield keys, f"the key {key!r} is missing{': ' + meaning if meaning else ''}"
        case "type":
            kinds = [limit] if isinstance(limit, str) else limit
            yield keys, f"found {_shown(found)}, expected {' or '.join(_KINDS[kind] for kind in kinds)}{_hint(found)}"
        case "enum":
            choices = ", ".join(_plain(value) for value in limit)
            yield keys, f"found {_shown(found)}, allowed: {choices}.{did_you_mean(str(found), map(str, limit))}"
        case "minimum":
            yield keys, f"found {found}, expected {limit} or more"
        case "maximum":
            yield keys, f"found {found}, expected {limit} or less"
        case "exclusiveMinimum":
            yield keys, f"found {found}, expected more than {limit}"
        case "minItems" if not found:
            yield keys, "found an empty list, expected at least one value; leave the key out if it is not wanted"
        case "minItems":
            yield keys, f"found {_count(found)}, expected {limit} or more"
        case "maxItems":
            yield keys, f"found {_count(found)}, expected {limit} or fewer"
        case "minProperties":
            known = ", ".join(error.schema.get("properties", ()))
            yield keys, "found nothing, expected at least one key" + (f": {known}" if known else " with its value")
        case "minLength":
            yield keys, "found an empty text"
        case "uniqueItems":
            twice = next(value for position, value in enumerate(found) if value in found[:position])
            yield keys, f"{_shown(twice)} stands there twice"
        case "pattern":
            yield keys, f"found {_shown(found)}, which does not fit: {error.schema.get('description', limit)}"
        case "not":
            yield keys, "this key is not allowed here"
        case _:
            yield keys, error.message


_KINDS = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "keys with values",
    "null": "nothing",
}


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"keys with values ({', '.join(map(str, value)) or 'none'})"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) < 80 else f"the text {value[:77]!r}..."
    return f"a list {value}" if isinstance(value, list) else str(value)


def _count(found: list[Any]) -> str:
    return f"{len(found)} value{'s' if len(found) != 1 else ''}"


def _hint(found: Any) -> str:
    """What YAML may have made of a number."""
    if isinstance(found, str):
        try:
            return f"; write it as {float(found):g} without quotes" if float(found) < 1e6 else ""
        except ValueError:
            return ""
    return ""


def rule_at(name: str, keys: list[str | int]) -> dict[str, Any]:
    """What the schema `name` says of the value at `keys`, with references followed; empty where it says nothing."""
    rule = schema(name)
    for key in keys:
        below = rule.get("items") if isinstance(key, int) else rule.get("properties", {}).get(key)
        if not isinstance(below, dict):
            below = rule.get("additionalProperties") if not isinstance(key, int) else None
        if not isinstance(below, dict):
            return {}
        target = schema(name)["$defs"][below["$ref"].rpartition("/")[2]] if "$ref" in below else {}
        rule = {**target, **below, "properties": {**target.get("properties", {}), **below.get("properties", {})}}
    return rule


def with_defaults(data: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """`data` with each default that the (sub)schema `part` gives for a missing key, at every depth."""
    filled = dict(data)
    for key, rule in part.get("properties", {}).items():
        if key not in filled and "default" in rule:
            filled[key] = rule["default"]
        if isinstance(filled.get(key), dict) and "properties" in rule:
            filled[key] = with_defaults(filled[key], rule)
    return filled
