"""A study that is another one but for a few keys: `base:` and `stand_ins:`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.contract.spec import canonical_json
from servegauge.contract.yaml_schema import line_of, read_yaml, schema
from servegauge.inputs.config_files import file_of, names, unknown_name


def read_study(root: Path, name: str, chain: tuple[str, ...] = ()) -> tuple[dict[str, Any], str, list[Path]]:
    """The keys of the study `name` over those of its base, the text of its own file, and the files from it to the last.

    Nothing is checked but what this needs; a base is held against the schema when it is planned itself.
    """
    path = file_of(root, "studies", name)
    data, text = read_yaml(path)
    if "base" not in data:
        return data, text, [path]
    base, where = data["base"], f"{path}:{line_of(text, ['base'])}: base"
    if base in (*chain, name):
        raise UserError(f"{where}: {' -> '.join([*chain, name, base])}: a study cannot be its own base")
    known = [one for one in names(root, "studies") if one != name]
    if base not in known:
        raise UserError(f"{where}: {unknown_name(str(base), known, Path('config') / 'studies')}")
    below, _, files = read_study(root, base, (*chain, name))
    below.pop("stand_ins", None)
    stand_ins = data.get("stand_ins")
    if isinstance(stand_ins, Mapping):
        below = _replaced(below, stand_ins, f"{path}:{line_of(text, ['stand_ins'])}: stand_ins")
    return _over(below, data), text, [path, *files]


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: mappings key by key, null takes a key away, anything else replaces it."""
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _over(merged[key], value)
        else:
            merged[key] = value
    return merged


def _replaced(study: Mapping[str, Any], stand_ins: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`study` with the values of axes that something stands in for replaced, and in `expects` what was published."""
    found = dict(study)
    matrix = dict(found.get("matrix") or {})
    axes = {axis: name for axis, name in stand_ins.items() if isinstance(name, str)}
    stand_ins = {axis: instead for axis, instead in stand_ins.items() if axis not in (*axes, *axes.values())} | {
        axis: stand_ins.get(name, {}) for axis, name in axes.items()
    }
    entries = [matrix, *(one for key in ("include", "exclude") for one in _entries(matrix.get(key)))]
    for axis, name in axes.items():
        if name not in schema("study")["$defs"]["axes"]["properties"]:
            raise UserError(f"{where}.{axis}: found {name!r}; expected values with what stands in for them, or an axis")
        if any(name in entry for entry in entries) or list(axes.values()).count(name) > 1:
            raise UserError(f"{where}.{axis}: {name} varies already; another axis has to stand in for {axis}")
    measured: dict[str, list[Any]] = {}
    for axis, instead in stand_ins.items():
        known = [value for entry in entries for value in _entries(entry.get(axis))]
        for value in instead if isinstance(instead, Mapping) else ():
            if value not in known:
                choices = ", ".join(str(one) for one in known) or "nothing"
                raise UserError(f"{where}.{axis}: the base has no {axis} {value!r}; it has {choices}")
        own = {canonical_json(value): value for value in known if _instead(value, instead) != value}
        measured[axis] = list(own.values())
    found["matrix"] = _axes(matrix, stand_ins)
    for key in ("include", "exclude"):
        if key in matrix:
            found["matrix"][key] = [_axes(one, stand_ins) for one in _entries(matrix[key])]
    compare = found.get("compare")
    if isinstance(compare, Mapping) and "baseline" in compare:
        instead = stand_ins.get(str(compare.get("factor")), {})
        found["compare"] = {**compare, "baseline": _instead(compare["baseline"], instead)}
    if isinstance(found.get("expects"), list):
        found["expects"] = [_expected(one, stand_ins, measured) for one in found["expects"]]
    return _renamed(found, axes) if axes else found


def _renamed(study: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`study` with another axis in place of each in `names`; `expects` keep the value of the one that was published."""

    def axes(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(axis, axis): value for axis, value in entry.items()}

    def published(entry: Mapping[str, Any]) -> dict[str, Any]:
        where, over = entry.get("where") or {}, entry.get("over")
        changed = {**entry, **({"where": axes(where)} if where else {})}
        changed |= {"over": published(over)} if isinstance(over, Mapping) else {}
        was = {axis: value for axis, value in where.items() if axis in names}
        return changed | ({"stands_for": {**was, **(entry.get("stands_for") or {})}} if was else {})

    found, matrix, compare = dict(study), axes(study["matrix"]), study.get("compare")
    matrix |= {key: [axes(one) for one in matrix[key]] for key in ("include", "exclude") if key in matrix}
    found["matrix"] = matrix
    if isinstance(compare, Mapping) and "factor" in compare:
        found["compare"] = {**compare, "factor": names.get(compare["factor"], compare["factor"])}
    if isinstance(study.get("expects"), list):
        found["expects"] = [published(one) for one in study["expects"]]
    return found


def _axes(entry: Mapping[str, Any], stand_ins: Mapping[str, Any]) -> dict[str, Any]:
    changed = dict(entry)
    for axis, instead in stand_ins.items():
        if axis in changed:
            values = [_instead(value, instead) for value in _entries(changed[axis])]
            changed[axis] = list({canonical_json(value): value for value in values}.values())
    return changed


def _expected(entry: Mapping[str, Any], stand_ins: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """A published figure whose cells are other ones now, with what they stand for.

    `measured`: axis -> the base's values that something stands in for: a figure that names no such axis was published
    for those.
    """
    changed = dict(entry)
    if "model" in changed:  # computed from its shape, whatever is served
        return changed
    where, over = dict(changed.get("where") or {}), changed.get("over")
    changed["where"] = {axis: _instead(value, stand_ins.get(axis, {})) for axis, value in where.items()}
    replaced = {axis: value for axis, value in where.items() if changed["where"][axis] != value}
    named = {*where, *((over or {}).get("where") or {})} if isinstance(over, Mapping) else {*where}
    replaced |= {axis: values for axis, values in measured.items() if values and axis not in named}
    if replaced:
        changed["stands_for"] = {**replaced, **(changed.get("stands_for") or {})}
    if isinstance(over, Mapping):
        changed["over"] = _expected({"where": {}, **over}, stand_ins, {})
    return changed


def _instead(value: Any, instead: Any) -> Any:
    try:
        return instead.get(value, value) if isinstance(instead, Mapping) else value
    except TypeError:  # a mapping, such as the options of speculative decoding: no key of another
        return value


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
