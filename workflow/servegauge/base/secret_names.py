"""Secrets that a name beside them announces: `HF_TOKEN=x`, `"password": "x"`, `--api-key x`, in any text.

Names are those of variables, options, fields, headers and elements; what follows one is found in the forms of shells,
JSON (also inside JSON), YAML, Python, XML and containers.
"""

from __future__ import annotations

import re
from functools import lru_cache

from servegauge.base.secret_shapes import HARMLESS, REMOVED, is_mixed

# Inside a name, in any case, with or without separators: HF_TOKEN, api-key, apikey, dbPassword, PGPASSWORD, MYSQL_PWD
_SECRET_NAME = re.compile(
    r"(?<!mon)(?<!tur)key(?!board|word|frame|note|stroke|error)"
    r"|token(?!i[sz])"
    r"|secret|passw|passphrase|passcode|sshpass|credential|authoriz|(?:^|[^a-z])(?:o?auth2?|creds?)(?:$|[^a-z])|bearer"
    r"|cookie|private|(?<=.)(?<!^old)pwd|signature|connection_?string|csrf|xsrf|web_?hook"
    r"|(?:^|[_-])(?:dsn|sas|jwt|pat|sig|hmac|otp|art-api)(?:$|[_-])|access[_-]?code|jsessionid|phpsessid"
    r"|(?:db|user|root|admin|sql|smtp|imap|ldap|ftp|http|proxy|docker|registry|redis|mongo|login|krb5|pg|api)_?(?:pass|pw)$"
    r"|(?-i:(?:^|[A-Z0-9]_)PASS$)|kennwort|contrase|mot_?de_?passe|пароль|密[码碼]|パスワード",
    re.IGNORECASE,
)
# A tokenizer's own words, counts of tokens, and keys of caches and tables: not secrets, and needed to read a result
_PLAIN_NAME = re.compile(
    r"^(?:[\w-]+\.)*(?:add[_-])?(?:bos|eos|pad|unk|sep|cls|mask|eot|eom|fim\w*|(?:\w+[_-])?(?:start|end|begin|stop|image|"
    r"audio|video|think\w*|reason\w*|tool\w*))[_-]token$|^tokens_source$"
    r"|(?:^|[_-])(?:prompt|output|input|context|max|min|num|cached|block|completion|total|generated|batched|new|prefill|"
    r"decode|reasoning|chunk)[_-](?:\w+[_-])?tokens$"
    r"|token[_-](?:ids?|index|indices|types?|type_ids|counts?|positions?|logprobs?|usage|budget|limit|latency|rate)$"
    r"|(?:^|[_-])(?:cache|hash|sort|primary|foreign|public|lookup|partition|mesh|prefix|ib_p)[_-]?key$"
    r"|^key_(?:cache|proj|states?|heads?|dim|layer|length|padding|scale)\b"
    r"|^tokens$|^keys$|per[_-]token$|^tiktoken$"
    r"|^private_?(?:bytes|mem\w*|data|dirty|clean|tmp)$",
    re.IGNORECASE,
)
NUMBER = re.compile(r"[+-]?\d{1,12}(?:\.\d*)?(?:[eE][+-]?\d+)?|true|false|null|none|on|off|yes|no", re.IGNORECASE)
# A switch, or a measured value with its unit: a secret under no name
_NO_SECRET = re.compile(
    r"true|false|null|none|on|off|yes|no|\(null\)|\[\]|[+-]?\d{1,12}(?:\.\d*)? (?:[mnuµ]?s|%|[KMGT]i?B|kB|W|tok\w*/s)",
    re.I,
)
_COUNTED = re.compile(r"tokens|keys|num|count|size|len|max|min|heads|block|batch|per|parallel", re.IGNORECASE)

# name=value, name: value, "name": "value" (also escaped, as JSON inside JSON), environ["name"] = value, 'name', 'value'
# and --name value, in running text
NAMED = re.compile(
    r"(?<![\w.-])(?:u00[0-9a-f]{2})?(?P<name>-{0,2}[^\W\d][\w.-]{0,100})"
    r"(?:(?P<mark>(?:\\*[\"'`]|\*\*)?\]?(?:\[\w{0,9}\])?)\s*(?P<sign>:=|=>|=|:(?!:))[^\S\n]*"
    r"|\\*[\"'](?P<pair>\s*,\s*)(?=[a-z]?\\*[\"'])|(?P<gap>[ \t]+))"
)
QUOTED = re.compile(r"(?P<open>\\*(?:\"{3}|'{3}|[\"'`]))(?P<value>.{0,10000}?)(?<!\\)(?P=open)", re.DOTALL)
_UNCLOSED = re.compile(r"\\*[\"'][^\n]*")
# Signs that end a word stand inside a password, too: then no space, quote or next name follows them
_INSIDE = (
    r"\((?=[\"']\w)|[,;&(\[{](?![\s\"'\])}]|[\w.-]{1,60}[=:]|\Z)|\\+(?![nrtu\"'\\/])."
    r"|[\"'](?=\w)[^\"'\n]{0,200}[\"']|[\"'](?=[\w$])"
)
WORD = re.compile(rf"[^\s,;&\"'{{}}\[\]()<>\\](?:[^\s,;&\"'{{}}\[\]()<>\\]|{_INSIDE})*")
_REST_OF_LINE = re.compile(rf"[^\n,;\"'{{}}\[\]\\](?:[^\n,;\"'{{}}\[\]\\]|{_INSIDE})*")
_AFTER_QUOTE = re.compile(r"(?:\\*\"[^\n\"]*\"|'[^\n']*'|[\w$!#%^*+.@/-])+")  # 'my'"password" of a shell
_NEXT_LINE = re.compile(r"(?P<folded>[>|][+-]?\d?)?[ \t]*\n[ \t]+(?P<value>(?!#)\S{6,})(?<!:)[ \t]*$", re.MULTILINE)
_NEXT_QUOTE = re.compile(r"\s*\n\s*(?=\\*\")")
_LIST = re.compile(r"(?P<open>[\[(]\s*)(?:[a-z]?(?P<quote>\\*[\"'])[^\"'\\\n]*(?P=quote)\s*,?\s*)+(?=[\])])")
_MAPPING = re.compile(r"\{[^{}\n]{1,2000}(?=\})")
_LISTED_NAME = re.compile(r"api|access|secret|passw|auth|cred|cookie", re.I)
BEFORE = 60  # letters before a name that are looked at
ASSIGNS = re.compile(
    r"(?:\b(?:setenv|setx|set -[gxU]+|config(?:ure)?[ \t]+set|token[ \t]+set|"
    r"config[ \t]+create[ \t]+\S+[ \t]+\S+))[ \t]+(?:\S*[:/])?\Z"
)
# {"name": "DB_PASSWORD", "value": "x"}, of containers; <password>x</password>
_ENTRY = re.compile(
    r"(?P<head>\b(?:name|key|variable)\\*[\"']?\s*[:=]\s*\\*[\"']?(?P<name>[\w.-]{1,100})\\*[\"']?\s*[,;\s]\s*"
    r"\\*[\"']?value\\*[\"']?\s*[:=]\s*)(?P<value>(?P<quote>\\*[\"']).*?(?P=quote)|[^\s,}]+)",
    re.I,
)
_ELEMENT = re.compile(r"<(?P<name>[\w.:-]{1,100})(?P<rest>(?:\s[^<>]*)?>\s*)(?P<value>[^\s<][^<]{0,10000})(?=</)")


@lru_cache(maxsize=4096)  # a log repeats its names in every line
def is_secret_name(name: str) -> bool:
    """True for names of variables, options and fields whose value is a secret: HF_TOKEN, --api-key, dbPassword."""
    plain = name.strip().lstrip("-")
    return bool(_SECRET_NAME.search(plain)) and not _PLAIN_NAME.search(plain)


def drops(name: str, value: str) -> bool:
    """Whether `value` under `name` is dropped; a number under a name of counts (`max_tokens`) is kept."""
    if not is_secret_name(name):
        return False
    value = value.strip("\"' ")
    if _NO_SECRET.fullmatch(value):
        return False
    if not NUMBER.fullmatch(value):
        return True
    # "#new-token: 200" of an engine's log is a count, too.
    return not (_COUNTED.search(name) or (name.endswith("token") and len(value) < 8))


def without_entries(value: str) -> str:
    """`value` without what stands beside a secret's name as an entry's value, or as an element of XML."""
    lowered = value.lower()
    if "value" in lowered:
        value = _ENTRY.sub(_without_value, value)
    return _ELEMENT.sub(_without_value, value) if "</" in value else value


def _without_value(found: re.Match[str]) -> str:
    if not drops(found["name"], found["value"]) or not is_mixed(found["value"]):
        return found[0]
    start, end = found.start("value") - found.start(), found.end("value") - found.start()
    mark = found.groupdict().get("quote") or ""
    return f"{found[0][:start]}{mark}{REMOVED}{mark}{found[0][end:]}"


def without_named(value: str) -> str:
    """`value` with what follows a secret's name removed; names are looked for in what follows other names, too."""
    parts, done = [], 0
    for match in NAMED.finditer(value):
        name = match["name"]
        if match.start() < done or not is_secret_name(name):
            continue
        before = value[max(0, match.start() - BEFORE) : match.start()]
        if HARMLESS.search(before[-16:] + name[:3]):
            continue
        if match["gap"] and not name.startswith("-") and not assigns(before):
            continue  # `--api-key x` names a secret, `the key is` does not
        start, end, plain, mark = value_after(value, match)
        if start == end or not drops(name, plain) or (match["pair"] and not (is_mixed(plain) and len(plain) > 5)):
            continue
        parts += [value[done:start], mark, REMOVED, mark]
        done = end
    return "".join([*parts, value[done:]])


def assigns(before: str) -> bool:
    """Whether what stands before a name gives it the word after it: `setenv NAME value`."""
    return ("set" in before or "create" in before) and bool(ASSIGNS.search(before))


def value_after(value: str, match: re.Match[str]) -> tuple[int, int, str, str]:
    """Of the value that belongs to a name: its start and end, what it is without quotes, and its quotes."""
    start = match.end()
    if match["pair"] and value[start].isalpha():  # b'...'
        start += 1
    if match["mark"] and (broken := _NEXT_QUOTE.match(value, start)):
        start = broken.end()
    if quoted := QUOTED.match(value, start):
        more = None if quoted["open"][0] == "\\" else _AFTER_QUOTE.match(value, quoted.end())
        if more:
            return start, more.end(), value[start : more.end()], ""
        return start, quoted.end(), quoted["value"], quoted["open"]
    if (below := _MAPPING.match(value, start)) and _LISTED_NAME.search(match["name"]) and is_mixed(below[0]):
        return start + 1, below.end(), below[0], ""
    if (listed := _LIST.match(value, start)) and _LISTED_NAME.search(match["name"]):
        return listed.end("open"), listed.end(), listed[0], ""
    if (below := _NEXT_LINE.match(value, start)) and (below["folded"] or is_mixed(below["value"])):
        return below.start("value"), below.end("value"), below["value"], ""
    # After a colon a value may have spaces: `Authorization: Token x y`
    found = (_REST_OF_LINE if match["sign"] == ":" else WORD).match(value, start) or _UNCLOSED.match(value, start)
    return (start, found.end(), found[0], "") if found else (start, start, "", "")
