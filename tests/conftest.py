"""Fixtures that several folders of tests share. What is slow to make is made once and kept in the cache."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from servegauge.base.files import write_text
from servegauge.inputs.environments import build_environment
from servegauge.inputs.models import build_model

ROOT = Path(__file__).parents[1]

# Under nohup, or in the background of a script, some signals are ignored; every process of a test would inherit that.
for _signal, _default in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_signal) == signal.SIG_IGN:
        signal.signal(_signal, _default)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fix", action="store_true", help="write golden files and generated pages anew")
    parser.addoption("--seeds", type=int, default=1, help="how often the test of random faults is run (default 1)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the folders whose files take minutes, so that all processes end together."""
    slow = ("workflow", "faults")
    items.sort(key=lambda item: item.path.parent.name not in slow)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Hold `text` against the file at `path`, or write it there with --fix."""

    def check(path: Path, text: str) -> None:
        if request.config.getoption("--fix"):
            write_text(path, text)
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        again = f"pytest --fix {request.node.nodeid.partition('[')[0]}"
        assert found == text, f"{path} is not what the code says; if the code is right, run: {again}"

    return check


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root, absolute."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Folder of the random-weight model; the same weights as GGUF lie beside it as `random-llama-tiny.gguf`."""
    return build_model("tiny", ROOT)


@pytest.fixture(scope="session")
def llamacpp_python() -> str:
    """Interpreter of the environment that has llama.cpp's server."""
    return str(build_environment("llamacpp", ROOT))


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a byte-level BPE tokenizer, as Qwen's is, without special tokens."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=3000, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    sample = (ROOT / "config/prompts/data/sharegpt-sample.json").read_text(encoding="utf-8").lower()
    # Each word also without a space before it, so that it is one token at the start of a text as well.
    tokenizer.train_from_iterator([sample, *sample.split()], trainer)
    folder = tmp_path_factory.mktemp("byte-level")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
