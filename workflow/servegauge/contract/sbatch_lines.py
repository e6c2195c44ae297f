"""Lines for sbatch as people copy them from their site's pages: `slurm: sbatch:` of a platform.

Every form that sbatch takes is read: `#SBATCH` before them, short options, values after `=`, after a space or directly
behind a short option, quotes, several options in a line. Nothing is altered and nothing is lost: what cannot be had
beside what the pipeline sets is refused by name.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

SHORT = {
    "A": "account", "B": "extra-node-info", "b": "begin", "C": "constraint", "c": "cpus-per-task", "D": "chdir",
    "d": "dependency", "e": "error", "F": "nodefile", "G": "gpus", "H": "hold", "h": "help", "I": "immediate",
    "i": "input", "J": "job-name", "k": "no-kill", "L": "licenses", "M": "clusters", "m": "distribution", "N": "nodes",
    "n": "ntasks", "O": "overcommit", "o": "output", "p": "partition", "Q": "quiet", "q": "qos", "S": "core-spec",
    "s": "oversubscribe", "t": "time", "V": "version", "v": "verbose", "W": "wait", "w": "nodelist", "x": "exclude",
}  # fmt: skip
# Options without a value; those in OPTIONAL may have one, behind `=` only.
FLAGS = {
    "contiguous", "hold", "ignore-pbs", "no-requeue", "overcommit", "oversubscribe", "parsable", "quiet", "reboot",
    "requeue", "spread-job", "test-only", "use-min-nodes", "verbose", "wait", "help", "version", "usage",
}  # fmt: skip
OPTIONAL = {"exclusive", "get-user-env", "immediate", "nice", "no-kill", "propagate", "resv-ports", "overcommit"}
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
    "ntasks-per-node": "one task a node starts the launch",
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
    "wckey": "it is left to the site",
    "wrap": "the job is the launch",
}
# Keys of `slurm:` that say the same as an option.
KEYS = {
    "account": "account", "constraint": "constraint", "cpus-per-task": "cpus_per_task", "exclude": "exclude",
    "exclusive": "exclusive", "gres": "gres", "mem": "mem_gb", "partition": "partition", "qos": "qos",
}  # fmt: skip


class Refused(ValueError):
    """A line that cannot be taken; the text says which, why, and what to write instead."""


def options(lines: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(long name, value or None) of every option in `lines`, in order. Refused for what is no option."""
    for line in lines:
        text = line.strip().removeprefix("#SBATCH")
        try:
            words = shlex.split(text, comments=True)
        except ValueError as error:
            raise Refused(f"{line!r} has a quote that is not closed ({error})") from error
        while words:
            word = words.pop(0)
            if word.startswith("--") and len(word) > 2:
                name, given, value = word[2:].partition("=")
                if given:
                    yield name, value
                elif name in FLAGS or name in OPTIONAL:
                    yield name, None
                elif words and not words[0].startswith("-"):
                    yield name, words.pop(0)
                else:
                    yield name, None
            elif word.startswith("-") and len(word) > 1 and word[1] in SHORT:
                name = SHORT[word[1]]
                if len(word) > 2:
                    if name in FLAGS:
                        words.insert(0, f"-{word[2:]}")
                        yield name, None
                    else:
                        yield name, word[2:].removeprefix("=")
                elif name in FLAGS or name in OPTIONAL:
                    yield name, None
                elif words:
                    yield name, words.pop(0)
                else:
                    raise Refused(f"{line!r}: -{word[1]} needs a value")
            else:
                raise Refused(f"{line!r}: {word!r} is no option of sbatch; options begin with - or --")


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
        key = KEYS.get(name)
        if key and slurm.get(key) is not None and name not in LISTS and not _same(name, value, slurm[key]):
            raise Refused(f"--{name} stands in `sbatch:` and `{key}: {slurm[key]}` beside it; keep one of them")
        before = found.get(name)
        if before is None or before == value:
            found[name] = value
        elif name in LISTS and isinstance(value, str) and isinstance(before, str):
            found[name] = f"{before},{value}"
        else:
            raise Refused(f"--{name} stands there twice, with {before!r} and {value!r}")
    return found


def _same(name: str, value: str | bool, other: object) -> bool:
    """Whether a line only repeats what the key says."""
    return (value is True and other is True) or (name != "mem" and str(value) == str(other))
