"""The prompts of `servegauge load`: made up, of a prompt set, or of a file of one's own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from servegauge.base.errors import UserError
from servegauge.contract.config_types import Prompts
from servegauge.contract.yaml_schema import read_yaml
from servegauge.workloads import prompts
from servegauge.workloads import tokenizer as tokens
from servegauge.workloads.data_sets import jsonl_entries

# Common words that nearly every vocabulary holds as one token, for endpoints whose tokenizer is not at hand.
_WORDS = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but "
    "not what all were we when your can said there use an each which she do how their if will up other about out many "
    "then them these so some her would make like him into time has look two more write go see number no way could"
)
_OUTPUT_TOKENS = 128  # of an answer where neither the file nor --output-tokens says
_DATA_SETS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "sharegpt"}


@dataclass(frozen=True)
class Given:
    """Prompts, notes about them, and thresholds of flags that do not hold for them."""

    prompts: list[prompts.Prompt]
    notes: list[str] = field(default_factory=list)
    thresholds: dict[str, float] = field(default_factory=dict)


def load_prompts(
    asked: str, count: int, seed: int, tokenizer_folder: Path | None, output_tokens: int | None, chat: bool
) -> Given:
    """`count` prompts by --prompts: exact with a tokenizer, else of about that many tokens, with a note.

    UserError where `asked` is neither synthetic:INPUT,OUTPUT nor a file, or where its lengths need a tokenizer.
    """
    tokenizer = tokens.load(tokenizer_folder) if tokenizer_folder else None
    kind, _, sizes = asked.partition(":")
    if kind == "synthetic":
        return _synthetic(asked, sizes, count, seed, tokenizer, output_tokens)
    path = Path(asked)
    if not path.is_file():
        raise UserError(
            f"--prompts {asked}: neither synthetic:INPUT,OUTPUT nor a file (.jsonl with a prompt or messages a line, "
            ".json in ShareGPT's format, config/prompts/*.yaml, or a workload.parquet)"
        )
    root = Path()
    if path.suffix in _DATA_SETS:
        spec: Prompts = {"name": path.stem, "kind": _DATA_SETS[path.suffix], "path": str(path.absolute())}
    else:
        spec = cast(Prompts, {"name": path.stem, **read_yaml(path)[0]})
        beside = path.parent / str(spec.get("path", ""))
        root = path.parent if spec.get("path") and beside.is_file() and not Path(spec["path"]).is_file() else root
    if tokenizer is None:
        if spec.get("kind") != "jsonl" or path.suffix not in _DATA_SETS:
            raise UserError(f"--prompts {path} needs --tokenizer, the folder with the model's tokenizer.json")
        return _uncounted(path, count, seed, output_tokens, chat)
    notes = []
    if path.suffix in _DATA_SETS and output_tokens is None and spec["kind"] == "jsonl":
        untold = sum(entry.output_tokens is None for entry in jsonl_entries(path))
        if untold:
            notes = [f"{untold} lines of {path} name no output_tokens: {_OUTPUT_TOKENS} are asked for"]
            spec["default_output_tokens"] = _OUTPUT_TOKENS
    return Given(prompts.draw_prompts(spec, tokenizer, count, seed, output_tokens, root).prompts, notes)


def _synthetic(
    asked: str, sizes: str, count: int, seed: int, tokenizer: tokens.Tokenizer | None, output_tokens: int | None
) -> Given:
    try:
        pair = [int(part) for part in sizes.split(",")]
    except ValueError:
        raise UserError(f"--prompts {asked!r}: give numbers with commas between them, synthetic:INPUT,OUTPUT") from None
    if len(pair) != 2 or min(pair) < 1:
        raise UserError(f"--prompts {asked}: write synthetic:INPUT,OUTPUT with two counts of tokens")
    answer = output_tokens or pair[1]
    spec: Prompts = {"name": "synthetic", "kind": "synthetic", "input_tokens": pair[0], "output_tokens": answer}
    if tokenizer is not None:
        return Given(prompts.draw_prompts(spec, tokenizer, count, seed).prompts)
    draw = np.random.default_rng([seed, 2])
    texts = [" ".join(draw.choice(_WORDS.split(), pair[0])) for _ in range(count)]
    note = "prompt lengths are about as asked: one common word a token; give --tokenizer for exact ones"
    return Given([prompts.Prompt(text, None, pair[0], answer) for text in texts], [note])


def _uncounted(path: Path, count: int, seed: int, output_tokens: int | None, chat: bool) -> Given:
    """Prompts of a file whose lengths nobody here can tell: in file order from an entry that the seed chooses."""
    entries = jsonl_entries(path)
    if not entries:
        raise UserError(f"--prompts {path}: it has no line with a prompt")
    if not chat and any(entry.messages is not None for entry in entries):
        raise UserError(
            f"--prompts {path} has messages, which the completions endpoint does not take: give --endpoint chat, or "
            "--tokenizer with the model's chat template"
        )
    first = int(np.random.default_rng([seed, 2]).integers(len(entries)))
    chosen = [entries[(first + number) % len(entries)] for number in range(count)]
    found = []
    for entry in chosen:
        messages = json.dumps(entry.messages, ensure_ascii=False) if entry.messages is not None else None
        # A bound from below is all that there is: a token is rarely longer than a word.
        words = len((entry.prompt or messages or "").split())
        asked = output_tokens or entry.output_tokens or _OUTPUT_TOKENS
        found.append(prompts.Prompt(entry.prompt, messages, words, asked))
    note = "prompt lengths are not known before the server counts them; give --tokenizer to have them checked"
    return Given(found, [note], {"prompt_length_share": 1.0})
