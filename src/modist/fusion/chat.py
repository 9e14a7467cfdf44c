"""A chat as one model reads it: through its own template, cut by its own tokenizer, with the bytes each response token says.

Only the last message, the assistant's, is learned from.  Its *response* is the tokens of its text, white space at its ends
left off, and the token that ends the turn.  The prompt and what follows it are tokenized apart, as they are when a model
answers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modist.errors import UserError
from modist.recipe import Passage

if TYPE_CHECKING:
    from modist.vocabulary import TokenTexts

Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Reading:
    """One chat as one model reads it.

    Attributes:
        ids: of the prompt and the response, int32 [length].
        first: `ids[first:]` are the response's; at least 1.
        spans: the bytes of the response's text that each of its tokens says, int32 [response, 2]; empty for the last one if it
            ends the turn.
        ends: whether the last token ends the turn.
    """

    ids: Ints
    first: int
    spans: Ints
    ends: bool

    @property
    def count(self) -> int:
        """Tokens of the response: the positions that are learned from."""
        return len(self.ids) - self.first

    @property
    def response(self) -> Ints:
        return self.ids[self.first :]


class Reader:
    """How one model reads chats.

    Args:
        name: for messages.
        tokenizer: a fast one of transformers, with a chat template.
        ends: ids that end a turn.

    Raises:
        UserError: it has no chat template, or is no fast tokenizer.
    """

    def __init__(self, name: str, tokenizer: Any, ends: Collection[int]) -> None:
        from modist.vocabulary import TokenTexts

        if tokenizer is None:
            raise UserError(f"{name}: has no tokenizer that can be read, so there is nothing to read a chat with")
        if not tokenizer.chat_template:
            raise UserError(f"{name}: has no chat template; fusing needs one of every expert")
        self.name, self.tokenizer, self.ends = name, tokenizer, frozenset(ends)
        self.texts: TokenTexts = TokenTexts.of(tokenizer, name)

    def read(self, passage: Passage) -> Reading:
        """One chat.

        Raises:
            UserError: it is no chat, its response is empty, or the template refuses it or does not print it; each with the row.
        """
        messages = chat_of(passage)
        prompt = self._rendered(passage, messages[:-1], generation=True)
        whole = self._rendered(passage, messages, generation=False)
        said = messages[-1]["content"]
        # A template that puts something else before an answer than before an answer to come: the answer is what is learned.
        tail = whole[len(prompt) :] if whole.startswith(prompt) else said + (self.tokenizer.eos_token or "")
        at = tail.find(said)
        if at < 0:
            raise UserError(f"{passage.place}: {self.name}: its chat template does not print the assistant's message as it is")
        before = self._encode(prompt)[0]
        ids, spans = self._encode(tail)
        begin = len(tail[:at].encode())
        size = len(said.encode())
        spans = np.clip(spans - begin, 0, size)
        texted = np.flatnonzero(spans[:, 1] > spans[:, 0])
        if not len(texted) or not len(before):
            what = "no token of it is the response's" if len(before) else "its chat template prints nothing before the response"
            raise UserError(f"{passage.place}: {self.name}: {what}")
        lead, last = int(texted[0]), int(texted[-1]) + 1
        closing = next((place for place in range(last, len(ids)) if int(ids[place]) in self.ends), None)
        stop = last if closing is None else closing + 1
        joined = np.concatenate([before, ids[:stop]])
        return Reading(joined, len(before) + lead, spans[lead:stop], closing is not None)

    def _encode(self, text: str) -> tuple[Ints, Ints]:
        from modist.vocabulary import encode

        return encode(self.tokenizer, text, self.texts)

    def _rendered(self, passage: Passage, messages: Sequence[dict[str, str]], *, generation: bool) -> str:
        try:
            found = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=generation, tokenize=False)
        except Exception as error:
            # A template is a program: jinja2 raises what it likes, and what the template itself says.
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"{passage.place}: {self.name}: its chat template refuses this chat: {reason}") from None
        return str(found)


def chat_of(passage: Passage) -> list[dict[str, str]]:
    """The messages, the response without white space at its ends.

    Raises:
        UserError: the row is no chat, or the response is empty.
    """
    if isinstance(passage.content, str):
        raise UserError(f"{passage.place}: holds 'text'; fusing needs chats: 'messages', the last one the assistant's")
    *before, last = passage.content
    said = last["content"].strip()
    if not said:
        raise UserError(f"{passage.place}: the assistant's message is empty, so there is nothing to learn from it")
    return [*before, {**last, "content": said}]


def is_too_long(reading: Reading, longest: int) -> bool:
    return len(reading.ids) > longest
