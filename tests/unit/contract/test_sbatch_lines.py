"""Lines for sbatch in every form that it takes: nothing altered, nothing lost, what collides refused by name."""

from __future__ import annotations

import pytest

from servegauge.contract.sbatch_lines import OURS, SHORT, Refused, merged, options, whole_node


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["-C gpu", "-A proj_g"], {"constraint": "gpu", "account": "proj_g"}),
        (["-Cgpu", "-Aproj_g"], {"constraint": "gpu", "account": "proj_g"}),
        (["--reservation my_res"], {"reservation": "my_res"}),
        (["#SBATCH --reservation=my_res  # of the course"], {"reservation": "my_res"}),
        (["--constraint gpu&hbm80g"], {"constraint": "gpu&hbm80g"}),
        (["--constraint='[rack1|rack2]'"], {"constraint": "[rack1|rack2]"}),
        (['--mail-user="a b@example.org"'], {"mail-user": "a b@example.org"}),
        (["--gpus-per-node={gpus}"], {"gpus-per-node": "4"}),
        (["-G{gpus}", "--gpu-bind=closest"], {"gpus": "4", "gpu-bind": "closest"}),
        (["--mail-type=END", "--mail-type FAIL"], {"mail-type": "END,FAIL"}),
        (["--exclusive", "--no-requeue"], {"exclusive": True, "no-requeue": True}),
        (["--exclusive=user -p gpu"], {"exclusive": "user", "partition": "gpu"}),
        (["--nice --export=NONE"], {"nice": True, "export": "NONE"}),
        (["-L gpfs@db:2", "--licenses=x"], {"licenses": "gpfs@db:2,x"}),
        (["--partition=gpu", "-p gpu"], {"partition": "gpu"}),
        (["--mem-per-gpu 40G", "--x11"], {"mem-per-gpu": "40G", "x11": None}),
        (["--part=gpu --acco proj", "--license=gpfs"], {"partition": "gpu", "account": "proj", "licenses": "gpfs"}),
        (["-p", "gpu", "--qos", "high"], {"partition": "gpu", "qos": "high"}),
        (["#SBATCH -p gpu\n#SBATCH --qos=high\n"], {"partition": "gpu", "qos": "high"}),
        (["--container-image=nvcr.io#nvidia/vllm:1"], {"container-image": "nvcr.io#nvidia/vllm:1"}),
        (["--bb '#DW jobdw' # don't forget", "##SBATCH --qos=x"], {"bb": "#DW jobdw"}),
        (["--wckey=p123z:python", "--gpu_cmode=shared"], {"wckey": "p123z:python", "gpu_cmode": "shared"}),
        (["-Hkoff", "--stepmgr"], {"hold": None, "no-kill": "off", "stepmgr": None}),
    ],
)
def test_every_form_of_an_option(lines: list[str], expected: dict[str, object]) -> None:
    wanted = {name: True if value is None else value for name, value in expected.items()}
    assert merged(lines, {}, 4) == wanted


@pytest.mark.parametrize(
    ("lines", "slurm", "words"),
    [
        (["--output=x"], {}, ["--output", "attempt's folder"]),
        (["-o x"], {}, ["--output"]),
        (["-t 10"], {}, ["--time", "time_min"]),
        (["--signal=B:USR1@60"], {}, ["--signal"]),
        (["--job-name=mine"], {}, ["--job-name", "launch's name"]),
        (["-M other"], {}, ["--clusters", "slurm: cluster"]),
        (["-p fat"], {"partition": "gpu"}, ["--partition", "partition: gpu"]),
        (["--mem=10G"], {"mem_gb": 20}, ["--mem", "mem_gb: 20"]),
        (["--account=a", "-A b"], {}, ["--account", "twice", "'a'", "'b'"]),
        (["partition=gpu"], {}, ["partition=gpu", "no option"]),
        (["--comment='half"], {}, ["quote"]),
        (["-p"], {}, ["-p", "value"]),
        (["--reservation", "--qos=high"], {}, ["--reservation", "value"]),
        (["--out=x"], {}, ["--output", "attempt's folder"]),
        (["--sig USR1@60"], {}, ["--signal"]),
        (["-a1-3"], {}, ["--array"]),
        (["--tasks-per-node=4"], {}, ["--ntasks-per-node"]),
        (["--gpus-per=4"], {}, ["--gpus-per", "--gpus-per-node", "--gpus-per-task"]),
        (["--gres=gpu:4"], {"gres": "gpu:{gpus}"}, ["--gres", "gres: gpu:{gpus}"]),
        (["-G4"], {"gres": "gpu:{gpus}"}, ["--gpus", "gres: gpu:{gpus}"]),
        (["--mem-per-cpu=2G"], {"mem_gb": 20}, ["--mem-per-cpu", "mem_gb: 20"]),
        (["--requeue", "--no-requeue"], {}, ["--requeue", "--no-requeue"]),
        (["#PBS -l select=1"], {}, ["#PBS", "not for sbatch"]),
    ],
)
def test_what_collides_or_is_no_option_is_refused_by_name(
    lines: list[str], slurm: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(Refused) as caught:
        merged(lines, slurm, 1)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_line_that_repeats_a_key_is_no_collision() -> None:
    assert merged(["--partition=gpu"], {"partition": "gpu"}) == {"partition": "gpu"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_each_of_ours_is_refused_in_its_short_form_too(name: str) -> None:
    forms = [f"--{name}=1", *(f"-{letter} 1" for letter, long in SHORT.items() if long == name)]
    for form in forms:
        with pytest.raises(Refused, match=f"--{name} "):
            merged([form], {})


@pytest.mark.parametrize(
    ("slurm", "whole"),
    [
        ({"exclusive": True}, True),
        ({"sbatch": ["#SBATCH --exclusive"]}, True),
        ({"sbatch": ["--exclusive=user"]}, False),
        ({"sbatch": ["what an old plan has"]}, False),
        ({}, False),
    ],
)
def test_a_node_of_its_own_is_asked_for_by_the_key_or_by_a_line(slurm: dict[str, object], whole: bool) -> None:
    """Then all of its GPUs count against the budget."""
    assert whole_node(slurm) is whole


def test_options_keep_their_order() -> None:
    assert list(options(["-p a -q b", "--hint=nomultithread"])) == [
        ("partition", "a"),
        ("qos", "b"),
        ("hint", "nomultithread"),
    ]
