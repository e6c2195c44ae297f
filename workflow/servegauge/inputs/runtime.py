"""What a container runtime is. `runtimes/` holds one file for each, found by looking into that folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from servegauge.base import allocation
from servegauge.base.errors import UserError


@dataclass(frozen=True)
class Inside:
    """What a command needs in its container.

    `image`: as the platform's file has it. `folders`: absolute paths that must be seen under the same names; the first
    is the working directory. `variables`: names of variables to pass; values never stand on a command line. `gpus`: the
    maker of the GPUs that must be seen, None for none. `arguments`: the platform's own, for the runtime.
    """

    image: str
    folders: Sequence[str]
    variables: Sequence[str] = ()
    gpus: Literal["nvidia", "amd"] | None = None
    arguments: Sequence[str] = ()


class Runtime:
    """A way to run a command in a container. Subclass it once in `runtimes/<name>.py`."""

    name: ClassVar[str]
    about: ClassVar[str]  # what it is, and what `container:` names, in a line

    def argv(self, argv: Sequence[str], inside: Inside) -> list[str]:
        """The command line that runs `argv` in the container, as a child of the process that starts it.

        Signals that the command line gets reach `argv`, and its output is the command line's output.
        """
        raise NotImplementedError

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """What the command line's own process needs beside `variables`, so that these reach `argv`."""
        return {}


def mounted(folders: Sequence[str]) -> Sequence[str]:
    """`folders`, which a runtime can be told to mount; UserError for one whose name its option would be split at."""
    for folder in folders:
        if found := re.search(r"[:,\n]", folder):
            raise UserError(
                f"{folder!r} cannot be mounted in a container: runtimes split their options at {found[0]!r}. Move the "
                "repository, or set scratch: in the platform's file, to a folder without ':' and ',' in its path"
            )
    return folders


def step() -> list[str]:
    """A step of its own inside the job, beside the one that we are in, on this node only."""
    node = [f"--nodelist={name}"] if (name := allocation.node()) else []
    # Where the job was submitted with --export=NONE, its steps would have no variables, and a server no key.
    return [
        *("srun", "--export=ALL", "--overlap", "--nodes=1", "--ntasks=1", *node),
        *("--cpu-bind=none", "--kill-on-bad-exit=1"),
    ]
