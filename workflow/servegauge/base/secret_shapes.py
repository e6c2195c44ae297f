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
    r"hf_[A-Za-z0-9]{16,}", r"api_org_[A-Za-z0-9]{16,}", r"sk-(?:[A-Za-z0-9]{20}|(?=[A-Za-z_-]*\d))[A-Za-z0-9_-]{16,}",
    r"gh[pousr]_[A-Za-z0-9]{16,}", r"github_pat_\w{16,}",
    r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|soat)-[A-Za-z0-9_-]{16,}", r"xox[abeprs][.-][A-Za-z0-9.-]{8,}",
    r"xapp-[A-Za-z0-9-]{16,}", r"nvapi-[A-Za-z0-9_-]{16,}", r"A(?:KIA|SIA|ROA|IDA|NPA)[A-Z0-9]{16}",
    r"AIza[A-Za-z0-9_-]{30,}", r"ya29\.[A-Za-z0-9_-]{16,}", r"GOCSPX-[A-Za-z0-9_-]{16,}", r"npm_[A-Za-z0-9]{30,}",
    r"pypi-[A-Za-z0-9_-]{16,}", r"wandb_v1_\w{16,}", r"gsk_[A-Za-z0-9]{16,}", r"r8_[A-Za-z0-9]{16,}",
    r"pplx-[A-Za-z0-9]{16,}", r"xai-[A-Za-z0-9]{16,}", r"fw_[A-Za-z0-9]{16,}", r"tgp_v1_[A-Za-z0-9_-]{16,}",
    r"jina_[A-Za-z0-9]{16,}", r"voyage_[A-Za-z0-9_-]{16,}", r"[spr]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"whsec_[A-Za-z0-9+/=]{16,}", r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}", r"do[opr]_v1_[a-f0-9]{32,}",
    r"dapi[a-f0-9]{32}", r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9.]{16,}", r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{16,}",
    r"hv[sbr]\.[A-Za-z0-9_-]{16,}", r"(?i:AGE-SECRET-KEY-(?:PQ-)?1[A-Z0-9]{30,})", r"ATATT3[A-Za-z0-9_=-]{16,}",
    r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{16,}", r"tskey-[a-z]+-[A-Za-z0-9-]{8,}", r"gl(?:c|sa)_[A-Za-z0-9+/=_-]{16,}",
    r"lin_api_[A-Za-z0-9]{16,}", r"ntn_[A-Za-z0-9]{16,}", r"secret_[A-Za-z0-9]{32,}",
    r"sntry[su]_[A-Za-z0-9+/=_-]{16,}", r"NRAK-[A-Z0-9]{16,}", r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_-]{16,}",
    r"pul-[a-f0-9]{40}", r"rubygems_[a-f0-9]{40,}", r"sq0(?:atp|csp)-[A-Za-z0-9_-]{16,}",
    r"(?:bot)?\d{8,10}:AA[A-Za-z0-9_-]{30,}", r"LTAI[A-Za-z0-9]{12,}", r"(?i:kgat_[A-Za-z0-9]{16,})",
    r"ABSK[A-Za-z0-9+/=]{40,}", r"s\.(?=[A-Za-z0-9]{0,20}\d)(?=[A-Za-z0-9]{0,20}[A-Z])[A-Za-z0-9]{24}\b",
    r"AK(?:ID|LT)[A-Za-z0-9]{32,}", r"AKCp\w{50,}", r"cmVmdGtuO[A-Za-z0-9]{40,}", r"sha256~[A-Za-z0-9_-]{40,}",
    r"csk-[a-z0-9]{40,}", r"dose[a-f0-9]{32}\b", r"fw-[A-Za-z0-9]{20,}", r"rpa_[A-Z0-9]{30,}",
    r"secret_[A-Za-z0-9]{16,}_[a-f0-9]{32}[\w.]*", r"lsv2_[ps][tk]_[a-f0-9]{32}\w*", r"pcsk_\w{40,}",
    r"tvly-[A-Za-z0-9-]{20,}", r"e2b_[a-f0-9]{40}",
    r"(?:pnu|pnb|nfp|tfp|figd|sgp|fo1|aph0|esecret|sm_pat|aio)_[A-Za-z0-9_-]{20,}",
    r"fm[12][rap]?_[A-Za-z0-9+/=]{60,}", r"sb(?:p_[a-f0-9]{40}|_secret_[A-Za-z0-9_-]{20,})",
    r"(?:vc[pikar]|cf[ukat]t)_[A-Za-z0-9]{24,}", r"HRKU-[\w-]{30,}", r"ATBB[A-Za-z0-9]{32}",
    r"CC(?:IPAT|IPRJ)_\w{40,}", r"bk(?:ua|ct|aj)_[a-f0-9]{40}", r"PMAK-[a-f0-9]{24}-[a-f0-9]{30,}",
    r"ops_eyJ[A-Za-z0-9+/=_-]{40,}", r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{40,}", r"AQVN[A-Za-z0-9_-]{35,}",
    r"t1\.[A-Za-z0-9_-]{7,}\.?[A-Za-z0-9_-]{60,}={0,2}", r"1//0[A-Za-z0-9_-]{30,}", r"AQ\.[A-Za-z0-9_-]{40,}",
    r"EAA[A-Za-z0-9]{60,}", r"sl\.(?:u\.)?[A-Za-z0-9_-]{100,}", r"pat[A-Za-z0-9]{14}\.[a-f0-9]{64}",
    r"pat-(?:na|eu)\d-[a-f0-9-]{30,}", r"ms-[a-f0-9]{8}(?:-[a-f0-9]{4}){3}-[a-f0-9]{12}",
    r"[a-f0-9]{32}\.[A-Za-z0-9]{16}\b", r"pa-(?=[A-Za-z0-9_-]*\d)[A-Za-z0-9_-]{43}\b", r"nk-[A-Za-z0-9_-]{40,}",
    r"sess-[A-Za-z0-9]{40}", r"SK[a-f0-9]{32}\b", r"key-[a-f0-9]{32}\b", r"[a-f0-9]{32}-us\d{1,2}\b",
    r"v1\.0-[a-f0-9]{24}-[a-f0-9]{100,}", r"v1\.C[A-Za-z0-9_-]{100,}", r"dt0[a-z]\d\d\.[A-Z0-9]{24}\.[A-Z0-9]{64}",
    r"CFPAT-[A-Za-z0-9_-]{40,}", r"API-[A-Z0-9]{26,}\b", r"xwfp-[\w-]{20,}",
    r"[A-Za-z0-9_~.-]{3}\dQ~[A-Za-z0-9_~.-]{31,34}", r"[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{24,}", r"SCW[A-Z0-9]{17}\b",
    r"(?:ak|as|app)-(?=[A-Za-z0-9]{0,20}\d)(?=[A-Za-z0-9]{0,20}[A-Z])[A-Za-z0-9]{22,24}\b",
)  # fmt: skip

_MAKER = re.compile(rf"\b(?:{'|'.join(_MAKERS)})")
_RUN = re.compile(r"[\w.+/=~:-]{13,}", re.ASCII)  # keys of makers are looked for in these alone: a log has few

# Of a private key of OpenSSL, OpenSSH, PGP or SSH2, in an address too
_SPACE = r"(?: |\+|%20)"
_BEGIN = rf"-----?[ +]?BEGIN(?:{_SPACE}\w+){{0,3}}{_SPACE}PRIVATE{_SPACE}KEY(?:{_SPACE}BLOCK)?{_SPACE}?-----?"

# (signs, of which one stands in every such text, in small letters: a quick look before the slow one; pattern; new text)
SHAPES: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    (
        ("private",),
        re.compile(rf"{_BEGIN}.*?(?:-----?[ +]?END(?:{_SPACE}\w+){{1,4}}{_SPACE}?-----?|\Z)", re.DOTALL),
        REMOVED,
    ),
    (  # its end alone, where a log begins in the middle
        ("private",),
        re.compile(r"(?:^[A-Za-z0-9+/=]{16,}\r?\n)+-----?[ ]?END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----?", re.MULTILINE),
        REMOVED,
    ),
    (("b3blbnnzac1rzxktdje",), re.compile(r"b3BlbnNzaC1rZXktdjE[A-Za-z0-9+/=]+"), REMOVED),  # what is in OpenSSH's
    (("basicauth(",), re.compile(r"(BasicAuth\(\s*[\"'][^\"'\n]*[\"']\s*,\s*[\"'])[^\"'\n]+", re.I), rf"\1{REMOVED}"),
    ((":x-oauth-basic@",), re.compile(r"[\w+/=.-]{8,}(:x-oauth-basic@)"), rf"{REMOVED}\1"),
    (("ls0tls1crudjti",), re.compile(r"LS0tLS1CRUdJTi[A-Za-z0-9+/_-]+={0,2}"), REMOVED),  # the same in base64
    (
        ("private-lines",),
        re.compile(r"(Private-Lines:[ \t]*\d+\r?\n)(?:[A-Za-z0-9+/=]+\r?\n?)+"),
        rf"\1{REMOVED}\n",
    ),
    (  # whoever has such an address may write there
        ("hooks", "webhook"),
        re.compile(r"(https?://[^\s/\"']*(?:hooks\.|discord|webhook)[^\s/\"']*/)[^\s\"'<>\\]{20,}", re.I),
        rf"\1{REMOVED}",
    ),
    (("://",), re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#\"'<>]{0,2000}@"), rf"\1{REMOVED}@"),
    (  # a password with signs that an address may not have
        ("://",),
        re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#:@\"'<>,]{1,100}:(?!\d+[/?#])[^\s@\"'<>]{1,300}@"),
        rf"\1{REMOVED}@",
    ),
    (  # all of a cookie, and of what authorizes a request, which have several parts, some of them in quotes
        ("cookie", "authorization"),
        re.compile(
            r"\b((?:(?:set-)?cookie|(?:proxy-)?authorization)\\?[\"']?[ \t]*:[ \t]*\\?[\"']?)"
            r"(?:[^\n\"'\\]|(?<==)\\?\"[^\"\n]*\")+",
            re.I,
        ),
        rf"\1{REMOVED}",
    ),
    (
        ("bearer", "basic", "negotiate", "digest"),
        re.compile(
            r"(?:\b|(?<=%20))(bearer|basic|negotiate|digest)(\s+|%20)(?!(?:tokens?|auth\w*|credentials?|sha\d+|md5)\b)[\w.~+/=-]{6,}",
            re.I,
        ),
        rf"\1\2{REMOVED}",
    ),
    (("eyj",), re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?"), REMOVED),
    (  # a parameter inside an address that is itself a parameter
        ("3d",),
        re.compile(
            r"((?:\b|[_~-]|%(?:25)*26|%(?:25)*3F)(?:sig|signature|hmac|token|key|secret|password)%(?:25)*3D)"
            r"(?:[\w.~+-]|%(?!(?:25)*26)\w\w)+",
            re.I,
        ),
        rf"\1{REMOVED}",
    ),
    (("%40",), re.compile(r"(%3A%2F%2F)(?:[\w.~+-]|%(?!2F|3F)\w\w)+?%40", re.I), rf"\1{REMOVED}%40"),
    (("code=",), re.compile(r"([?&]code=)[\w.~%+/=-]{16,}"), rf"\1{REMOVED}"),
    (  # an address without a scheme; a tag and a digest (`image:v1.2@sha256:...`) are none
        ("@",),
        re.compile(
            r"(?<![\w./@:-])([\w.$-]{1,60}:)(?=[^\s/@:]*\d)(?=[^\s/@:]*[A-Za-z])[^\s/@:\"'<>]{8,300}@"
            r"(?=[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)"
        ),
        rf"\1{REMOVED}@",
    ),
    (  # what programs take: curl -u me:password, not docker -u 1000:1000
        ("-u", "-fu", "-gu", "-iu", "-ku", "-lu", "-ou", "-su", "-vu", "-user", "creds"),
        re.compile(
            r"(?<!\S)((?:-[fgikLOsSv]{0,4}u|-U|--user|--proxy-user|--(?:src-|dest-)?creds)(?:[ \t]+|=)?[\"']?)"
            r"(?!\d+:\d+\b)[^\s:%\"'=]+[:%][^\s\"']+"
        ),
        rf"\1{REMOVED}",
    ),
    (
        (
            *("sshpass", "redis-cli", "mysql", "ldap", "login", "pass:", "curl", "literal", "echo", "http-basic"),
            *("mc alias", "mc config"),
        ),
        re.compile(
            r"(\bsshpass[ \t]+-p[ \t]*|\bredis-cli\b[^\n|;&]{0,100}?[ \t]-a[ \t]+|\bmysql\w*\b[^\n|;&]{0,100}?[ \t]-p"
            r"|\bldap\w+\b[^\n|;&]{0,100}?[ \t]-w[ \t]+|\blogin\b[^\n|;&]{0,100}?[ \t]-p[ \t]+"
            r"|-pass(?:in|out)?[ \t]+pass:|\bcurl\b[^\n|;&]{0,100}?[ \t](?:-b|--cookie)[ \t]+[\"']?[\w-]+="
            r"|--from-literal[= ][\w.-]+="
            r"|\bwandb[ \t]+login\b(?:[ \t]+\S+){0,4}?[ \t]+(?=[0-9a-f]{40}\b)|\bvault[ \t]+login[ \t]+(?!-)"
            r"|\becho[ \t]+(?:-n[ \t]+)?(?=\S+[ \t]*\|[^\n]{0,200}(?:password-stdin|with-token|\blogin\b))"
            r"|\bmc[ \t]+(?:alias[ \t]+set|config[ \t]+host[ \t]+add)(?:[ \t]+\S+){3}[ \t]+"
            r"|\bhttp-basic\.\S+[ \t]+\S+[ \t]+"
            r"|\blogin\s+\S+\s+(?:account\s+\S+\s+)?password\s+)[^\s]+"
        ),
        rf"\1{REMOVED}",
    ),
)

_WORDS = (
    r"(?:api|access|secret|private|account|storage|session|auth)?[ _-]?(?:keys?|tokens?|secrets?|credentials?|"
    r"signature|bearer|cookie|jwt|pat|sas)|passwords?|passwd|passphrases?|passcode|pwd|login|apikey|authorization"
)
_SMALL = (
    r"is|was|are|as|with|of|for|to|from|by|using|used|the|a|an|your|my|our|this|new|old|value|header|set|found|named|"
    r"id|in"
)
_GAP = rf"(?:[\s\"'`:=,(\[{{>|]+|\\+[nrt\"']?|->|=>|→|\.{{2,}}|…+|--?|\b(?:{_SMALL})\b){{1,8}}"
# Keys and tokens that are no secrets, by the word before; up to their first letters
HARMLESS = re.compile(
    r"(?:(?:cache|hash|sort|primary|foreign|public|dict|map|config|lookup|partition|state|block|prefix|mesh)[ _-]key"
    r"|(?:first|last|next|per|each|output|prompt|special)[ _-]tok)\Z",
    re.I,
)
# at the beginning of a word, or of a line that is written as an escape
_LONG = re.compile(r"(?:(?<![A-Za-z0-9+_/\\])|(?<=\\[nrt]))[A-Za-z0-9+_][A-Za-z0-9+/_-]{18,}={0,2}(?![\w/])")
# Before a long string: a word that announces it. After one: a word that names it. Both are looked for near a long
# string alone, because a log has thousands of such words and few such strings.
NEAR = 100
_BEFORE = re.compile(rf"(?<![A-Za-z])(?:{_WORDS})(?![A-Za-z]){_GAP}\Z", re.I)
_AFTER = re.compile(rf"\s+(?:is|was)\s+(?:(?:the|a|my|your|our|its)\s+)?(?:\w+\s+)?(?:{_WORDS})(?![A-Za-z])", re.I)
# A password is short: any word with letters and digits
_PASSWORD = re.compile(
    r"(?<![A-Za-z])(?P<word>passwords?|passwd|pass ?phrase|passcode|pwd|passwort|pass(?=[\"'`]?\s?[=:]))"
    r"(?P<gap>[\"'`*]{0,3}(?:\s+(?:for|of)\s(?:'[^'\n]{1,99}'|[^\n:=]{1,40}))?(?:\s+\([^\n)]{1,40}\))?"
    r"(?:\s+(?:(?:is[=:]?|was|now|set to|changed to|=|:)\s+)*|\s*(?:[=:|,]|</?t[dh]>)+\s*)[\"'`]?)"
    r"(?P<value>[^\s\"'`<|]{6,})",
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
        if any(sign in lowered for sign in signs):
            value = pattern.sub(replacement, value)
    value = _RUN.sub(lambda run: _MAKER.sub(REMOVED, run[0]), value)
    value = _without_announced(value)
    return _PASSWORD.sub(_without_password, value) if "pass" in lowered or "pwd" in lowered else value


def _without_announced(value: str) -> str:
    parts, done = [], 0
    for match in _LONG.finditer(value):
        start, end = match.span()
        if not looks_random(match[0]):
            continue
        before = value[max(0, start - NEAR) : start]
        found = _BEFORE.search(before)
        if (found and not HARMLESS.search(before[: found.start() + 3])) or _AFTER.match(value[end : end + NEAR]):
            parts += [value[done:start], REMOVED]
            done = end
    return "".join([*parts, value[done:]])


def _without_password(match: re.Match[str]) -> str:
    value = match["value"]
    return f"{match['word']}{match['gap']}{REMOVED}" if is_mixed(value) else match[0]


def is_mixed(value: str) -> bool:
    """Whether a text has letters and digits, as a password mostly has and a word has not."""
    return any(letter.isdigit() for letter in value) and any(letter.isalpha() for letter in value)


def hidden_words(words: Sequence[str]) -> set[int]:
    """Positions in a command line whose words are secrets by their neighbours; `user:password` after -u among them."""
    found = set()
    for position, word in enumerate(words[1:], start=1):
        before = words[position - 1]
        programs = {one.rpartition("/")[2] for one in words[:position]}
        credentials = re.fullmatch(
            r"-[fgikLOsSv]{0,4}u|-U|--user|--proxy-user|--(?:src-|dest-)?creds", before
        ) and re.fullmatch(r"[^:%\s]+[:%].+", word)
        flagged = (
            (before == "-p" and programs & {"sshpass", "login"})
            or (before == "-a" and "redis-cli" in programs)
            or (before == "-w" and any(one.startswith("ldap") for one in programs))
            or (before in ("-pass", "-passin", "-passout") and word.startswith("pass:"))
            or (before in ("-b", "--cookie") and "curl" in programs)
            or (before == "--from-literal")
            or (word.startswith("-p") and len(word) > 2 and any(one.startswith("mysql") for one in programs))
            or (word.startswith("-p=") and "login" in programs)
        )
        announced = is_telling(before) and looks_random(word)
        if flagged or announced or (credentials and not re.fullmatch(r"\d+:\d+", word)):
            found.add(position)
    return found
