"""Outputs of nccl-tests as launchers keep them: labels and warnings between the lines, ends that are none."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from servegauge.probes.harness.base import Context
from servegauge.probes.nccl_tests import NcclOutputError, parse, parse_json
from servegauge.probes.suite.collectives import run_binary
from tests.unit.probes.test_nccl_tests import NEW, OLD, document

NOISE = """\
Warning: Permanently added 'node-b,10.0.0.2' (ED25519) to the list of known hosts.
+ mpirun -np 2 -N 1 ./all_reduce_perf -b 1M -e 2M -f 2 -g 1 -n 20 -w 5
srun: job 4711 queued and waiting for resources
"""


@pytest.mark.parametrize(
    "label",
    ["0: ", " 0: ", "[1,0]<stdout>:", "[1,0]<stdout>: ", "[prterun-node-a-4711@1,0]<stdout>:", "node-a.example 0: ",
     "(head, rank=0, pid=3808) [1,0]<stdout>:", "[pod/nccl-worker-0/nccl] ", "2026-11-21T10:00:00.123Z ", "> ", "    "],
)  # fmt: skip
def test_labels_that_launchers_put_before_each_line(label):
    def labelled(text, rank="0"):
        return "".join(f"{label.replace('0', rank)}{line}\n" for line in text.splitlines())

    other = labelled("node-b:1002:1041 [0] NCCL INFO comm 0x5 rank 1 nranks 2 cudaDev 0 - Init COMPLETE", "1")
    first, _, rest = labelled(NEW).partition("\n")
    assert parse(f"{NOISE}{first}\n{other}{rest}") == [replace(parse(NEW)[0], line=4)]


@pytest.mark.parametrize("host", ["node-a", "3767c65d25c4", "10"])
@pytest.mark.parametrize("space", ["", "  "])
def test_a_row_that_a_line_of_nccl_debug_cuts_in_two(host, space):
    text = NEW.replace("node-a", host)
    debug = f"{host}:1001:1040 [0] NCCL INFO Connected all rings"
    cut = text.replace("     sum      -1    50.00", f"     sum      -1{space}{debug}\n{debug}\n    50.00", 1)
    assert parse(cut)[0].rows == parse(NEW)[0].rows


def test_lines_of_others_are_notes_wherever_they_stand():
    warning = "[node-a:01234] 7 more processes have sent help message help-mpi-btl.txt / error in device init"
    noisy = NOISE + NEW.replace("     2097152", f"{warning}\nLoading module\n     2097152", 1) + "3 network timeouts\n"
    (run,) = parse(noisy)
    assert (run.rows, run.failure) == (parse(NEW)[0].rows, None)
    assert {warning, "Loading module", "3 network timeouts"} <= set(run.notes)


@pytest.mark.parametrize(
    ("end", "rows"),
    [("# Out of", 4), ("     2097152", 2), ("  0.02    0.02", 2), ("#\n#          ", 0)],
)
def test_a_run_that_was_cut_off_keeps_its_rows_and_the_next_is_another(end, rows):
    cut = NEW[: NEW.index(end)]
    for text, at in ((cut + "\n" + NEW, 0), (NEW + cut, 1)):
        runs = parse(text)
        assert [(len(run.rows), run.failure is None) for run in runs] == (
            [(rows, False), (4, True)] if at == 0 else [(4, True), (rows, False)]
        )


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("all_gather_perf: error while loading shared libraries: libnccl.so.2: cannot open shared object file", False),
        ("srun: error: Unable to create step for job 4711: More processors requested than permitted", False),
        ("node-a: Test NCCL failure common.cu:1050 'unhandled system error'", True),
    ],
)
def test_a_failure_after_the_end_of_a_run_is_not_that_runs(text, own):
    for good in (OLD, NEW):
        runs = parse(f"{good}{text}\n{NEW}")
        expected = (
            [(2, text), (4, None)] if own and good == OLD else [(len(parse(good)[0].rows), None), (0, text), (4, None)]
        )
        assert [(len(run.rows), run.failure) for run in runs] == expected


def test_a_run_of_no_rows_has_no_average():
    (run,) = parse(NEW.replace("16.84", "-nan"))
    assert (run.average_busbw_gb_s, run.failure) == (None, None)


def test_a_table_of_in_place_alone_and_names_that_packages_give():
    head, _, _ = NEW.partition("#                                     ")
    text = head.replace("all_reduce_perf", "all_reduce_perf_mpi") + (
        "#                                                    in-place\n"
        "#       size         count      type   redop    root     time   algbw   busbw #wrong\n"
        "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)\n"
        "     1048576        262144  fp8_e4m3     sum      -1    50.00   20.97   20.97    N/A\n"
        "# Out of bounds values : 0 OK\n# Avg bus bandwidth    : 20.97\n#\n"
    )
    (run,) = parse(text)
    assert (run.collective, [(row.in_place, row.busbw_gb_s, row.wrong) for row in run.rows]) == (
        "all_reduce", [(True, 20.97, None)]
    )  # fmt: skip
    with pytest.raises(NcclOutputError, match="not those of any known version"):
        parse(text.replace("   in-place", "   somewhere"))


def test_json_of_a_run_that_was_cut_off_keeps_its_rows():
    cut = {key: value for key, value in document().items() if key != "average_bus_bandwidth"}
    run = parse_json(json.dumps(cut))
    assert (len(run.rows), run.average_busbw_gb_s) == (2, None)
    assert run.failure == "average_bus_bandwidth is absent: the test did not come to its end"


def test_of_a_binary_that_is_killed_while_it_writes_json_the_printed_rows_are_kept(tmp_path):
    (tmp_path / "out").write_text(NEW[: NEW.index("     2097152")])
    binary = tmp_path / "all_reduce_perf"
    binary.write_text(
        "#!/bin/sh\n[ $1 = -h ] && echo '-I -J' && exit\n"
        f"for file; do :; done; echo '{{\"version\": 3, ' > $file; cat {tmp_path}/out; kill -9 $$\n"
    )
    binary.chmod(0o755)
    run, detail = run_binary(Context({"name": "g"}, size="test", verbatim=tmp_path), binary, 2)
    assert ([row.time_us for row in run.rows], detail["samples_are"]) == ([50.0, 52.0], "means")
    assert "it was cut off" in run.failure
