"""Compile caches: whose they are, when they are warm, and why there are none."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from servegauge.contract.records.order import Node
from servegauge.contract.spec import Launch
from servegauge.frameworks import framework
from servegauge.frameworks.base import Reply
from servegauge.launch import instances
from servegauge.launch.compile_caches import take


def test_the_second_server_of_a_configuration_is_warm_and_another_one_is_not(tmp_path: Path) -> None:
    first = take(str(tmp_path), "one", tmp_path / "private")
    (first.folder / "kernel.so").write_text("x")
    first.release(ready=True)
    again, other = take(str(tmp_path), "one", tmp_path / "private"), take(str(tmp_path), "two", tmp_path / "private")
    assert (first.state, again.state, other.state) == ("cold", "warm", "cold")
    assert (again.folder / "kernel.so").is_file()
    assert other.folder != again.folder == first.folder
    assert (first.reason, again.reason) == (None, None)
    again.release(ready=True)
    again.release(ready=False)  # a second time: it is no longer ours to judge
    assert take(str(tmp_path), "one", tmp_path / "private").state == "warm"


@pytest.mark.parametrize("was", ["cold", "warm"])
def test_what_no_server_got_ready_with_is_thrown_away(tmp_path: Path, was: str) -> None:
    if was == "warm":
        take(str(tmp_path), "one", tmp_path / "private").release(ready=True)
    cache = take(str(tmp_path), "one", tmp_path / "private")
    assert cache.state == was
    (cache.folder / "half a kernel").write_text("x")
    cache.release(ready=False)
    cache = take(str(tmp_path), "one", tmp_path / "private")
    assert (cache.state, list(cache.folder.iterdir())) == ("cold", [])


def test_only_we_can_write_to_it(tmp_path: Path) -> None:
    cache = take(str(tmp_path), "one", tmp_path / "private")
    for folder in (cache.folder, cache.folder.parent, cache.folder.parents[1]):
        assert folder.stat().st_mode & 0o777 == 0o700
    cache.release(ready=True)
    cache.folder.parents[1].chmod(0o770)
    refused = take(str(tmp_path), "one", tmp_path / "private")
    assert (refused.folder, refused.state) == (tmp_path / "private", "cold")
    assert "only this user can write" in (refused.reason or "")
    assert refused.folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_somebody_put_there_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir(0o700)
    (tmp_path / f"servegauge-cache-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert "only this user can write" in (take(str(tmp_path), "one", tmp_path / "private").reason or "")
    (tmp_path / "servegauge-cache-4711").mkdir(0o700)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert "only this user can write" in (take(str(tmp_path), "one", tmp_path / "private").reason or "")


def test_two_at_once_do_not_share(tmp_path: Path) -> None:
    take(str(tmp_path), "one", tmp_path / "a").release(ready=True)
    first, second = take(str(tmp_path), "one", tmp_path / "a"), take(str(tmp_path), "one", tmp_path / "b")
    assert (first.state, second.state, second.folder) == ("warm", "cold", tmp_path / "b")
    assert "uses it now" in (second.reason or "")


@pytest.mark.parametrize("scratch", [None, "$NO_SUCH_VARIABLE/x", "/proc/version"])
def test_without_a_place_each_launch_compiles_by_itself(tmp_path: Path, scratch: str | None) -> None:
    cache = take(scratch, "one", tmp_path / "private")
    assert (cache.folder, cache.state) == (tmp_path / "private", "cold")
    assert "scratch" in (cache.reason or "")


def test_a_full_or_broken_scratch_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / f"servegauge-cache-{os.getuid()}").write_text("")
    assert "File exists" in (take(str(tmp_path), "one", tmp_path / "private").reason or "")


class Server:
    """A server that is ready at once and has nothing to say."""

    def __init__(self, framework, context, *_):
        self.context, self.ready_s, self.argv, self.environment = context, None, (), {}
        self.client, self.ended = SimpleNamespace(get=lambda path: Reply(404, "")), False
        (context.cache / "kernel").touch()

    def wait_ready(self, *_) -> None:
        self.ready_s = 1.0

    def output(self) -> str:
        return ""

    def stop(self) -> None:
        self.ended = True

    def alive(self) -> bool:
        return not self.ended


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances.server, "start", Server)
    monkeypatch.setattr(instances.environments, "framework_python", lambda *_: "/env/bin/python")
    monkeypatch.setattr(instances.models, "weights_path", lambda *_: "/m")


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("died", [False, True])
def test_a_node_that_waits_for_nobody_keeps_what_its_part_compiled_unless_it_died(tmp_path: Path, died: bool) -> None:
    launch = Launch("vllm", {"name": "m", "source": "/m"}, {"name": "cpu", "scratch": str(tmp_path)})
    states = []
    for _ in range(2):
        (tmp_path / "work").mkdir(exist_ok=True)
        node = Node(rank=1, nodes=2)
        one = instances.Instances(launch, framework("vllm"), node, tmp_path, tmp_path, tmp_path / "work", "key")
        one.start(1.0, lambda: False, lambda text: None)
        states.append(one.caches[0].state)
        one.running[0].ended = died  # type: ignore[attr-defined]
        one.stop()
        one.stop()
    assert states == ["cold", "cold" if died else "warm"]


@pytest.mark.usefixtures("made_up")
def test_repeats_share_configurations_do_not_and_it_is_recorded(tmp_path: Path) -> None:
    def launched(repeat: int, seed: int):
        platform = {"name": "cpu", "scratch": str(tmp_path)}
        launch = Launch("vllm", {"name": "m", "source": "/m"}, platform, options={"seed": seed}, repeat=repeat)
        work = tmp_path / f"work-{repeat}-{seed}"
        work.mkdir()
        servers = instances.Instances(launch, framework("vllm"), Node(), tmp_path, work, work, "key")
        servers.start(1.0, lambda: False, lambda text: None)
        start, _ = servers.evidence(lambda text: None)
        servers.stop()
        return start.instances[0], servers.running[0].context.cache

    (first, at), (second, same), (other, elsewhere) = launched(1, 0), launched(2, 0), launched(1, 1)
    assert (first.compile_cache, second.compile_cache, other.compile_cache) == ("cold", "warm", "cold")
    assert at == same != elsewhere
    assert first.compile_cache_reason is None
