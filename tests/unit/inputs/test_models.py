"""Models: where their files are, the ones built here, and fetching from a hub (a small one of our own)."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, sha256
from servegauge.inputs import hub, models
from servegauge.plan import config

REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB = {"name": "q", "source": "Qwen/Qwen3-8B", "hub": True, "revision": REVISION, "gguf": "q8.gguf"}
TINY = {"name": "tiny", "source": ".cache/models/random-llama-tiny", "gguf": "x.gguf", "build": "tiny"}


# -- where --------------------------------------------------------------------


def test_a_hub_model_lies_under_its_revision(tmp_path: Path) -> None:
    folder = Path(".cache/models") / f"Qwen--Qwen3-8B@{REVISION}"
    assert models.source_folder(HUB) == folder
    assert models.tokenizer_folder({**HUB, "tokenizer": "Qwen/Qwen3-8B"}) == folder
    assert models.gguf_file(HUB) == folder / "q8.gguf"
    assert models.files_needed(HUB, "hf") == models.tokenizer_needed(HUB) == [str(folder / "fetched.json")]
    other = {**HUB, "tokenizer": f"org/base@{REVISION}"}
    assert models.tokenizer_needed(other) == [f".cache/models/org--base@{REVISION}/fetched.json"]
    with pytest.raises(UserError, match=r"scripts/fetch_model\.py q"):
        models.weights_path(HUB, "hf", tmp_path)


def test_a_workload_finds_a_hub_models_tokenizer(tmp_path: Path) -> None:
    tokenizer = {"name": "q", "tokenizer": "Qwen/Qwen3-8B", "revision": REVISION}
    with pytest.raises(UserError, match="not on this machine"):
        models.workload_tokenizer(tokenizer, tmp_path)
    file = tmp_path / models.source_folder(HUB) / "tokenizer.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    assert models.workload_tokenizer(tokenizer, tmp_path) == file


def test_a_built_model_waits_for_its_stamp() -> None:
    stamp = [".cache/models/random-llama-tiny.json"]
    assert (
        models.files_needed(TINY, "hf") == models.files_needed(TINY, "gguf") == models.tokenizer_needed(TINY) == stamp
    )
    with pytest.raises(UserError, match=r"write `source: \.cache/models/random-llama-tiny`"):
        models.files_needed({**TINY, "source": "elsewhere"}, "hf")


def test_a_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS", str(tmp_path))
    model = {"name": "own", "source": "$WEIGHTS/m", "gguf": "$WEIGHTS/m.gguf"}
    for call in (
        lambda: models.files_needed(model, "hf"),
        lambda: models.tokenizer_needed(model),
        lambda: models.weights_path(model, "gguf", Path("/")),
    ):
        with pytest.raises(UserError, match=r"not on this machine.*config/models/own\.yaml"):
            call()
    (tmp_path / "m").mkdir()
    for name in ("m/config.json", "m/tokenizer.json", "m.gguf"):
        (tmp_path / name).write_text("{}")
    assert models.weights_path(model, "hf", Path("/")) == f"{tmp_path}/m"
    assert models.weights_path(model, "gguf", Path("/")) == f"{tmp_path}/m.gguf"
    assert models.files_needed(model, "hf") == [f"{tmp_path}/m/config.json"]
    with pytest.raises(UserError, match="variable"):
        models.source_folder({"source": "$NOT_SET_HERE/m"})
    with pytest.raises(UserError, match="no GGUF"):
        models.weights_path({"name": "own", "source": "$WEIGHTS/m"}, "gguf", Path("/"))


# -- built --------------------------------------------------------------------


def test_the_tiny_model_is_what_its_stamp_says(tiny_model: Path, repository: Path) -> None:
    stamp = read_json(repository / models.built_stamp("tiny"))
    for name, said in stamp["files"].items():
        assert sha256(tiny_model.parent / name) == said["sha256"]
    assert set(stamp["files"]) >= {
        "random-llama-tiny.gguf", "random-llama-tiny/config.json", "random-llama-tiny/model.safetensors",
        "random-llama-tiny/tokenizer.json",
    }  # fmt: skip


def test_the_weights_are_the_recorded_ones(repository: Path, tiny_model: Path) -> None:
    # Recorded: other weights are another model, and measurements of the two must not meet under one name.
    files = read_json(repository / models.built_stamp("tiny"))["files"]
    found = {name: files[name]["sha256"][:16] for name in RECORDED}
    assert found == RECORDED


def test_building_again_gives_the_same_bytes_and_takes_the_lock(
    tiny_model: Path, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / ".cache").mkdir()
    (tmp_path / "envs").symlink_to(repository / "envs")
    (tmp_path / ".cache" / "envs").symlink_to(repository / ".cache" / "envs")
    builders = [threading.Thread(target=models.build_model, args=("tiny", tmp_path)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    again, first = (read_json(root / models.built_stamp("tiny")) for root in (tmp_path, repository))
    assert again == first
    assert sorted(path.name for path in (tmp_path / ".cache/models").iterdir()) == [
        "random-llama-tiny", "random-llama-tiny.gguf", "random-llama-tiny.json", "random-llama-tiny.lock",
    ]  # fmt: skip


def test_only_known_sizes_are_built(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are: tiny, small"):
        models.build_model("huge", tmp_path)


# -- fetched ------------------------------------------------------------------

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 1000,
    "q8.gguf": b"GGUF" * 100,
    "q4.gguf": b"another one",
    "pytorch_model.bin": b"the same numbers again",
    "modeling_custom.py": b"raise SystemExit('never run')",
    "original/consolidated.00.pth": b"and again",
}


class FakeHub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that its client needs for one repository. `lies`: files with a wrong hash."""

    lies: frozenset[str] = frozenset()
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        if path == f"/api/models/org/model/revision/{REVISION}":
            return self.answer(json.dumps({"id": "org/model", "sha": REVISION, "siblings": self.siblings()}).encode())
        if path.startswith(f"/api/models/org/model/tree/{REVISION}"):
            return self.answer(json.dumps(self.tree()).encode())
        name = path.removeprefix(f"/org/model/resolve/{REVISION}/")
        if name in FILES:
            headers = {"ETag": f'"{hashlib.sha1(FILES[name]).hexdigest()}"', "X-Repo-Commit": REVISION}
            return self.answer(FILES[name], headers)
        self.answer(b'{"error": "no such repository"}', {"X-Error-Code": "RepoNotFound"}, 404)

    def siblings(self) -> list[dict[str, Any]]:
        return [
            {"rfilename": name, "size": len(data), "blobId": "0" * 40, **self.lfs(name)} for name, data in FILES.items()
        ]

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in FILES.items()
        ]

    def lfs(self, name: str) -> dict[str, Any]:
        if not name.endswith((".safetensors", ".gguf")):
            return {}
        digest = "f" * 64 if name in self.lies else hashlib.sha256(FILES[name]).hexdigest()
        return {"lfs": {"sha256": digest, "size": len(FILES[name]), "pointerSize": 130}}

    def answer(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def fake_hub() -> Iterator[type[FakeHub]]:
    handler = type("Handler", (FakeHub,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler
    server.shutdown()
    server.server_close()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A repository's root with one model of the fake hub and one of a folder."""
    folder = tmp_path / "config" / "models"
    folder.mkdir(parents=True)
    text = f"description: d\nhub: true\nsource: org/model\nrevision: {REVISION}\n"
    (folder / "fake.yaml").write_text(text)
    (folder / "fake-gguf.yaml").write_text(f"{text}gguf: q8.gguf\n")
    (folder / "local.yaml").write_text("description: d\nsource: somewhere\n")
    return tmp_path


def fetch(place: Path, repository: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "HF_ENDPOINT": url, "HF_HOME": str(place / "hf"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1", "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    argv = [sys.executable, str(repository / "scripts" / "fetch_model.py"), *arguments]
    return subprocess.run(argv, cwd=place, env=environment, capture_output=True, text=True, timeout=120)


FOLDER = f"org--model@{REVISION}"


def test_fetching_takes_what_is_wanted_and_hashes_it(place: Path, repository: Path, fake_hub: Any) -> None:
    done = fetch(place, repository, fake_hub.url, "--folder", FOLDER)
    assert done.returncode == 0, done.stderr
    folder = place / ".cache/models" / FOLDER
    stamp = read_json(folder / "fetched.json")
    assert set(stamp["files"]) == {"config.json", "tokenizer.json", "model.safetensors", "q8.gguf"}
    for name, said in stamp["files"].items():
        assert (folder / name).read_bytes() == FILES[name]
        assert said == {"sha256": hashlib.sha256(FILES[name]).hexdigest(), "bytes": len(FILES[name])}
    assert (stamp["repository"], stamp["revision"]) == ("org/model", REVISION)
    assert not any(path.endswith((".py", ".bin", ".pth")) for path in fake_hub.asked)
    assert "fetching org/model at 0123456789ab" in done.stdout
    assert "fetched 4 files" in done.stdout
    # Again: nothing is asked for, so a machine without the hub is content too.
    fake_hub.asked.clear()
    assert fetch(place, repository, fake_hub.url, "fake-gguf").returncode == 0
    assert not fake_hub.asked
    model = config.load_model(place, "fake-gguf")
    assert models.weights_path(model, "gguf", place) == str(folder / "q8.gguf")


def test_a_file_that_is_not_what_the_hub_says_is_refused(place: Path, repository: Path, fake_hub: Any) -> None:
    fake_hub.lies = frozenset({"model.safetensors"})
    done = fetch(place, repository, fake_hub.url, "fake")
    assert done.returncode == 2
    assert "model.safetensors of org/model has SHA-256" in done.stderr
    assert not (place / ".cache/models" / FOLDER / "fetched.json").exists()


def test_a_gguf_that_the_repository_does_not_have(place: Path, repository: Path, fake_hub: Any) -> None:
    path = place / "config/models/fake-gguf.yaml"
    path.write_text(path.read_text().replace("q8", "q5"))
    done = fetch(place, repository, fake_hub.url, "fake-gguf")
    assert done.returncode == 2
    assert "has no file q5.gguf; it has: q4.gguf, q8.gguf" in done.stderr


def test_what_cannot_be_fetched_is_one_message(place: Path, repository: Path, fake_hub: Any) -> None:
    text = (place / "config/models/fake.yaml").read_text()
    (place / "config/models/absent.yaml").write_text(text.replace("org/model", "org/absent"))
    for arguments, url, message in [
        (["absent"], fake_hub.url, "could not fetch org/absent"),
        (["fake"], "http://127.0.0.1:1", "fetch on one that does and copy the folder here"),
        (["local"], fake_hub.url, "names no hub repository"),
        (["fakee"], fake_hub.url, "did you mean 'fake'"),
        (["--folder", "org--model"], fake_hub.url, "is not <owner>--<name>@"),
    ]:
        done = fetch(place, repository, url, *arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert message.lower() in done.stderr.lower()
        assert "Traceback" not in done.stderr


def test_the_tokenizer_of_another_repository_is_fetched_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "config/models/fake.yaml"
    path.write_text(f"{path.read_text()}tokenizer: org/base@{REVISION}\n")
    fetched: list[tuple[str, tuple[str, ...]]] = []
    monkeypatch.setattr(
        hub, "fetch_model", lambda repository, revision, extra, root, say: fetched.append((repository, tuple(extra)))
    )
    hub.fetch_named("fake", place)
    assert fetched == [("org/model", ("q8.gguf",)), ("org/base", ())]


RECORDED = {
    "random-llama-tiny.gguf": "6b04cdebd5d76393",
    "random-llama-tiny/model.safetensors": "8e2a826588e37601",
    "random-llama-tiny/tokenizer.json": "dbf5a2dab09e4457",
}
