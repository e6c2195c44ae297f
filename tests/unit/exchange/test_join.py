"""One side of a study here, the other elsewhere: joined, they are what was measured in one place."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from servegauge.base.errors import UserError, run_and_exit
from servegauge.base.files import read_json, write_json
from servegauge.cli.join import named_otherwise
from servegauge.cli.main import main
from servegauge.compare.compare import compare
from servegauge.dataset import merge
from servegauge.dataset.joined import labels
from servegauge.dataset.study_view import Study
from servegauge.exchange.join import join
from tests import synthetic


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a study of two platforms, measured in one place."""
    root = tmp_path_factory.mktemp("whole")
    synthetic.make_results(root, requests=20)
    return root / "results"


@pytest.fixture
def sides(whole: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same as two results folders, each with one platform."""
    here, other = tmp_path / "here/results", tmp_path / "other/results"
    for folder, platform in ((here, "own-cpu"), (other, "shared-cpu")):
        shutil.copytree(whole, folder)
        for kind in ("launches", "cells"):
            for entry in (folder / kind).iterdir():
                if f"-{platform}-" not in entry.name:
                    shutil.rmtree(entry)
    return here, other


def rows(results: Path) -> dict[str, dict[str, object]]:
    """Cells without the path of their log, which names the folder that the test chose."""
    return {row["cell"]: {**row, "log": None} for row in merge.read(results, "cells").to_pylist()}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def a_cell(results: Path) -> Path:
    return next(path for path in sorted((results / "cells").iterdir()) if (path / "requests.parquet").exists())


def test_joined_sides_are_what_was_measured_in_one_place(whole: Path, sides: tuple[Path, Path]) -> None:
    here, other = sides
    before = tree(other)
    found = join(other, here, "cluster-b")
    assert len(found.names("launches")) == 2
    assert len(found.names("cells")) == len(list((other / "cells").iterdir()))
    for kind in ("cells", "launches"):
        assert tree(here / kind) == tree(whole / kind)
    assert tree(other) == before, "the other folder is only read"
    assert merge.merge(here).statuses == merge.merge(whole).statuses
    assert rows(here) == rows(whole)
    assert labels(here) == dict.fromkeys(found.names("launches"), "cluster-b")
    (study,) = [row["study"] for row in merge.read(here, "studies").to_pylist()]
    compared = compare(Study(here, study))
    assert compared
    said = "The sides were measured apart and joined, one side here, the other in cluster-b; their pairs lie "
    assert [note for note in compared.notes if note.startswith(said)]
    alone = compare(Study(whole, study))
    assert alone
    assert not [note for note in alone.notes if "joined" in note]


def test_given_again_it_brings_what_is_new_alone(sides: tuple[Path, Path], tmp_path: Path) -> None:
    here, other = sides
    late = a_cell(other)
    shutil.move(late, tmp_path / "late")
    join(other, here, "b")
    assert join(other, here, "b").new == []
    shutil.move(tmp_path / "late", late)
    assert join(other, here, "b").new == [late.relative_to(other)]
    assert len(list((here / "joined").iterdir())) == 2


def test_an_attempt_that_goes_on_is_left_for_the_next_time(sides: tuple[Path, Path]) -> None:
    here, other = sides
    launch = read_json(a_cell(other) / "cell.json")["launch"]
    end = other / "launches" / launch / "attempt-0.json"
    said = end.read_bytes()
    end.unlink()
    first = join(other, here, "b")
    assert first.unfinished
    assert not [cell for cell in first.unfinished if (here / "cells" / cell).exists()]
    assert not (here / "launches" / launch / "attempt-0").exists()
    end.write_bytes(said)
    assert set(join(other, here, "b").names("cells")) == set(first.unfinished)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_what_is_damaged_linked_or_other_than_ours_is_refused_by_name(sides: tuple[Path, Path]) -> None:
    here, other = sides
    cells = sorted(path for path in (other / "cells").iterdir() if (path / "requests.parquet").exists())
    damage(cells[0] / "requests.parquet")
    (cells[1] / "cell.json").write_text("{")
    (cells[2] / "requests.parquet").unlink()
    (cells[2] / "requests.parquet").symlink_to("/etc/hostname")
    record = read_json(cells[3] / "cell.json")
    write_json(cells[3] / "cell.json", {**record, "files": {"../../x": record["files"]["requests.parquet"]}})
    shutil.copytree(cells[4], here / "cells" / cells[4].name)
    write_json(here / "cells" / cells[4].name / "cell.json", {})
    launch = next((other / "launches").iterdir())
    os.symlink("/etc", launch / "attempt-0" / "etc")
    (other / "workloads/w").mkdir(parents=True)
    os.mkfifo(other / "workloads/w/pipe")
    before = tree(here)
    with pytest.raises(UserError) as caught:
        join(other, here, "b")
    said = str(caught.value)
    for name, why in (
        (f"cells/{cells[0].name}/requests.parquet", "damaged"),
        (f"cells/{cells[1].name}/cell.json", "cannot be read"),
        (f"cells/{cells[2].name}/requests.parquet", "a link"),
        (f"cells/{cells[3].name}/cell.json", "outside its folder"),
        (f"cells/{cells[4].name}/cell.json", "with other contents"),
        (f"launches/{launch.name}/attempt-0/etc", "a link"),
        ("workloads/w/pipe", "no ordinary file"),
    ):
        assert any(name in line and why in line for line in said.splitlines()), (name, said)
    assert tree(here) == before, "nothing is copied"


@pytest.mark.parametrize("how", ["linked", "not copied", "elsewhere"])
def test_cells_of_a_launch_that_is_not_there_are_refused(sides: tuple[Path, Path], how: str) -> None:
    here, other = sides
    cell = a_cell(other)
    record = read_json(cell / "cell.json")
    launch = other / "launches" / record["launch"]
    if how == "elsewhere":
        write_json(cell / "cell.json", {**record, "launch": "../../here/results/launches/x"})
    else:
        shutil.move(launch, other.parent / "moved")
    if how == "linked":
        launch.symlink_to(other.parent / "moved")
    before = tree(here)
    with pytest.raises(
        UserError, match="is a link" if how == "linked" else f"cells/{cell.name} is of the launch .*copy"
    ):
        join(other, here, "b")
    assert tree(here) == before


def test_what_an_interrupted_call_brought_has_its_label(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other = sides
    real, copied = shutil.copyfile, []
    last = sorted((other / "launches").iterdir())[-1]

    def until_the_disk_is_full(source: os.PathLike[str], target: Path, **_: bool) -> None:
        if last in Path(source).parents:
            raise OSError(28, "No space left on device")
        copied.append(source)
        real(source, target)

    monkeypatch.setattr("servegauge.exchange.join.shutil.copyfile", until_the_disk_is_full)
    with pytest.raises(OSError, match="No space"):
        join(other, here, "b")
    monkeypatch.setattr("servegauge.exchange.join.shutil.copyfile", real)
    assert copied
    assert join(other, here, "b").names("launches") == [last.name], "the others are here whole"
    assert labels(here) == {path.name: "b" for path in (other / "launches").iterdir()}


@pytest.mark.parametrize("place", ["", "cells", "launches", "joined"])
def test_a_file_where_a_folder_must_be_is_said_before_anything_is_copied(
    sides: tuple[Path, Path], tmp_path: Path, place: str
) -> None:
    taken = tmp_path / "taken"
    if place:
        taken.mkdir()
    (taken / place).touch()
    with pytest.raises(UserError, match="is not a folder"):
        join(sides[1], taken, "b")
    assert [path.name for path in tmp_path.glob("taken/*")] == ([place] if place else [])


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["servegauge", "join", *words])
    with pytest.raises(SystemExit) as left:
        run_and_exit(main)
    return int(left.value.code or 0)


def test_what_is_no_results_folder_is_said(
    sides: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, other = sides
    with pytest.raises(UserError, match="It has a folder results/: name that"):
        join(other.parent, here, "b")
    with pytest.raises(UserError, match="is this results folder"):
        join(here, here, "b")
    assert command(monkeypatch, str(other / "cells"), "--results", str(here)) == 2
    assert "is not a results folder: it has no folder launches/" in capsys.readouterr().err
    assert command(monkeypatch, str(other), "--results", str(here), "--label", "b") == 0
    assert "2 launches, " in capsys.readouterr().out


def test_a_platforms_file_that_is_not_the_others_is_named(sides: tuple[Path, Path], tmp_path: Path) -> None:
    here, other = sides
    found = join(other, here, "b").names("launches")
    file = tmp_path / "config/platforms/shared-cpu.yaml"
    assert named_otherwise(here, found, tmp_path) == [], "a study that is not here asks for nothing"
    file.parent.mkdir(parents=True)
    spec = read_json(here / "launches" / found[0] / "spec.json")["platform"]
    same = {"description": "d", **{key: spec[key] for key in ("placement", "environment", "frameworks") if key in spec}}
    file.write_text(json.dumps({**same, "scratch": "/elsewhere"}))
    assert named_otherwise(here, found, tmp_path) == [], "where it runs is no part of a launch's name"
    file.write_text(json.dumps({**same, "frameworks": {"vllm": {"container": "/x.sif"}}}))
    (said,) = named_otherwise(here, found, tmp_path)
    assert "config/platforms/shared-cpu.yaml has another frameworks here" in said


@pytest.mark.parametrize("what", ["pipe", "deep", "escapes", "bytes", "large"])
def test_what_would_hang_fill_the_disk_or_write_to_a_terminal_is_refused(sides: tuple[Path, Path], what: str) -> None:
    here, other = sides
    cell, before = a_cell(other), tree(here)
    if what == "pipe":
        (cell / "cell.json").unlink()
        os.mkfifo(cell / "cell.json")
    elif what == "deep":
        (cell / "cell.json").write_text('{"files":' + "[" * 200_000)
    elif what == "large":
        with (cell / "more").open("w") as file:
            file.truncate(1 << 42)
    else:
        (cell / ("\x1b[2Jx" if what == "escapes" else os.fsdecode(b"\xff"))).write_text("x")
    with pytest.raises(UserError, match=r"no ordinary file|cannot be read|name with control characters|GB free"):
        join(other, here, "b")
    assert tree(here) == before


def test_a_copy_has_no_more_rights_than_a_file_of_ours(sides: tuple[Path, Path]) -> None:
    """A program that runs as its owner would otherwise become one that runs as us, with another's contents."""
    here, other = sides
    cell = a_cell(other)
    (cell / "tool").write_text("x")
    (cell / "tool").chmod(0o6777)
    (cell / "log").write_text("x")
    (cell / "log").chmod(0o600)
    before = os.umask(0o027)
    try:
        join(other, here, "b")
    finally:
        os.umask(before)
    copy = here / "cells" / cell.name
    assert (copy / "tool").stat().st_mode & 0o7777 == 0o640
    assert (copy / "log").stat().st_mode & 0o7777 == 0o600
