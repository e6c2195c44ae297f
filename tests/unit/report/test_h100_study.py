"""The numbers of a real A/A study on an H100, and of what its machine and its server said, one by one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base.progress import seconds_of
from servegauge.compare.compare import compare
from servegauge.contract import energy
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.frameworks import framework
from servegauge.inputs.model_shape import from_config
from servegauge.launch.recorders.scrape import snapshot
from servegauge.node import expectations
from servegauge.report import roofline
from tests.unit import made_up_nodes as nodes

SAMPLES = Path(__file__).parents[2] / "samples"
# Qwen3-8B's shape with a vocabulary of 32,000
SHAPE = {
    "model_type": "qwen3", "num_hidden_layers": 36, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 12288, "vocab_size": 32_000,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
# statistic -> gpu-b / gpu-a at a rate of 4, at 1 and at 16 streams; by design each should be 1
RATIOS = {
    "ttft_p50": (0.81, 0.98, 1.15),
    "tpot_p50": (0.986, 1.004, 0.888),
    "e2e_p50": (0.987, 1.003, 0.876),
}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    shutil.copytree(SAMPLES / "gpu-h100-aa/dataset", tmp_path / "dataset")
    return Study(tmp_path, "gpu-vllm")


def test_three_servers_in_their_order_and_their_starts(study: Study) -> None:
    attempts = merge.read(study.results, "attempts").to_pylist()
    attempts.sort(key=lambda row: row["started_utc"])
    assert [(row["launch"].split("-")[6], row["attempt"], round(row["startup_s"], 1)) for row in attempts] == [
        ("b", 0, 59.9), ("a", 0, 25.4), ("a", 1, 24.2),
    ]  # fmt: skip
    sixteen = [row for row in study.ok if row["concurrency"] == 16]
    begins = [seconds_of(row["started_utc"]) or 0.0 for row in sixteen]
    assert [row["attempt"] for row in sixteen] == [1, 0]
    assert (begins[0] - begins[1]) / 60 == pytest.approx(3.5, abs=0.3), "the pair at 16 streams lies apart"


def test_the_ratios_are_those_that_were_seen_and_none_is_a_verdict(study: Study) -> None:
    comparison = compare(study)
    assert comparison is not None
    for name, wanted in RATIOS.items():
        found = {comparison.label(one.condition): one for one in comparison.of(name)}
        ratios = [found[condition].ratio for condition in ("rate 4/s", "concurrency 1", "concurrency 16")]
        assert ratios == pytest.approx(wanted, abs=0.005), name
    assert {one.verdict for one in comparison.ratios} == {"not judged"}
    assert {(one.low, one.high) for one in comparison.ratios} == {(None, None)}, "one launch a side has no interval"


def test_texts_are_equal_in_all_54_pairs(study: Study) -> None:
    texts: dict[str, dict[tuple, str]] = {"gpu-a": {}, "gpu-b": {}}
    for row in study.ok:
        path = study.results / "dataset" / "requests" / f"{row['launch']}.parquet"
        rows = pq.read_table(path, filters=[("cell", "=", row["cell"])]).to_pylist()
        for one in rows:
            if one["phase"] == "window":
                texts[row["platform"]][row["rate_rps"], row["concurrency"], one["request"]] = one["text_sha256"]
    both = texts["gpu-a"].keys() & texts["gpu-b"].keys()
    assert len(both) == len(texts["gpu-a"]) == len(texts["gpu-b"]) == 54
    assert all(texts["gpu-a"][key] == texts["gpu-b"][key] for key in both)


def test_a_decode_step_uses_a_fifth_of_the_memorys_bandwidth(study: Study) -> None:
    shape = from_config(SHAPE)
    assert shape.parameters / 1e9 == pytest.approx(7.21, abs=0.005)
    assert 2 * shape.parameters / 1e9 == pytest.approx(14.4, abs=0.05)
    read = roofline.decode(shape, batch=1, context=0).bytes
    assert read / 1e9 == pytest.approx(14.15, abs=0.015), "all but the input embedding"
    bound_s = read / 3.35e12
    assert bound_s * 1e3 == pytest.approx(4.2, abs=0.05)
    alone = [row["tpot_p50_s"] for row in study.ok if row["concurrency"] == 1]
    assert [round(tpot * 1e3, 1) for tpot in alone] == [20.9, 21.0]
    assert bound_s / alone[0] == pytest.approx(0.20, abs=0.005)


def test_what_was_recorded_of_the_gpu(study: Study) -> None:
    seen = {(row["platform"], row["concurrency"]): study.activity(row) for row in study.ok}
    used = [one["gpu_utilisation_mean"] or 0 for one in seen.values()]
    assert all(0.32 < share < 0.49 for share in used), "the server waits for its CPU"
    capped = {side: seen[side, 16]["gpu_power_capped_share"] for side in ("gpu-a", "gpu-b")}
    assert capped == {"gpu-a": pytest.approx(0.17, abs=0.005), "gpu-b": pytest.approx(0.2, abs=0.005)}
    joules = {}
    for row in study.ok:
        path = study.results / "dataset" / "gpu" / f"{row['launch']}.parquet"
        found = energy.used(pq.read_table(path, filters=[("cell", "=", row["cell"])]), ["0"], row["window_s"])
        tokens = row["output_tokens_per_s"] * row["window_s"]
        joules[row["platform"], row["concurrency"]] = found and (found.source, found.joules / tokens)
    assert joules["gpu-b", 1] == ("power", pytest.approx(4.2, abs=0.05))
    assert joules["gpu-a", 16] == ("power", pytest.approx(0.35, abs=0.01))
    assert joules["gpu-b", 16] == ("power", pytest.approx(0.32, abs=0.01))
    assert joules["gpu-a", 1] is None, "its samples leave out a part of the window: no number instead of 4.8"


def test_its_metrics_page_counts_six_requests_and_four_of_warm_up() -> None:
    """Of the server that was traced by torch, after the window."""
    text = (SAMPLES / "gpu-h100-aa/vllm_metrics.txt").read_text()
    page = snapshot(text, framework("vllm").metrics)
    assert (page["requests_finished"], page["requests_running"], page["requests_waiting"]) == (10, 0, 0)
    assert (page["prompt_tokens"], page["output_tokens"]) == (6 * 256 + 4 * 128, 6 * 12 + 4 * 16)
    assert page["preemptions"] == 0


def test_the_facts_of_the_machine(tmp_path: Path) -> None:
    """nvidia-smi's own answers from another machine of the same kind; the rest of the node is made up."""
    system = nodes.virtual_machine(tmp_path)
    clock = "/sys/devices/system/clocksource/clocksource0"
    nodes.write(system, {f"{clock}/available_clocksource": "tsc kvm-clock ", f"{clock}/current_clocksource": "tsc"})
    folder = SAMPLES / "gpu-h100-machine"
    answers = nodes.answers(
        query=(folder / "nvidia-smi-q-x.xml").read_text(),
        topology=(folder / "nvidia-smi-topo-m.txt").read_text(),
        listed="GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-00000000-0000-0000-0000-000000000000)\n",
    )
    found = {name: one["value"] for name, one in expectations.facts(system=system, run=answers).items()}
    wanted = {
        "gpu_count": 1, "gpu_model": "NVIDIA H100 80GB HBM3", "gpu_memory_mib": 81559, "gpu_driver": "580.159.04",
        "gpu_cuda": "13.0", "gpu_ecc": True, "gpu_mig": False, "gpu_power_limit_w": 700.0, "gpu_clock_max_mhz": 1980,
        "gpu_pcie_generation": 5, "gpu_pcie_width": 16, "gpu_persistence": True, "gpu_compute_mode": "Default",
        "gpu_virtualization": "passthrough", "gpu_vgpu_profile": None, "machine": "vm", "hypervisor": "kvm",
        "gpu_cpu_affinity": {"GPU0": "0-15"}, "gpu_numa": {"GPU0": "0"}, "cpu_mhz": None,
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
