"""Adding one is one file: a made-up one of each kind is found in all places where the real ones are."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> dict[str, Any]:
    """What `made_up_run` made."""
    folder = tmp_path_factory.mktemp("made-up")
    words = [sys.executable, "-m", "tests.contract.made_up_run", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "seen.json").read_text(encoding="utf-8"))


def test_a_metric_is_in_the_schemas(seen) -> None:
    assert "made_up_byte_s" in seen["tables"]["requests"]
    assert {"made_up_byte_p99_high_s", "made_up_byte_mean_s", "made_up_reuse"} <= set(seen["tables"]["cells"])
    assert "made_up_byte_s" in seen["slo_limits"]


def test_a_metric_is_documented(seen) -> None:
    assert "| `made_up_byte_s` (per request) | made-up: first byte - sent | s | less |" in seen["data_dictionary"]
    assert "| `made_up_reuse` (per cell) |" in seen["data_dictionary"]


def test_a_metric_is_computed(seen) -> None:
    assert len(seen["cells"]) > 10
    for row in seen["cells"]:
        assert 0 < row["made_up_byte_p50_low_s"] < row["made_up_byte_p50_s"] < row["ttft_p50_s"]
        assert row["made_up_reuse"] == row["requests_ok"]


def test_a_metric_is_compared_and_shown(seen) -> None:
    assert {"made_up_byte_p50", "made_up_reuse"} <= set(seen["compared"])
    assert ",made_up_byte_p50,s," in seen["comparison.csv"]
    assert ",made_up_reuse,requests," in seen["comparison.csv"]
    for name in ("Made-up byte p50", "Made-up reuse"):
        assert name in seen["page"]
        assert f'<th class="n">{name}</th>' in seen["page"], "in the table of cells"
        assert name in seen["terminal"]
    assert "made_up_byte, ms" in seen["load"]
    assert "Made-up reuse" in seen["load"]


def test_a_flag_is_a_threshold_of_a_study_and_documented(seen) -> None:
    assert "made_up_count" in seen["thresholds"]
    assert "| `made_up_count` | 3 | [`made_up_flag`](#made_up_flag) | made-up: requests" in seen["flags_page"]
    assert "## made_up_flag" in seen["flags_page"]


def test_a_flag_is_raised_and_shown(seen) -> None:
    assert sum("made_up_flag" in row["flags"] for row in seen["cells"]) == len(seen["cells"]) - 1
    assert "Made-up: there were requests." in seen["page"]
    assert "made-up: there are requests" in seen["page"]
    assert "made_up_flag" in seen["terminal"]
    assert "made_up_flag" in seen["load"]


def test_a_recorders_table_is_in_the_dataset_and_documented(seen) -> None:
    assert seen["tables"]["made_up_moments"] == ["cell", "launch", "t_ns"]
    assert sum(path.startswith("dataset/made_up_moments/") for path in seen["parts"]) == 4
    assert "## made_up_moments\n\nMade-up: moments. Stored in one part per launch." in seen["data_dictionary"]
    assert "made-up: a moment, on the clock of the requests" in seen["data_dictionary"]


def test_a_backend_is_offered_and_takes_a_job_to_its_node(seen) -> None:
    assert "made-up-here" in seen["submit_help"]
    assert seen["submitted"]["status"] == "ok"
    assert seen["submitted"]["job"]["mode"] == "made-up-here"
    assert [cell["status"] for cell in seen["submitted"]["cells"].values()] == ["ok"]


def test_a_figure_is_a_file_and_on_the_page(seen) -> None:
    assert "made-up.svg" in seen["figures"]
    assert '<figure id="figure-made-up">' in seen["page"]
    assert "made-up: 25 cells" in seen["page"]


def test_a_figure_is_an_output_of_the_report_rule(tmp_path) -> None:
    """The real Snakefile, which looks into the made-up folder as well."""
    code = (
        "import sys, servegauge.report.figures as package; package.__path__.append(sys.argv.pop(1)); "
        "from snakemake.cli import main; main(sys.argv[1:])"
    )
    for name in ("config", "scripts", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    made_up = str(ROOT / "tests" / "contract" / "made_up" / "figures")

    target = "results/report/demo/made-up.svg"
    words = [sys.executable, "-c", code, made_up, "--snakefile", str(ROOT / "Snakefile"), "-np", "--cores", "1"]
    words += ["--config", "study=demo", "--directory", str(tmp_path), "--", target]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert target in done.stdout + done.stderr


def test_an_exporter_is_a_format_of_the_command(seen) -> None:
    assert seen["export"].splitlines()[0].endswith("question.txt")
    assert "made-up: the question of the study" in " ".join(seen["export"].split())


def test_an_importer_is_a_format_of_the_command_and_recognises_its_files(seen) -> None:
    assert seen["import"].startswith("2 ok\n")
    assert "note: made-up note" in seen["import"]
    assert "made-up: a latency a line" in " ".join(seen["import"].split())


def test_a_probe_is_compared_by_its_primary_metric_and_says_what_it_explains(seen) -> None:
    rows = [row for row in seen["probes"] if row["probe"] == "made_up_probe"]
    assert {row["metric"] for row in rows} == {"made_up_us", "made_up_double_us"}
    section = seen["page"].partition('id="platforms"')[2] or seen["page"]
    assert "<td>made_up_us</td>" in section
    assert "<td>made_up_double_us</td>" not in section
    assert "made-up: 23 cells" in section


def test_a_format_of_recordings_is_a_kind_of_prompt_set(seen) -> None:
    assert seen["replayed"]["rate_rps"] == 0.5
    assert "made_up_traffic" in seen["replayed"]["page"]
    assert "pause_s: does nothing for made_up_traffic; it is for sessions" in seen["replayed"]["idle"]
    assert "made_up_traffic has: path, " in seen["replayed"]["idle"]
