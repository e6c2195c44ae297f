"""`snakemake --profile hlrs` by name: links are made, said, kept apart from others' and undone."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegauge.base.errors import UserError
from servegauge.cli import main


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    repository = tmp_path / "repository"
    for name in ("hlrs", "local"):
        (repository / "profiles" / name).mkdir(parents=True)
        (repository / "profiles" / name / "config.yaml").write_text("cores: 1\n")
    monkeypatch.chdir(repository)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home" / ".config" / "snakemake"


def test_links_are_made_once_and_undone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["profiles"]) == 0
    assert (home / "hlrs" / "config.yaml").read_text() == "cores: 1\n"
    assert str(home / "hlrs") in capsys.readouterr().out
    assert main.run(["profiles"]) == 0
    assert main.run(["profiles", "--undo"]) == 0
    assert list(home.iterdir()) == []


def test_somebody_elses_profile_is_never_touched(home: Path) -> None:
    (home / "hlrs").mkdir(parents=True)
    with pytest.raises(UserError, match="is there already and is not ours"):
        main.run(["profiles"])
    assert not (home / "local").exists()
    assert main.run(["profiles", "--undo"]) == 0
    assert (home / "hlrs").is_dir()


def test_elsewhere_it_says_where_to_go(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="in the repository's root"):
        main.run(["profiles"])


def test_a_link_of_a_clone_that_was_moved_is_renewed(home: Path) -> None:
    home.mkdir(parents=True)
    (home / "hlrs").symlink_to("/moved/profiles/hlrs")
    assert main.run(["profiles"]) == 0
    assert (home / "hlrs" / "config.yaml").is_file()
