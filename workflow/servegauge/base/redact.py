"""Secrets taken out of everything that is kept: environments, command lines, logs, answers of servers.

Three nets, each enough for what it knows: names that speak of a secret lose their value (secret_names.py); texts lose
what has the shape of a secret (secret_shapes.py: bearer tokens, signed URLs, keys of known makers, long strings that a
word announces); and secrets that we know, such as the API key of this launch, are removed from every text, whatever
stands around them.
What is kept has no control characters either: they are shown escaped, since terminals obey them.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import stat
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from servegauge.base.files import whole_file
from servegauge.base.secret_names import (
    BEFORE,
    NAMED,
    NUMBER,
    assigns,
    drops,
    value_after,
    without_entries,
    without_named,
)
from servegauge.base.secret_names import is_secret_name as is_secret_name
from servegauge.base.secret_shapes import REMOVED, hidden_words, without_shapes
from servegauge.base.text import bare, visible

NOT_KEPT = "(not kept)"  # a variable that is neither a secret nor known to matter: its name stays
PIECE_BYTES = 4 * 2**20  # of a file, cleaned at once
MOST_LINES = 200  # of what is not divided
MIN_SECRET = 8  # shorter strings look like ordinary text; removing them would damage it without hiding them

# Variables whose values tell how an engine, its libraries or its job behave
_KEPT_VARIABLE = re.compile(
    r"^(?:SLURM|SBATCH|SRUN|CUDA|NVIDIA|NCCL|RCCL|UCX|UCC|SHARP|FI|IB|OMP|KMP|GOMP|MKL|OPENBLAS|BLIS|VECLIB|NUMEXPR|GGML|"
    r"LLAMA|VLLM|SGL|SGLANG|TRTLLM|TLLM|TRT|TENSORRT|TORCH|TORCHINDUCTOR|PYTORCH|TORCHDYNAMO|TRITON|XFORMERS|FLASHINFER|"
    r"FLASH_ATTENTION|HF|TRANSFORMERS|TOKENIZERS|LMDEPLOY|DS|DEEPSPEED|MII|OLLAMA|RAY|GLOO|OMPI|MPI|MPICH|PMI|PMIX|PRTE|"
    r"CUBLAS|CUBLASLT|CUDNN|CUTLASS|NUMBA|XLA|MALLOC|MIMALLOC|TCMALLOC|JEMALLOC|GLIBC|LC|APPTAINER|SINGULARITY|NVTE|"
    r"SERVEGAUGE)_\w+$|"
    r"^(?:PATH|LD_LIBRARY_PATH|LD_PRELOAD|LD_BIND_NOW|LANG|TZ|PYTHON[A-Z]*|VIRTUAL_ENV|CONDA_PREFIX|CONDA_DEFAULT_ENV|"
    r"LOADEDMODULES|_LMFILES_|MASTER_ADDR|MASTER_PORT|RANK|LOCAL_RANK|WORLD_SIZE|GPU_DEVICE_ORDINAL|ROCR_VISIBLE_DEVICES|"
    r"HIP_VISIBLE_DEVICES|UV_THREADPOOL_SIZE|TMPDIR)$"
)
# Names of people and of the host that submitted: not needed to read a result
_PERSONAL_VARIABLE = re.compile(r"_(?:USER|UID|GID|GROUP|EMAIL|MAIL_USER|SUBMIT_HOST|LAUNCH_NODE_IPADDR)$")

# A word of a command line whose value is the next one, and the first of two words that are a value
_NAMING = re.compile(r"(?P<option>--?(?!no-)[A-Za-z][\w.-]*)|(?P<field>[A-Za-z][\w.-]*) ?[:=]")
_SCHEME = re.compile(r"bearer|basic|token|digest|negotiate|api-?key", re.IGNORECASE)
# Where a line is broken
_BREAK = re.compile(r"\\?\r?\n[ \t|\u2502]*")


def spellings(secrets: Iterable[str]) -> list[str]:
    """The secrets and what they become in URLs, JSON, shells and base64; longest first, short ones left out."""
    found = set()
    for secret in secrets:
        if not isinstance(secret, str) or len(secret) < MIN_SECRET:
            continue
        found |= {
            secret,
            urllib.parse.quote(secret, safe="", errors="replace"),
            urllib.parse.quote(secret, errors="replace"),
            urllib.parse.quote_plus(secret, errors="replace"),
            json.dumps(secret)[1:-1],
            json.dumps(secret, ensure_ascii=False)[1:-1],
            shlex.quote(secret),
            repr(secret)[1:-1],
            base64.b64encode(secret.encode(errors="surrogatepass")).decode().rstrip("="),
        }
    return sorted(found, key=lambda text: (-len(text), text))


def text(value: str, secrets: Iterable[str] = ()) -> str:
    """`value` without anything that is, or looks like, a secret."""
    return _text(value, spellings(secrets))


def seal(log: Path, secrets: Iterable[str] = ()) -> None:
    """Rewrite a log, which no process writes to any more, without anything that is, or looks like, a secret.

    Its mode and what is no text in it stay, and a log without secrets is not touched. One that holds some and cannot be
    rewritten, on a full disk, is removed.
    """
    spelled = spellings(secrets)
    if not log.is_file() or all(_text(piece, spelled) == piece for piece in _pieces(log)):
        return
    try:
        with (
            whole_file(log, stat.S_IMODE(log.stat().st_mode)) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as new,
        ):
            new.writelines(_text(piece, spelled) for piece in _pieces(log))
    except OSError:
        log.unlink()


def _pieces(path: Path) -> Iterator[str]:
    """The text of a file in pieces of whole lines, so that a large one needs no large memory.

    What begins at a piece's end and goes on, a private key or an indented value, is not divided.
    """
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines: list[str] = []
        while lines or (lines := file.readlines(PIECE_BYTES)):
            following: list[str] = []
            for line in islice(file, MOST_LINES):
                if not line[:1].isspace() and not _goes_on("".join(lines[-MOST_LINES:])):
                    following = [line]
                    break
                lines.append(line)
            yield "".join(lines)
            lines = [*following, *file.readlines(PIECE_BYTES)] if following else []


def _goes_on(end: str) -> bool:
    """Whether what a text ends with goes on in the next line."""
    return bool(re.search(r"[:=,\\|>][ \t\r]*\n?\Z", end)) or end.rfind("BEGIN ") > end.rfind("END ")


def _text(value: str, spelled: Sequence[str]) -> str:
    value = _cleaned(value, spelled)
    read = bare(value)
    if read == value or _cleaned(read, spelled) == read:
        return value
    # A secret has colours or unseen letters in it: its line loses them.
    lines = []
    for line in value.split("\n"):
        read = bare(line)
        cleaned = line if read == line else _cleaned(read, spelled)
        lines.append(line if cleaned == read else cleaned)
    return _cleaned("\n".join(lines), spelled)


def _cleaned(value: str, spelled: Sequence[str]) -> str:
    value = _remove(value, spelled)
    value = without_named(without_entries(without_shapes(value)))
    return _remove(value, spelled)


def _remove(value: str, spelled: Sequence[str]) -> str:
    # Again until nothing is left: two removals can bring together the halves of another secret. Each round makes the
    # text shorter, since no spelling is as short as what replaces it.
    while any(secret in value for secret in spelled):
        for secret in spelled:
            value = value.replace(secret, REMOVED)
    if spelled and "\n" in value.strip():  # broken into lines by what printed it
        joined = _BREAK.sub("", value)
        for secret in spelled:
            if secret in joined:
                value = re.sub(rf"(?:{_BREAK.pattern})?".join(map(re.escape, secret)), REMOVED, value)
    return value


def suspicious(value: str) -> bool:
    """Whether a text that people wrote holds a secret: by its shape, or a value with letters and digits under its name.

    Stricter than `text`, which rather removes too much: `HF_TOKEN=$HF_TOKEN` and `<your token>` are no secrets.
    """
    value = bare(value)
    if without_entries(without_shapes(value)) != value:
        return True
    for match in NAMED.finditer(value):
        before = value[max(0, match.start() - BEFORE) : match.start()]
        if not is_secret_name(match["name"]) or (match["gap"] and not assigns(before)):
            continue
        _, _, plain, _ = value_after(value, match)
        # All that a list or a mapping holds, or the first word
        several = plain[:1] in ("{", "[", "(")
        plain = plain.replace("\\ ", "").strip("[]()\"' \n")
        words = re.split(r"[\s\"'{}\[\](),]+", plain) if several else plain.split(" ", 1)[:1]
        if any(re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])[^\s$<{*/.~][^\s]{7,}", word) for word in words):
            return True
    return False


def clean(data: Any, secrets: Iterable[str] = (), names: bool = True) -> Any:
    """A copy of JSON-like `data` without secrets: fields by their name, every text (keys too) by its shape.

    `names` false: the keys are not names of fields (packages, files, ids), so that `tiktoken: 0.9` keeps its version.
    """
    return _clean(data, spellings(secrets), names)


def _clean(data: Any, spelled: Sequence[str], names: bool, hidden: bool = False) -> Any:
    """`hidden`: a field above has a secret's name, so no text below it is kept."""
    if isinstance(data, Mapping):
        found: dict[str, Any] = {}
        for key, value in data.items():
            name = visible(_text(str(key), spelled))
            while name in found:  # two keys that differed in a secret only
                name += "'"
            found[name] = _clean(value, spelled, names, hidden or (names and is_secret_name(str(key))))
        if isinstance(data.get("value"), str) and drops(str(data.get("name", "")), data["value"]):
            found["value"] = REMOVED  # a variable of a container
        return found
    if isinstance(data, list | tuple | set | frozenset):
        items = [_clean(item, spelled, names, hidden) for item in data]
        return (
            items if hidden or not all(isinstance(item, str) for item in data) else argv(list(data), spelled_=spelled)
        )
    if data is None or isinstance(data, bool):
        return data
    if isinstance(data, int | float):
        return REMOVED if str(data) in spelled else data
    if isinstance(data, bytes):
        data = data.decode(errors="replace")
    return REMOVED if hidden and not NUMBER.fullmatch(str(data)) else visible(_text(str(data), spelled))


def argv(words: Sequence[str], secrets: Iterable[str] = (), *, spelled_: Sequence[str] | None = None) -> list[str]:
    """A command line without secrets: `--api-key x`, `--api-key=x`, `HF_TOKEN=x`, `-H 'Authorization: Bearer x'`."""
    spelled = spellings(secrets) if spelled_ is None else spelled_
    found: list[str] = []
    words = [str(word) for word in words]
    hidden = hidden_words(words) | _values(words)
    for position, word in enumerate(words):
        name, _, value = word.partition("=")
        if position in hidden:
            found.append(REMOVED)
        elif value and re.fullmatch(r"-{0,2}[\w.-]+", name) and drops(name, value):
            found.append(f"{_text(name, spelled)}={REMOVED}")
        else:
            found.append(visible(_text(word, spelled)))
    return found


def _values(words: Sequence[str]) -> set[int]:
    """Positions of the values of names that stand in words before: `--api-key a`, `x-api-key: a`, `token = a`."""
    found: set[int] = set()
    for position, word in enumerate(words[1:], start=1):
        before = words[position - 1]
        if position - 1 in found and _SCHEME.fullmatch(before):
            found.add(position)
            continue
        if before in ("=", ":") and position > 1:
            before = f"{words[position - 2]}:"
        named = _NAMING.fullmatch(before)
        if named and not word.startswith("--") and drops(named["option"] or named["field"], word):
            found.add(position)
    return found


def environment(variables: Mapping[str, str], keep: Iterable[str] = (), secrets: Iterable[str] = ()) -> dict[str, str]:
    """Variables as they may be kept, sorted by name: every name; the value of those known to matter, cleaned.

    `keep`: further names whose values are kept (what a study or platform file sets by itself). A name that speaks of a
    secret or of a person never keeps its value, whatever `keep` has.
    """
    spelled = spellings([*secrets, *secret_values(variables)])
    wanted = set(keep)
    found = {}
    for name in sorted(variables):
        value = str(variables[name])
        if drops(name, value) or _PERSONAL_VARIABLE.search(name):
            value = REMOVED
        elif name in wanted or _KEPT_VARIABLE.search(name):
            value = _text(value, spelled)
        else:
            value = NOT_KEPT
        found[visible(_text(name, spelled))] = visible(value)
    return found


def secret_values(variables: Mapping[str, str]) -> list[str]:
    """Values of the variables that hold a secret, to be removed from every other text. Paths and numbers are none."""
    return [
        value
        for name, value in variables.items()
        if drops(name, value) and len(value) >= MIN_SECRET and not value.startswith("/") and not NUMBER.fullmatch(value)
    ]
