"""Files that are whole or absent, and what is printed where the system refuses to write one."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from servegauge.base.errors import run_and_exit
from servegauge.base.files import move_folder, parse_json, read_json, whole_file, whole_folder


def test_a_folder_moves_to_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of results may be a link to another disk; a rename from one to the other is refused by the system."""
    rename = Path.rename

    def between_disks(self: Path, target: Path) -> Path:
        if self.parent.name != target.parent.name:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self), None, str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", between_disks)
    folder, target = tmp_path / "cells/x", tmp_path / "corrupt/x-0"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/file").write_text("measured")
    move_folder(folder, target)
    assert (target / "deep/file").read_text() == "measured"
    assert not folder.exists()
    assert [path.name for path in target.parent.iterdir()] == ["x-0"]


def test_a_file_that_no_disk_has_room_for_leaves_nothing_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_text("before")
    with pytest.raises(OSError) as caught, whole_file(path):  # noqa: PT011  what a library raises has no file name
        raise OSError(errno.ENOSPC, "Error writing bytes to file")
    assert caught.value.filename == str(path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EEXIST, errno.ENOTDIR, errno.EISDIR]
)
def test_what_the_system_refuses_is_one_message(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise OSError(number, os.strerror(number), "results/x")

    with pytest.raises(SystemExit) as left:
        run_and_exit(main)
    said = capsys.readouterr().err
    assert left.value.code == 2
    assert said.startswith(f"error: results/x: {os.strerror(number)}. ")
    assert said.count("\n") == 1


def test_another_failure_of_the_system_is_not_hidden() -> None:
    def main() -> None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    with pytest.raises(OSError, match="Bad file descriptor"):
        run_and_exit(main)


DEEP = "[" * 100_000


def test_json_nested_deeper_than_the_stack_is_damage_like_any_other(tmp_path: Path) -> None:
    """Each reader of other people's JSON turns a ValueError into its one message."""
    (tmp_path / "deep.json").write_text(DEEP)
    for text in (DEEP, '{"a":' * 100_000, DEEP + "]" * 100_000):
        with pytest.raises(ValueError, match="nested too deep"):
            parse_json(text)
    with pytest.raises(ValueError, match="nested too deep"):
        read_json(tmp_path / "deep.json")


def test_a_folder_of_a_group_stays_one(tmp_path: Path) -> None:
    tmp_path.chmod(0o2770)
    with whole_folder(tmp_path / "cell") as folder:
        (folder / "file").write_text("measured")
    assert (tmp_path / "cell").stat().st_mode & stat.S_ISGID
