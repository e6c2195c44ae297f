"""What the doctor takes from a profile of Snakemake, and what it says of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegauge.base.errors import UserError
from servegauge.cli.doctor import settings


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    (tmp_path / "more.yaml").write_text("submit: slurm\n")
    return tmp_path


@pytest.mark.parametrize("written", ["config: [study=x, poll_s=5]", "config: {study: x, poll_s: '5'}"])
def test_pairs_and_files(profile: Path, written: str) -> None:
    (profile / "config.yaml").write_text(f"configfile: {profile / 'more.yaml'}\n{written}\n")
    assert settings(profile) == {"submit": "slurm", "study": "x", "poll_s": "5"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config: 5", "config.yaml: config: found 5; expected NAME=VALUE, such as study=demo"),
        ("config: [study]", "config: found 'study'; expected NAME=VALUE"),
        ("config: ['=x']", "config: found '=x'; expected NAME=VALUE"),
        ("configfile: 5", "configfile: found 5; expected the path of a file, or a list of paths"),
        ("configfile: {a: b}", "configfile: found {'a': 'b'}; expected the path"),
        ("configfile: [[a]]", "configfile: found [['a']]; expected the path"),
        ("configfile: nosuch.yaml", "nosuch.yaml: cannot be read: No such file or directory"),
        ("", "config.yaml: found nothing, expected keys with values"),
        ("cores: [1", "config.yaml:2: did not find expected ',' or ']'"),
        ("cores: 1\ncores: 2", "config.yaml:2: the key 'cores' is given twice"),
    ],
)
def test_a_wrong_one_is_one_message(profile: Path, text: str, message: str) -> None:
    (profile / "config.yaml").write_text(f"{text}\n")
    with pytest.raises(UserError) as caught:
        settings(profile)
    assert message in str(caught.value)
