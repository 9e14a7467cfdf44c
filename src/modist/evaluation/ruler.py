"""A generator that only measures prompts: pricing a run needs a tokenizer and no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modist.evaluation.generators.generator import Ask, Prompt, Reply, Sampling

if TYPE_CHECKING:
    from modist.evaluation.generators.encoding import Encoder
    from modist.evaluation.model import Model


class Ruler:
    """Stands in for a model whose tokenizer may be at hand.

    Attributes:
        unit: `tokens`, or `characters` where it is not (a model that is still on a hub).
    """

    def __init__(self, name: str, encoder: Encoder | None) -> None:
        self.name = name
        # How many fit at once is the living model's to say.
        self.batch_size = 0
        self.notes: list[str] = []
        self.unit = "tokens" if encoder else "characters"
        self._encoder = encoder

    @classmethod
    def of(cls, model: Model, how: Mapping[str, Any]) -> Ruler:
        """A ruler for a model, with its first local tokenizer; nothing is downloaded."""
        return cls(model.name, _encoder(model, bool(how.get("trust_remote_code"))))

    def describe(self) -> dict[str, Any]:
        return {"kind": "ruler"}

    def length(self, prompt: Prompt) -> int:
        if self._encoder is not None:
            return self._encoder.length(prompt)
        return len(prompt) if isinstance(prompt, str) else sum(len(message["content"]) for message in prompt)

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
        raise AssertionError("a ruler answers nothing")

    def close(self) -> None:
        """There is nothing to give back."""


def _encoder(model: Model, trust: bool) -> Encoder | None:
    from importlib.util import find_spec

    if find_spec("transformers") is None or find_spec("torch") is None:
        return None
    from modist.evaluation.generators.encoding import Encoder
    from modist.mixture.load import load_tokenizer

    for place in (model.identity, *model.parents):
        folder = Path(place)
        if folder.is_dir() and (tokenizer := load_tokenizer(folder, trust_remote_code=trust)) is not None:
            return Encoder(tokenizer, model.name)
    return None
