"""A secret that we know, or that has a secret's name or shape, survives nowhere."""

from __future__ import annotations

import contextlib
import json
import stat
import string
import time
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servegauge.base import redact
from servegauge.node.expectations import FACT_NAMES

SECRET = "Zq7-unlikely_4711/+xX"
TEXTS = st.text(alphabet=string.ascii_letters + string.digits + " :=/\"'\\{}[],-_.@\n", max_size=30)
SECRETS = st.text(alphabet=string.ascii_letters + string.digits + "-_/+=.*\"'\\ é", min_size=8, max_size=24)


def data_around(inner: st.SearchStrategy) -> st.SearchStrategy:
    """JSON-like data with `inner` anywhere in it."""
    return st.recursive(
        inner,
        lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXTS, below, max_size=3),
        max_leaves=6,
    )


def leaves(data):
    """Every text in `data`, keys included."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from leaves(value)
    elif isinstance(data, list | tuple):
        for item in data:
            yield from leaves(item)
    else:
        yield str(data)


@settings(max_examples=150, deadline=None)
@given(st.data(), SECRETS)
def test_a_known_secret_survives_nowhere(data, secret):
    around = st.tuples(TEXTS, TEXTS).map(lambda pair: pair[0] + secret + pair[1])
    document = data.draw(data_around(TEXTS | around | st.integers() | st.none() | st.booleans()))
    cleaned = redact.clean({"text": document, secret: [secret]}, [secret])
    assert not [leaf for leaf in leaves(cleaned) if secret in leaf]
    json.dumps(cleaned, allow_nan=False)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, max_size=5), SECRETS, st.integers(0, 5))
def test_a_known_secret_survives_no_command_line(words, secret, where):
    for inserted in (secret, f"--x={secret}", f"pre{secret}post"):
        line = [*words[:where], inserted, *words[where:]]
        assert not [word for word in redact.argv(line, [secret]) if secret in word]


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(string.ascii_uppercase + "_", min_size=1, max_size=12), TEXTS, max_size=5), SECRETS)
def test_the_value_of_a_secret_variable_survives_in_no_other_variable(variables, secret):
    variables |= {"HF_TOKEN": secret, "NCCL_DEBUG_FILE": f"/tmp/{secret}.log", "PATH": f"/bin:{secret}"}
    kept = redact.environment(variables, keep=variables)
    # a secret that is a path or a number cannot be distinguished from ordinary values of other variables
    if redact.secret_values({"HF_TOKEN": secret}):
        assert not [value for value in kept.values() if secret in value]
    assert kept["HF_TOKEN"] == redact.REMOVED


@settings(max_examples=80, deadline=None)
@given(TEXTS, TEXTS, SECRETS, SECRETS)
def test_two_secrets_whose_halves_meet_are_both_removed(before, after, one, two):
    half = len(one) // 2
    mixed = before + one[:half] + two + one[half:] + after
    cleaned = redact.text(mixed, [one, two])
    assert one not in cleaned
    assert two not in cleaned


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "api_key", "--api-key", "apiKey", "OPENAI_API_KEY", "dbPassword", "PGPASSWORD", "MYSQL_PWD", "SSHPASS",
     "AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "Authorization", "client-secret",
     "HUGGING_FACE_HUB_TOKEN", "key", "private_key", "X-Auth-Token", "set-cookie", "AZURE_SAS", "ACCESS_TOKENS"],
)  # fmt: skip
def test_names_of_secrets(name):
    assert redact.is_secret_name(name)
    assert redact.clean({name: SECRET}) == {name: redact.REMOVED}
    assert redact.clean({name: {"deep": [SECRET, {"er": SECRET}]}}) == {name: {"deep": ["***", {"er": "***"}]}}
    assert SECRET not in redact.text(f"x {name}={SECRET} y") + redact.text(f'{{"{name}": "{SECRET}"}}')
    assert redact.environment({name: SECRET}, keep=[name]) == {name: redact.REMOVED}


@pytest.mark.parametrize(
    ("name", "value"),
    [("TOKENIZERS_PARALLELISM", "false"), ("tokenizer", "gpt2"), ("max_tokens", "128"),
     ("output_tokens", "from_prompts"),
     ("kv_block_tokens", 16), ("num_key_value_heads", 8), ("bos_token", "<s>"), ("eos_token", "</s>"), ("PWD", "/work"),
     ("tokenizer.ggml.add_bos_token", "x"), ("eos-token", "</s>"),
     ("OLDPWD", "/work"), ("tokens_source", "usage"), ("keyboard", "us"), ("max_num_batched_tokens", "2048")],
)  # fmt: skip
def test_names_that_only_look_like_it(name, value):
    assert redact.clean({name: value}) == {name: value}
    assert redact.argv([f"--{name}", str(value)]) == [f"--{name}", str(value)]


def test_no_fact_has_a_secrets_name():
    assert not [name for name in FACT_NAMES if redact.is_secret_name(name)]


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ("https://me:pass@host:80/x", "https://***@host:80/x"),
        ("git clone https://ghp_abc@github.com/a/b.git", "git clone https://***@github.com/a/b.git"),
        ("postgres://u:p%40ss@h/d?sslmode=require", "postgres://***@h/d?sslmode=require"),
        ("curl -H 'Authorization: Bearer abc.def-123456'", "curl -H 'Authorization: ***'"),
        ("sent bearer abcdef123456 to it", "sent bearer *** to it"),
        ("https://h/x?token=abc123&page=2", "https://h/x?token=***&page=2"),
        ("https://h/x?X-Amz-Credential=AK/1&n=2", "https://h/x?X-Amz-Credential=***&n=2"),
        ("u=https%3A%2F%2Fme%3Ap%2540ss%40h%2Fx", "u=https%3A%2F%2F***%40h%2Fx"),
        ("wandb login --host h " + "0a" * 20, "wandb login --host h ***"),
        ("hf_" + "a" * 30, "***"),
        ("key sk-proj-" + "b1" * 20 + " end", "key *** end"),
        ("AKIAABCDEFGHIJKLMNOP", "***"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.abc-_1", "***"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n-----END OPENSSH PRIVATE KEY-----\nrest", "***\nrest"),
        ("-----BEGIN RSA PRIVATE KEY-----\ncut off", "***"),
        ("my key=abc", "my key=***"),
        ("x: key=abc", "x: key=***"),
        ('{\\"api_key\\": \\"abc\\"}', '{\\"api_key\\": \\"***\\"}'),
        ("password: correct horse battery\nnext: 1", "password: ***\nnext: 1"),
        ("vllm serve m --api-key xyz --port 80", "vllm serve m --api-key *** --port 80"),
        ("api_key='cut off in the middle\nnext", "api_key=***\nnext"),
        (r'{"a": "{\"token\": \"x\\\"y\"}"}', r'{"a": "{\"token\": \"***\"}"}'),
    ],
)
def test_shapes(found, kept):
    assert redact.text(found) == kept


@pytest.mark.parametrize(
    "plain",
    ["the key is good", "output_tokens: 128", "http://127.0.0.1:8000/v1/completions", "user@host", "a token passed",
     "KeyError: 'limits'",
     "Decode batch, #token: 200, token usage: 0.02, #cached-token: 0, #queue-req: 0",
     "rate: [1, 2]\nprompts: [chat]\n", "basic idea", "see https://example.org/a@b", "monkey=1"],
)  # fmt: skip
def test_plain_text_stays(plain):
    assert redact.text(plain) == plain


@pytest.mark.parametrize(
    "piece", ["a", "a.", "key='", "x=", "AbC+/9", "https://", "-----BEGIN PRIVATE KEY-----", "bearer "]
)
def test_long_texts_take_no_long_time(piece):
    started = time.process_time()
    redact.text(piece * (300_000 // len(piece)), ["known secret of this launch"])
    assert time.process_time() - started < 5


def test_command_lines():
    line = ["serve", "--api-key", "x", "--tokenizer", "t", "--key=y", "HF_TOKEN=z", "-H",
            "Authorization: Bearer abcdefgh", "--token", "--port", "80", "--max-tokens", "64"]  # fmt: skip
    assert redact.argv(line) == ["serve", "--api-key", "***", "--tokenizer", "t", "--key=***", "HF_TOKEN=***", "-H",
                                 "Authorization: ***", "--token", "--port", "80", "--max-tokens", "64"]  # fmt: skip


def test_environment_keeps_values_that_matter_and_every_name():
    variables = {"CUDA_VISIBLE_DEVICES": "0,1", "MY_LAB": "secret project", "SLURM_JOB_USER": "somebody",
                 "HOME": "/home/x",
                 "OMP_NUM_THREADS": "8", "VLLM_API_KEY": SECRET, "SLURM_SUBMIT_HOST": "login7",
                 "SET_BY_STUDY": "1"}  # fmt: skip
    assert redact.environment(variables, keep=["SET_BY_STUDY", "SLURM_JOB_USER"]) == {
        "CUDA_VISIBLE_DEVICES": "0,1", "HOME": redact.NOT_KEPT, "MY_LAB": redact.NOT_KEPT, "OMP_NUM_THREADS": "8",
        "SET_BY_STUDY": "1", "SLURM_JOB_USER": redact.REMOVED, "SLURM_SUBMIT_HOST": redact.REMOVED,
        "VLLM_API_KEY": redact.REMOVED,
    }  # fmt: skip


def test_spellings_of_a_secret():
    secret = 'p&ss"wörd/1 2'
    for shape in (secret, json.dumps(secret), json.dumps(secret, ensure_ascii=False), "p%26ss%22w%C3%B6rd%2F1%202",
                  "p%26ss%22w%C3%B6rd%2F1+2"):  # fmt: skip
        cleaned = redact.text(f"said {shape} twice {shape}", [secret])
        assert "rd" not in cleaned.replace("said", "").replace("twice", ""), cleaned


def test_short_strings_are_not_taken_for_secrets():
    assert redact.text("a port 80", ["80", "a", ""]) == "a port 80"


def test_keys_that_differ_in_a_secret_only_are_both_kept():
    assert redact.clean({"x" + SECRET: 1, "x***": 2}, [SECRET]) == {"x***": 1, "x***'": 2}


def test_packages_keep_their_versions():
    assert redact.clean({"tiktoken": "0.9", "keyring": "25.1"}, names=False) == {"tiktoken": "0.9", "keyring": "25.1"}


def test_numbers_and_nulls_keep_their_type():
    assert redact.clean({"a": 1, "b": 2.5, "c": None, "d": True, "api_key": 12345678}, ["12345678"]) == {
        "a": 1, "b": 2.5, "c": None, "d": True, "api_key": redact.REMOVED,
    }  # fmt: skip


def test_a_sealed_log_keeps_everything_but_secrets(tmp_path, monkeypatch):
    monkeypatch.setattr(redact, "PIECE_BYTES", 64)  # several pieces
    log = tmp_path / "server-0.log"
    kept = [
        b"started \xff\x00 \xe2\x96\x88\r\n",
        b"max_tokens=512 tokenizer_path='/m' page_size=1\n",
        b"no newline at the end",
    ]
    leaks = [
        f"server_args={{'api_key': '{SECRET}', 'port': 8000}}\n".encode(),
        f"GET /v1/models?key={urllib.parse.quote(SECRET, safe='')}\n".encode(),
        b"launch_command: --api-key other-key-of-another-start --port 1\n",
        b"Authorization: Bearer abcdefghijkl\n",
    ]
    log.write_bytes(kept[0] + leaks[0] + kept[1] + b"".join(leaks[1:]) + kept[2])
    log.chmod(0o600)
    redact.seal(log, [SECRET])
    sealed = log.read_bytes()
    assert all(line in sealed for line in kept)
    assert all(text not in sealed for text in (SECRET.encode(), b"unlikely_4711", b"other-key", b"abcdefghijkl"))
    assert b"'port': 8000" in sealed
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [log]
    before = log.stat()
    redact.seal(log, [SECRET])
    assert (log.stat().st_ino, log.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "nothing to remove"
    redact.seal(tmp_path / "absent.log")


def test_a_log_that_cannot_be_sealed_is_not_kept(tmp_path, monkeypatch):
    @contextlib.contextmanager
    def full(path, mode=0o644):
        raise OSError(28, "No space left on device")
        yield

    log, plain = tmp_path / "server-0.log", tmp_path / "progress.log"
    log.write_text(f"key {SECRET}\n")
    plain.write_text("nothing here\n")
    monkeypatch.setattr(redact, "whole_file", full)
    for path in (log, plain):
        redact.seal(path, [SECRET])
    assert not log.exists()
    assert plain.exists()


def test_no_end_of_a_piece_divides_a_secret(tmp_path, monkeypatch):
    """A log is cleaned piece by piece; what begins in one and ends in the next is found wherever the pieces end."""
    key = "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *["Abc1" * 16] * 30, "-----END OPENSSH PRIVATE KEY-----"])
    lines = [*["hello"] * 50, key, "password:", "    hunter2hunter2", "known: Zq7unli", "  kely4711 at the edge", "end"]
    log = tmp_path / "server.log"
    for size in range(100, 3000, 41):
        monkeypatch.setattr(redact, "PIECE_BYTES", size)
        log.write_text("\n".join(lines))
        redact.seal(log, ["Zq7unlikely4711"])
        left = log.read_text()
        assert not [secret for secret in ("Abc1", "hunter2", "kely4711") if secret in left], size
        assert left.startswith("hello\n" * 50)
        assert left.endswith("end")


def test_what_is_no_text_of_unicode_is_kept_as_escapes():
    kept = redact.environment({"SLURM_JOB_COMMENT": "a\udcff\x1b[2J"})
    assert kept == {"SLURM_JOB_COMMENT": "a\\udcff\\x1b[2J"}
    json.dumps(redact.clean({"a": "\udcff", "b": b"\xff\x00"}), ensure_ascii=False).encode()
