"""What this node is, and whether that is what its platform file expects.

`facts()` reads everything; no fact can make it fail. `mismatches()` holds a platform file's `expect:` against them:
a platform is data, and it is verified before anything is measured on it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError, did_you_mean

# Importing these enters their facts into the register, in this order
from servegauge.node import (
    container_facts,  # noqa: F401
    gpu_facts,  # noqa: F401
    memory_facts,  # noqa: F401
    node_facts,
    virtualization,  # noqa: F401
)
from servegauge.node.reader import REGISTER, Node, Run, Unreadable, read_fact

FACT_NAMES: dict[str, str] = {name: spec.description for name, spec in REGISTER.items()}
CONDITIONS = ("min", "max", "matches")

Fact = dict[str, Any]


def facts(folder: Path | str = ".", *, system: Path | str = "/", run: Run | None = None) -> dict[str, Fact]:
    """Every fact of FACT_NAMES as {"value", "source", "reason"}; value None with a reason where it cannot be read.

    `folder`: the workflow's, whose file system is one of the facts. `system`: read /proc, /sys and /etc below another
    folder (tests). `run`: answers commands in place of the system's.
    """
    node = Node(system, run, folder)
    return {name: read_fact(spec, node) for name, spec in REGISTER.items()}


def check_expect(expect: Mapping[str, Any] | None, where: str = "expect") -> None:
    """Refuse an `expect:` that names an unknown fact or an unknown condition. UserError with what is allowed."""
    if not isinstance(expect or {}, Mapping):
        raise UserError(f"{where}: expected a mapping of fact to value, found {type(expect).__name__}")
    for name, wanted in (expect or {}).items():
        if name not in FACT_NAMES:
            raise UserError(
                f"{where}: there is no fact {name!r}.{did_you_mean(name, FACT_NAMES)} "
                f"The facts, with the values of a node: python -m servegauge.node.expectations"
            )
        if not isinstance(wanted, Mapping):
            continue
        for condition, bound in wanted.items():
            if condition not in CONDITIONS:
                raise UserError(
                    f"{where}.{name}: unknown condition {condition!r}.{did_you_mean(condition, CONDITIONS)} "
                    f"Allowed: a value, a list of allowed values, or {{min:, max:}} or {{matches: regular expression}}"
                )
            if condition == "matches":
                try:
                    re.compile(str(bound))
                except re.error as error:
                    raise UserError(f"{where}.{name}.matches: {bound!r} is no regular expression: {error}") from None
            elif not _is_number(bound):
                raise UserError(f"{where}.{name}.{condition}: expected a number, found {bound!r}")
        if not wanted:
            raise UserError(f"{where}.{name}: no condition given. Allowed: {', '.join(CONDITIONS)}")
        if "min" in wanted and "max" in wanted and wanted["min"] > wanted["max"]:
            raise UserError(f"{where}.{name}: min {wanted['min']} is above max {wanted['max']}")


def mismatches(expect: Mapping[str, Any] | None, found: Mapping[str, Fact], where: str = "expect") -> list[str]:
    """One sentence per fact that is not as expected; empty when the node is what its platform file says.

    `expect`: fact -> value (equal), list (one of), {min, max} (number within, ends included), {matches} (regular
    expression found in the text; in every item of a list), or None (the node must not have it). UserError for names
    and conditions that do not exist.
    """
    check_expect(expect, where)
    found_wrong = []
    for name, wanted in (expect or {}).items():
        one = found.get(name) or {"value": None, "source": None, "reason": "was not read"}
        wrong = _wrong(wanted, one["value"])
        if wrong is None:
            continue
        if one["value"] is None:
            found_wrong.append(f"{name}: expected {wrong}, but it could not be read: {one['reason']}")
        else:
            found_wrong.append(f"{name}: expected {wrong}, found {one['value']!r} (read from {one['source']})")
    return found_wrong


def _wrong(wanted: Any, value: Any) -> str | None:
    """What was expected, in words, where `value` is not it; None where it is."""
    if wanted is None:
        return None if value is None else "none"
    if isinstance(wanted, Mapping):
        parts = []
        if "min" in wanted or "max" in wanted:
            low, high = wanted.get("min"), wanted.get("max")
            fits = _is_number(value) and (low is None or value >= low) and (high is None or value <= high)
            if not fits:
                limits = {"at least": low, "at most": high}
                parts.append(" and ".join(f"{words} {limit}" for words, limit in limits.items() if limit is not None))
        if "matches" in wanted:
            items = value if isinstance(value, list) else [value]
            fits = value is not None and bool(items) and all(re.search(str(wanted["matches"]), str(i)) for i in items)
            if not fits:
                parts.append(f"a text that matches {wanted['matches']!r}")
        return " and ".join(parts) or None
    if isinstance(wanted, list):
        if _equal(wanted, value) or any(_equal(one, value) for one in wanted):
            return None
        return f"one of {', '.join(repr(one) for one in wanted)}"
    return None if _equal(wanted, value) else repr(wanted)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(wanted: Any, value: Any) -> bool:
    """Equal, and true is not 1; a version that YAML read as a number (12.4) equals its text."""
    if isinstance(wanted, bool) or isinstance(value, bool):
        return wanted is value
    if _is_number(wanted) and isinstance(value, str):
        return str(wanted) == value
    return wanted == value


def cpu_sample(root: Path | str = "/") -> dict[str, dict[str, int]] | None:
    """Ticks of all CPUs and of each since the start of the node; None where /proc/stat cannot be read."""
    try:
        return node_facts.cpu_times(Node(root).read("/proc/stat"))
    except (Unreadable, ValueError):
        return None


def steal_between(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> dict[str, Any]:
    """Shares of CPU time between two `cpu_sample`s, 0 to 1.

    {"steal": share that the hypervisor took away, "busy": share not idle, "by_cpu": {"cpu0": steal, ...}, "reason"};
    None with a reason where a sample is missing or no tick (10 ms) passed. Steal is 0 on bare metal, and also where a
    hypervisor does not report it.
    """
    nothing: dict[str, Any] = {"steal": None, "busy": None, "by_cpu": {}}
    if not before or not after:
        return {**nothing, "reason": "/proc/stat could not be read"}
    steal, busy = node_facts.cpu_shares(before["cpu"], after["cpu"])
    each = {
        name: node_facts.cpu_shares(before[name], after[name])[0] for name in after if name != "cpu" and name in before
    }
    return {"steal": steal, "busy": busy, "by_cpu": each, "reason": None if steal is not None else "no tick passed"}


def main() -> int:
    """Print every fact of this node: name, value or reason, where it was read."""
    for name, one in facts().items():
        value = f"null ({one['reason']})" if one["value"] is None else one["value"]
        print(f"{name}: {value}\n    {FACT_NAMES[name]}. Read from: {one['source']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
