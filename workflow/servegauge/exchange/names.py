"""The names of hosts, people, places and devices in a dataset: where they stand, and the word that takes their place.

Names are found where the dataset says that they are names (columns and keys of JSON such as `hostname`, `user`,
`account`, the job's list of nodes, home folders), or by their shape (UUIDs, addresses, absolute paths).
"""

from __future__ import annotations

import contextlib
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from itertools import islice, product
from typing import Any

from servegauge.base.files import parse_json

Replaced = dict[tuple[str, str], str]  # (kind, what it was) -> what it is now

KINDS = {
    "host": re.compile(
        r"\w*(?:host|host_?name|node_?list|nodename)|slurm_topology_addr|nodes?|head|fqdn|server_name", re.I
    ),
    "user": re.compile(r"user|user_?name|login|logname|owner|uname|\w+_user", re.I),
    "cluster": re.compile(r"slurm_\w*cluster\w*|clusters?|cluster_name", re.I),
    "account": re.compile(r"account|\w+_account|project_id|reservation|\w+_reservation", re.I),
    "job": re.compile(r"job|job_?id|\w+_job_?id", re.I),
    "partition": re.compile(r"partition|slurm_\w*partition|qos|slurm_\w*qos", re.I),
    "device": re.compile(
        r"\w*serial|\w*serial_number|asset_tag|machine_id|boot_id|board_id|guid|\w+_guid|port_guid", re.I
    ),
    "address": re.compile(r"ip|ip_address|addr|address|mac|mac_address|\w+_ipaddr|master_addr|head_address", re.I),
}
"""Keys of JSON, and columns, whose value is a name of this kind."""

NOBODY = frozenset(
    {
        *("localhost", "none", "null", "unknown", "root", "all", "here", "true", "false"),
        *("yes", "no", "n/a", "default", "self", "ok"),
    }
)
"""Words that stand where a name may stand and are no names."""

ORDINARY = frozenset(
    {
        *("node", "host", "head", "cpu", "gpu", "user", "users", "admin", "guest", "ubuntu", "server", "client"),
        *("test", "demo", "login", "vm", "cluster", "local", "linux", "compute", "master", "main", "gateway", "debian"),
        *("rank", "job", "worker", "engine", "mlx", "eth", "nvme", "cuda", "dev", "tcp", "qwen", "llama", "sm"),
    }
)
"""Words that may name a host or a user and mean themselves everywhere else: replaced where names stand, only there."""

SYSTEM = frozenset(["usr", "bin", "sbin", "lib", "lib64", "etc", "proc", "sys", "dev", "run", "v1", "v2", "metrics"])
"""First parts of paths that are the same everywhere: the system's own, and those of servers' endpoints."""

UUID = re.compile(r"(?<![0-9a-zA-Z])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?![0-9a-zA-Z])", re.I)
# With colons; with dashes or points one without a letter may be a time
MAC = re.compile(
    r"(?<![0-9a-f:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![0-9a-f:])"
    r"|(?<![\w.-])(?=[\d.-]*[a-f])(?:(?:[0-9a-f]{2}-){5}[0-9a-f]{2}|(?:[0-9a-f]{4}\.){2}[0-9a-f]{4})(?![\w.-])",
    re.I,
)
GUID = re.compile(r"(?<![0-9a-f:])(?:[0-9a-f]{4}:){3}[0-9a-f]{4}(?![0-9a-f:])", re.I)
IPV6 = re.compile(
    r"(?<![0-9a-z:])(?:f[cde][0-9a-f]{2}:[0-9a-f:]{2,}(?:%\w+)?|[23][0-9a-f]{3}(?:(?::[0-9a-f]{1,4}){7}"
    r"|(?::[0-9a-f]{1,4}){0,5}::(?:[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){0,5})?))(?![0-9a-z:])",
    re.I,
)
# Four numbers may be a version, too: only where a scheme, a port or a range that no version has says that it is one.
IPV4 = re.compile(
    r"(?<![\d.])(?!127\.|0\.0\.0\.0)(?:(?:192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}(?![\d.])"
    r"|(?<=//)\d{1,3}(?:\.\d{1,3}){3}(?![\d.])|\d{1,3}(?:\.\d{1,3}){3}(?=:\d{2,5}\b|<\d))"
)
# Beside one of these words they are no version, and are one wherever else they stand
TOLD_IPV4 = re.compile(
    r"(?:\b(?:to|from|at|on|ip|host|addr|address|via|dns|gateway|bind|bound|listening|peer|connect|connecting|ping|server|"
    r"node|inet)|--[\w-]*(?:host|addr|ip))[\"'\s:=,(\[\\]{1,6}(?!127\.|0\.0\.0\.0)(\d{1,3}(?:\.\d{1,3}){3})(?![\d.]*\d)",
    re.I,
)
ADDRESS = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}")
MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_PATH = r"/(?:[^\s/\"'`,;:()\[\]{}<>|=*\\]+/)+[^\s/\"'`,;:()\[\]{}<>|=*\\]*"
PATH = re.compile(rf"(?<![\w.:/$}}*-]){_PATH}")
FILE = re.compile(rf"(\bfile:(?://([\w.-]*))?)({_PATH})", re.I)
# A person's folder, also below those of a group that begin its name: /home/ka/ka_iti/ka_ab1234
HOME = re.compile(r"/(?:home|users|Users|u|people|hpc_home)((?:/[^\s/\"',;:\\]+){1,3})")
ENDING = re.compile(r"[\w.+-]+\.[A-Za-z][A-Za-z0-9]{0,11}|python[\d.]*", re.ASCII)
"""The last part of a path that is a file's name, and stays."""
LISTED = re.compile(r"(?:\[[\d,-]+\]|[^\s,\[\]])+")
BRACKETS = re.compile(r"\[([\d,-]+)\]")
MOST_NODES = 9999  # of a list
ITEM = re.compile(r'((?:^|[{,]\s*)\\*"(\w+)\\*"\s*:\s*(?:\{[^{}]{0,300}?\\*"value\\*"\s*:\s*)?\[?\\*")([\w.-]+)(\\*")')
"""An item of JSON whose value, or fact, is one word: its key, and the word. In JSON inside JSON quotes are escaped."""
TOLD = re.compile(r"(\b(partition|qos)[=: ]{1,2})([\w.-]+)()", re.I)
"""The same as scontrol and sbatch write it: Partition=x, --qos x."""
ESCAPE = re.compile(r"\\[bfnrt]|\\(?:x|u00)1b\[[\d;]*[A-Za-z]|%[0-9A-Fa-f]{2}")
"""A control character as it is written in JSON and here, or one of an address: no part of the word behind it."""
NUMBERED = re.compile(r"(.{2,}?[A-Za-z-])\d+", re.ASCII)
"""A host's name that ends with its number: others of its cluster have others."""
EDGE = "\ue000"

_SHAPES = {
    "uuid": UUID,
    "mail": MAIL,
    "address": re.compile("|".join(one.pattern for one in (MAC, GUID, IPV6, IPV4)), re.I),
}


class Names:
    """The names of one dataset, each with the word that takes its place."""

    def __init__(self) -> None:
        self.words: Replaced = {}
        self.uses: Counter[tuple[str, str]] = Counter()
        self._noted: set[tuple[str, str]] = set()
        self._ordinary: set[tuple[str, str]] = set()  # replaced where names of their kind stand, nowhere else
        self._numbers: Counter[str] = Counter()

    def word(self, kind: str, name: str) -> str:
        """The word for `name`, the same each time."""
        if (kind, name) not in self.words:
            self._numbers[kind] += 1
            # A number stays one: it may stand in JSON without quotes.
            number = f"{10**6 + len(self.words)}"
            self.words[kind, name] = number if name.isdigit() else f"{kind}-{self._numbers[kind]}"
        self.uses[kind, name] += 1
        return self.words[kind, name]

    def add(self, kind: str, value: str) -> None:
        """Note a name that stands where names of `kind` stand; a list of nodes names each of them."""
        if kind == "cluster" and ":" in value:  # a working cluster is name:controller:port:version:plugin
            value, controller, *_ = value.split(":")
            self.add("host", controller)
        for name in _each(value) if kind == "host" else [value.strip()]:
            word = name.lower().strip("()")  # Slurm's (null)
            if word in ORDINARY or (kind == "partition" and word not in NOBODY) or (kind == "job" and len(word) < 5):
                self._ordinary.add((kind, name))
                continue
            short = len(name) < (5 if name.isdigit() else 2)
            if short or word in NOBODY or name.startswith(("/", "127.", "::1")) or " " in name:
                continue
            if any(shape.fullmatch(name) for shape in (MAC, GUID, IPV6, ADDRESS)):
                self._noted.add(("address", name))
            elif kind in ("job", "device") or not re.fullmatch(r"[\d.:+-]+", name):  # other numbers are no names
                self._noted.add(("host" if kind == "address" else kind, name))
                if kind in ("host", "address") and "." in name:
                    self.add("host", name.partition(".")[0])
                    while "." in (name := name.partition(".")[2]):  # uni.example, but not local
                        self._noted.add(("host", name))

    def others(self) -> re.Pattern[str] | None:
        """Names of further hosts of the clusters whose hosts are known: uc3n514, where uc3n513 is."""
        numbered = [NUMBERED.fullmatch(name) for kind, name in self._noted if kind == "host"]
        starts = {found[1] for found in numbered if found and found[1].lower().strip("-") not in ORDINARY}
        if not starts:
            return None
        return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, sorted(starts)))})\d+(?![A-Za-z0-9])")

    def number(self) -> None:
        """Give each noted name its word; a host's short and full name have the same."""
        for kind, name in sorted(self._noted | self._ordinary):  # a short name comes before those that begin with it
            short = self.words.get((kind, name.partition(".")[0]))
            self.words[kind, name] = short or self.word(kind, name)
        self.uses.clear()

    @cached_property
    def _known(self) -> tuple[re.Pattern[str] | None, dict[str, tuple[str, str]]]:
        names = {name: (kind, name) for kind, name in sorted(self._noted)}
        names |= {name.upper(): key for name, key in names.items() if key[0] == "host" and name.upper() not in names}
        longest_first = sorted(names, key=len, reverse=True)
        if not names:
            return None, names
        pattern = "|".join(map(re.escape, longest_first))
        return re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})(?![A-Za-z0-9])"), names

    def text(self, text: str, column: str = "") -> str:
        """`text` with every name replaced; `column` is where it stands."""
        if key := next((one for one in self._ordinary if one[1] == text and KINDS[one[0]].fullmatch(column)), None):
            return self._use(key)
        if self._ordinary:
            text = TOLD.sub(self._item, ITEM.sub(self._item, text))
        text = ESCAPE.sub(rf"\g<0>{EDGE}", text)
        for kind, shape in _SHAPES.items():
            text = shape.sub(partial(self._shaped, kind), text)
        text = FILE.sub(lambda found: found[1] + self._path(found[3]), text)
        text = PATH.sub(lambda found: self._path(found[0]), text)
        known, names = self._known
        text = known.sub(lambda found: self._use(names[found[0]]), text) if known else text
        return text.replace(EDGE, "")

    def left_in(self, text: str) -> str | None:
        """A name that `text` still holds."""
        text = ESCAPE.sub(rf"\g<0>{EDGE}", text)
        known, _ = self._known
        shapes = [*_SHAPES.values(), *([known] if known else [])]
        if found := next((one for shape in shapes if (one := shape.search(text))), None):
            return found[0]
        kept = (*SYSTEM, "path-")
        paths = [*PATH.findall(text), *(path for _, _, path in FILE.findall(text))]
        return next((path for path in paths if not path[1:].startswith(kept)), None)

    def _item(self, found: re.Match[str]) -> str:
        """An item of JSON whose value is an ordinary word, and a name here."""
        key = next((one for one in self._ordinary if one[1] == found[3] and KINDS[one[0]].fullmatch(found[2])), None)
        return f"{found[1]}{self._use(key)}{found[4]}" if key else found[0]

    def _shaped(self, kind: str, found: re.Match[str]) -> str:
        return self.word(kind, found[0].lower())

    def _use(self, key: tuple[str, str]) -> str:
        self.uses[key] += 1
        return self.words[key]

    def _path(self, path: str) -> str:
        if path.split("/")[1] in SYSTEM:
            return path
        folder, _, last = path.rpartition("/")
        file = ENDING.fullmatch(last)
        return f"/{self.word('path', folder)}/{last}" if file else f"/{self.word('path', path.rstrip('/'))}"


def _each(value: str) -> Iterator[str]:
    """Host names in a list of nodes as Slurm writes it: `n[001-003,7],r[1-2]n[1-4]-ib,login1`; and lists themselves."""
    for name in LISTED.findall(value):
        parts = BRACKETS.split(name)
        choices = [[part] if place % 2 == 0 else list(_numbers(part)) for place, part in enumerate(parts)]
        yield from map("".join, islice(product(*choices), MOST_NODES))
        if len(parts) > 1:
            yield name


def _numbers(text: str) -> Iterator[str]:
    """001, 002, 003, 7 for `001-003,7`."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            for number in range(int(first), min(int(last or first), int(first) + MOST_NODES) + 1):
                yield f"{number:0{len(first)}d}"


def collect(column: str, text: str, names: Names) -> None:
    """Note the names that one value holds."""
    for places in HOME.findall(text if "%2F" not in text else urllib.parse.unquote(text)):
        first, *below = places[1:].split("/")
        names.add("user", first)
        for user in below:
            if not user.startswith(first):
                break
            names.add("user", first := user)
    for shape in (IPV4, TOLD_IPV4):
        for address in shape.findall(text):
            names.add("address", address)
    for _, host, _ in FILE.findall(text):
        names.add("host", host)
    if text[:1] in "{[":
        with contextlib.suppress(ValueError):  # a text that begins like JSON
            _walk(column, parse_json(text), names)
        return
    _named(column, text, names)


def _named(key: str, value: str, names: Names) -> None:
    for kind, keys in KINDS.items():
        if keys.fullmatch(key):
            names.add(kind, value)


def _walk(key: str, value: Any, names: Names) -> None:
    """Note names below `key`. A fact is {"value": ..., "source": ...}: its value has the fact's key."""
    if isinstance(value, Mapping):
        for inner, one in value.items():
            _walk(key if inner == "value" else inner, one, names)
    elif isinstance(value, list):
        for one in value:
            _walk(key, one, names)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        value = str(value)
        if value[:1] in "{[":
            collect(key, value, names)
        else:
            _named(key, value, names)
