"""A dataset to publish: no name of a host, a person, a place or a device, and the same numbers."""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.cli import main
from servegauge.compare.tables import write_tables
from servegauge.dataset import merge
from servegauge.exchange.anonymise import anonymise
from servegauge.exchange.names import Names
from tests import synthetic

NAMED = {
    "hostname": "n017.cluster.uni.example",
    "nodes": "n[017-018],gpu-login3",
    "user": "alice.meier",
    "HOME": "/lustre/hpc/home/bmuster",
    "SLURM_JOB_ACCOUNT": "proj4711",
    "SLURM_JOB_NODELIST": "n[017-018]",
    "SLURM_SUBMIT_HOST": "frontend7",
    "SLURM_SRUN_COMM_HOST": "10.17.3.9",
    "control": {"BatchHost": "n018", "ExcNodeList": "n044", "ReqNodeList": "(null)"},
    "head": "10.17.3.4",
    "mac": "3c:ec:ef:12:34:56",
    "SLURM_CLUSTER_NAME": "falcon",
    "SLURM_WORKING_CLUSTER": "falcon:ctl7:6817:9984:109",
    "BatchHost": {"value": "vm", "source": "scontrol"},
    "weights": "file:///scratch/bmuster/models/w.gguf, file://store9/export/bmuster/w.gguf and a vm on falcon",
    "port_guid": "506b:4b03:00ab:cdef",
    "gpu_uuids": {"value": ["GPU-1b2c3d4e-1111-2222-3333-abcdefabcdef"], "source": "nvidia-smi -q -x"},
    "boot_id": "0aa0bb0c-dd0e-4f00-8000-111122223333",
    "log": "bind to n018: NCCL eth0:10.17.3.5<0>, http://141.58.1.2:8000/v1/models, mail alice@uni.example, "
    "fe80::3eec:efff:fe12:3456, /lustre/ws/proj4711-x/models/tiny/config.json, gpu-login3",
    "SLURM_JOB_ID": "24681357",
    "SLURM_JOB_PARTITION": "gpu_il_falc",
    "SLURM_JOB_QOS": "premium_muster",
    "gpu_details": [{"serial": 1654223014568, "gpu_serial": "1654223014567"}],
    "argv": ["--host", "10.20.30.40", "--dist-init-addr", "2001:db8:85a3::8a2e:370:7334"],
    "told": "job 24681357 on N018: no route from 10.20.30.40 to 141.3.10.1, serial 1654223014567, MAC "
    "AA-BB-CC-DD-EE-FF or aabb.ccdd.eeff, [2a00:1398:4:2::83]:80, Partition=gpu_il_falc, Alice@Uni.Example, "
    "\x1b[32mn017\x1b[0m, %2Fhome%2Fbmuster%2Fx, /home/bm/bm_iti/bm_iti_77/x said bm_iti_77 on frontend19",
    "kept": "nvidia-curand 10.4.0.35, cudnn 9.19.0.56, /usr/bin/python3, /proc/cpuinfo, http://127.0.0.1:8000/v1/x",
}
GONE = (
    "n017", "n018", "cluster.uni", "gpu-login3", "alice", "meier", "bmuster", "proj4711", "10.17.3", "141.58", "3c:ec",
    "506b", "1b2c3d4e", "0aa0bb0c", "uni.example", "fe80", "lustre", "frontend7", "n044",
    "falcon", "ctl7", "store9", "scratch", "24681357", "gpu_il_falc", "premium_muster", "16542230145", "10.20.30",
    "2001:db8",
    "141.3.10", "AA-BB", "aabb", "2a00", "Alice", "bm_iti", "frontend19", "N018",
)  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose provenance holds names in every form; and the log of a cell that failed."""
    root = tmp_path_factory.mktemp("named")
    synthetic.make_results(root, requests=20)
    results = root / "results"
    for path in results.glob("launches/*/attempt-*/launch.json"):
        write_json(path, {**read_json(path), "provenance": {"platform": {"value": NAMED}}})
    for path in results.glob("launches/*/attempt-0.json"):
        outcome = read_json(path)
        for cell in outcome["cells"].values():
            if cell["status"] == "failed":
                cell["reason"] = "n017: cannot read /home/alice.meier/models/x of bmuster"
        write_json(path, outcome)
    merge.merge(results)
    write_tables(results)
    return results


def texts(folder: Path) -> str:
    """Everything that a reader of the tables sees, and their footers."""
    found = []
    for path in sorted(folder.rglob("*.parquet")):
        found += [json.dumps(pq.read_table(path).to_pylist(), default=str), str(pq.read_metadata(path).metadata)]
    return "\n".join(found)


def test_no_name_stays_and_numbers_do(results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = texts(results / "dataset")
    assert [name for name in GONE if name not in before] == []
    out = tmp_path / "out"
    words = ["export", "demo", "--format", "parquet", "--anonymise", "--results", str(results), "--out", str(out)]
    assert main.run(words) == 0
    after = texts(out)
    assert [name for name in GONE if name in after] == []
    for kept in (
        "10.4.0.35",
        "9.19.0.56",
        "/usr/bin/python3",
        "/proc/cpuinfo",
        "127.0.0.1:8000",
        "nvidia-smi -q -x",
        "(null)",
    ):
        assert kept in after, kept
    for table in ("cells", "comparison", "launches"):
        old, new = (merge.read(folder, table) for folder in (results, out))
        assert old.schema.equals(new.schema)
        for column, kind in zip(old.column_names, old.schema.types, strict=True):
            if pa.types.is_floating(kind) or column in ("cell", "launch", "platform", "status"):
                assert old[column].to_pylist() == new[column].to_pylist(), column
    listed = tmp_path / "out.replaced.tsv"
    assert stat.S_IMODE(listed.stat().st_mode) == 0o600
    lines = [line.split("\t") for line in listed.read_text().splitlines()]
    assert lines[0] == ["kind", "was", "is", "uses"]
    was = {row[1]: row[2] for row in lines[1:]}
    assert was["n017.cluster.uni.example"] == was["n017"] != was["n018"]
    assert was["alice.meier"] != was["bmuster"]
    assert was["falcon"].startswith("cluster-")
    assert was["vm"].startswith("host-")
    assert was["vm"] in after
    assert "a vm on cluster-" in after, "an ordinary word stays where it is one"
    assert str(listed) in capsys.readouterr().out


def test_the_page_of_the_copy_says_the_same(results: Path, tmp_path: Path, only_figures) -> None:
    only_figures("ratios", "ttft")
    for name, anonymous in (("plain", []), ("nameless", ["--anonymise"])):
        out = str(tmp_path / name)
        words = ["export", "demo", "--format", "parquet", *anonymous, "--results", str(results), "--out", out]
        assert main.run(words) == 0
        assert main.run(["report", "demo", "--results", out, "--out", f"{out}.html"]) == 0
    plain, nameless = ((tmp_path / f"{name}.html").read_text() for name in ("plain", "nameless"))
    assert "alice" in plain
    assert [name for name in GONE if name in nameless] == []
    assert plain.count("<svg") == nameless.count("<svg") > 0


def test_another_study_of_the_dataset_is_not_in_the_copy(results: Path, tmp_path: Path) -> None:
    studies = merge.read(results, "studies")
    other = tmp_path / "results"
    (other / "dataset").mkdir(parents=True)
    for path in (results / "dataset").rglob("*.parquet"):
        target = other / "dataset" / path.relative_to(results / "dataset")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    row = {**studies.to_pylist()[0], "study": "secret", "question": "of somebody else"}
    pq.write_table(
        pa.concat_tables([studies, pa.Table.from_pylist([row], studies.schema)]), other / "dataset/studies.parquet"
    )
    assert (
        main.run(["export", "demo", "--format", "parquet", "--results", str(other), "--out", str(tmp_path / "o")]) == 0
    )
    assert "of somebody else" not in texts(tmp_path / "o")


def test_a_study_called_by_a_name_is_exported_under_the_new_one(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "results"
    for path in (results / "dataset").rglob("*.parquet"):
        target = other / "dataset" / path.relative_to(results / "dataset")
        target.parent.mkdir(parents=True, exist_ok=True)
        table = pq.read_table(path)
        if "study" in table.column_names and table.num_rows:
            place, field = table.column_names.index("study"), table.schema.field("study")
            renamed = pa.array(["bmuster-ttft"] * table.num_rows, pa.string()).cast(field.type)
            table = table.set_column(place, field, renamed)
        pq.write_table(table, target)
    words = ["export", "bmuster-ttft", "--format", "csv", "--anonymise", "--results", str(other)]
    assert main.run([*words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "the study is called user-" in said
    rows = (tmp_path / "out/cells.csv").read_text().splitlines()
    assert len(rows) == 1 + merge.read(results, "cells").num_rows
    with pytest.raises(UserError, match=r"no study 'bmuster-tft'\. Did you mean 'bmuster-ttft'\?"):
        main.run(["export", "bmuster-tft", *words[2:], "--out", str(tmp_path / "o")])


def test_a_folder_without_tables_and_one_in_use_are_refused(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tables"):
        anonymise(tmp_path, tmp_path / "x")
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").touch()
    with pytest.raises(UserError, match="is not empty"):
        anonymise(results / "dataset", tmp_path / "used")


TEXTS = {
    "n017.cluster.uni.example up": "@host up",
    "login.cluster.uni.example and www.uni.example": "login.@host and www.@host",
    json.dumps(json.dumps("bind\nn017\talice")): json.dumps(json.dumps("bind\n@host\t@user")),
    json.dumps("line\n/lustre/secret/x.py\n"): json.dumps("line\n/@path/x.py\n"),
    "r1n02, r2n01-ib0": "@host, @host-ib0",
    "r[1-2]n[01-02]": "@host",
    "a cluster of an uni, a user, a vm, h100-vgpu, ok": "a cluster of an uni, a user, a vm, h100-vgpu, ok",
}


@pytest.mark.parametrize("given", TEXTS)
def test_names_are_found_wherever_they_stand_and_words_stay(given: str) -> None:
    names = Names()
    for host in ("n017.cluster.uni.example", "r[1-2]n[01-02]", "vm"):
        names.add("host", host)
    for user in ("alice", "user", "ok"):
        names.add("user", user)
    names.number()
    found = names.text(given)
    assert re.sub(r"(host|user|path)-\d+", r"@\1", found) == TEXTS[given]
    assert names.left_in(found) is None


def test_a_part_is_called_as_its_launch_is(tmp_path: Path) -> None:
    old, launch = tmp_path / "old", "vllm-tiny-tp1-n017-r1-0a1b2c3d4e"
    (old / "requests").mkdir(parents=True)
    table = pa.table({"launch": [launch], "hostname": ["n017"], "n": [1]})
    for name in ("launches", f"requests/{launch}"):
        pq.write_table(table, old / f"{name}.parquet")
    anonymise(old, tmp_path / "new")
    wanted = [launch.replace("n017", "host-1")]
    assert pq.read_table(tmp_path / "new/launches.parquet")["launch"].to_pylist() == wanted
    assert [path.stem for path in (tmp_path / "new/requests").iterdir()] == wanted


def test_names_in_a_schema_go_and_a_type_that_cannot_be_searched_is_refused(tmp_path: Path) -> None:
    field = pa.field("hostname", pa.string(), metadata={"description": "as /home/alice/x says"})
    schema = pa.schema([field], metadata={"made_by": "alice@n017"})
    (tmp_path / "dataset").mkdir()
    table = pa.table({"hostname": ["n017"]}, schema=schema)
    pq.write_table(table, tmp_path / "dataset" / "launches.parquet")
    anonymise(tmp_path / "dataset", tmp_path / "out")
    raw = (tmp_path / "out" / "launches.parquet").read_bytes()
    assert not [name for name in (b"alice", b"n017", b"home") if name in raw]
    pq.write_table(pa.table({"x": [{"host": "n017"}]}), tmp_path / "dataset" / "own.parquet")
    with pytest.raises(UserError, match=r"own\.parquet: the column x is of type struct"):
        anonymise(tmp_path / "dataset", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_number_is_replaced_by_a_number(tmp_path: Path) -> None:
    """It may stand in JSON without quotes; and a short one means itself everywhere but where names stand."""
    names = Names()
    names.add("job", "24681357")
    names.add("job", "42")
    names.number()
    assert json.loads(names.text('{"job": 24681357, "n": 42}'))["n"] == 42
    assert json.loads(names.text('{"job": "42"}'))["job"] != "42"
