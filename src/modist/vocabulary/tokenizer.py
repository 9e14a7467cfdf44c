"""A tokenizer as the data it is: tokenizer.json, and what tokenizer_config.json adds to it.

Nothing here cuts a text.  The ids are those a loader gives, which are not always those the file states: the tokenizers library
numbers added tokens anew, one after the other.  Where the two differ, or two tokens share an id, nobody knows which row of the
embeddings is meant, and the tokenizer is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from modist.checkpoint.folder import read_json
from modist.errors import CheckpointError

Merge = tuple[str, str]
Spelling = Literal["byte-level", "metaspace", "plain"]

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
# More than any vocabulary has; a number beyond it is damage, and rows for it would fill the memory.
LARGEST = 1 << 22
FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
# In the order in which transformers adds those that tokenizer.json lacks.
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_OTHERS = ("sentencepiece.bpe.model", "tokenizer.model", "spiece.model", "tiktoken.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Tokenizer:
    """One tokenizer.

    Attributes:
        label: whose it is, for messages.
        data: tokenizer.json.
        config: tokenizer_config.json, empty where there is none.
        words: token -> id of its model, the added tokens not counted.
        added: content -> entry (`content`, `id` and FLAGS) of each added token.
    """

    label: str
    data: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    words: Mapping[str, int] = field(repr=False)
    added: Mapping[str, Mapping[str, Any]] = field(repr=False)

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Token -> id of everything."""
        return {**self.words, **{content: entry["id"] for content, entry in self.added.items()}}

    @cached_property
    def size(self) -> int:
        """One more than the largest id: the rows an embedding needs."""
        return 1 + max(self.tokens.values(), default=-1)

    @property
    def model(self) -> Mapping[str, Any]:
        return self.data["model"]  # type: ignore[no-any-return]

    @property
    def kind(self) -> str:
        """BPE, Unigram, WordPiece or WordLevel."""
        return model_kind(self.model)

    @cached_property
    def merges(self) -> tuple[Merge, ...]:
        """Of a BPE model, first the one that is tried first; older files write a pair as one string."""
        listed = self.model.get("merges") or ()
        try:
            pairs: list[Any] = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in listed]
        except TypeError:
            pairs = [()]
        if not all(len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], str) for pair in pairs):
            raise CheckpointError(f"{self.label}: {FILE} has merges that are no pairs of tokens")
        return tuple(pairs)

    @cached_property
    def spelling(self) -> Spelling:
        """How tokens spell a text: its bytes as letters (Ġ is a space), ▁ for a space, or the text itself."""
        names = {part for key in ("normalizer", "pre_tokenizer", "decoder") for part in _leaves(self.data.get(key))}
        if "ByteLevel" in names:
            return "byte-level"
        return "metaspace" if names & {"Metaspace", "▁"} else "plain"


def model_kind(model: Mapping[str, Any]) -> str:
    """The type a tokenizer.json names; older files leave it to be seen."""
    if isinstance(model.get("type"), str):
        return str(model["type"])
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"


def read_tokenizer(folder: Path, label: str = "") -> Tokenizer | None:
    """The tokenizer of a model's folder; None where the folder has none at all.

    Raises:
        CheckpointError: it cannot be read, its ids are in doubt, or there is only a form that is not read here.
    """
    label, path = label or str(folder), folder / FILE
    if not path.exists():
        other = next((name for name in _OTHERS if (folder / name).exists()), None)
        if other is not None:
            raise CheckpointError(
                f"{label}: has {other} but no {FILE}, the only form read here; load it with transformers once and save it"
                " with save_pretrained()"
            )
        return None
    config = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    return make_tokenizer(read_json(path), config, label)


def make_tokenizer(data: Mapping[str, Any], config: Mapping[str, Any], label: str) -> Tokenizer:
    """The same from data already read."""
    try:
        words, entries = _words(data["model"]), [dict(entry) for entry in data.get("added_tokens") or ()]
        entries = [dict.fromkeys(FLAGS, False) | entry for entry in entries if entry["content"]]
        if not all(isinstance(entry["content"], str) for entry in entries):
            raise TypeError("a token that is no text")
        stated = {entry["content"]: entry["id"] for entry in entries}
        numbers = loaded_ids(words, [entry["content"] for entry in entries])
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        raise CheckpointError(f"{label}: {FILE} is no tokenizer that can be read") from None
    if len(stated) < len(entries):
        contents = [entry["content"] for entry in entries]
        twice = next(text for text in contents if contents.count(text) > 1)
        raise CheckpointError(f"{label}: {FILE} adds the token {twice!r} twice")
    for content, number in numbers.items():
        if stated[content] != number:
            raise CheckpointError(
                f"{label}: {FILE} gives the added token {content!r} the id {stated[content]!r}, where whoever loads it gets"
                f" {number}: which row of the embeddings is its own cannot be known"
            )
    added = {entry["content"]: entry for entry in entries}
    for entry in _named(config):
        if entry["content"] not in added and entry["content"] not in words:
            number = loaded_ids(words, [*added, entry["content"]])[entry["content"]]
            added[entry["content"]] = entry | {"id": number}
    largest = max(words.values(), default=0)
    if largest >= LARGEST:
        raise CheckpointError(f"{label}: {FILE} has the id {largest}, which is more than any vocabulary needs")
    _refuse_shared_ids(words, added, label)
    return Tokenizer(label, data, config, words, added)


def loaded_ids(words: Mapping[str, int], contents: Iterable[str]) -> dict[str, int]:
    """The ids the tokenizers library gives to added tokens, in their order, whatever the file states."""
    numbers: dict[str, int] = {}
    following = len(words)
    for content in contents:
        if content in words:
            numbers[content] = words[content]
        elif content not in numbers:
            numbers[content], following = following, following + 1
    return numbers


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like -> content, as a tokenizer_config.json names them."""
    return {key: text for key in NAMED if (text := content_of(config.get(key))) is not None}


def content_of(value: Any) -> str | None:
    """The content of a token that a config writes as a string or as a mapping."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) and value else None


def _named(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What transformers adds to a tokenizer for its config's sake, in its order; without ids."""
    found: dict[str, dict[str, Any]] = {}
    listed = config.get("added_tokens_decoder")
    if isinstance(listed, Mapping):
        for _, entry in sorted(listed.items(), key=lambda item: (len(item[0]), item[0])):
            if isinstance(entry, Mapping) and (text := content_of(entry)) is not None:
                found.setdefault(text, {flag: bool(entry.get(flag)) for flag in FLAGS} | {"content": text})
    texts = list(named_tokens(config).values())
    for key in ("additional_special_tokens", "extra_special_tokens"):
        part = config.get(key)
        values = part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ()
        texts += [text for value in values if (text := content_of(value)) is not None]
    for text in texts:
        found.setdefault(text, {flag: flag == "special" for flag in FLAGS} | {"content": text})
    return list(found.values())


def _words(model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, Mapping):
        words = dict(vocabulary)
    else:
        words = {entry[0]: number for number, entry in enumerate(vocabulary)}
        if len(words) < len(vocabulary) or not all(isinstance(entry[1], (int, float)) for entry in vocabulary):
            raise ValueError("a piece is listed twice, or has no score")
    if not all(isinstance(text, str) and type(number) is int and number >= 0 for text, number in words.items()):
        raise TypeError("not words and ids")
    return words


def _refuse_shared_ids(words: Mapping[str, int], added: Mapping[str, Mapping[str, Any]], label: str) -> None:
    owners: dict[int, str] = {}
    for text, number in [*words.items(), *((content, entry["id"]) for content, entry in added.items())]:
        other = owners.setdefault(number, text)
        if other != text:
            raise CheckpointError(f"{label}: {FILE} gives both {other!r} and {text!r} the id {number}")


def _leaves(node: Any) -> Iterable[str]:
    """Every word in a part of tokenizer.json."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _leaves(value)
    elif isinstance(node, Sequence):
        for value in node:
            yield from _leaves(value)
