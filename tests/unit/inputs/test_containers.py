"""Command lines of container runtimes, GPUs of both makers, and a runtime that is one more file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servegauge.base.errors import UserError
from servegauge.inputs import runtimes
from servegauge.inputs.containers import contained
from servegauge.launch import server
from servegauge.plan.config import load_platform

STEP = [
    "srun", "--export=ALL", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=n1", "--cpu-bind=none",
    "--kill-on-bad-exit=1",
]  # fmt: skip
PODMAN = ["run", "--rm", "--network=host", "--ipc=host", "--log-driver=none"]
VOLUMES = ["--volume", "/work:/work", "--volume", "/:/", "--workdir", "/work", "--env", "KEY", "-x"]
APPTAINER = ["exec", "GPU", "--bind", "/work", "--bind", "/", "--pwd", "/work", "-x", "image"]
EXPECTED = {
    "apptainer": ["apptainer", *APPTAINER],
    "singularity": ["singularity", *APPTAINER],
    "pyxis": [
        *STEP, "--container-image=image", "--container-mounts=/work:/work,/:/", "--container-workdir=/work",
        "--container-env=KEY", "-x",
    ],
    "edf": [*STEP, "--environment=image", "-x"],
    "podman": ["podman", *PODMAN, "GPU", *VOLUMES, "--entrypoint=", "image"],
    "podman-hpc": ["podman-hpc", *PODMAN, "GPU", *VOLUMES, "--entrypoint=", "image"],
    "charliecloud": ["ch-run", "--bind", "/work:/work", "--bind", "/:/", "--cd", "/work", "-x", "image", "--"],
}  # fmt: skip
KEEP = ["--device", "/dev/kfd", "--device", "/dev/dri", "--group-add", "keep-groups"]
GPUS = {
    ("apptainer", "nvidia"): ["--nv"], ("apptainer", "amd"): ["--rocm"],
    ("singularity", "nvidia"): ["--nv"], ("singularity", "amd"): ["--rocm"],
    ("podman", "nvidia"): ["--device", "nvidia.com/gpu=all"], ("podman", "amd"): KEEP,
    ("podman-hpc", "nvidia"): ["--gpu"], ("podman-hpc", "amd"): KEEP,
}  # fmt: skip


def test_every_runtime_has_a_command_line_here() -> None:
    assert set(runtimes.runtimes()) == set(EXPECTED)
    assert all(one.about for one in runtimes.runtimes().values())


@pytest.mark.parametrize("vendor", ["nvidia", "amd", None])
@pytest.mark.parametrize("name", EXPECTED)
def test_the_command_line(name: str, vendor: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    how = {"container": "image", "runtime": name, "container_args": ["-x"]}
    platform = {"frameworks": {"vllm": how}, "gpus_per_node": 4 if vendor else 0}
    if vendor == "amd":
        platform["gpu"] = {"vendor": "amd"}
    expected = []
    for word in EXPECTED[name]:
        expected += GPUS.get((name, vendor or ""), []) if word == "GPU" else [word]
    assert contained(["vllm", "serve"], "vllm", platform, Path("/work"), ["KEY"]) == [*expected, "vllm", "serve"]


@pytest.mark.parametrize("name", EXPECTED)
def test_folders_with_odd_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    platform = {"frameworks": {"vllm": {"container": "image", "runtime": name}}}
    spaced = contained(["vllm"], "vllm", platform, Path("/a b/'c'"))
    assert name == "edf" or any("/a b/'c'" in word for word in spaced)
    for folder in ("/a:b", "/a,b"):
        if name == "edf":  # its own file mounts
            assert contained(["vllm"], "vllm", platform, Path(folder))
        else:
            with pytest.raises(UserError, match=f"'{folder}' cannot be mounted .* set scratch: in the platform's file"):
                contained(["vllm"], "vllm", platform, Path(folder))


def test_variables_of_the_users_shell_in_images_and_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT", "/projects/p7")
    monkeypatch.setenv("HOME", "/home/me")
    how = {"container": "$PROJECT/vllm.sif", "container_args": ["--bind", "${PROJECT}:/models"]}
    argv = contained(["vllm"], "vllm", {"frameworks": {"vllm": how}}, Path("/work"))
    assert argv[-4:] == ["--bind", "/projects/p7:/models", "/projects/p7/vllm.sif", "vllm"]
    how["container"] = "~/vllm.sif"
    assert "/home/me/vllm.sif" in contained(["vllm"], "vllm", {"frameworks": {"vllm": how}}, Path("/work"))


def test_podman_of_a_user_and_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    platform = {"frameworks": {"vllm": {"container": str(tmp_path), "runtime": "podman"}}}
    argv = contained(["vllm"], "vllm", platform, Path("/work"))
    assert "--userns=keep-id" in argv
    assert argv[-3:] == ["--rootfs", str(tmp_path), "vllm"]


@pytest.mark.parametrize(
    ("has", "vendor", "variables"),
    [
        ({}, "nvidia", ["CUDA_VISIBLE_DEVICES"]),
        ({}, "amd", ["HIP_VISIBLE_DEVICES"]),
        ({"ROCR_VISIBLE_DEVICES": "2,3"}, "amd", ["ROCR_VISIBLE_DEVICES"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "nvidia", ["CUDA_VISIBLE_DEVICES"]),
        ({"CUDA_VISIBLE_DEVICES": "1", "ROCR_VISIBLE_DEVICES": "1"}, "amd", ["CUDA_VISIBLE_DEVICES"]),
        # HIP's counts before CUDA's: left as it is, every instance would see all GPUs of the job
        (
            {"CUDA_VISIBLE_DEVICES": "0,1", "HIP_VISIBLE_DEVICES": "0,1"},
            "amd",
            ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"],
        ),
    ],
)
def test_the_variables_that_show_a_server_its_gpus(
    has: dict[str, str], vendor: str, variables: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in has.items():
        monkeypatch.setenv(name, value)
    assert server.visible_variables({"gpu": {"vendor": vendor}}) == variables


def test_a_runtime_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up.py").write_text(
        "from servegauge.inputs.runtime import Runtime\n"
        "class MadeUp(Runtime):\n"
        "    name, about = 'made-up', 'made up'\n"
        "    def argv(self, argv, inside):\n"
        "        return ['made-up', inside.image, *argv]\n"
    )
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(tmp_path)])
    runtimes.runtimes.cache_clear()
    try:
        how = {"container": "image", "runtime": "made-up"}
        argv = contained(["vllm"], "vllm", {"frameworks": {"vllm": how}}, Path("/work"))
    finally:
        runtimes.runtimes.cache_clear()
    assert argv == ["made-up", "image", "vllm"]


def test_a_runtime_that_does_not_exist_is_refused_with_the_platforms_file(tmp_path: Path) -> None:
    folder = tmp_path / "config/platforms"
    folder.mkdir(parents=True)
    (folder / "x.yaml").write_text("description: d\nframeworks: {vllm: {container: image, runtime: podmann}}\n")
    with pytest.raises(UserError, match=r"x\.yaml: frameworks: vllm: runtime: 'podmann' is unknown.*'podman'\?"):
        load_platform(tmp_path, "x")
