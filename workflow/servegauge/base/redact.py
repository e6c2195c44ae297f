"""Secrets taken out of everything that is kept: environments, command lines, logs, answers of servers.

Three nets, each enough for what it knows: names that speak of a secret lose their value; texts lose what has the shape
of a secret (secret_shapes.py: bearer tokens, signed URLs, keys of known makers, long strings that a word announces);
and secrets that we know, such as the API key of this launch, are removed from every text, whatever stands around them.
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
from functools import lru_cache
from pathlib import Path
from typing import Any

from servegauge.base.files import whole_file
from servegauge.base.secret_shapes import REMOVED, hidden_words, without_shapes
from servegauge.base.text import visible

NOT_KEPT = "(not kept)"  # a variable that is neither a secret nor known to matter: its name stays
PIECE_BYTES = 4 * 2**20  # of a file, cleaned at once
MIN_SECRET = 8  # shorter strings look like ordinary text; removing them would damage it without hiding them

# Inside a name, in any case, with or without separators: HF_TOKEN, api-key, apikey, dbPassword, PGPASSWORD, MYSQL_PWD
_SECRET_NAME = re.compile(
    r"(?<!mon)(?<!tur)key(?!board|word|frame|note|stroke|error)"
    r"|token(?!i[sz])"
    r"|secret|passw|passphrase|passcode|sshpass|credential|authoriz|(?:^|[^a-z])auth(?:$|[^a-z])|bearer|cookie|private"
    r"|(?<=.)(?<!^old)pwd|signature|connection_?string|(?:^|[_-])(?:dsn|sas|jwt|pat|sig|hmac|otp)(?:$|[_-])",
    re.IGNORECASE,
)
# A tokenizer's own words, and counts of tokens: not secrets, and needed to read a result
_PLAIN_NAME = re.compile(
    r"^(?:[\w-]+\.)*(?:add[_-])?(?:bos|eos|pad|unk|sep|cls|mask|eot|eom|image|fim\w*)[_-]token$|^tokens_source$"
    r"|(?:^|[_-])(?:prompt|output|input|context|max|min|num|cached|block|completion|total|generated|batched|new|prefill|"
    r"decode|reasoning|chunk)[_-](?:\w+[_-])?tokens$",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[+-]?\d{1,12}(?:\.\d*)?(?:[eE][+-]?\d+)?|true|false|null|none|on|off|yes|no", re.IGNORECASE)
_COUNTED = re.compile(r"tokens|keys|num|count|size|len|max|min|heads|block|batch|per|parallel", re.IGNORECASE)

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

# name=value, name: value, "name": "value" (also escaped, as JSON inside JSON) and --name value, in running text
_NAMED = re.compile(
    r"(?<![\w.-])(?P<name>-{0,2}[A-Za-z_][\w.-]{0,100})(?:(?:\\*[\"'])?\s*(?P<sign>[=:])[ \t]*|(?P<gap>[ \t]+))"
)
_QUOTED = re.compile(r"(?P<open>\\*[\"'])(?P<value>.{0,10000}?)(?<!\\)(?P=open)", re.DOTALL)
_UNCLOSED = re.compile(r"\\*[\"'][^\n]*")
_WORD = re.compile(r"[^\s,;&\"'{}\[\]()<>\\]+")
_REST_OF_LINE = re.compile(r"[^\n,;\"'{}\[\]\\]+")


@lru_cache(maxsize=4096)  # a log repeats its names in every line
def is_secret_name(name: str) -> bool:
    """True for names of variables, options and fields whose value is a secret: HF_TOKEN, --api-key, dbPassword."""
    plain = name.strip().lstrip("-")
    return bool(_SECRET_NAME.search(plain)) and not _PLAIN_NAME.search(plain)


def _drops(name: str, value: str) -> bool:
    """Whether `value` under `name` is dropped; a number under a name of counts (`max_tokens`) is kept."""
    if not is_secret_name(name):
        return False
    value = value.strip("\"' ")
    if not _NUMBER.fullmatch(value):
        return True
    # "#new-token: 200" of an engine's log is a count, too.
    return not (_COUNTED.search(name) or (name.endswith("token") and len(value) < MIN_SECRET))


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
    """The text of a file in pieces of whole lines, so that a large one needs no large memory."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        while lines := file.readlines(PIECE_BYTES):
            yield "".join(lines)


def _text(value: str, spelled: Sequence[str]) -> str:
    value = _remove(value, spelled)
    value = _without_named(without_shapes(value))
    return _remove(value, spelled)


def _remove(value: str, spelled: Sequence[str]) -> str:
    # Again until nothing is left: two removals can bring together the halves of another secret. Each round makes the
    # text shorter, since no spelling is as short as what replaces it.
    while any(secret in value for secret in spelled):
        for secret in spelled:
            value = value.replace(secret, REMOVED)
    return value


def _without_named(value: str) -> str:
    """`value` with what follows a secret's name removed; names are looked for in what follows other names, too."""
    parts, done = [], 0
    for match in _NAMED.finditer(value):
        name, sign = match["name"], match["sign"]
        if match.start() < done or not is_secret_name(name):
            continue
        if sign is None and not name.startswith("-"):  # `--api-key x` names a secret, `the key is` does not
            continue
        found = _QUOTED.match(value, match.end())
        if not found:  # after a colon a value may have spaces: `Authorization: Token x y`
            found = (_REST_OF_LINE if sign == ":" else _WORD).match(value, match.end())
        if not found:
            found = _UNCLOSED.match(value, match.end())
        if not found or not _drops(name, found.groupdict().get("value") or found[0]):
            continue
        mark = found.groupdict().get("open") or ""
        parts += [value[done : match.end()], mark, REMOVED, mark]
        done = found.end()
    return "".join([*parts, value[done:]])


def suspicious(value: str) -> bool:
    """Whether a text that people wrote holds a secret: by its shape, or a value with letters and digits under its name.

    Stricter than `text`, which rather removes too much: `HF_TOKEN=$HF_TOKEN` and `<your token>` are no secrets.
    """
    if without_shapes(value) != value:
        return True
    for match in _NAMED.finditer(value):
        if match["sign"] is None or not is_secret_name(match["name"]):
            continue
        found = _QUOTED.match(value, match.end()) or _WORD.match(value, match.end())
        plain = (found.groupdict().get("value") or found[0]).strip() if found else ""
        if re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])[^\s$<{*/.~][^\s]{7,}", plain):
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
    return REMOVED if hidden and not _NUMBER.fullmatch(str(data)) else visible(_text(str(data), spelled))


def argv(words: Sequence[str], secrets: Iterable[str] = (), *, spelled_: Sequence[str] | None = None) -> list[str]:
    """A command line without secrets: `--api-key x`, `--api-key=x`, `HF_TOKEN=x`, `-H 'Authorization: Bearer x'`."""
    spelled = spellings(secrets) if spelled_ is None else spelled_
    found: list[str] = []
    hide = False
    words = [str(word) for word in words]
    hidden = hidden_words(words)
    for position, word in enumerate(words):
        secret = position in hidden or (hide and not word.startswith("--"))
        hide = False
        if secret:
            found.append(REMOVED)
            continue
        name, equals, value = word.partition("=")
        if equals and re.fullmatch(r"-{0,2}[\w.-]+", name) and _drops(name, value):
            found.append(f"{_text(name, spelled)}={REMOVED}")
            continue
        if not equals and re.fullmatch(r"--?[A-Za-z][\w.-]*", word) and is_secret_name(word):
            following = words[len(found) + 1] if len(found) + 1 < len(words) else ""
            hide = _drops(word, str(following))
        found.append(visible(_text(word, spelled)))
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
        if _drops(name, value) or _PERSONAL_VARIABLE.search(name):
            value = REMOVED
        elif name in wanted or _KEPT_VARIABLE.search(name):
            value = _text(value, spelled)
        else:
            value = NOT_KEPT
        found[_text(name, spelled)] = value
    return found


def secret_values(variables: Mapping[str, str]) -> list[str]:
    """Values of the variables that hold a secret, to be removed from every other text. Paths and numbers are none."""
    return [
        value
        for name, value in variables.items()
        if _drops(name, value)
        and len(value) >= MIN_SECRET
        and not value.startswith("/")
        and not _NUMBER.fullmatch(value)
    ]
