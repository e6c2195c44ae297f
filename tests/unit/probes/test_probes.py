"""Statistics, rows and the running of probes: what must hold whatever a machine's numbers are."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from servegauge import probes
from servegauge.base.errors import UserError
from servegauge.base.files import read_json
from servegauge.contract import tables
from servegauge.inputs.models import source_folder
from servegauge.probes.harness import numeric, stats
from servegauge.probes.harness import run as runner
from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, Wrong, run
from servegauge.probes.harness.conditions import Conditions
from servegauge.probes.harness.stats import Effort
from servegauge.probes.suite import memcpy, storage
from servegauge.submit import probe_order

PLATFORM = {"name": "here"}


def test_median_ranks_keep_the_confidence_and_no_narrower_pair_does():
    for n in range(1, 200):
        ranks = stats.median_ranks(n)
        below = [math.comb(n, k) / 2**n for k in range(n + 1)]
        if ranks is None:
            assert n < stats.FEWEST_FOR_INTERVAL
            continue
        low, high = ranks
        assert high == n - 1 - low
        assert 1 - 2 * sum(below[: low + 1]) >= 0.95
        assert 1 - 2 * sum(below[: low + 2]) < 0.95 or low + 1 > n // 2 - 1


def test_median_interval_by_hand():
    # For ten samples the pair is the 2nd and the 9th: 1 - 2 (1 + 10) / 1024 = 0.979, the next pair has 0.891.
    assert stats.median_interval([9, 1, 8, 2, 7, 3, 6, 4, 5, 10]) == (5.5, 2, 9)
    assert stats.median_interval([3.0, 1.0, 2.0]) == (2.0, None, None)


def test_the_interval_covers_the_true_median_about_as_often_as_it_says():
    random = np.random.default_rng(5)
    covered = 0
    for _ in range(2000):
        _, low, high = stats.median_interval(random.exponential(size=25).tolist())
        covered += low <= math.log(2) <= high
    assert 0.95 <= covered / 2000 <= 0.985  # 25 samples: exactly 0.957


def test_repeat_stops_when_narrow_and_goes_on_when_not():
    steady = stats.repeat(lambda: 1.0, Effort(time_limit_s=5))
    assert len(steady) == Effort.fewest
    values = iter(float(i % 2 + 1) for i in range(10_000))
    noisy = stats.repeat(lambda: next(values), Effort(time_limit_s=5, most=120))
    assert len(noisy) == 120


def test_repeat_is_ended_by_its_time_limit():
    clock = threading.Event()
    samples = stats.repeat(lambda: float(clock.wait(0.01)) + len(str(id(clock))), Effort(0.0, 0.05, fewest=10))
    assert stats.FEWEST_FOR_RATIO <= len(samples) < 40


class Odd(Probe):
    """A probe whose cases go every way a case can go."""

    name, title, measures, units = "odd", "Odd", "nothing", {"m": "u"}

    def cases(self, context):
        def fail(error):
            raise error

        yield Case({"operation": "a"}, "m", lambda: Measured("m", [1.0] * 7, {"why": 1}, True))
        yield Case({"operation": "b"}, "m", lambda: fail(Skip("no fp8")))
        yield Case({"operation": "c"}, "m", lambda: fail(Wrong("off by 3")))
        yield Case({"operation": "d"}, "m", lambda: fail(MemoryError("all gone")))
        raise Skip("the rest needs a second CPU")


def test_every_way_a_case_can_end_is_a_row():
    rows = list(run(Odd(), Context(PLATFORM)))
    assert [row.status for row in rows] == ["ok", "skipped", "failed", "failed", "skipped"]
    assert rows[0].value == 1.0
    assert rows[0].detail["verified"] is True
    assert rows[0].detail["reached"] is True
    for row in rows[1:]:
        assert row.value is None
        assert row.low is None
        assert row.high is None
        assert list(row.samples) == []
    assert [row.reason for row in rows[1:]] == [
        "no fp8", "off by 3", "MemoryError: all gone", "the rest needs a second CPU",
    ]  # fmt: skip


def test_cases_after_the_time_limit_are_skipped_with_the_reason():
    rows = list(run(Odd(), Context(PLATFORM, time_limit_s=0.0)))
    assert {row.status for row in rows} == {"skipped"}
    assert "time limit of 0 s" in rows[0].reason


def test_a_variant_key_of_ones_own_is_refused():
    class Wordy(Odd):
        def cases(self, context):
            yield Case({"colour": "red"}, "m", lambda: Measured("m", [1.0]))

    with pytest.raises(ValueError, match="colour"):
        list(run(Wordy(), Context(PLATFORM)))


def test_the_registry_finds_each_file_and_names_the_nearest():
    assert {"dispatch", "gemm", "memcpy", "network", "storage"} <= set(probes.registry())
    with pytest.raises(UserError, match=r"no probe is called 'gem'.*dispatch, gemm.*Did you mean 'gemm'"):
        probes.get("gem")


@pytest.mark.parametrize("k", [64, 1024, 8192])
def test_check_accepts_fp32_and_refuses_a_lower_precision_under_its_name(k):
    random = np.random.default_rng(1)
    left, right = random.standard_normal((16, k)), random.standard_normal((k, 64))
    left, right = left.astype(np.float32).astype(float), right.astype(np.float32).astype(float)
    good = (left.astype(np.float32) @ right.astype(np.float32)).astype(float)
    assert numeric.check(good, left, right, "fp32") < 0.5

    def tf32(array):  # ten bits of mantissa, as a GPU's default would keep
        return (array.astype(np.float32).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32).astype(float)

    with pytest.raises(Wrong, match="fp32 product is off by"):
        numeric.check(tf32(left) @ tf32(right), left, right, "fp32")
    swapped = good.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    with pytest.raises(Wrong):
        numeric.check(swapped, left, right, "fp32")
    with pytest.raises(Wrong, match="NaN"):
        numeric.check(good * np.nan, left, right, "fp32")


def test_a_wrong_product_becomes_a_failed_row(monkeypatch):
    monkeypatch.setattr(numeric.NumpyBackend, "matmul", lambda self, left, right, dtype: left @ right * 1.001)
    monkeypatch.setattr(numeric, "has_torch", lambda: False)
    rows = list(run(probes.get("gemm"), Context(PLATFORM, size="test")))
    products = [row for row in rows if "shape" in row.variant]
    assert products
    assert {row.status for row in products} == {"failed"}
    assert "off by" in rows[0].reason
    peaks = [row for row in rows if "shape" not in row.variant]
    assert {(row.status, row.value) for row in peaks} == {("skipped", None)}
    assert "0 of 2 sizes could be measured" in peaks[0].reason


def test_sets_of_inputs_outgrow_the_cache():
    assert numeric.sets_needed(1 << 20, 32 << 20) == 64
    assert numeric.sets_needed(1 << 30, 32 << 20) == 2


def test_a_copy_that_leaves_the_target_alone_is_wrong(monkeypatch):
    monkeypatch.setitem(memcpy.OPERATIONS, "copy", (lambda source, target: None, 2))
    with pytest.raises(Wrong, match="copy left other values"):
        memcpy.Memcpy._bandwidth("copy", 1 << 14, 1, stats.QUICK)


def test_bytes_are_counted_as_stream_does(monkeypatch):
    monkeypatch.setattr(memcpy, "_spin", lambda call, source, target, inner: call(source, target) or 1e-3)
    copied = memcpy.Memcpy._bandwidth("copy", 1 << 20, 1, stats.QUICK)
    written = memcpy.Memcpy._bandwidth("write", 1 << 20, 1, stats.QUICK)
    assert statistics.median(copied.samples) == pytest.approx(2 * 2**20 / 1e-3 / 1e9)
    assert statistics.median(written.samples) == pytest.approx(2**20 / 1e-3 / 1e9)


def test_residency_tells_cold_from_warm(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"x" * (1 << 20))
    with file.open("rb") as handle:
        handle.read()
        assert storage.resident(handle.fileno(), 1 << 20) == 1.0


def test_a_file_that_stays_in_memory_is_skipped_not_called_cold(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "resident", lambda handle, size: 0.98)
    (tmp_path / "model.safetensors").write_bytes(b"x" * (1 << 20))
    context = Context(PLATFORM, size="test", models=[{"name": "tiny", "source": str(tmp_path)}])
    cold, warm = run(probes.get("storage"), context)
    assert (cold.status, warm.status) == ("skipped", "ok")
    assert "98% of model.safetensors stays in memory" in cold.reason
    assert warm.variant["model"] == "tiny"


SMI = """#!/bin/sh
case "$*" in
*clocks_event_reasons*) echo 'Field "clocks_event_reasons.active" is not a valid field to query.'; exit 2;;
esac
while :; do
echo "0, GPU-a, 1980, 2619, 310.5, 41, 50, 100, 0x0000000000000004"
echo "0, GPU-a, 1755, 2619, 690.1, 55, 50, 100, 0x0000000000000000"
echo "1, GPU-b, [N/A], 2619, [N/A], 40, 50, 100, [N/A]"
echo "Failed to initialize NVML"
case "$*" in *loop-ms*) sleep 0.05;; *) exit;; esac
done
"""


def test_gpu_conditions_are_those_of_the_looped_nvidia_smi(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with Conditions(interval_s=0.2) as conditions:
        time.sleep(0.5)
    found = conditions.summary()
    first, second = found["gpus"]
    assert found["gpu_reason"] is None
    assert {key: first["sm_clock_mhz"][key] for key in ("min", "max")} == {"min": 1755.0, "max": 1980.0}
    assert first["throttle_reasons"] == ["", "sw_power_cap"]
    assert second["power_w"] is None
    assert second["throttle_reasons"] == []


def test_without_nvidia_smi_the_conditions_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with Conditions(interval_s=0.01) as conditions:
        pass
    found = conditions.summary()
    assert (found["gpus"], found["gpu_reason"]) == ([], "no nvidia-smi on this node")


def test_documents_are_written_and_become_rows_of_the_dataset(tmp_path):
    facts = {"kernel": {"value": "6.1", "source": "uname", "reason": None}, "gpu": {"value": None, "reason": "none"}}
    written = runner.run_platform(PLATFORM, ["dispatch"], tmp_path, size="test", facts=facts)
    document = read_json(written["dispatch"])
    assert list(tmp_path.iterdir()) == [tmp_path / "dispatch.json"]
    assert document["platform"] == "here"
    assert document["software"]["numpy"] == np.__version__
    assert document["conditions"]["seconds"] > 0
    rows = runner.dataset_rows(document, "results/probes/here/dispatch.json")
    calls = {json.loads(row["variant"])["operation"]: row for row in rows}
    assert calls["system call"]["value"] > calls["python call"]["value"] > 0
    assert calls["kernel launch"]["value"] is None
    assert calls["kernel launch"]["reason"]
    assert json.loads(rows[0]["conditions"])["seconds"] > 0
    assert json.loads(rows[0]["node"]) == {"kernel": "6.1"}
    assert tables.from_rows(rows, tables.PROBES).num_rows == len(rows)


def test_each_of_several_processes_is_a_row_of_its_own(tmp_path):
    written = runner.run_platform(PLATFORM, ["dispatch", "memcpy"], tmp_path, size="test", facts={}, processes=2)
    documents = {name: read_json(path) for name, path in written.items()}
    rows = [row for document in documents.values() for row in runner.dataset_rows(document)]
    told = [(row["probe"], row["variant"], row["metric"]) for row in rows]
    assert {told.count(one) for one in told} == {2}
    assert {row["process"] for row in rows} == {0, 1}
    starts = {(row["process"], row["probe"]): row["started_utc"] for row in rows}
    order = sorted(starts, key=lambda one: starts[one])
    assert [process for process, _ in order] == [0, 0, 1, 1], "all probes once, then all of them again"
    assert tables.from_rows(rows, tables.PROBES).num_rows == len(rows)


def test_a_process_that_dies_is_a_failed_row_with_what_it_said(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'terminate called: out of memory' >&2\nexit 134\n")
    python.chmod(0o755)
    written = runner.run_platform(PLATFORM, ["gemm"], tmp_path / "out", size="test", facts={}, python=str(python))
    (row,) = read_json(written["gemm"])["rows"]
    assert row["status"] == "failed"
    assert "status 134: terminate called: out of memory" in row["reason"]


def test_cpus_that_are_not_there_are_a_skipped_row(tmp_path):
    platform = {"name": "far", "placement": {"server_cpus": [4000], "load_cpus": [4001]}}
    written = runner.run_platform(platform, ["memcpy"], tmp_path, size="test", facts={})
    (row,) = read_json(written["memcpy"])["rows"]
    assert row["status"] == "skipped"
    assert "CPUs [4000]" in row["reason"]


def test_a_node_that_is_not_the_platform_is_refused_before_measuring(tmp_path):
    platform = {"name": "other", "expect": {"cpu_count": 4096}}
    with pytest.raises(UserError, match=r"not platform 'other'.*\n.*cpu_count"):
        runner.run_platform(platform, ["dispatch"], tmp_path / "out", size="test")
    assert not (tmp_path / "out").exists()


def test_names_asked_for():
    assert "gemm" in runner.names("light", sys.executable)
    assert runner.names("memcpy, gemm", sys.executable) == ["memcpy", "gemm"]
    assert all(probes.get(name).needs == "numpy" for name in runner.names("light", sys.executable))


def test_the_registry_needs_numpy_alone():
    """A probe runs in an environment that has neither the driver's packages nor, maybe, torch."""
    code = (
        "import sys; from servegauge.probes import registry; from servegauge.probes.harness import run; registry();"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for package in ("pyarrow", "pandas", "submitit", "yaml", "jsonschema", "torch", "psutil"):
        assert f"'{package}'" not in loaded


def test_probes_are_a_job_like_a_launch(tmp_path, monkeypatch):
    monkeypatch.setenv("SERVEGAUGE_MACHINE_LOCK", str(tmp_path / "machine.lock"))
    platform = {"name": "here", "gpus_per_node": 4}
    wide = probe_order.make_order(platform, "memcpy", tmp_path / "out", tmp_path, size="quick", nodes=2)
    assert wide.layout.instances == 8, "two nodes of four GPUs"
    hub = {"name": "m", "hub": True, "source": "owner/m", "revision": "0" * 40, "tp": [2]}
    models = [{"name": "tiny", "source": "models/tiny"}, hub]
    order = probe_order.make_order(platform, "memcpy", tmp_path / "out", tmp_path, size="quick", models=models)
    assert order.asked["probes"]["models"][0] == models[0]
    assert order.asked["probes"]["models"][1] == hub | {"source": str(source_folder(hub))}, "where it is fetched to"
    assert order.attempt == 0
    written = probe_order.submit(order, "inline", poll_s=0.2)
    assert written == [tmp_path / "out" / "memcpy.json"]
    assert probe_order.make_order(platform, "memcpy", tmp_path / "out", tmp_path).attempt == 1


def test_a_probe_that_does_not_exist_is_said_before_anything_is_submitted(tmp_path):
    with pytest.raises(UserError, match="Did you mean 'gemm'"):
        probe_order.make_order(PLATFORM, "memcpy,gem", tmp_path / "out", tmp_path)


def test_a_job_of_probes_on_another_machine_is_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("SERVEGAUGE_MACHINE_LOCK", str(tmp_path / "machine.lock"))
    platform = {"name": "other", "expect": {"cpu_count": 4096}}
    order = probe_order.make_order(platform, "memcpy", tmp_path / "out", tmp_path, size="quick")
    with pytest.raises(UserError, match=r"(?s)the probes of other did not run.*cpu_count"):
        probe_order.submit(order, "inline", poll_s=0.2)
    assert not (tmp_path / "out").exists()


def test_light_probes_do_not_depend_on_what_is_built():
    cpu, gpu = {"name": "c"}, {"name": "g", "gpus_per_node": 1}
    assert not runner.needs_environment("light", gpu)
    assert not runner.needs_environment("gemm,memcpy", cpu)
    assert runner.needs_environment("gemm, collectives", cpu)
    assert runner.needs_environment("gemm,memcpy", gpu), "a GPU's products need torch"
    assert runner.needs_environment("all", cpu)
    assert (runner.environment(cpu), runner.environment(gpu)) == ("probes", "probes-cuda")
