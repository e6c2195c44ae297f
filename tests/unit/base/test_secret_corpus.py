"""A hundred made-up secrets in every place where a person, a site or a server can write one: none of them is kept.

All of them are drawn from a seed; none was ever in use. What is provenance (commits, hashes, ids, names) must stay.
"""

from __future__ import annotations

import contextlib
import json
import random
import string

import pytest

from servegauge.base import redact
from servegauge.base.errors import UserError
from servegauge.base.progress import Progress
from servegauge.base.secret_shapes import looks_random
from servegauge.base.text import csv_cell, visible
from servegauge.inputs.config_files import refuse_secrets
from servegauge.launch import provenance

DRAW = random.Random(20261126)
MIXED, HEX, UPPER = string.ascii_letters + string.digits, "0123456789abcdef", string.ascii_uppercase + string.digits


def some(alphabet: str, length: int) -> str:
    """A string that has a letter and a digit, as those of real generators nearly always have."""
    while True:
        text = "".join(DRAW.choices(alphabet, k=length))
        if any(letter.isdigit() for letter in text) and any(letter.isalpha() for letter in text):
            return text


# Known by their shape, wherever they stand
MAKERS = [
    f"{prefix}{some(alphabet, length)}"
    for prefix, alphabet, length in (
        ("hf_", MIXED, 34), ("hf_", MIXED, 37), ("sk-", MIXED, 48), ("sk-proj-", MIXED, 60),
        ("sk-ant-api03-", MIXED, 80),
        ("sk-or-v1-", HEX, 64), ("ghp_", MIXED, 36), ("gho_", MIXED, 36), ("ghs_", MIXED, 36),
        ("github_pat_", MIXED, 60),
        ("glpat-", MIXED, 20), ("gldt-", MIXED, 20), ("xoxb-", MIXED, 40), ("xapp-1-", MIXED, 40),
        ("nvapi-", MIXED, 64),
        ("AKIA", UPPER, 16), ("ASIA", UPPER, 16), ("AIza", MIXED, 35), ("ya29.", MIXED, 60), ("GOCSPX-", MIXED, 28),
        ("npm_", MIXED, 36), ("pypi-", MIXED, 80), ("gsk_", MIXED, 52), ("r8_", MIXED, 37), ("pplx-", MIXED, 48),
        ("xai-", MIXED, 80), ("sk_live_", MIXED, 24), ("rk_test_", MIXED, 24), ("whsec_", MIXED, 32),
        ("dop_v1_", HEX, 64), ("dapi", HEX, 32), ("dckr_pat_", MIXED, 27), ("hvs.", MIXED, 90), ("glsa_", MIXED, 41),
        ("shpat_", HEX, 32), ("tskey-auth-", MIXED, 30), ("lin_api_", MIXED, 40), ("wandb_v1_", MIXED, 60),
        ("AGE-SECRET-KEY-1", UPPER, 58), ("LTAI", MIXED, 20),
    )
]  # fmt: skip
# Hex, base64, ids and passwords, which are secrets because of the words or names beside them
PLAIN = [some(HEX, length) for length in (20, 32, 32, 40, 40, 40, 64, 64)]
PLAIN += [some(MIXED, length) for length in (20, 22, 24, 32, 32, 40, 44, 48, 64, 86)]
PLAIN += [some(MIXED + "+/", 43) + "=" for _ in range(4)] + [some(MIXED + "-_", 43) for _ in range(4)]
PLAIN += [f"{some(HEX, 8)}-{some(HEX, 4)}-{some(HEX, 4)}-{some(HEX, 4)}-{some(HEX, 12)}" for _ in range(4)]
PASSWORDS = ["hunter2hunter2", "Tr0ub4dor&3", "correct7horse9battery", "S3cret!word", "p4ssw0rd.of.mine", "x9#Kq2$Lm"]
# The part that must not stay of a signed URL, and the URL; each cloud's own form
SIGNED = [
    (signature, f"https://store.example/m.gguf?{query.format(signature)}")
    for query in (
        "sv=2024-01-01&se=2026-01-01&sr=b&sp=r&sig={}%3D", "X-Amz-Date=20260101T000000Z&X-Amz-Signature={}",
        "X-Amz-Algorithm=AWS4&X-Amz-Security-Token={}&n=1", "X-Goog-Algorithm=GOOG4&X-Goog-Signature={}",
        "AWSAccessKeyId=x&Expires=1&Signature={}", "GoogleAccessId=a%40b.example&Expires=1&Signature={}",
        "Expires=1&Key-Pair-Id=K&Signature={}", "OSSAccessKeyId=x&Signature={}", "x-oss-signature={}&x-oss-date=1",
        "se=1&skoid=o&sig={}", "exp=1~acl=/*~hmac={}", "next=https%3A%2F%2Fs.example%2Fx%3Fsig%3D{}%26b%3D1",
    )
    for signature in (some(HEX, 64), some(MIXED, 44))
]  # fmt: skip
WORDS = [
    "using token {}", "wandb: key is {}", "wandb login {}", "logged in with key {}", "the API key is {}", "token: {}",
    "your access token was set to '{}'", "secret -> {}", "credentials ({})", "my-key={}", "HF_TOKEN {}", "api key `{}`",
    "{} is the token", "{} is my API key", "Authorization: Token {}", "Cookie: sid={}; theme=dark",
    "# key {} # old one",
    'found key "{}"', "export WANDB_KEY={}", "--api-key {}", "token\n{}", "https://me:{}@store.example/x",
]  # fmt: skip
PASSWORD_WORDS = [
    "password: {}", "the password is {}", "curl -u me:{} http://h", "https://me:{}@h/x", "PGPASSWORD={}",
    "sshpass -p {} ssh h",
    "docker login -u me -p {}", "machine h login me password {}", "mysql -u root -p{} db", "redis-cli -h h -a {} ping",
]  # fmt: skip


def test_there_are_a_hundred_of_them():
    secrets = {*MAKERS, *PLAIN, *PASSWORDS, *(signature for signature, _ in SIGNED)}
    assert len(secrets) >= 100
    assert all(looks_random(plain) for plain in PLAIN)


TEXTS = [
    (secret, f"{before}{secret}{after}")
    for secret in MAKERS
    for before, after in (("", ""), ("x '", "' y"), ("=", ","))
]
TEXTS += [(secret, words.format(secret)) for secret in PLAIN for words in WORDS]
TEXTS += [(secret, words.format(secret)) for secret in PASSWORDS for words in PASSWORD_WORDS]
TEXTS += SIGNED


def kept_in(secret: str, kept: str) -> bool:
    return secret in kept or secret.rstrip("=") in kept


def test_in_texts_of_every_kind():
    """Log lines, comments, questions, descriptions, error messages: everything that goes through `text`."""
    leaks = [found for secret, found in TEXTS if kept_in(secret, redact.text(f"12:00:01 INFO {found}\nnext line"))]
    assert leaks == []


def test_in_documents():
    """Specifications, records, answers of servers: as a value, in a list, as a key, as JSON inside JSON."""
    leaks = []
    for secret, found in TEXTS:
        for document in ({"note": found}, {"lines": ["a", found]}, {found: 1}, {"said": json.dumps({"note": found})},
                         {"deep": [{"er": {"text": found}}]}):  # fmt: skip
            if kept_in(secret, json.dumps(redact.clean(document))):
                leaks.append(document)
    assert leaks == []


def test_under_names():
    """Fields, variables and options whose name speaks of a secret, whatever the value looks like."""
    names = ("HF_TOKEN", "api_key", "dbPassword", "client-secret", "sig", "AZURE_SAS", "Authorization", "hmac")
    for secret in [*MAKERS, *PLAIN, *PASSWORDS]:
        for name in names:
            assert redact.clean({name: secret}) == {name: redact.REMOVED}
            assert secret not in json.dumps(redact.environment({name: secret}, keep=[name]))
            assert secret not in " ".join(redact.argv(["serve", f"--{name}", secret, f"--{name}={secret}"]))


def test_in_command_lines():
    leaks = []
    lines = [
        ["curl", "-H", "Authorization: Bearer {}", "http://h"], ["wandb", "login", "{}"], ["serve", "--token", "{}"],
        ["env", "HF_TOKEN={}", "serve"], ["hf", "auth", "login", "--token={}"],
        ["sh", "-c", "export API_KEY={}; serve"],
        ["curl", "-u", "me:{}", "http://h"], ["curl", "--user", "me:{}"], ["docker", "login", "-u", "me", "-p", "{}"],
        ["sshpass", "-p", "{}", "ssh", "h"], ["git", "clone", "https://x:{}@h/r.git"], ["redis-cli", "-a", "{}"],
    ]  # fmt: skip
    for secret in [*MAKERS, *PLAIN, *PASSWORDS]:
        for line in lines:
            if line[0] == "wandb" and secret in PASSWORDS:
                continue  # it takes a key
            kept = redact.argv([word.format(secret) for word in line])
            if kept_in(secret, " ".join(kept)) or len(kept) != len(line):
                leaks.append(line)
    assert leaks == []
    assert redact.argv(["docker", "run", "-u", "1000:1000", "image"])[3] == "1000:1000"


def test_in_files_that_people_write(tmp_path):
    """A study, model, platform or prompt file is kept as it stands, so one that holds a secret is refused."""
    let_through = []
    for _, found in TEXTS:
        for line in (f"# {found}", f"description: {found}", f"  - {found}", f"question: 'why {found}'"):
            if "\n" in line:
                continue
            with contextlib.suppress(UserError):
                refuse_secrets(tmp_path / "x.yaml", f"question: x\n{line}\n")
                let_through.append(line)
    assert let_through == []
    with pytest.raises(UserError, match=r"x\.yaml:2: this line looks like a secret.*so do lines 4") as caught:
        refuse_secrets(tmp_path / "x.yaml", f"a: 1\nb: {MAKERS[0]}\nc: 2\n# {MAKERS[1]}\n")
    assert not kept_in(MAKERS[0], str(caught.value))


def test_in_what_a_launch_keeps(tmp_path, monkeypatch):
    """Reasons, progress and provenance, with what the environment of the process holds."""
    progress, kept = Progress(tmp_path / "progress.log"), []
    for position, (secret, found) in enumerate(TEXTS[::7]):
        reason = provenance.without_secrets(f"the server ended: {found}", [])
        progress.say(reason)
        kept.append((secret, reason + (tmp_path / "progress.log").read_text().splitlines()[-1], position))
    assert [one for one in kept if kept_in(one[0], one[1])] == []
    for secret in PASSWORDS:
        monkeypatch.setenv("LAB_PASSWORD", secret)
        assert secret not in provenance.without_secrets(f"said {secret} in passing", [])


PROVENANCE = [
    "revision {}", "commit {}", "sha256 {}", "sha256:{}", "at {}", "model.safetensors {} 4 GB", "image@sha256:{}",
    "block hash {}", "git+https://h/r@{}", "tokens of revision {}", "the key of workload {}", "etag {}", "id={}",
]  # fmt: skip


@pytest.mark.parametrize("words", PROVENANCE)
def test_provenance_stays(words):
    for value in (some(HEX, 40), some(HEX, 64)):
        assert redact.text(words.format(value)) == words.format(value)
        assert not redact.suspicious(words.format(value))


@pytest.mark.parametrize(
    "plain",
    ["export HF_TOKEN=$HF_TOKEN", "HF_TOKEN: ${HF_TOKEN}", "--api-key <your key>", "token_file: /home/me/token",
     "a launch is vllm-qwen3-8b-tp2-h100-vgpu-r1-3f9c1a02d7", "set the key in ~/.config/key",
     "bearer tokens are removed",
     "the token vllm-qwen3-8b-tp2-h100-vgpu-r1 is a name", "keys 12345678901234567890 in all", "basic authentication",
     "docker run -u 1000:1000", "password is required", "output_tokens: 128", "max_batched_tokens: 8192"],
)  # fmt: skip
def test_what_people_write_about_secrets_is_no_secret(plain):
    assert not redact.suspicious(plain)


# ---------------------------------------------------------------- what terminals and spreadsheets obey

LOUD = "\x1b]0;title\x07\x1b[31mred\x1b[2J <script>alert(1)</script> =cmd|' /C calc'!A0\r\x08\x9b2J‮reversed​"


def test_control_characters_are_shown_escaped(tmp_path, capsys):
    Progress(tmp_path / "p").say(LOUD)
    outputs = [visible(LOUD), redact.clean(LOUD), redact.argv([LOUD])[0], (tmp_path / "p").read_text(),
               capsys.readouterr().out, json.dumps(redact.clean({LOUD: [LOUD]}), ensure_ascii=False),
               str(provenance.without_secrets(LOUD, []))]  # fmt: skip
    for output in outputs:
        assert not [letter for letter in output if ord(letter) < 32 and letter != "\n"], output
        assert not set(output) & set("\x7f\x9b‮​")
        assert "\\x1b[31mred" in output.replace("\\\\", "\\")
    assert visible("a\tb\nc é 漢") == "a\tb\nc é 漢"


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "=1"])
def test_a_formula_is_a_text(text):
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-1.5", "+3", "-2e-3", "vllm", "", None, -3, 2.5, True, "-", "a=b"])
def test_values_stay(value):
    assert csv_cell(value) == value
