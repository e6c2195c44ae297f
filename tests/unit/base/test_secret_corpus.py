"""A hundred made-up secrets in every place where a person, a site or a server can write one: none of them is kept.

All of them are drawn from a seed; none was ever in use. What is provenance (commits, hashes, ids, names) must stay.
"""

from __future__ import annotations

import base64
import contextlib
import json
import random
import string
import urllib.parse

import pytest

from servegauge.base import redact
from servegauge.base.errors import UserError
from servegauge.base.progress import Progress
from servegauge.base.secret_shapes import looks_random
from servegauge.base.text import csv_cell, visible
from servegauge.inputs.config_files import refuse_secrets
from servegauge.launch import provenance
from servegauge.submit.watch import say_to

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
        ("AGE-SECRET-KEY-1", UPPER, 58), ("LTAI", MIXED, 20), ("s.", MIXED + UPPER, 24), ("sha256~", MIXED, 43),
        ("csk-", HEX, 48), ("rpa_", UPPER, 44), ("KGAT_", HEX, 32), ("pcsk_", MIXED, 60), ("lsv2_pt_", HEX, 32),
        ("tvly-", MIXED, 32), ("fw-", MIXED, 24), ("xoxe.xoxp-1-", MIXED, 90), ("AKID", MIXED, 32), ("sgp_", HEX, 40),
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
        "a=1\\u0026sig={}\\u0026b=2", "a=1&amp;sig={}&amp;b=2", "code={}", "hdnts=exp%3D1~hmac%3D{}", "q-signature={}",
        "n=https%253A%252F%252Fs%253Fsig%253D{}%2526b",
    )
    for signature in (some(HEX, 64), some(MIXED, 44))
]  # fmt: skip
WORDS = [
    "using token {}", "wandb: key is {}", "wandb login {}", "logged in with key {}", "the API key is {}", "token: {}",
    "your access token was set to '{}'", "secret -> {}", "credentials ({})", "my-key={}", "HF_TOKEN {}", "api key `{}`",
    "{} is the token", "{} is my API key", "Authorization: Token {}", "Cookie: sid={}; theme=dark",
    "Authorization%3A%20Bearer%20{}", "secret key ....... {}", "token → {}", "api-key header {}",
    "{}:x-oauth-basic@github.com",
    "# key {} # old one", "[(b'x-api-key', b'{}')]", "> X-Vault-Token : {}", "api_key=['{}'], x=1",
    'found key "{}"', "export WANDB_KEY={}", "--api-key {}", "token\n{}", "https://me:{}@store.example/x",
]  # fmt: skip
PASSWORD_WORDS = [
    "password: {}", "the password is {}", "curl -u me:{} http://h", "https://me:{}@h/x", "PGPASSWORD={}",
    "sshpass -p {} ssh h",
    '{{"name": "DB_PASSWORD", "value": "{}"}}', "<password>{}</password>", "password => '{}'", "setenv DB_PASSWORD {}",
    'os.environ["DB_PASSWORD"] = "{}"', "('password', '{}')", "**password**: {}", "| password | {} |", "DB_PASS={}",
    "PASSWORD=ab,{}", "PASSWORD=my\\ {}", "PASSWORD='my'\"{}\"", "password for me: {}", "curl -su me:{} http://h",
    "smbclient //h/x -U me%{}", "podman pull --creds me:{} x", "Kennwort: {}",
    "to me:{}@proxy.example:3128", "echo {} | docker login --password-stdin", "mc alias set m http://h:9000 ME {}",
    "aws configure set aws_secret_access_key {}", "vault login {}", "Password for 'https://x': {}",
    "HTTPBasicAuth('me', '{}')", "api_key=SecretStr('{}')", "cookies={{'sid': '{}'}}", "password is: {}",
    "password&#61;{}", "secret\\u003d{}", "<input name='password' value='{}'>",
    "\x1b[32mpassword\x1b[0m=\x1b[31m{}\x1b[0m", "pass\u200bword={}", "ｐａｓｓｗｏｒｄ={}",
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


@pytest.mark.parametrize("between", ["\x1b[0m\x1b[1m", "\\x1b[0m", "\u200b", "\xad", "\x00", "\x1b]8;;\x07", "\r"])
def test_with_what_is_not_seen_in_their_middle(between):
    """A log in colours: a line loses them where a secret is in it, and others keep theirs."""
    for secret in MAKERS:
        if between == "\r":  # what was written over is there, too
            found = redact.text(f"loading\r{secret}\rdone")
        else:
            found = redact.text(f"\x1b[1mred\x1b[0m\na {secret[:12]}{between}{secret[12:]} b\n")
            assert found.startswith("\x1b[1mred\x1b[0m\n")
        assert secret[12:] not in found


PEM = "\n".join(["-----BEGIN {0}-----", *(some(MIXED, 64) for _ in range(30)), "-----END {0}-----"])


@pytest.mark.parametrize(
    "kind", ["OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK", "ENCRYPTED PRIVATE KEY", "PRIVATE KEY"]
)
def test_private_keys_in_every_form(kind):
    pem = PEM.format(kind)
    lines = pem.splitlines()
    encoded = base64.b64encode(pem.encode()).decode()
    forms = [
        *(pem, json.dumps({"note": pem}), "\n".join(f"(rank 0) {line}" for line in lines), pem.replace("\n", "\r\n")),
        *("\n".join(lines[3:]), "\n".join(lines[:-2]), urllib.parse.quote(pem), urllib.parse.quote_plus(pem)),
    ]
    for form in forms:
        assert not [line for line in lines[1:-1] if line in redact.text(form)], form[:80]
    assert redact.text(f"data: {encoded}\nnext") == "data: ***\nnext"


@pytest.mark.parametrize(
    "text", ["password:\n    {}\nnext", "password: |\n  {}\nnext",
             '{{"password":\n  "{}"}}', "name: A_TOKEN\nvalue: {}\n",
             'password = """\n{}"""', "machine h\n  login me\n  password {}\n"],
)  # fmt: skip
def test_over_two_lines(text):
    for secret in PASSWORDS:
        assert secret not in redact.text(text.format(secret))


def test_in_command_lines():
    leaks = []
    lines = [
        ["curl", "-H", "Authorization: Bearer {}", "http://h"], ["wandb", "login", "{}"], ["serve", "--token", "{}"],
        ["env", "HF_TOKEN={}", "serve"], ["hf", "auth", "login", "--token={}"],
        ["sh", "-c", "export API_KEY={}; serve"],
        ["curl", "-u", "me:{}", "http://h"], ["curl", "--user", "me:{}"], ["docker", "login", "-u", "me", "-p", "{}"],
        ["sshpass", "-p", "{}", "ssh", "h"], ["x", "-H", "x-api-key:", "{}"],
        ["x", "-H", "Authorization:", "Token", "{}"],
        ["x", "password", "=", "{}"], ["helm", "login", "-p={}"], ["curl", "-su", "me:{}"],
        ["git", "clone", "https://x:{}@h/r.git"], ["redis-cli", "-a", "{}"],
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
    for two in ("password: >-\n  {}", "- name: DB_PASSWORD\n  value: {}", "token:\n  {}", "password: '\n  {}'"):
        with pytest.raises(UserError, match=r"x\.yaml:3: this line looks like a secret"):
            refuse_secrets(tmp_path / "x.yaml", f"a: 1\n{two.format(PASSWORDS[0])}\nb: 1\n")
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


def test_in_what_is_passed_on_from_slurm(tmp_path, monkeypatch, capsys):
    """The log of a launch repeats what sbatch, its wrappers and the job say."""
    monkeypatch.setenv("LAB_PASSWORD", PASSWORDS[0])
    say = say_to(tmp_path / "logs/launch.log")
    say(f"sbatch: error: \x1b[2J {PASSWORDS[0]} of {MAKERS[0]}")
    for said in ((tmp_path / "logs/launch.log").read_text(), capsys.readouterr().err):
        assert said == "sbatch: error: \\x1b[2J *** of ***\n"


PROVENANCE = [
    "revision {}", "commit {}", "sha256 {}", "sha256:{}", "at {}", "model.safetensors {} 4 GB", "image@sha256:{}",
    "block hash {}", "git+https://h/r@{}", "tokens of revision {}", "the key of workload {}", "etag {}", "id={}",
]  # fmt: skip


STAYS = [
    "api_key=None, served_model_name='/m'", "basic_auth_enabled: false", "eos_token_id: 151645",
    "reasoning_token: <think>",
    "Time to first token: 12.3 ms", "cache key: " + "0a1b2c3d" * 8, "torch.compile cache key " + "0a1b2c3d" * 8,
    "image digest sha256:" + "0a1b2c3d" * 8, "vllm/vllm-openai:v0.10.1@sha256:" + "0a1b2c3d" * 8, "sort key: ttft",
    "sk-learn-compatible-interface", "key_cache=0x7f1234567890abcdef", "NCCL_IB_PKEY=0x8001", "pass 3 of 4: 12.3",
    "PASSED tests/x.py", "bypass=x1234567", "private_bytes: 100", "missing keys: ['lm_head.weight']",
    "seed=12345678901234567890",
    "for a mix of output tokens: the share of all", "sent to first token = client + queue",
    "kv_bytes_per_token: 4 of them",
    "void thrust::cuda_cub::sort_by_key::agent<int>(T)", "moe::dev::token::permuteKernel<float>",
    "\x1b[32mINFO\x1b[0m token usage: 0.02", "data: SGVsbG8gd29ybGQsIHRoaXMgaXMgYSB0ZXN0IG9mIGJhc2U2NA==",
    "GPU-12345678-1234-1234-1234-123456789abc", "cmpl-0123456789abcdef0123456789abcdef", "user@host.example:/path",
]  # fmt: skip


@pytest.mark.parametrize("text", STAYS)
def test_what_only_looks_like_a_secret_stays(text):
    assert redact.text(text) == text


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
