"""What a study asks for that cannot be: each mistake with its place in the file, found before anything is planned.

The schema holds the shape of every key; this holds what keys say of each other and of other files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from servegauge.base.errors import did_you_mean
from servegauge.contract import activity, economics, metric_registry
from servegauge.contract.capacity import fewest_requests
from servegauge.contract.config_types import Study
from servegauge.contract.flag_registry.saturated import STEADY_PROCESSES
from servegauge.contract.metric_registry.capacity import CAPACITY
from servegauge.contract.yaml_schema import Keys, Mistake, not_among
from servegauge.frameworks import frameworks
from servegauge.inputs.config_files import names, unknown_name
from servegauge.plan.axes import FOLDERS, LAUNCH_AXES, NOT_AXES, SPEED, asked, at_speed, places
from servegauge.workloads.recordings import kinds

GENERATED = ("synthetic", "shared_prefix", "sessions")  # prompt sets whose lengths are drawn
FEWEST_BEFORE_A_LOOK = 3  # repeats
_BUILD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def unknown_names(root: Path, study: Study) -> Iterator[Mistake]:
    """Names of files, frameworks and probes that there are none of."""
    yield from _unknown_files(root, study)
    yield from _unknown_probes(study)


def wrong_keys(study: Study) -> Iterator[Mistake]:
    """What the keys of the study's own file say against each other."""
    yield from _load_mistakes(study)
    yield from _comparison_mistakes(study)


def wrong_files(study: Study, root: Path) -> Iterator[Mistake]:
    """What the files that a study names do not have; puts `recorded_rps` of recorded prompt sets into the study."""
    yield from _currency_mistakes(study)
    yield from _unknown_builds(study)
    yield from _recorded_mistakes(study, root)
    yield from _speeds_as_rates(study)
    yield from _input_mistakes(study)
    yield from _lora_mistakes(study)


def compared_metrics(study: Study) -> list[str]:
    """Every metric of a cell that is compared, those under an SLO of the study as `metric:slo`."""
    found = [one.name for one in (*metric_registry.compared(), *economics.STATISTICS, *activity.MEMORY)]
    return found + [f"{one.name}:{slo}" for slo in study.get("slo") or {} for one in metric_registry.shown_per_slo("")]


def _unknown_files(root: Path, study: Study) -> Iterator[Mistake]:
    for where, axes in places(study):
        for axis, folder in FOLDERS.items():
            known = names(root, folder)
            for position, name in enumerate(axes.get(axis, ())):
                if name not in known:
                    yield [*where, axis, position], unknown_name(name, known, Path("config") / folder)
        yield from _unknown_frameworks([*where, "framework"], enumerate(axes.get("framework", ())))
    extra = study.get("server", {}).get("extra_args", ())
    if isinstance(extra, dict):
        yield from _unknown_frameworks(["server", "extra_args"], ((name, name) for name in extra))


def _unknown_probes(study: Study) -> Iterator[Mistake]:
    if "probes" in study:
        from servegauge.probes import registry  # imports numpy, which a study without probes does not need

        for position, name in enumerate(study["probes"]):
            if name not in (known := registry()):
                yield ["probes", position], f"there is no probe {name!r}.{not_among(name, known)}"


def _unknown_frameworks(where: Keys, found: Iterable[tuple[str | int, str]]) -> Iterator[Mistake]:
    known = frameworks()
    for key, named in found:
        name, at, build = named.partition("@")
        if at and not _BUILD.fullmatch(build):
            yield [*where, key], f"{named!r}: a build is a name of letters, digits, dots, + and -, as in {name}@nightly"
        elif name not in known:
            yield [*where, key], f"there is no framework {name!r}.{not_among(name, known)}"


def _load_mistakes(study: Study) -> Iterator[Mistake]:
    load, rates, streams = study["load"], asked(study, "rate"), asked(study, "concurrency")
    speeds = asked(study, "speed")
    if speeds and load["arrival"]["process"] != "trace":
        message = f"{load['arrival']['process']!r}, but `matrix.speed` is that of a recording's own times: give `trace`"
        yield ["load", "arrival"], message
    rates = [*rates, *speeds]
    yield from _capacity_mistakes(study)
    yield from _stop_mistakes(study)
    if not rates and not streams and not asked(study, "burst") and not asked(study, "capacity"):
        yield (
            ["matrix"],
            "neither `rate` (requests a second, open loop) nor `concurrency` (closed loop) nor `burst` (requests at "
            "once) nor `capacity` (a search under an SLO); give one or more",
        )
    if streams and "requests" not in load:
        yield ["load"], "`concurrency` needs `requests`: how many prompts are drawn; `duration_s` may stop it earlier"
    elif rates and "requests" not in load and "duration_s" not in load:
        yield ["load"], "neither `requests` nor `duration_s`: say when the window ends"
    if not load["stream"]:
        for name, limits in study["slo"].items():
            for metric in limits:
                if metric.startswith(("ttft", "tpot")):
                    yield ["slo", name, metric], "needs `load.stream: true`; without streaming only e2e_s is known"


def _capacity_mistakes(study: Study) -> Iterator[Mistake]:
    """What keeps a search for the capacity from finding one."""
    load, slos, search = study["load"], study["slo"], study["capacity"]
    for where, axes in places(study):
        for position, name in enumerate(axes.get("capacity", ())):
            if name not in slos:
                have = _list(slos) or "none: name one under `slo`"
                yield (
                    [*where, "capacity", position],
                    f"there is no SLO {name!r}.{did_you_mean(name, slos)} There are: {have}",
                )
    if not asked(study, "capacity"):
        return
    fewest = fewest_requests(search["share"])
    if load.get("requests", 0) < fewest:
        have = f"`requests` is {load['requests']}" if "requests" in load else "`requests` is not set"
        yield (
            ["load"],
            f"{have}: `capacity` needs {fewest} at least, to be sure that {search['share']:g} of them meet an SLO",
        )
    if load["arrival"]["process"] not in STEADY_PROCESSES:
        steady = _list(process for process in STEADY_PROCESSES if process != "closed")
        yield ["load", "arrival"], f"`capacity` needs a steady process, to see whether a queue grows: {steady}"
    if search["first_rps"] > search["most_rps"]:
        yield ["capacity"], "`first_rps` is more than `most_rps`"


def _stop_mistakes(study: Study) -> Iterator[Mistake]:
    stop, repeats = study["job"].get("stop"), study["matrix"]["repeat"]
    if stop and repeats < FEWEST_BEFORE_A_LOOK:
        yield (
            ["job", "stop"],
            f"the first look comes after `matrix.repeat`, {repeats}: fewer than {FEWEST_BEFORE_A_LOOK} say nothing of "
            "how launches scatter, and 5 say it better",
        )
    elif stop and stop["at_most"] <= repeats:
        yield ["job", "stop", "at_most"], f"{stop['at_most']} is not more than `matrix.repeat`, {repeats}"


def _comparison_mistakes(study: Study) -> Iterator[Mistake]:
    known = [axis for axis in study["matrix"] if axis not in NOT_AXES]
    for where, axes in places(study):
        if where[1:2] == ["exclude"]:
            for axis, values in axes.items():
                have: list[Any] = [*asked(study, axis)] or [1]
                for position, value in enumerate(values):
                    if value not in have:
                        message = f"takes out {value!r}, which is not on the axis.{not_among(value, have, 'It has')}"
                        yield [*where, axis, position], message
    if "compare" in study:
        factor, baseline = study["compare"]["factor"], study["compare"]["baseline"]
        if factor not in known:
            message = f"{factor!r} is not an axis of this study.{not_among(factor, known, 'Its axes')}"
            yield ["compare", "factor"], message
        elif baseline not in (have := asked(study, factor)):
            message = f"{baseline!r} is not on the axis {factor}.{not_among(baseline, have, 'It has')}"
            yield ["compare", "baseline"], message
        elif study["aa"] and factor not in LAUNCH_AXES:
            yield ["aa"], f"the factor {factor} is no axis of launches, so the baseline cannot be launched once more"
        without = () if asked(study, "capacity") else (CAPACITY.name,)
        compared = [name for name in compared_metrics(study) if name not in without]
        for position, name in enumerate(study["compare"].get("primary") or []):
            if name not in compared:
                message = f"{name!r} is no metric that is compared.{not_among(name, compared)}"
                yield ["compare", "primary", position], message


def _recorded_mistakes(study: Study, root: Path) -> Iterator[Mistake]:
    """Prompt sets without recorded times where such are asked for; puts `recorded_rps` of the others into the study."""
    if study["load"]["arrival"]["process"] != "trace":
        return
    from servegauge.workloads.replay import recording_of  # imports numpy, which few studies need

    matrix, sizes = study["matrix"], ("rate", "speed", "concurrency", "burst")
    entries = [matrix]
    for entry in matrix.get("include", ()):
        own = {name for name in sizes if name in entry}
        entries.append({**{name: matrix[name] for name in ("prompts", *sizes) if name in matrix and not own}, **entry})
    timed = [entry for entry in entries if entry.get("rate") or entry.get("speed")]
    for name in dict.fromkeys(name for entry in timed for name in entry.get("prompts", matrix["prompts"])):
        recording = recording_of(study["prompts"][name], root)
        if recording is None or recording.rate_rps is None:
            what = (
                f"trace, but the prompt set {name} has no recorded times (its kind is {study['prompts'][name]['kind']})"
            )
            yield ["load", "arrival"], f"{what}; such have {', '.join(kinds())}. Give another set or process"
        else:
            study.setdefault("recorded_rps", {})[name] = recording.rate_rps


def _speeds_as_rates(study: Study) -> Iterator[Mistake]:
    """Puts the rate in place of each speed that `expects` and `compare` name: cells are distinguished by it."""
    recorded, sets = study.get("recorded_rps") or {}, asked(study, "prompts")

    def rate(speed: float, named: Mapping[str, Any]) -> float | None:
        found = {recorded[name] for name in ([named["prompts"]] if "prompts" in named else sets) if name in recorded}
        return at_speed(speed, found.pop()) if len(found) == 1 else None

    several = "a speed is another rate of each prompt set; name one set"
    for position, entry in enumerate(study.get("expects", ())):
        for keys, part in ([], entry), (["over"], entry.get("over") or {}):
            where = part.get("where") or {}
            if SPEED in where and (found := rate(where[SPEED], {**entry.get("where", {}), **where})) is None:
                yield ["expects", position, *keys, "where", SPEED], f"{several} as `prompts` beside it"
            elif SPEED in where:
                part["where"] = {**{axis: where[axis] for axis in where if axis != SPEED}, "rate": found}
    compare = study["compare"]
    if compare["factor"] == SPEED and (found := rate(compare["baseline"], {})) is None:
        yield ["compare", "factor"], f"{several} as `matrix.prompts`"
    elif compare["factor"] == SPEED:
        compare["factor"], compare["baseline"] = "rate", found


def _input_mistakes(study: Study) -> Iterator[Mistake]:
    """A prompt length for texts that are as long as they are."""
    if "input_tokens" in study["load"]:
        for name, prompts in study["prompts"].items():
            if prompts["kind"] not in GENERATED:
                message = (
                    f"the prompts of {name} are of the kind {prompts['kind']}, whose length is that of its data; this "
                    f"is for {', '.join(GENERATED)}"
                )
                yield ["load", "input_tokens"], message


def _lora_mistakes(study: Study) -> Iterator[Mistake]:
    """Requests for adapters that no server is given."""
    given = [study["server"].get("lora"), *asked(study, "lora")]
    known = sorted({name for adapters in given if isinstance(adapters, Mapping) for name in adapters})  # else `none`
    for name in study["load"].get("lora_mix") or {}:
        if name != "base" and name not in known:
            message = f"the server has no adapter of this name.{not_among(name, known, '`server.lora` has')}"
            yield ["load", "lora_mix", name], message


def _unknown_builds(study: Study) -> Iterator[Mistake]:
    """A build that no platform of the study says how to start; where one does, the others skip it."""
    known = sorted({name for one in study["platforms"].values() for name in one.get("frameworks", {}) if "@" in name})
    for name in asked(study, "framework"):
        if "@" in name and name not in known:
            message = (
                f"no platform of the study says how to start {name!r}.{did_you_mean(name, known)} Add it to "
                "`frameworks:` of config/platforms/NAME.yaml, with a venv, container, executable or lock of its own"
            )
            yield ["matrix", "framework"], message


def _currency_mistakes(study: Study) -> Iterator[Mistake]:
    """Costs in two currencies have no ratio."""
    found = {name: one["prices"]["currency"] for name, one in study["platforms"].items() if "prices" in one}
    priced = [f"config/platforms/{name}.yaml has {currency}" for name, currency in found.items()]
    for position, name in enumerate(study["compare"].get("primary") or ()):
        if name in economics.PRICED and not found:
            message = f"{name!r}, but no platform of the study has `prices`, so there will be no such number"
            yield ["compare", "primary", position], message
    api = ((study.get("economics") or {}).get("api") or {}).get("currency")
    if api is not None and not found:
        message = "no platform of the study has `prices`, so there is nothing to hold against the API's; add them"
        yield ["economics", "api"], message
    elif api is not None and {*found.values()} != {api}:
        yield ["economics", "api", "currency"], f"{api!r}, but {', '.join(priced)}; give all prices in one currency"
    elif len({*found.values()}) > 1:
        yield ["matrix", "platform"], f"prices are in several currencies: {', '.join(priced)}; give all in one"


def _list(values: Iterable[Any]) -> str:
    return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)
