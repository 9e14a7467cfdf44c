"""What an answer is asked with and what comes back, whoever generates it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from modist.errors import ModistError, UserError

Prompt = str | list[dict[str, str]]
"""A text as the model is to see it, or messages that its own chat template turns into one."""

FinishReason = Literal["stop", "length", "error"]


class GenerationError(ModistError):
    """Nothing more can be answered: no memory, a model that fails, an endpoint that is gone (exit status 1)."""


@dataclass(frozen=True)
class Ask:
    """One answer wanted.

    Args:
        key: Names the answer; comes back in its reply.
        prompt: A text, or messages with "role" and "content".
        max_new_tokens: At most this many tokens are generated (1 or more).
        stop: Texts the answer ends before; they are not part of it.
        seed: For drawn answers; differs by sample. Greedy answers do not depend on it.
    """

    key: str
    prompt: Prompt
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens {self.max_new_tokens}: must be at least 1")
        if not all(self.stop):
            raise UserError("an empty stop string would end every answer at once")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: Divides the logits before drawing (more than 0); None is greedy.
        top_p: Draw from the fewest tokens that hold this share (0 < top_p <= 1).
        top_k: Draw from this many likeliest tokens; 0 is all.
    """

    temperature: float | None = None
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self) -> None:
        if self.temperature is None:
            if self.top_p != 1 or self.top_k:
                raise UserError("top_p and top_k need a temperature; greedy decoding has no use for them")
        elif not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(f"temperature {self.temperature}: must be more than 0; leave it out for greedy decoding")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p}: must be more than 0 and at most 1")
        if self.top_k < 0:
            raise UserError(f"top_k {self.top_k}: must be at least 0; 0 draws from all tokens")


@dataclass(frozen=True)
class Reply:
    """What came of one ask.

    Args:
        key: The ask's.
        text: The answer, cut before the first stop text; "" after an error.
        prompt: What the model saw, as text.
        tokens: How many tokens were generated, the one that stopped the answer included.
        prompt_tokens: How many tokens the prompt has.
        finish_reason: "stop" (the model ended it, or a stop text), "length" (max_new_tokens reached) or "error".
        seconds: This answer's share of the time its batch took.
        error: Why there is no answer, in one line; "" where there is one.
    """

    key: str
    text: str
    prompt: str
    tokens: int
    prompt_tokens: int
    finish_reason: FinishReason
    seconds: float
    error: str = ""

    @classmethod
    def failed(cls, key: str, error: str, prompt: str = "", prompt_tokens: int = 0, seconds: float = 0.0) -> Reply:
        """A reply that says why there is none."""
        return cls(key, "", prompt, 0, prompt_tokens, "error", seconds, error)


class Generator(Protocol):
    """Whatever answers: a model in this process, a mixture of several, an endpoint."""

    name: str
    """For tables."""

    batch_size: int
    """How many asks a batch has, where the run says nothing."""

    notes: list[str]
    """What the user ought to know of how the answers came about, one line each, growing while it answers."""

    def describe(self) -> dict[str, Any]:
        """What identifies the answers, as plain data: kind, model, dtype, device, versions."""

    def length(self, prompt: Prompt) -> int:
        """How long a prompt is, in tokens (in characters where the tokenizer is elsewhere): to sort by."""

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
        """Answers one batch, in the asks' order; what fails for one ask alone becomes that ask's error reply.

        Raises:
            UserError: What was asked does not go together with this generator: no chat template, a key that is refused.
            GenerationError: Nothing can be answered: out of memory, an endpoint that is gone.
        """

    def close(self) -> None:
        """Gives back memory, threads and connections; calling it twice does nothing more."""
