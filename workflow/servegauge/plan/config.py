"""What people wrote under config/, read, checked and resolved.

`load_study` returns one dictionary with everything that the rest of the pipeline needs of a study. A mistake in any
file is a UserError that names the file, the line, the key, what was found and what is allowed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from servegauge.base import redact
from servegauge.base.errors import UserError, did_you_mean
from servegauge.contract import economics, metric_registry
from servegauge.contract.capacity import fewest_requests
from servegauge.contract.flag_registry.saturated import STEADY_PROCESSES
from servegauge.contract.metric_registry.capacity import CAPACITY
from servegauge.contract.spec import AGAIN, canonical_json
from servegauge.contract.yaml_schema import dotted, line_of, read_yaml, schema, validate, with_defaults
from servegauge.frameworks import frameworks
from servegauge.inputs.config_files import SECRET, file_of, load_model, names, read_named, refuse_secrets, unknown_name
from servegauge.inputs.runtimes import DEFAULT, runtime
from servegauge.node.expectations import check_expect
from servegauge.plan import fit
from servegauge.plan.bases import read_study
from servegauge.plan.expand import LAUNCH_AXES, SPEED, at_speed
from servegauge.plan.expected import expectation_mistakes

# Axes whose values are names of files under config/ (axis -> folder).
FOLDERS = {"model": "models", "platform": "platforms", "prompts": "prompts"}
GENERATED = ("synthetic", "shared_prefix", "sessions")  # prompt sets whose lengths are drawn
_LENGTHS, _FILE = ("input_tokens", "output_tokens"), ("path", "sha256")
_COUNTS = tuple(f"filters.{end}_{what}_tokens" for end in ("min", "max") for what in ("input", "output"))
_READ = (*_FILE, *_COUNTS, "filters.max_total_tokens")
_REPLAYED = (*_READ, "output_tokens", "where", "cut")
KIND_KEYS = {  # of a prompt set, the keys that do something for its kind
    "synthetic": (*_LENGTHS, "images"),
    "shared_prefix": (*_LENGTHS, "images", "prefix"),
    "sessions": (*_LENGTHS, "turns", "pause_s", "prefix"),
    "sharegpt": (*_READ, "output_tokens", "filters.min_turns"),
    "jsonl": (*_READ, "output_tokens", "fields"),
    "conversations": (*_READ, "pause_s", "filters.min_requests"),
    "mooncake": (*_REPLAYED, "pause_s", "block_tokens"),
    "azure": _REPLAYED,
    "burstgpt": _REPLAYED,
}
_ANY_KIND = ("name", "description", "kind", "how_to_get", "licence")
FEWEST_BEFORE_A_LOOK = 3  # repeats
NOT_AXES = ("repeat", "include", "exclude")
# Under a secret's name, yet none: whole numbers and switches too short to be one (NCCL_IB_PKEY: 0x8001), and places of
# files that hold one (HF_TOKEN_PATH: ~/.token).
_PLAIN = re.compile(r"(?!.{8})[+-]?(?:0x[0-9a-f]+|\d+(?:\.\d*)?)|true|false|none|null|on|off|yes|no|", re.IGNORECASE)
_BUILD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_PLACE_NAME = re.compile(r"(?:file|path|dir|map)$", re.IGNORECASE)
_PLACE = re.compile(r"(?:[~/.]|\$\w+/|\$\{\w+\}/)[^\s:=@]*")
Keys = list[str | int]


def load_config(root: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """config/config.yaml under `root` with `overrides` (Snakemake's `--config`) over it and defaults filled in."""
    path = root / "config" / "config.yaml"
    data, text = read_yaml(path)
    config = {**data, **overrides}
    validate(config, "config", path, text)
    return with_defaults(config, schema("config"))


def load_study(root: Path, name: str) -> dict[str, Any]:
    """The study `name` from config/studies/ under `root`, checked and resolved.

    Returns the file's keys with defaults filled in (`matrix` with a list for each axis, `load.arrival` as a mapping),
    and: `name`, `path`, `files` (paths of this and of every file that it names), `text`, `sha256` (of the text),
    `models`, `platforms` and `prompts` (name to the contents of its file, see `load_model` and its siblings),
    `recorded_rps` (with `arrival: trace`, recorded prompt set to its requests a second), `shapes`
    (model name to what `fit.shape` says of it), `planning` (that part of config/config.yaml).
    """
    data, text, files = read_study(root, name)
    path = files[0]
    _with_lists(data)
    validate(data, "study", path, text)
    study = with_defaults(data, schema("study"))
    study["matrix"] = with_defaults(study["matrix"], schema("study")["$defs"]["axes"])
    if isinstance(study["load"]["arrival"], str):
        study["load"]["arrival"] = {"process": study["load"]["arrival"]}
    study["server"] = {**study["server"], "environment": _texts(study["server"].get("environment", {}))}

    mistakes = [*_unknown_names(root, data), *_unknown_probes(data)] or [
        *_load_mistakes(study),
        *expectation_mistakes(study, list(schema("study")["$defs"]["axes"]["properties"]), root),
        *_comparison_mistakes(study),
        *_server_secrets(study["server"]),
    ]
    _refuse(mistakes, path, text)
    refuse_secrets(path, text)

    study.setdefault("compare", {"factor": "platform", "baseline": study["matrix"]["platform"][0]})
    asked = [*_asked(study, "model"), *(one["model"] for one in study.get("expects", ()) if "model" in one)]
    study["models"] = {name: load_model(root, name) for name in dict.fromkeys(asked)}
    study["platforms"] = {name: load_platform(root, name) for name in _asked(study, "platform")}
    study["prompts"] = {name: load_prompts(root, name) for name in _asked(study, "prompts")}
    _refuse([*_currency_mistakes(study), *_unknown_builds(study)], path, text)
    _refuse([*_recorded_mistakes(study, root), *_input_mistakes(study), *_lora_mistakes(study)], path, text)
    _refuse(_speeds_as_rates(study), path, text)
    study["shapes"] = {name: fit.shape(root, model) for name, model in study["models"].items()}
    study["planning"] = load_config(root, {})["planning"]
    study.update(
        name=name,
        files=[path.as_posix() for path in _files(root, study, files)],
        path=path.as_posix(),
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    return study


def load_platform(root: Path, name: str) -> dict[str, Any]:
    """The platform `name`: its file's keys, `name`, defaults, and CPUs of `placement` as lists of numbers."""
    platform = read_named(root, "platforms", "platform", name)
    path = file_of(root, "platforms", name)
    if name.lower().endswith(AGAIN):
        raise UserError(
            f"{path}: a platform's name must not end in {AGAIN!r}: a study with `aa: true` calls its baseline so when "
            f"it measures it once more. Rename the file, for example to {name[: -len(AGAIN)]}-again.yaml"
        )
    _refuse(_platform_secrets(platform), path, path.read_text(encoding="utf-8"))
    refuse_secrets(path, path.read_text(encoding="utf-8"))
    check_expect(platform.get("expect"), f"{path}: expect")
    for framework, how in (platform.get("frameworks") or {}).items():
        try:
            runtime(how.get("runtime", DEFAULT))
        except UserError as error:
            raise UserError(f"{path}: frameworks: {framework}: {error}") from error
    placement = {key: _cpus(value) for key, value in platform.get("placement", {}).items()}
    return {**platform, "placement": placement, "environment": _texts(platform.get("environment", {}))}


def load_prompts(root: Path, name: str) -> dict[str, Any]:
    """The prompt set `name`: its file's keys as they stand there, and `name`."""
    prompts = read_named(root, "prompts", "prompts", name)
    path = file_of(root, "prompts", name)
    text = path.read_text(encoding="utf-8")
    refuse_secrets(path, text)
    _refuse(_idle_keys(prompts), path, text)
    for key in ("input_tokens", "output_tokens", "turns", "pause_s"):
        length = prompts.get(key)
        least = 0 if key == "pause_s" else 1
        if isinstance(length, dict) and length.get("min", least) > length.get("max", length.get("min", least)):
            raise UserError(f"{path}: {key}: min {length['min']} is more than max {length['max']}")
        if isinstance(length, dict) and "weights" in length and len(length["weights"]) != len(length.get("values", [])):
            raise UserError(f"{path}: {key}: {len(length['weights'])} weights for {len(length['values'])} values")
    return prompts


def _idle_keys(prompts: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Keys that another kind of prompt set has: here they would be taken and do nothing."""
    kind, filters = prompts["kind"], prompts.get("filters") or {}
    known = (*KIND_KEYS[kind], *_ANY_KIND)
    for keys in ([key] for key in prompts if key != "filters"), (["filters", key] for key in filters):
        for where in keys:
            if ".".join(where) not in known:
                others = _list(name for name, has in KIND_KEYS.items() if ".".join(where) in has)
                yield list(where), f"does nothing for {kind}; it is for {others}. {kind} has: {_list(KIND_KEYS[kind])}"


def _refuse(mistakes: Iterable[tuple[Keys, str]], path: Path, text: str) -> None:
    """UserError with the line and the key in `text`, the contents of `path`, of each mistake, if there is one."""
    lines = [f"{path}:{line_of(text, keys)}: {dotted(keys)}: {message}" for keys, message in mistakes]
    if lines:
        raise UserError("\n".join(lines))


def _with_lists(data: dict[str, Any]) -> None:
    """Put a value that stands alone on an axis into a list, in place; wrong shapes are left to the schema."""
    matrix = data.get("matrix")
    if not isinstance(matrix, dict):
        return
    for key in ("include", "exclude"):
        if isinstance(matrix.get(key), dict):
            matrix[key] = [matrix[key]]
    entries = [entry for key in ("include", "exclude") if isinstance(matrix.get(key), list) for entry in matrix[key]]
    for axes in [matrix, *entries]:
        if isinstance(axes, dict):
            for key, value in axes.items():
                if key not in NOT_AXES and value is not None and not isinstance(value, list):
                    axes[key] = [value]


def _axes(data: Mapping[str, Any]) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Every place of a study that names values of axes: the matrix, and each entry of include and exclude."""
    yield ["matrix"], data["matrix"]
    for key in ("include", "exclude"):
        for position, entry in enumerate(data["matrix"].get(key, ())):
            yield ["matrix", key, position], entry


def _asked(study: Mapping[str, Any], axis: str) -> list[str]:
    """Values of `axis` in the matrix and in include, each once, in order."""
    entries = [study["matrix"], *study["matrix"].get("include", ())]
    return list({canonical_json(value): value for entry in entries for value in entry.get(axis, ())}.values())


def _files(root: Path, study: Mapping[str, Any], own: list[Path]) -> list[Path]:
    named = [file_of(root, folder, name) for axis, folder in FOLDERS.items() for name in _asked(study, axis)]
    return list(dict.fromkeys([*own, *named, *(file_of(root, "models", name) for name in study["models"])]))


def _unknown_names(root: Path, study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    for where, axes in _axes(study):
        for axis, folder in FOLDERS.items():
            known = names(root, folder)
            for position, name in enumerate(axes.get(axis, ())):
                if name not in known:
                    yield [*where, axis, position], unknown_name(name, known, Path("config") / folder)
        yield from _unknown_frameworks([*where, "framework"], enumerate(axes.get("framework", ())))
    extra = study.get("server", {}).get("extra_args", ())
    if isinstance(extra, dict):
        yield from _unknown_frameworks(["server", "extra_args"], ((name, name) for name in extra))


def _unknown_probes(study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    if "probes" in study:
        from servegauge.probes import registry  # imports numpy, which a study without probes does not need

        known = list(registry())
        for position, name in enumerate(study["probes"]):
            if name not in known:
                message = f"there is no probe {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}"
                yield ["probes", position], message


def _unknown_frameworks(where: Keys, found: Iterable[tuple[str | int, str]]) -> Iterator[tuple[Keys, str]]:
    known = frameworks()
    for key, named in found:
        name, at, build = named.partition("@")
        if at and not _BUILD.fullmatch(build):
            yield [*where, key], f"{named!r}: a build is a name of letters, digits, dots, + and -, as in {name}@nightly"
        elif name not in known:
            choices = ", ".join(known) or "none"
            yield [*where, key], f"there is no framework {name!r}.{did_you_mean(name, known)} There are: {choices}"


def _load_mistakes(study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    load, rates, streams = study["load"], _asked(study, "rate"), _asked(study, "concurrency")
    speeds = _asked(study, "speed")
    if speeds and load["arrival"]["process"] != "trace":
        message = f"{load['arrival']['process']!r}, but `matrix.speed` is that of a recording's own times: give `trace`"
        yield ["load", "arrival"], message
    rates = [*rates, *speeds]
    yield from _capacity_mistakes(study)
    yield from _stop_mistakes(study)
    if not rates and not streams and not _asked(study, "burst") and not _asked(study, "capacity"):
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


def _capacity_mistakes(study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """What keeps a search for the capacity from finding one."""
    load, slos, asked = study["load"], study["slo"], study["capacity"]
    for where, axes in _axes(study):
        for position, name in enumerate(axes.get("capacity", ())):
            if name not in slos:
                have = _list(slos) or "none: name one under `slo`"
                yield (
                    [*where, "capacity", position],
                    f"there is no SLO {name!r}.{did_you_mean(name, slos)} There are: {have}",
                )
    if not _asked(study, "capacity"):
        return
    fewest = fewest_requests(asked["share"])
    if load.get("requests", 0) < fewest:
        have = f"`requests` is {load['requests']}" if "requests" in load else "`requests` is not set"
        yield (
            ["load"],
            f"{have}: `capacity` needs {fewest} at least, to be sure that {asked['share']:g} of them meet an SLO",
        )
    if load["arrival"]["process"] not in STEADY_PROCESSES:
        steady = _list(process for process in STEADY_PROCESSES if process != "closed")
        yield ["load", "arrival"], f"`capacity` needs a steady process, to see whether a queue grows: {steady}"
    if asked["first_rps"] > asked["most_rps"]:
        yield ["capacity"], "`first_rps` is more than `most_rps`"


def _stop_mistakes(study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    stop, repeats = study["job"].get("stop"), study["matrix"]["repeat"]
    if stop and repeats < FEWEST_BEFORE_A_LOOK:
        yield (
            ["job", "stop"],
            f"the first look comes after `matrix.repeat`, {repeats}: fewer than {FEWEST_BEFORE_A_LOOK} say nothing of "
            "how launches scatter, and 5 say it better",
        )
    elif stop and stop["at_most"] <= repeats:
        yield ["job", "stop", "at_most"], f"{stop['at_most']} is not more than `matrix.repeat`, {repeats}"


def _server_secrets(server: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    yield from _secret_variables(["server", "environment"], server["environment"])
    extra = server.get("extra_args", ())
    for keys, words in extra.items() if isinstance(extra, dict) else [(None, extra)]:
        yield from _secret_words(["server", "extra_args", *([keys] if keys else [])], words)


def _platform_secrets(platform: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    yield from _secret_variables(["environment"], platform.get("environment", {}))
    yield from _secret_words(["slurm", "sbatch"], platform.get("slurm", {}).get("sbatch", ()))
    for name, how in platform.get("frameworks", {}).items():
        yield from _secret_words(["frameworks", name, "container_args"], how.get("container_args", ()))
        for key in ("url", "container"):  # http://user:password@host
            if redact.text(how.get(key, "")) != how.get(key, ""):
                yield ["frameworks", name, key], SECRET


def _secret_variables(where: Keys, variables: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Variables whose value would be taken out of a record, but stands in the open in plans and specifications."""
    for name, value in variables.items():
        text = str(value)
        if redact.text(text) != text or (redact.is_secret_name(name) and not _is_plain(name, text)):
            yield [*where, name], SECRET


def _secret_words(where: Keys, words: Iterable[str]) -> Iterator[tuple[Keys, str]]:
    """The same for a command line: `--api-key x`, `--env=HF_TOKEN=x`, `Authorization: Bearer x`."""
    words = [str(word) for word in words]
    for position, (word, kept) in enumerate(zip(words, redact.argv(words), strict=True)):
        name, _, value = word.rpartition("=") if kept != redact.REMOVED else (words[position - 1], "", word)
        if kept != word and not _is_plain(name, value):
            yield [*where, position], SECRET


def _is_plain(name: str, value: str) -> bool:
    """True where `value` is none, though `name` is a secret's: a small number, a switch, or where a file lies."""
    return bool(_PLAIN.fullmatch(value) or (_PLACE_NAME.search(name) and _PLACE.fullmatch(value)))


def _comparison_mistakes(study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    known = [axis for axis in study["matrix"] if axis not in NOT_AXES]
    for where, axes in _axes(study):
        if where[1:2] == ["exclude"]:
            for axis, values in axes.items():
                have: list[Any] = [*_asked(study, axis)] or [1]
                for position, value in enumerate(values):
                    if value not in have:
                        message = f"takes out {value!r}, which is not on the axis.{did_you_mean(value, have)}"
                        yield [*where, axis, position], f"{message} It has: {_list(have)}"
    if "compare" in study:
        factor, baseline = study["compare"]["factor"], study["compare"]["baseline"]
        if factor not in known:
            message = f"{factor!r} is not an axis of this study.{did_you_mean(factor, known)} Its axes: {_list(known)}"
            yield ["compare", "factor"], message
        elif baseline not in (have := _asked(study, factor)):
            message = f"{baseline!r} is not on the axis {factor}.{did_you_mean(baseline, have)} It has: {_list(have)}"
            yield ["compare", "baseline"], message
        elif study["aa"] and factor not in LAUNCH_AXES:
            yield ["aa"], f"the factor {factor} is no axis of launches, so the baseline cannot be launched once more"
        without = () if _asked(study, "capacity") else (CAPACITY.name,)
        statistics = (*metric_registry.compared(), *economics.STATISTICS)
        names = [one.name for one in statistics if one.name not in without]
        names += [f"{one.name}:{slo}" for slo in study.get("slo") or {} for one in metric_registry.shown_per_slo("")]
        for position, name in enumerate(study["compare"].get("primary") or []):
            if name not in names:
                message = (
                    f"{name!r} is no metric that is compared.{did_you_mean(name, names)} There are: {_list(names)}"
                )
                yield ["compare", "primary", position], message


def _recorded_mistakes(study: dict[str, Any], root: Path) -> Iterator[tuple[Keys, str]]:
    """Prompt sets without recorded times where such are asked for; puts `recorded_rps` of the others into the study."""
    if study["load"]["arrival"]["process"] != "trace":
        return
    from servegauge.workloads.recordings import formats  # imports numpy, which few studies need
    from servegauge.workloads.replay import recording_of

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
            yield ["load", "arrival"], f"{what}; such have {', '.join(formats())}. Give another set or process"
        else:
            study.setdefault("recorded_rps", {})[name] = recording.rate_rps


def _speeds_as_rates(study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Puts the rate in place of each speed that `expects` and `compare` name: that is what cells are told apart by."""
    recorded, sets = study.get("recorded_rps") or {}, _asked(study, "prompts")

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
        compare.update(factor="rate", baseline=found)


def _input_mistakes(study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """A prompt length for texts that are as long as they are."""
    if "input_tokens" in study["load"]:
        for name, prompts in study["prompts"].items():
            if prompts["kind"] not in GENERATED:
                message = (
                    f"the prompts of {name} are of the kind {prompts['kind']}, whose length is that of its data; this "
                    f"is for {', '.join(GENERATED)}"
                )
                yield ["load", "input_tokens"], message


def _lora_mistakes(study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Requests for adapters that no server is given."""
    entries = [study["matrix"], *study["matrix"].get("include", ())]
    given = [study["server"].get("lora"), *(value for entry in entries for value in entry.get("lora", ()))]
    known = sorted({name for adapters in given if isinstance(adapters, Mapping) for name in adapters})  # else `none`
    for name in study["load"].get("lora_mix") or {}:
        if name != "base" and name not in known:
            have = _list(known) or "none"
            message = f"the server has no adapter of this name.{did_you_mean(name, known)} `server.lora` has: {have}"
            yield ["load", "lora_mix", name], message


def _unknown_builds(study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """A build that no platform of the study says how to start; where one does, the others skip it."""
    known = sorted({name for one in study["platforms"].values() for name in one.get("frameworks", {}) if "@" in name})
    for name in _asked(study, "framework"):
        if "@" in name and name not in known:
            message = (
                f"no platform of the study says how to start {name!r}.{did_you_mean(name, known)} Add it to "
                "`frameworks:` of config/platforms/NAME.yaml, with a venv, container, executable or lock of its own"
            )
            yield ["matrix", "framework"], message


def _currency_mistakes(study: Mapping[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Costs in two currencies have no ratio."""
    found = {name: one["prices"]["currency"] for name, one in study["platforms"].items() if "prices" in one}
    told = [f"config/platforms/{name}.yaml has {currency}" for name, currency in found.items()]
    for position, name in enumerate(study["compare"].get("primary") or ()):
        if name in economics.PRICED and not found:
            message = f"{name!r}, but no platform of the study has `prices`, so there will be no such number"
            yield ["compare", "primary", position], message
    api = ((study.get("economics") or {}).get("api") or {}).get("currency")
    if api is not None and not found:
        message = "no platform of the study has `prices`, so there is nothing to hold against the API's; add them"
        yield ["economics", "api"], message
    elif api is not None and {*found.values()} != {api}:
        yield ["economics", "api", "currency"], f"{api!r}, but {', '.join(told)}; give all prices in one currency"
    elif len({*found.values()}) > 1:
        yield ["matrix", "platform"], f"prices are in several currencies: {', '.join(told)}; give all in one"


def _list(values: Iterable[Any]) -> str:
    return ", ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in values)


def _texts(variables: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in variables.items()}


def _cpus(value: list[int] | str) -> list[int]:
    """[0, 1, 2, 8] for "0-2,8"."""
    if isinstance(value, list):
        return value
    numbers: list[int] = []
    for part in value.split(","):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers
