"""What crosses a network: each node has its own, so a loopback ends at its node, and so does a view of the files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from servegauge.base.files import read_json
from servegauge.contract.spec import Layout
from servegauge.inputs.environments import build_environment, environment_ready
from tests.pretend import spanning
from tests.pretend.cluster import jobs_of, on_node, slurm
from tests.pretend.cluster_user import ASKED, STUDY, User
from tests.pretend.pretend_site import kill, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
FOUR = {
    "description": "Two nodes of four GPUs.", "gpus_per_node": 4, "nodes": 2,
    "slurm": {"partition": "bm", "gres": "gpu:h100:{gpus}", **ASKED},
}  # fmt: skip
ASK = (
    "import sys, urllib.request as r, urllib.error as e\n"
    "request = r.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + sys.argv[2]})\n"
    "try: print(r.urlopen(request, timeout=5).status)\n"
    "except e.HTTPError as error: print(error.code)\n"
    "except OSError as error: print(type(error.reason).__name__)"
)
"""Prints the HTTP status of an address asked with a key, or why there is none."""


def asked(node: str | None, address: str, key: str = "") -> str:
    """What somebody on `node`, or on the login node, hears from `address`."""
    argv = [sys.executable, "-c", ASK, address, key]
    done = on_node(node, *argv) if node else subprocess.run(argv, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


@pytest.fixture
def user(networks, tmp_path, calibrations):
    """A user whose platform `four` has four GPUs on each of two nodes, and a framework that spans them."""
    user = User(tmp_path, calibrations)
    shutil.copy(spanning.__file__, user.root / "workflow/servegauge/frameworks/")
    user.write("config/platforms/four.yaml", FOUR)
    yield user
    for job in user.jobs():
        slurm("scancel", job, check=False)


def server(user: User, node: str) -> tuple[int, str, str]:
    """(port, address it listens on, key) of the server that the user's launch has on `node`."""
    for line in on_node(node, "ss", "-Hltnp").stdout.splitlines():
        process = Path("/proc") / re.search(r"pid=(\d+)", line)[1]
        around = dict(one.partition("=")[::2] for one in (process / "environ").read_text().split("\0"))
        if "paced.server" in (process / "cmdline").read_text() and str(user.root) in around["PYTHONPATH"]:
            host, _, port = line.split()[3].rpartition(":")
            return int(port), host, around["PACED_API_KEY"]
    raise AssertionError(f"no server on {node}")


def start(user: User, nodes: int) -> subprocess.Popen[str]:
    """A run of one launch of four GPUs on each of `nodes`, with one cell."""
    layout = {"framework": "spanning", "platform": ["four"], "tp": [4], "pp": [nodes]}
    matrix = {**STUDY["matrix"], **layout, "rate": [2], "repeat": 1}
    extra = ["--first-s", "0.01", "--gap-s", "0.001"]
    load = {**STUDY["load"], "requests": 30}
    user.write("config/studies/lost.yaml", {**STUDY, "matrix": matrix, "load": load, "server": {"extra_args": extra}})
    return user.start("--until", "measure_launch")


def measuring(user: User, nodes: int) -> subprocess.Popen[str]:
    """The same in the middle of the cell."""
    process = start(user, nodes)

    def begun() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return any("cell 1/1" in path.read_text() for path in user.root.glob("results/launches/*/*/progress.log"))

    wait_for(begun, 150, "the cell")
    return process


def test_a_server_of_one_node_is_out_of_reach_from_everywhere_else(user, networks):
    process = measuring(user, 1)
    port, host, key = server(user, "bm01")
    assert host == "127.0.0.1"
    assert asked("bm01", f"http://127.0.0.1:{port}/v1/models", key) == "200"
    assert asked("bm01", f"http://127.0.0.1:{port}/v1/models") == "401"
    for node in ("bm02", None):
        assert asked(node, f"http://{networks['bm01']}:{port}/v1/models", key) == "ConnectionRefusedError"
        assert asked(node, f"http://127.0.0.1:{port}/v1/models", key) == "ConnectionRefusedError"
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said


def test_a_server_of_two_nodes_meets_over_the_network_and_answers_others_with_its_key_only(user, networks):
    process = measuring(user, 2)
    port, host, key = server(user, "bm01")
    assert host in ("0.0.0.0", "*")
    for node in ("bm02", "vgpu01", None):
        assert asked(node, f"http://{networks['bm01']}:{port}/v1/models") == "401"
        assert asked(node, f"http://{networks['bm01']}:{port}/v1/models", key) == "200"
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said
    [folder] = user.root.glob("results/launches/*/attempt-0")
    assert f"a part has come from {networks['bm02']}" in (folder / "server-0.log").read_text()
    assert f"joined {networks['bm01']}" in (folder / "server-0-node-1.log").read_text()
    assert key not in "".join(path.read_text() for path in folder.glob("*.log"))
    assert len(user.measured()) == 1


def test_a_launch_of_two_nodes_ends_when_one_of_them_is_not_the_platform(user):
    """Both nodes check themselves at the same time: what one found must not be lost to the other's start."""
    user.write("config/platforms/four.yaml", {**FOUR, "expect": {"hostname": "bm01"}})
    process = start(user, 2)
    said = process.communicate(timeout=250)[0]
    assert process.returncode != 0
    assert "on node 1 of the launch: this node is not the platform 'four'" in said


def test_probes_of_two_nodes_cross_the_network(user, networks):
    if os.environ.get("SERVEGAUGE_REQUIRE_SLURM") != "1" and not environment_ready("probes", ROOT):
        pytest.skip("the environment probes is not built: python scripts/build_environment.py probes")
    python = build_environment("probes", ROOT)
    argv = [
        sys.executable, "-m", "servegauge.cli", "probe", "--platform", "own-cpu", "--submit", "slurm", "--nodes", "2",
        "--probes", "network,collectives", "--quick", "--python", str(python), "--poll-s", "2",
    ]  # fmt: skip
    before = received("bm02")
    environment = {**os.environ, "PYTHONPATH": str(user.root / "workflow")}
    done = subprocess.run(argv, cwd=user.root, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    network, collectives = (
        read_json(user.root / f"results/probes/own-cpu/{name}.json") for name in ("network", "collectives")
    )
    assert network["hostname"] == "bm01"
    between = [row for row in network["rows"] if row["variant"]["path"] == "node-to-node"]
    assert {row["variant"]["operation"] for row in between} == {"connect", "round trip", "send"}
    assert {row["status"] for row in network["rows"]} == {"ok"}
    rows = collectives["rows"]
    assert {(row["variant"]["ranks"], row["variant"]["nodes"], row["status"]) for row in rows} == {(4, 2, "ok")}
    assert all(row["detail"]["verified"] for row in rows)
    assert {row["metric"] for row in rows} == {"time_us", "algbw_gb_s", "busbw_gb_s"}
    assert len({row["variant"]["operation"] for row in rows}) == 6
    largest = max(row["variant"]["size_bytes"] for row in rows)
    assert received("bm02") - before > 10 * largest


def received(node: str) -> int:
    """Bytes that came to the node by its cable."""
    links = json.loads(on_node(node, "ip", "-json", "-stats", "link", "show", "eth0").stdout)
    return int(links[0]["stats64"]["rx"]["bytes"])


def test_on_files_that_come_late_a_launch_of_two_nodes_is_whole(late_site):
    late_site.layout = Layout(tp=4, pp=2)
    [launch] = late_site.plan({"s": 0.1}, {"does": "fail"}, {"s": 1.0})
    status, said = late_site.measure(launch)
    assert status == 0, said
    assert late_site.statuses(launch) == ["ok", "failed", "ok"]
    assert len(late_site.measured()) == 2


def test_on_files_that_come_late_nothing_is_measured_twice(late_site):
    """The waiting process killed, and another one that asks for all anew as soon as the job has ended."""
    [launch] = late_site.plan({"s": 0.1}, {"s": 6.0})
    process = late_site.start(launch)
    late_site.wait("cell", 2)
    kill(process)
    wait_for(lambda: not jobs_of(late_site), 60, "the job to end")
    status, said = late_site.measure(launch)
    assert status == 0, said
    assert "found its job" in said
    assert late_site.statuses(launch) == ["ok", "ok"]
    assert len(late_site.log("start")) == 1
