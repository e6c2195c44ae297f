"""What a secret looks like when no name says that it is one: keys of known makers, and words that announce one.

Two kinds of evidence. Some texts are secrets by their shape alone: a maker's prefix, a private key's lines, a user's
name and password in a URL. A long string of hex or base64 is none by itself (commits, hashes and ids are provenance),
but it is one beside a word that announces it: "using token 0123...", "wandb login 0123...". Between the two only small
words may stand, so that "token for revision 0123..." keeps its revision.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

REMOVED = "***"

_MAKERS = (
    r"hf_[A-Za-z0-9]{16,}", r"api_org_[A-Za-z0-9]{16,}", r"sk-[A-Za-z0-9_-]{16,}", r"gh[pousr]_[A-Za-z0-9]{16,}",
    r"github_pat_\w{16,}", r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat)-[A-Za-z0-9_-]{16,}",
    r"xox[abeprs]-[A-Za-z0-9-]{8,}", r"xapp-[A-Za-z0-9-]{16,}", r"nvapi-[A-Za-z0-9_-]{16,}",
    r"A(?:KIA|SIA|ROA|IDA|NPA)[A-Z0-9]{16}", r"AIza[A-Za-z0-9_-]{30,}", r"ya29\.[A-Za-z0-9_-]{16,}",
    r"GOCSPX-[A-Za-z0-9_-]{16,}", r"npm_[A-Za-z0-9]{30,}", r"pypi-[A-Za-z0-9_-]{16,}", r"wandb_v1_\w{16,}",
    r"gsk_[A-Za-z0-9]{16,}", r"r8_[A-Za-z0-9]{16,}", r"pplx-[A-Za-z0-9]{16,}", r"xai-[A-Za-z0-9]{16,}",
    r"fw_[A-Za-z0-9]{16,}", r"tgp_v1_[A-Za-z0-9_-]{16,}", r"jina_[A-Za-z0-9]{16,}", r"voyage_[A-Za-z0-9_-]{16,}",
    r"[spr]k_(?:live|test)_[A-Za-z0-9]{16,}", r"whsec_[A-Za-z0-9+/=]{16,}",
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    r"do[opr]_v1_[a-f0-9]{32,}", r"dapi[a-f0-9]{32}", r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9.]{16,}",
    r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{16,}", r"hv[sbr]\.[A-Za-z0-9_-]{16,}", r"AGE-SECRET-KEY-1[A-Z0-9]{30,}",
    r"ATATT3[A-Za-z0-9_=-]{16,}", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{16,}", r"tskey-[a-z]+-[A-Za-z0-9-]{8,}",
    r"gl(?:c|sa)_[A-Za-z0-9+/=_-]{16,}", r"lin_api_[A-Za-z0-9]{16,}", r"ntn_[A-Za-z0-9]{16,}",
    r"secret_[A-Za-z0-9]{32,}",
    r"sntry[su]_[A-Za-z0-9+/=_-]{16,}", r"NRAK-[A-Z0-9]{16,}", r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_-]{16,}",
    r"pul-[a-f0-9]{40}", r"rubygems_[a-f0-9]{40,}", r"sq0(?:atp|csp)-[A-Za-z0-9_-]{16,}",
    r"\d{8,10}:AA[A-Za-z0-9_-]{30,}",
    r"LTAI[A-Za-z0-9]{12,}", r"kgat_[A-Za-z0-9]{16,}", r"ABSK[A-Za-z0-9+/=]{40,}",
)  # fmt: skip

# (signs, of which one stands in every such text, in small letters: a quick look before the slow one; pattern; new text)
SHAPES: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (
        ("private key",),
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        REMOVED,
    ),
    (("://",), re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#\"'<>]{0,2000}@"), rf"\1{REMOVED}@"),
    (  # a password with signs that an address may not have
        ("://",),
        re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#:@]{1,100}:(?!\d+[/?#])[^\s/@\"'<>]{1,300}@"),
        rf"\1{REMOVED}@",
    ),
    (
        ("bearer", "basic", "negotiate", "digest"),
        re.compile(
            r"\b(bearer|basic|negotiate|digest)(\s+|%20)(?!(?:tokens?|auth\w*|credentials?)\b)[\w.~+/=-]{6,}", re.I
        ),
        rf"\1\2{REMOVED}",
    ),
    (("eyj",), re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"), REMOVED),
    ((), re.compile(rf"\b(?:{'|'.join(_MAKERS)})"), REMOVED),
    (  # all of a cookie, which has several parts
        ("cookie",),
        re.compile(r"\b((?:set-)?cookie\\?[\"']?[ \t]*:[ \t]*\\?[\"']?)[^\n\"'\\]+", re.I),
        rf"\1{REMOVED}",
    ),
    (  # a parameter inside an address that is itself a parameter
        ("%3d",),
        re.compile(
            r"((?:\b|[_-]|%26|%3F)(?:sig|signature|token|key|secret|password)%3D)(?:[\w.~+-]|%(?!26)\w\w)+", re.I
        ),
        rf"\1{REMOVED}",
    ),
    (  # what programs take: curl -u me:password, not docker -u 1000:1000
        ("-u", "-user"),
        re.compile(r"(?<!\S)((?:-u|-U|--user|--proxy-user)(?:[ \t]+|=)?[\"']?)(?!\d+:\d+\b)[^\s:\"'=]+:[^\s\"']+"),
        rf"\1{REMOVED}",
    ),
    (
        ("sshpass", "redis-cli", "mysql", "ldap", "login", "passin"),
        re.compile(
            r"(\bsshpass[ \t]+-p[ \t]*|\bredis-cli\b[^\n|;&]{0,100}?[ \t]-a[ \t]+|\bmysql\w*\b[^\n|;&]{0,100}?[ \t]-p"
            r"|\bldap\w+\b[^\n|;&]{0,100}?[ \t]-w[ \t]+|\blogin\b[^\n|;&]{0,100}?[ \t]-p[ \t]+|-passin[ \t]+pass:"
            r"|\bmachine[ \t]+\S+[ \t]+login[ \t]+\S+[ \t]+password[ \t]+)[^\s]+"
        ),
        rf"\1{REMOVED}",
    ),
)

_WORDS = (
    r"(?:api|access|secret|private|account|storage|session|auth)?[ _-]?(?:keys?|tokens?|secrets?|credentials?|"
    r"signature|bearer|cookie|jwt|pat|sas)|passwords?|passwd|passphrases?|passcode|pwd|login|apikey|authorization"
)
_SMALL = (
    r"is|was|are|as|with|of|for|to|from|by|using|used|the|a|an|your|my|our|this|new|old|value|set|found|named|id|in"
)
_GAP = rf"(?:[\s\"'`:=,(\[{{>|]+|\\+[nrt\"']?|->|=>|--?|\b(?:{_SMALL})\b){{1,8}}"
# at the beginning of a word, or of a line that is written as an escape
_LONG = re.compile(r"(?:(?<![A-Za-z0-9+_/\\])|(?<=\\[nrt]))[A-Za-z0-9+_][A-Za-z0-9+/_-]{18,}={0,2}(?![\w/])")
# Before a long string: a word that announces it. After one: a word that names it. Both are looked for near a long
# string alone, because a log has thousands of such words and few such strings.
NEAR = 100
_BEFORE = re.compile(rf"(?<![A-Za-z])(?:{_WORDS})(?![A-Za-z]){_GAP}\Z", re.I)
_AFTER = re.compile(rf"\s+(?:is|was)\s+(?:(?:the|a|my|your|our|its)\s+)?(?:\w+\s+)?(?:{_WORDS})(?![A-Za-z])", re.I)
# A password is short: any word with letters and digits
_PASSWORD = re.compile(
    r"(?<![A-Za-z])(?P<word>passwords?|passwd|passphrase|passcode|pwd)(?P<gap>\s+(?:(?:is|was|set to|=|:)\s+)+[\"'`]?)"
    r"(?P<value>[^\s\"'`]{6,})",
    re.I,
)
_TELLING = re.compile(rf"-{{0,2}}[\w-]{{0,40}}?(?:{_WORDS})", re.I)


def looks_random(value: str) -> bool:
    """Whether a string is hex, base64 or an id, rather than a name that is put together of words and numbers."""
    plain = value.rstrip("=")
    digits = sum(letter.isdigit() for letter in plain)
    if len(plain) < 19 or not digits or digits == len(plain):
        return False
    if re.fullmatch(r"[0-9a-fA-F]+", plain) or re.fullmatch(
        r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", plain
    ):
        return True
    if any(letter.islower() for letter in plain) and any(letter.isupper() for letter in plain):
        return True
    return digits >= 3 and not re.search(r"[-_/]", plain)


def is_telling(word: str) -> bool:
    """Whether a word of a command line announces a secret in the next one: `token`, `--api-key`, `login`."""
    return bool(_TELLING.fullmatch(word))


def without_shapes(value: str) -> str:
    """`value` without what is a secret by its shape, or by a word that announces it."""
    lowered = value.lower()
    for signs, pattern, replacement in SHAPES:
        if not signs or any(sign in lowered for sign in signs):
            value = pattern.sub(replacement, value)
    return _PASSWORD.sub(_without_password, _without_announced(value))


def _without_announced(value: str) -> str:
    parts, done = [], 0
    for match in _LONG.finditer(value):
        start, end = match.span()
        if not looks_random(match[0]):
            continue
        if _BEFORE.search(value[max(0, start - NEAR) : start]) or _AFTER.match(value[end : end + NEAR]):
            parts += [value[done:start], REMOVED]
            done = end
    return "".join([*parts, value[done:]])


def _without_password(match: re.Match[str]) -> str:
    value = match["value"]
    mixed = any(letter.isdigit() for letter in value) and any(letter.isalpha() for letter in value)
    return f"{match['word']}{match['gap']}{REMOVED}" if mixed else match[0]


def hidden_words(words: Sequence[str]) -> set[int]:
    """Positions in a command line whose words are secrets by their neighbours; `user:password` after -u among them."""
    found = set()
    for position, word in enumerate(words[1:], start=1):
        before = words[position - 1]
        programs = {one.rpartition("/")[2] for one in words[:position]}
        credentials = before in ("-u", "-U", "--user", "--proxy-user") and re.fullmatch(r"[^:\s]+:.+", word)
        flagged = (
            (before == "-p" and programs & {"sshpass", "login"})
            or (before == "-a" and "redis-cli" in programs)
            or (before == "-w" and any(one.startswith("ldap") for one in programs))
            or (before == "-passin" and word.startswith("pass:"))
        )
        announced = is_telling(before) and looks_random(word)
        if flagged or announced or (credentials and not re.fullmatch(r"\d+:\d+", word)):
            found.add(position)
    return found
