"""nccl-tests outputs of every generation are read by their own headers, and nothing else is read at all.

The texts here are our own, with numbers made up by the formulas, in the forms that the sources' format strings give.
Real outputs of others lie in tests/golden/nccl.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from servegauge.probes.nccl_tests import NcclOutputError, busbw_factor, parse, parse_json

SAMPLES = Path(__file__).parents[2] / "golden" / "nccl"

DEVICES = """\
# Using devices
#  Rank  0 Group  0 Pid   1001 on     node-a device  0 [0000:1b:00] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid   1002 on     node-b device  1 [0000:43:00] NVIDIA H100 80GB HBM3
"""
NEW = f"""\
# nccl-tests version 2.17.8 nccl-headers=22902 nccl-library=22902
# Collective test starting: all_reduce_perf
# nThread 1 nGpus 1 minBytes 1048576 maxBytes 2097152 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1 \
validation: 1 graph: 0
#
{DEVICES}#
# Reducing maxBytes to 26549638485 due to memory limitation
#
#                                                              out-of-place                       in-place          
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong 
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)         
     1048576        262144     float     sum      -1    50.00   20.97   20.97       0    52.00   20.16   20.16     N/A
     2097152        524288     float     sum      -1    1e+05    0.02    0.02       3    80.00   26.21   26.21       0
# Out of bounds values : 3 FAILED
# Avg bus bandwidth    : 16.84 
#
# Collective test concluded: all_reduce_perf
#
"""  # noqa: W291
OLD = """\
# nThread 1 nGpus 2 minBytes 1048576 maxBytes 1048576 step: 2(factor) warmup iters: 5 iters: 20 validation: 1 
#
# Using devices
#   Rank  0 Pid   1001 on     node-a device  0 [0x1b] Tesla V100-SXM2-32GB
#   Rank  1 Pid   1001 on     node-a device  1 [0x3e] Tesla V100-SXM2-32GB
#
#                                                     out-of-place                       in-place          
#       size         count    type   redop     time   algbw   busbw  error     time   algbw   busbw  error
#        (B)    (elements)                     (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)       
     1048576        262144   float     sum    50.00   20.97   20.97  2e-07    52.00   20.16   20.16    N/A
# Out of bounds values : 0 OK
# Avg bus bandwidth    : 20.565 
#
"""  # noqa: W291
PER_ITERATION = """\
#                                                           out-of-place (+ per-iteration)        in-place (+ per-iteration)
#       size         count      type   redop    root  cputime   algbw   busbw  #wrong    i_min    i_max    i_p99    i_cv%  \
cputime   algbw   busbw  #wrong    i_min    i_max    i_p99    i_cv%           timestamp
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)     (us)     (us)      (%)  \
   (us)  (GB/s)  (GB/s)             (us)     (us)     (us)      (%)   %Y-%m-%d %H:%M:%S
     1048576        262144     float     sum       0    50.00   20.97   20.97       0    49.00    61.00    60.00     4.10  \
  52.00   20.16   20.16       0    50.00    70.00    69.00     5.00   2026-11-21 10:00:00
"""  # noqa: E501


def table(text: str) -> str:
    """`text` as the table of a whole run."""
    head, _, rest = NEW.partition("#                                     ")
    return head + text + "# Out of bounds values" + rest.partition("# Out of bounds values")[2]


def test_a_new_build_by_hand():
    (run,) = parse(NEW)
    assert (run.collective, run.version, run.nccl_version) == ("all_reduce", "2.17.8", "22902")
    assert (run.ranks, len({device.host for device in run.devices}), run.iterations) == (2, 2, 20)
    assert run.settings["warmup_iters"] == 5
    assert run.devices[1].model == "NVIDIA H100 80GB HBM3"
    first, second, third, fourth = run.rows
    assert (first.size_bytes, first.in_place, first.time_us, first.algbw_gb_s) == (1048576, False, 50.0, 20.97)
    assert (first.redop, first.root, first.wrong) == ("sum", None, 0)
    assert (second.in_place, second.wrong, second.busbw_gb_s) == (True, None, 20.16), "N/A is null, not 0"
    assert (third.wrong, third.time_us) == (3, 1e5)
    assert fourth.algbw_gb_s == 26.21
    assert run.out_of_bounds == 3
    assert run.average_busbw_gb_s == 16.84
    assert "Reducing maxBytes to 26549638485 due to memory limitation" in run.notes


def test_an_old_build_has_no_root_and_an_error_instead_of_a_count():
    (run,) = parse(OLD)
    assert (run.collective, run.version, run.ranks) == (None, None, 2)
    out, inside = run.rows
    assert (out.error, out.wrong, out.root) == (2e-07, None, None)
    assert (inside.error, inside.wrong) == (None, None)


def test_per_iteration_columns_timestamps_and_cpu_times():
    (run,) = parse(table(PER_ITERATION))
    out, inside = run.rows
    assert out.cpu_time
    assert (out.time_us, inside.time_us, inside.busbw_gb_s, out.root) == (50.0, 52.0, 20.16, 0)


def test_several_runs_in_one_file_of_different_generations():
    runs = parse(NEW + "\n" + OLD + OLD + NEW.replace("all_reduce_perf", "all_gather_perf"))
    assert [run.collective for run in runs] == ["all_reduce", None, None, "all_gather"]
    assert [len(run.rows) for run in runs] == [4, 2, 2, 4]


def test_nccl_debug_lines_lie_between_and_inside_rows():
    debug = "node-a:1001:1040 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/CUMEM"
    stamped = "[2026-11-21 10:00:00] node-a:1001:1040 [0] transport/net_ib.cc:1234 NCCL WARN NET/IB : slow"
    noisy = NEW.replace("#\n# Using", f"#\n{debug}\nNCCL version 2.29.2+cuda13.0\n# Using")
    noisy = noisy.replace("     2097152 ", f"{stamped}\n     2097152 ")
    noisy = noisy.replace("     sum      -1    50.00", f"     sum      -1  {debug}\n    50.00", 1)
    assert parse(noisy)[0].rows == parse(NEW)[0].rows


def test_a_trace_replay_measures_in_place_only():
    line = "     1048576        262144     float     sum      -1    50.00   20.97   20.97       0"
    blank = "     1048576        262144     float     sum      -1" + " " * 32
    (run,) = parse(NEW.replace(line, blank))
    assert [row.in_place for row in run.rows] == [True, False, True]


@pytest.mark.parametrize(
    ("broken", "line", "reason"),
    [
        (NEW.replace("20.97       0    52.00", "20.97    52.00"), 14, "12 columns where the header has 13"),
        (NEW.replace("26.21   26.21       0", "26.21"), 15, "11 columns where the header has 13"),
        (NEW.replace("   50.00 ", "   fast  "), 14, "time is 'fast', not a number"),
        (NEW.replace("     1048576", "Loading     1048576", 1), 14, "14 columns where the header has 13"),
        (NEW.replace("#  Rank  1", "#  Rank  0"), 7, "build nccl-tests with MPI=1"),
        (NEW.replace("#wrong", "#weird"), 12, "not those of any known version"),
        (NEW.replace("(us)", "(ms)"), 13, "other units than (B) (elements) (us)"),
        (NEW.replace("#  Rank  1", "#  Rank  2"), 7, "rank 2 where rank 1 comes next"),
        (NEW.replace("device  1 [0000:43:00]", "device one"), 7, "device in another form"),
        (NEW.replace("concluded: all_reduce", "concluded: all_gather"), 19, "the end of another test"),
        (NEW.replace(DEVICES, ""), 17, "names no devices"),
        ("", 0, "there is no nccl-tests table"),
        ("hello\n", 1, "neither a comment, a row"),
        ("#      bytes  N  type  op  time  algbw  busbw  res\n", 1, "2017"),
    ],
)
def test_what_is_not_understood_is_refused_with_line_and_reason(broken, line, reason):
    with pytest.raises(NcclOutputError) as caught:
        parse(broken, "out.txt")
    assert f"out.txt, line {line}:" in str(caught.value)
    assert reason in str(caught.value)


def test_a_run_that_failed_says_so_and_the_next_is_read():
    failed = NEW[: NEW.index("     2097152")] + "node-a: Test NCCL failure all_reduce.cu:44 'unhandled cuda error'\n"
    first, second = parse(failed + NEW)
    assert "unhandled cuda error" in first.failure
    assert second.failure is None
    assert len(second.rows) == 4


def document(**changes: object) -> dict[str, object]:
    result = {
        "size": 1048576, "count": 262144, "type": "float", "redop": "none", "root": "    -1",
        "out_of_place": {"time": 50.0, "alg_bw": 20.97, "bus_bw": 10.49, "nwrong": 0.0},
        "out_of_place_per_iter": {"skipped_iterations": 0, "times_us": [49.0, 50.0, 51.0]},
        "in_place": {"time": 52.0, "alg_bw": 20.16, "bus_bw": 10.08, "nwrong": None},
        "actual_iterations": 3, "experiment_name": "all_gather",
    }  # fmt: skip
    return {
        "version": 3, "start_time": "2026-11-21 10:00:00", "args": ["./build/all_gather_perf", "-J", "x"],
        "env": ["HOME=/home/someone", "HF_TOKEN=hf_secret"], "nccl_version": 22902,
        "config": {
            "nthreads": 1, "iterations": 3, "validation": 1,
            "devices": [
                {"rank": 0, "group": 0, "pid": 1, "hostname": "a", "device": 0, "device_hex": "1b", "device_info": "H"}
            ],
        },
        "results": [result],
        "out_of_bounds": {"count": 0, "okay": "true"},
        "average_bus_bandwidth": {"bandwidth": 10.28, "okay": "unchecked"},
        "errors": [""], **changes,
    }  # fmt: skip


def test_json_gives_the_same_rows_and_the_single_iterations_and_no_environment():
    run = parse_json(json.dumps(document()))
    assert parse(json.dumps(document()))[0] == run
    assert (run.collective, run.ranks, run.iterations, run.failure) == ("all_gather", 1, 3, None)
    out, inside = run.rows
    assert out.times_us == (49.0, 50.0, 51.0)
    assert (out.busbw_gb_s, out.redop, out.root, out.wrong) == (10.49, None, None, 0.0)
    assert (inside.wrong, inside.times_us) == (None, ())
    assert "hf_secret" not in repr(run)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (json.dumps(document(version=9)), "version 9 of the format"),
        (json.dumps(document())[:-300], "not JSON"),
        (json.dumps({key: value for key, value in document().items() if key != "results"}), "results is absent"),
        (json.dumps(document(results=[{"size": 1, "out_of_place": {"time": 1}}])), "result 0, out_of_place: KeyError"),
    ],
)
def test_json_that_is_not_understood_is_refused(text, reason):
    with pytest.raises(NcclOutputError, match=reason):
        parse(text)


def test_busbw_factors_by_hand():
    assert busbw_factor("all_reduce", 8) == 1.75
    assert busbw_factor("all_gather", 8) == busbw_factor("reduce_scatter", 8) == busbw_factor("all_to_all", 8) == 0.875
    assert busbw_factor("broadcast", 8) == busbw_factor("send_recv", 8) == 1.0
    assert busbw_factor("all_reduce", 2) == 1.0
    with pytest.raises(ValueError, match="gossip"):
        busbw_factor("gossip", 8)


def test_real_outputs_agree_with_their_own_summaries():
    runs = [run for file in sorted(SAMPLES.glob("*.txt")) for run in parse(file.read_text(), file.name)]
    assert len(runs) == 15
    assert {run.ranks for run in runs} == {4, 8, 10}
    for run in runs:
        assert run.collective
        assert len(run.rows) == 20
        assert run.out_of_bounds == 0
        mean = sum(row.busbw_gb_s for row in run.rows) / len(run.rows)
        assert mean == pytest.approx(run.average_busbw_gb_s, rel=1e-4)
        for row in run.rows:
            assert row.busbw_gb_s / row.algbw_gb_s == pytest.approx(busbw_factor(run.collective, run.ranks), rel=1e-3)
            assert row.size_bytes / row.time_us / 1e3 == pytest.approx(row.algbw_gb_s, rel=1e-3)


# ---------------------------------------------------------------- runs that died

START = """\
# Collective test starting: sendrecv_perf
# nThread 1 nGpus 9 minBytes 8 maxBytes 64 step: 2(factor) iters: 20
#
"""


@pytest.mark.parametrize(
    "said",
    [
        "node1: Test CUDA failure common.cu:1018 'invalid device ordinal'\n .. node1 pid 12: Test failure",
        "node1: Test NCCL failure common.cu:1005 'unhandled system error'",
        "srun: error: node1: task 0: Segmentation fault (core dumped)",
        "[node1:01234] *** Process received signal ***\n[node1:01234] Signal: 11\n/lib/x",
        "slurmstepd: error: *** STEP 7.0 ON node1 CANCELLED AT 2026-11-26T10:00:00 DUE TO TIME LIMIT ***",
        "all_reduce_perf: error while loading shared libraries: libnccl.so.2: cannot open shared object file",
        "mpirun noticed that process rank 0 with PID 0 on node node1 exited on signal 9 (Killed).\n-----------------",
        "Killed",
    ],
)
@pytest.mark.parametrize("after", [START, START + DEVICES])
def test_a_run_that_died_before_its_table_is_a_run_and_the_next_is_another(said, after):
    first, second = parse(after + said + "\n" + NEW)
    assert (first.collective, first.rows, first.failure) == ("sendrecv", [], said.splitlines()[0])
    assert (second.collective, second.failure, len(second.rows), second.ranks) == ("all_reduce", None, 4, 2)
    assert [run.failure for run in parse(NEW + after + said + "\n")] == [None, said.splitlines()[0]]


@pytest.mark.parametrize("beginning", [START.splitlines()[0] + "\n", START, START + DEVICES])
def test_a_run_that_ended_without_a_word_is_a_run_too(beginning):
    first, second = parse(beginning + NEW)
    assert (first.collective, first.failure, first.rows) == ("sendrecv", "it ended before its table", [])
    assert second == parse("\n" * beginning.count("\n") + NEW)[0]
    assert [run.failure for run in parse(NEW + beginning)] == [None, "it ended before its table"]


def test_an_old_build_that_died_is_told_from_the_next_by_its_settings():
    settings = OLD.splitlines()[0] + "\n"
    first, second = parse(settings + "node-a: Test CUDA failure common.cu:1 'x'\n" + OLD)
    assert (first.failure is None, second.failure, len(second.rows)) == (False, None, 2)


def test_a_row_that_was_never_ended_belongs_to_the_run_that_died():
    cut = NEW[: NEW.index("     2097152")] + "     2097152        524288     float  node-a:1:2 [0] NCCL INFO x\n"
    first, second = parse(cut + "node-a: Test NCCL failure all_reduce.cu:44 'x'\n" + NEW)
    assert (len(first.rows), len(second.rows)) == (2, 4)


def test_json_of_a_run_that_died_says_why():
    run = parse_json(
        json.dumps({"version": 3, "args": ["./all_gather_perf"], "errors": ["", "invalid device ordinal"]})
    )
    assert (run.collective, run.failure, run.rows) == ("all_gather", "invalid device ordinal", [])


# ---------------------------------------------------------------- AMD's rccl-tests, as published outputs have it


def rccl(settings, device):
    devices = "".join(
        f"#   Rank  {rank} Pid   1001 on node-a device  {rank} [{device}] AMD Instinct MI300X\n" for rank in (0, 1)
    )
    table = OLD[OLD.index("#                                                     out-of-place") :]
    return f"{settings}\n#\nrccl-tests: Version develop:33cc4df\n# Using devices\n{devices}{RCCL_LINES}#\n{table}"


RCCL_LINES = """\
RCCL version : 2.27.7-develop:29e1567
HIP version  : 7.0.51831-a3e329ad8
ROCm version : 7.0.1.0-42-9428210
Hostname     : node-a.example
"""


@pytest.mark.parametrize(
    ("settings", "device"),
    [
        (
            "# nThread 1 nGpus 2 minBytes 8 maxBytes 134217728 step: 2(factor) warmup iters: 5 iters: 20 agg iters: 1 "
            "validation: 1 graph: 0",
            "0000:07:00",
        ),
        (
            "# nThread: 1 nGpus: 2 minBytes: 8 maxBytes: 134217728 step: 2(factor) warmupIters: 5 "
            "iters: 20 validation: 1",
            "0000:c9:00.0",
        ),
        (
            "# nThreads: 1 nGpus: 2 nRanks: 1 minBytes: 8 maxBytes: 134217728 step: 2(factor) warmupIters: 5 iters: 20 "
            "validation: 1 ",
            "0000:83:00.0",
        ),
    ],
)  # fmt: skip
def test_rccl_tests_of_three_generations(settings, device):
    (run,) = parse(rccl(settings, device))
    assert (run.ranks, run.iterations, run.settings["warmup_iters"], run.settings["max_bytes"]) == (2, 20, 5, 134217728)
    assert (run.version, run.nccl_version, run.failure) == ("develop:33cc4df", "2.27.7-develop:29e1567", None)
    assert (run.devices[1].pci, run.devices[1].model) == (device, "AMD Instinct MI300X")
    assert [row.busbw_gb_s for row in run.rows] == [20.97, 20.16]
