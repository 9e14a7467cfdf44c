"""Prompts as token ids, by a model's own tokenizer and chat template, and answers as text again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modist.errors import UserError
from modist.evaluation.generators.generator import Prompt


class PromptError(UserError):
    """One prompt cannot be read; others can."""


class Encoder:
    """A tokenizer as the generators use it."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        """
        Args:
            tokenizer: Of transformers.
            name: The model's, for errors.
        """
        self.tokenizer = tokenizer
        self.name = name
        self._added: dict[str, int] = dict(tokenizer.get_added_vocab())

    def encode(self, prompt: Prompt) -> list[int]:
        """Ids of what the model is to read.

        A text gets the BOS its tokenizer adds, once, and no EOS.  Messages go through the model's own template, to which
        nothing is added.

        Raises:
            UserError: messages for a model without a template, or one that refuses them.
            PromptError: this one prompt cannot be encoded, or is empty.
        """
        if isinstance(prompt, str):
            ids = self._tokenise(prompt, True)
            ids = self._plain(prompt, ids)
        else:
            ids = self._tokenise(self._rendered(prompt), False)
        if not ids:
            raise PromptError("the prompt is empty")
        return ids

    def length(self, prompt: Prompt) -> int:
        """How many ids; 0 where it cannot be encoded, which `encode` will say."""
        try:
            return len(self.encode(prompt))
        except PromptError:
            return 0

    def shown(self, ids: Sequence[int]) -> str:
        """What the model reads, special tokens written out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def text(self, ids: Sequence[int]) -> str:
        """An answer: special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """The same for many."""
        return list(self.tokenizer.batch_decode(rows, skip_special_tokens=True))

    def end_ids(self, stop: Sequence[str]) -> frozenset[int]:
        """Stop texts that are a token of their own, which no answer's text would show: `<|im_end|>` ends an answer
        even where the model's configs have forgotten it."""
        return frozenset(self._added[one] for one in stop if one in self._added)

    def _tokenise(self, text: str, special: bool) -> list[int]:
        try:
            return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])
        except (UnicodeError, TypeError) as error:
            # Half of a character is what Rust's tokenizers call no string.
            raise PromptError(f"the prompt is no text a tokenizer can read ({type(error).__name__})") from None

    def _plain(self, text: str, ids: list[int]) -> list[int]:
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if begin is not None and ids[:2] == [begin, begin] and text.startswith(self.tokenizer.bos_token):
            ids = ids[1:]
        if end is not None and ids[-1:] == [end] and not text.endswith(self.tokenizer.eos_token):
            ids = ids[:-1]
        return ids

    def _rendered(self, messages: Sequence[dict[str, str]]) -> str:
        if not self.tokenizer.chat_template:
            raise UserError(f"{self.name}: has no chat template; ask with a plain text prompt")
        try:
            return str(self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False))
        except Exception as error:  # a template can raise what it likes
            line = " ".join(str(error).split())[:200]
            raise UserError(f"{self.name}: its chat template refuses the prompt: {line}") from None
