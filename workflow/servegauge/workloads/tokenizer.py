"""A model's own tokenizer: how many tokens a text is, as the server counts them. Reads tokenizer.json; runs no code of
the model's.

A prompt is counted as OpenAI's completions endpoint of the servers does: with the special tokens that the tokenizer
adds around a text (for Llama one `<s>` in front). An answer is counted without them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import tokenizers

from servegauge.base.errors import UserError
from servegauge.base.files import parse_json
from servegauge.workloads.chat_template import ChatTemplate

# A lower-case word with the mark that vocabularies use for a space before it: SentencePiece's or byte-level BPE's.
SPACED_WORD = re.compile(r"^[▁Ġ]([a-z]{2,12})$")
FEWEST_WORDS = 100
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


class Tokenizer:
    """The tokenizer of one model. Make it with `load`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{path} is not a tokenizer that the tokenizers library reads: {error}") from error
        # A file may ask to cut or fill every text; then no count of a long prompt would be true.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, text: str, special: bool = True) -> int:
        """Tokens of `text`; `special` with those that the tokenizer puts around it."""
        return len(self._tokenizer.encode(text, add_special_tokens=special).ids)

    def count_many(self, texts: Sequence[str], special: bool = True) -> list[int]:
        """Tokens of each text, on all cores that the library takes."""
        return [
            len(encoded.ids) for encoded in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)
        ]

    @cached_property
    def special_tokens(self) -> int:
        """Tokens that are put around every prompt."""
        return self._tokenizer.num_special_tokens_to_add(False)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Words that are exactly one token each in any text of such words, in the order of the vocabulary.

        Found in the vocabulary and tried: as the first word of a text and between others. UserError if there are few.
        """
        vocabulary = sorted(self._tokenizer.get_vocab(with_added_tokens=False).items(), key=lambda entry: entry[1])
        found = [match.group(1) for name, _ in vocabulary if (match := SPACED_WORD.match(name))]
        first = self.count_many(found)
        between = self.count_many([f"{word} {word} {word}" for word in found])
        ones = self.special_tokens + 1
        good = tuple(
            word for word, one, three in zip(found, first, between, strict=True) if one == ones and three == ones + 2
        )
        if len(good) < FEWEST_WORDS:
            raise UserError(
                f"{self.path}: only {len(good)} words of its vocabulary are one token each, too few to write prompts "
                "of exact lengths; use a prompt set of kind sharegpt or jsonl with this model"
            )
        return good

    @cached_property
    def _configuration(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "chat_template.json", "tokenizer_config.json"):  # the last one wins
            path = self.path.with_name(name)
            if path.is_file():
                found |= parse_json(path.read_text(encoding="utf-8"))
        return found

    @cached_property
    def _chat_template(self) -> ChatTemplate | None:
        separate = self.path.with_name("chat_template.jinja")
        if separate.is_file():
            return ChatTemplate(separate.read_text(encoding="utf-8"), self.path.parent)
        template = self._configuration.get("chat_template")
        if isinstance(template, list):  # several named ones
            template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
        return ChatTemplate(template, self.path.parent) if template else None

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, int]:
        """The text that the model sees for `messages`, with the answer's opening, and its tokens.

        By the model's own chat template; UserError where it has none or it fails.
        """
        if self._chat_template is None:
            raise UserError(
                f"{self.path.parent} has no chat template, so the tokens of chat messages cannot be counted"
            )
        names = {key: self._token_text(key) for key in _SPECIAL}
        text = self._chat_template.render(messages, names)
        return text, self.count(text, special=not self._begins_itself(text))

    def completion_text(self, text: str) -> str:
        """What `chat` rendered, as the completions endpoint must get it: a server adds the first token by itself."""
        twice = self._begins_itself(text) and self._adds_bos
        return text.removeprefix(self._token_text("bos_token")) if twice else text

    def _begins_itself(self, text: str) -> bool:
        """Most templates write the first special token themselves; then the tokenizer must not add another one."""
        first = self._token_text("bos_token")
        return bool(first) and text.startswith(first)

    def opening(self, chat: bool) -> int:
        """Tokens with which every prompt begins, whatever it says: `<s>`, and of a chat the template's first words.

        UserError for a chat whose template is missing or fails.
        """
        prompts = []
        for word in ("apple", "Zebra", "7 of 9"):
            text = self.chat([{"role": "user", "content": word}])[0] if chat else word
            special = not (chat and self._begins_itself(text))
            prompts.append(self._tokenizer.encode(text, add_special_tokens=special).ids)
        return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False)))

    @cached_property
    def _adds_bos(self) -> bool:
        """True where the tokenizer puts the first special token before a text by itself."""
        return self._tokenizer.encode("a").tokens[:1] == [self._token_text("bos_token")]

    def _token_text(self, key: str) -> str:
        token = self._configuration.get(key)
        return token.get("content", "") if isinstance(token, dict) else token or ""


@lru_cache(maxsize=4)
def load(path: Path) -> Tokenizer:
    """The tokenizer at `path` (a tokenizer.json or its folder), read once in this process."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"there is no {file}; a model folder with a tokenizer.json is needed")
    return Tokenizer(file)
