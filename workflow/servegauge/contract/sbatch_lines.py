"""Lines for sbatch as people copy them from their site's pages: `slurm: sbatch:` of a platform.

Every form that sbatch takes is read: `#SBATCH` before them, short options, long ones cut short, values after `=`, after
a space, in the next line or directly behind a short option, quotes, several options in a line. Nothing is altered and
nothing is lost: what cannot be had beside what the pipeline sets is refused by name.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SHORT = {
    "A": "account", "a": "array", "B": "extra-node-info", "b": "begin", "C": "constraint", "c": "cpus-per-task",
    "D": "chdir", "d": "dependency", "e": "error", "F": "nodefile", "G": "gpus", "H": "hold", "h": "help",
    "i": "input", "J": "job-name", "k": "no-kill", "L": "licenses", "M": "clusters", "m": "distribution", "N": "nodes",
    "n": "ntasks", "O": "overcommit", "o": "output", "p": "partition", "Q": "quiet", "q": "qos", "S": "core-spec",
    "s": "oversubscribe", "t": "time", "V": "version", "v": "verbose", "W": "wait", "w": "nodelist", "x": "exclude",
}  # fmt: skip
# Options without a value; those in OPTIONAL may have one, behind `=` only. Of sbatch from 22.05 to 26.05.
FLAGS = {
    "consolidate-segments", "contiguous", "external", "help", "hold", "ignore-pbs", "no-requeue", "overcommit",
    "oversubscribe", "parsable", "quiet", "reboot", "spread-job", "spread-segments", "stepmgr", "test-only", "usage",
    "use-min-nodes", "verbose", "version", "wait",
}  # fmt: skip
OPTIONAL = {
    "exclusive", "get-user-env", "nice", "no-kill", "oom-kill-step", "propagate", "requeue", "resv-ports",
}  # fmt: skip
VALUED = {
    *set(SHORT.values()) - FLAGS - OPTIONAL,
    "acctg-freq", "batch", "bb", "bbf", "cluster-constraint", "comment", "container", "container-id", "container-type",
    "context", "cores-per-socket", "cpu-freq", "cpus-per-gpu", "deadline", "delay-boot", "export", "export-file",
    "extra", "gid", "gpu-bind", "gpu-freq", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres", "gres-flags",
    "hint", "kill-on-invalid-dep", "mail-type", "mail-user", "mcs-label", "mem", "mem-bind", "mem-per-cpu",
    "mem-per-gpu", "mem-update", "mincpus", "network", "ntasks-per-core", "ntasks-per-gpu", "ntasks-per-node",
    "ntasks-per-socket", "ntasks-per-tres", "open-mode", "power", "prefer", "priority", "profile", "reservation",
    "resources", "runtime", "segment", "signal", "sockets-per-node", "switches", "thread-spec", "threads-per-core",
    "time-min", "tmp", "tres-bind", "tres-per-task", "uid", "wait-all-nodes", "wckey", "wrap",
}  # fmt: skip
ALIASES = {"cluster": "clusters", "tasks-per-node": "ntasks-per-node"}
KNOWN = FLAGS | OPTIONAL | VALUED | set(ALIASES)
# Several of them add up.
LISTS = {"dependency", "exclude", "gres", "licenses", "mail-type", "nodelist", "prefer", "tres-per-task"}
# What the pipeline itself needs to say, and where a person says it instead.
OURS = {
    "array": "each launch is a job of its own",
    "chdir": "a launch works in the repository's root",
    "clusters": "use `slurm: cluster`",
    "comment": "the study's name stands there",
    "error": "the job's output is written into its attempt's folder",
    "help": "it submits nothing",
    "input": "a job has no input",
    "job-name": "the launch's name stands there, so that squeue shows it",
    "nodes": "the layout (tp, pp, instances) and `gpus_per_node` give it",
    "ntasks": "one task a node starts the launch",
    "ntasks-per-gpu": "one task a node starts the launch",
    "ntasks-per-node": "one task a node starts the launch",
    "ntasks-per-tres": "one task a node starts the launch",
    "open-mode": "the job's output is written into its attempt's folder",
    "output": "the job's output is written into its attempt's folder",
    "parsable": "it is always given",
    "signal": "a launch knows when its job ends",
    "test-only": "it submits nothing",
    "time": "use `slurm: time_min`, or `job: minutes` of the study",
    "uid": "a job is its submitter's",
    "usage": "it submits nothing",
    "version": "it submits nothing",
    "wait": "waiting is what the pipeline does",
    "wrap": "the job is the launch",
}
# Keys of `slurm:` that say the same as an option, and those that cannot be had beside one.
KEYS = {
    "account": "account", "constraint": "constraint", "cpus-per-task": "cpus_per_task", "exclude": "exclude",
    "exclusive": "exclusive", "gres": "gres", "mem": "mem_gb", "partition": "partition", "qos": "qos",
}  # fmt: skip
BESIDE = {"cpus-per-gpu": "cpus_per_task", "mem-per-cpu": "mem_gb", "mem-per-gpu": "mem_gb"}
# A quoted or escaped part of a line, which is kept, or a comment, which begins a word.
_COMMENT = re.compile(r"""('[^']*'|"(?:\\.|[^"\\])*"|\\.)|(?<!\S)#.*""")


class Refused(ValueError):
    """A line that cannot be taken; the text says which, why, and what to write instead."""


def options(lines: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(long name, value or None) of every option in `lines`, in order. Refused for what is no option."""
    words = [word for line in lines for one in line.splitlines() for word in _words(one)]
    while words:
        word = words.pop(0)
        if word.startswith("--") and len(word) > 2:
            written, given, value = word[2:].partition("=")
            name = _long(written)
            if given:
                yield name, value
            elif name in VALUED:
                yield name, _next(word, words)
            elif name in FLAGS or name in OPTIONAL or not words or words[0].startswith("-"):
                yield name, None
            else:  # a site's own option
                yield name, words.pop(0)
        elif word.startswith("-") and len(word) > 1 and word[1] in SHORT:
            name = SHORT[word[1]]
            if len(word) > 2 and name in FLAGS:
                words.insert(0, f"-{word[2:]}")
                yield name, None
            elif len(word) > 2:
                yield name, word[2:].removeprefix("=")
            else:
                yield name, _next(word, words) if name in VALUED else None
        else:
            raise Refused(f"{word!r} is no option of sbatch; options begin with - or --")


def _words(line: str) -> list[str]:
    """The words of a line, as sbatch and a shell tell them; a comment is none."""
    if re.match(r"\s*#(PBS|BSUB|SLURM)\b", line):
        raise Refused(f"{line!r} is not for sbatch; write the option that sbatch has for it")
    try:
        return shlex.split(_COMMENT.sub(r"\1", line.strip().removeprefix("#SBATCH")))
    except ValueError as error:
        raise Refused(f"{line!r} has a quote that is not closed ({error})") from error


def _long(written: str) -> str:
    """The option that `written` names: sbatch takes as much of a name as tells it from all others."""
    meant = {written} if written in KNOWN else {name for name in KNOWN if name.startswith(written)}
    names = sorted({ALIASES.get(name, name) for name in meant})
    if len(names) > 1:
        raise Refused(f"--{written} is the beginning of {', '.join(f'--{name}' for name in names)}; write one of them")
    return names[0] if names else written


def _next(option: str, words: list[str]) -> str:
    """The word behind `option`, which needs one; an option is none."""
    if not words or words[0].startswith("-"):
        raise Refused(f"{option} needs a value")
    return words.pop(0)


def merged(lines: Sequence[str], slurm: Mapping[str, object], gpus: int = 0) -> dict[str, str | bool]:
    """Long name -> value, or true for an option without one; `{gpus}` is the number of GPUs on a node.

    Lists add up, with `gres` of `slurm` too. Refused for what the pipeline sets itself, for what a key of `slurm` says
    as well, and for two different values of one option.
    """
    found: dict[str, str | bool] = {}
    for name, given in options(lines):
        if name in OURS:
            raise Refused(f"--{name} is set by the pipeline: {OURS[name]}")
        value: str | bool = True if given is None else given.replace("{gpus}", str(gpus))
        if (key := _collides(name, value, slurm, gpus)) is not None:
            raise Refused(f"--{name} stands in `sbatch:` and `{key}: {slurm[key]}` beside it; keep one of them")
        before = found.get(name)
        if before is None or before == value:
            found[name] = value
        elif name in LISTS and isinstance(value, str) and isinstance(before, str):
            found[name] = f"{before},{value}"
        else:
            raise Refused(f"--{name} stands there twice, with {before!r} and {value!r}")
    if "requeue" in found and "no-requeue" in found:
        raise Refused("--requeue and --no-requeue stand there both; keep one of them")
    return found


def whole_node(slurm: Mapping[str, Any]) -> bool:
    """Whether a job has its nodes for itself, by the key or by a line."""
    with contextlib.suppress(Refused):  # of a plan that was made before such a line was refused
        return bool(slurm.get("exclusive")) or ("exclusive", None) in options(slurm.get("sbatch") or ())
    return False


def _collides(name: str, value: str | bool, slurm: Mapping[str, object], gpus: int) -> str | None:
    """The key of `slurm:` beside which a line cannot be had; None where there is none, or it says the same."""
    key = KEYS.get(name) or BESIDE.get(name) or ("gres" if name.startswith("gpus") else None)
    other = slurm.get(key) if key else None
    if other is None or name == "exclude":
        return None
    if key == "gres":  # kinds of resources add up; one kind is asked for once
        ours, lines = _kinds(str(other).replace("{gpus}", str(gpus))), _kinds(str(value))
        same = ours.keys().isdisjoint(lines) if name == "gres" else "gpu" not in ours
        return None if same else key
    same = (value is True and other is True) or (name not in (*BESIDE, "mem") and str(value) == str(other))
    return None if same else key


def _kinds(gres: str) -> dict[str, str]:
    """Generic resources by their kind: `gpu:h100:2,tmpfs:10g` are gpu and tmpfs."""
    return {one.removeprefix("gres/").partition(":")[0].partition("=")[0].strip(): one for one in gres.split(",")}
