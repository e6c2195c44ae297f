"""A whole run among made-up secrets: in the environment, in what servers and jobs print, in git, in prompts' metadata.

Afterwards every file of `results/` and `logs/` is searched, tables decoded. `tests/unit/base/test_secret_corpus.py` has
the secrets and tries each form of each; what people write into studies and the like is refused there.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from servegauge.base import redact
from tests.pretend.clone import Clone
from tests.unit.base.test_secret_corpus import MAKERS, PASSWORDS, PLAIN, SIGNED, TEXTS

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]

NAMES = (
    "LAB{}_TOKEN",
    "LAB{}_API_KEY",
    "HF_LAB{}_PASSWORD",
    "VLLM_LAB{}_SECRET",
    "SLURM_LAB{}_AUTH",
    "AWS{}_SIGNATURE",
)
# The servers and the job say them, in their logs.
LOUD = """
import os, sys
if "servegauge.inputs.engines.paced.server" in sys.orig_argv or "submitit.core._submit" in sys.orig_argv:
    print(open({words!r}).read(), dict(os.environ), file=sys.stderr)
"""


def environment() -> dict[str, str]:
    """Secrets under names that speak of them, and with shapes of their own under names that are kept."""
    secrets = [*MAKERS, *PLAIN, *PASSWORDS, *(signature for signature, _ in SIGNED)]
    found = {NAMES[number % len(NAMES)].format(number): secret for number, secret in enumerate(secrets)}
    found |= {f"NCCL_NOTE_{number}": secret for number, secret in enumerate(MAKERS)}
    found |= {f"VLLM_URL_{number}": url for number, (_, url) in enumerate(SIGNED)}
    return found | {"HTTP_PROXY_OF_LAB": f"http://me:{PASSWORDS[0]}@proxy.example:3128"}


def shown(path: Path) -> str:
    """What a file holds, for a reader; tables decoded, with their footers."""
    if path.suffix != ".parquet":
        return path.read_text(encoding="utf-8", errors="replace")
    table = pq.read_table(path)
    return json.dumps(table.to_pylist(), default=str, ensure_ascii=False) + str(table.schema.metadata)


def test_no_secret_is_anywhere_in_the_results_of_a_run(clone: Clone) -> None:
    surroundings = environment()
    secrets = sorted({*MAKERS, *PLAIN, *PASSWORDS, *(signature for signature, _ in SIGNED)})
    assert len(secrets) >= 100
    words = clone.root / "words"
    words.write_text("\n".join(text for _, text in TEXTS))
    (clone.root / "workflow" / "sitecustomize.py").write_text(LOUD.format(words=str(words)))
    for argv in (["init", "-q"], ["remote", "add", "origin", f"https://me:{MAKERS[0]}@git.example/r.git"]):
        subprocess.run(["git", *argv], cwd=clone.root, check=True)
    prompts = [{"prompt": f"Question {number}?", "meta": {"token": secret}} for number, secret in enumerate(secrets)]
    (clone.root / "prompts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in prompts))
    own = {"description": "own", "kind": "jsonl", "path": "prompts.jsonl", "how_to_get": "ask", "output_tokens": 8}
    clone.write("config/prompts/own.yaml", own)
    clone.study(matrix={"prompts": ["own"], "rate": [4]})
    status, said = clone.run(**surroundings)
    assert status == 0, said[-3000:]
    assert clone.dataset() == {"4": "ok"}
    found = []
    for path in [*clone.results.rglob("*"), *(clone.root / "logs").rglob("*")]:
        if path.is_file():
            text = shown(path)
            found += [
                f"{path.relative_to(clone.root)}: {spelled}"
                for secret in secrets
                for spelled in redact.spellings([secret])
                if spelled in text
            ]
    assert found == []
    for kind in ("*.log", "*.out"):
        said = "".join(path.read_text(errors="replace") for path in clone.results.rglob(kind))
        assert said.count(redact.REMOVED) > 1000, f"{kind}: they were said"
