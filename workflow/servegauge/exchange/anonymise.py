"""A dataset that names no host, person, place on disk or device: the same numbers, for everybody.

Names are found where the dataset says that they are names (columns and keys of JSON such as `hostname`, `user`,
`account`, the job's list of nodes, home folders), or by their shape (UUIDs, addresses, absolute paths), and replaced
everywhere: the same name by the same word in every table. Names of studies, platforms and models stay: people chose
them to be read; where one holds a name of those (a platform called by its host), that part is replaced. Afterwards the
copy is searched for every name that was found.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from servegauge.base.errors import UserError
from servegauge.base.files import parse_json, whole_file, whole_folder

Replaced = dict[tuple[str, str], str]  # (kind, what it was) -> what it is now

KINDS = {
    "host": re.compile(r"\w*(?:host|host_?name|node_?list|nodename)|nodes?|head|fqdn|server_name", re.I),
    "user": re.compile(r"user|user_?name|login|logname|owner|uname|\w+_user", re.I),
    "cluster": re.compile(r"slurm_\w*cluster\w*|clusters?|cluster_name", re.I),
    "account": re.compile(r"account|\w+_account|project_id|reservation|\w+_reservation", re.I),
    "device": re.compile(r"serial|serial_number|asset_tag|machine_id|boot_id|board_id|guid|\w+_guid|port_guid", re.I),
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
    }
)
"""Words that may name a host or a user and mean themselves everywhere else: replaced where names stand, only there."""

SYSTEM = frozenset(["usr", "bin", "sbin", "lib", "lib64", "etc", "proc", "sys", "dev", "run", "v1", "v2", "metrics"])
"""First parts of paths that are the same everywhere: the system's own, and those of servers' endpoints."""

UUID = re.compile(r"(?<![0-9a-zA-Z])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?![0-9a-zA-Z])", re.I)
MAC = re.compile(r"(?<![0-9a-f:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![0-9a-f:])", re.I)
GUID = re.compile(r"(?<![0-9a-f:])(?:[0-9a-f]{4}:){3}[0-9a-f]{4}(?![0-9a-f:])", re.I)
IPV6 = re.compile(r"(?<![0-9a-z:])f[ce][0-9a-f]{2}:[0-9a-f:]{2,}(?:%\w+)?(?![0-9a-z:])", re.I)
# Four numbers may be a version, too: only where a scheme, a port or a range that no version has says that it is one.
IPV4 = re.compile(
    r"(?<![\d.])(?!127\.|0\.0\.0\.0)(?:(?:192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}(?![\d.])"
    r"|(?<=//)\d{1,3}(?:\.\d{1,3}){3}(?![\d.])|\d{1,3}(?:\.\d{1,3}){3}(?=:\d{2,5}\b|<\d))"
)
ADDRESS = re.compile(r"(?:\d{1,3}\.){3}\d{1,3}")
MAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_PATH = r"/(?:[^\s/\"'`,;:()\[\]{}<>|=*\\]+/)+[^\s/\"'`,;:()\[\]{}<>|=*\\]*"
PATH = re.compile(rf"(?<![\w.:/$}}*-]){_PATH}")
FILE = re.compile(rf"(\bfile:(?://([\w.-]*))?)({_PATH})", re.I)
HOME = re.compile(r"/(?:home|users|Users|u|people|hpc_home)/([^\s/\"',;:]+)")
ENDING = re.compile(r"[\w.+-]+\.[A-Za-z][A-Za-z0-9]{0,11}|python[\d.]*", re.ASCII)
"""The last part of a path that is a file's name, and stays."""
LISTED = re.compile(r"(?:\[[\d,-]+\]|[^\s,\[\]])+")
BRACKETS = re.compile(r"\[([\d,-]+)\]")
MOST_NODES = 9999  # of a list
ITEM = re.compile(r'((?:^|[{,]\s*)\\*"(\w+)\\*"\s*:\s*(?:\{[^{}]{0,300}?\\*"value\\*"\s*:\s*)?\[?\\*")(\w+)(\\*")')
"""An item of JSON whose value, or fact, is one word: its key, and the word. In JSON inside JSON quotes are escaped."""
ESCAPE = re.compile(r"\\[bfnrt]")
"""A control character in JSON: its letter is no part of the word behind it."""
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
            self.words[kind, name] = f"{kind}-{self._numbers[kind]}"
        self.uses[kind, name] += 1
        return self.words[kind, name]

    def add(self, kind: str, value: str) -> None:
        """Note a name that stands where names of `kind` stand; a list of nodes names each of them."""
        if kind == "cluster" and ":" in value:  # a working cluster is name:controller:port:version:plugin
            value, controller, *_ = value.split(":")
            self.add("host", controller)
        for name in _each(value) if kind == "host" else [value.strip()]:
            word = name.lower().strip("()")  # Slurm's (null)
            if word in ORDINARY:
                self._ordinary.add((kind, name))
                continue
            if len(name) < 2 or word in NOBODY or name.startswith(("/", "127.", "::1")) or " " in name:
                continue
            if any(shape.fullmatch(name) for shape in (MAC, GUID, IPV6, ADDRESS)):
                self._noted.add(("address", name))
            elif not re.fullmatch(r"[\d.:+-]+", name):  # a number is no name
                self._noted.add(("host" if kind == "address" else kind, name))
                if kind in ("host", "address") and "." in name:
                    self.add("host", name.partition(".")[0])
                    while "." in (name := name.partition(".")[2]):  # uni.example, but not local
                        self._noted.add(("host", name))

    def number(self) -> None:
        """Give each noted name its word; a host's short and full name have the same."""
        for kind, name in sorted(self._noted | self._ordinary):  # a short name comes before those that begin with it
            short = self.words.get((kind, name.partition(".")[0]))
            self.words[kind, name] = short or self.word(kind, name)
        self.uses.clear()

    @cached_property
    def _known(self) -> tuple[re.Pattern[str] | None, dict[str, tuple[str, str]]]:
        names = {name: (kind, name) for kind, name in sorted(self._noted)}
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
            text = ITEM.sub(self._item, text)
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
        return self.word(kind, found[0])

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


def anonymise(dataset: Path, out: Path) -> list[tuple[str, str, str, int]]:
    """Write the tables of `dataset`, a folder, to `out` without names.

    Returns (kind, what it was, what it is now, how often) for each name; that list can undo it. UserError where
    `out` exists, a name would remain, or there is nothing to copy.
    """
    tables = {path.relative_to(dataset): path for path in sorted(dataset.rglob("*.parquet"))}
    if not tables:
        raise UserError(f"{dataset} holds no tables; `snakemake` writes them, or `scripts/merge_dataset.py`.")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; give a folder that is not there yet.")
    names = Names()
    for path in tables.values():
        for column, text in _texts(pq.read_table(path)):
            _collect(column, text, names)
    names.number()
    with whole_folder(out) as folder:
        for name, path in tables.items():
            # A part is called by its launch, which is called by its platform, which may be called by its host.
            target = folder / (name.with_name(names.text(name.name)) if len(name.parts) > 1 else name)
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, target, names.text)
        _nothing_left(folder, names)
    return sorted((kind, name, word, names.uses[kind, name]) for (kind, name), word in names.words.items())


def write_list(path: Path, replaced: Sequence[tuple[str, str, str, int]]) -> None:
    """The list of what was replaced, readable by its owner alone."""
    with whole_file(path, 0o600) as temporary:
        lines = ["kind\twas\tis\tuses", *("\t".join(map(str, row)) for row in replaced)]
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _collect(column: str, text: str, names: Names) -> None:
    """Note the names that one value holds."""
    for user in HOME.findall(text):
        names.add("user", user)
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
    elif isinstance(value, str):
        if value[:1] in "{[":
            _collect(key, value, names)
        else:
            _named(key, value, names)


def _texts(table: pa.Table) -> Iterator[tuple[str, str]]:
    """Every different text of a table with its column's name."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        flat = column
        while pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type):
            flat = pc.list_flatten(flat)
        if _is_text(flat.type):
            for text in pc.unique(_decoded(flat)).to_pylist():
                if text:
                    yield name, text


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string()) if column.type != pa.string() else column


def _replaced(table: pa.Table, change: Callable[[str, str], str]) -> pa.Table:
    """The table with every text changed; types stay."""
    for index, name in enumerate(table.column_names):
        column = table.column(index)
        inner = column.type
        nested = pa.types.is_list(inner) or pa.types.is_large_list(inner)
        if nested and _is_text(inner.value_type):
            lists = [
                None if one is None else [word and change(word, name) for word in one] for one in column.to_pylist()
            ]
            table = table.set_column(index, table.schema.field(name), pa.array(lists, inner))
        elif _is_text(inner):
            known = {text: change(text, name) for text in pc.unique(_decoded(column)).to_pylist() if text is not None}
            values = [known.get(text) for text in _decoded(column).to_pylist()]
            table = table.set_column(index, table.schema.field(name), pa.array(values, pa.string()).cast(inner))
    return table


def _copy(path: Path, target: Path, change: Callable[[str, str], str]) -> None:
    """Write a table anew, row group by row group: a part's footer says in which of them a cell is."""
    with pq.ParquetFile(path) as file, pq.ParquetWriter(target, file.schema_arrow, compression="zstd") as writer:
        for group in range(file.num_row_groups):
            table = _replaced(file.read_row_group(group), change)
            writer.write_table(table, row_group_size=max(1, table.num_rows))
        footer = {key: value for key, value in (file.metadata.metadata or {}).items() if key != b"ARROW:schema"}
        own = {
            key: change(value.decode(), key.decode())
            for key, value in footer.items()
            if key not in (file.schema_arrow.metadata or {})
        }
        if own:
            writer.add_key_value_metadata({key.decode(): value for key, value in own.items()})


def _nothing_left(folder: Path, names: Names) -> None:
    """UserError where a name is still in a table."""
    for path in sorted(folder.rglob("*.parquet")):
        for column, text in _texts(pq.read_table(path)):
            if left := names.left_in(text):
                raise UserError(
                    f"{path.name}: the column {column} would still hold {left!r}; nothing was written. Report it, "
                    "with the column's name."
                )
