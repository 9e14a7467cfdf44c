"""One tokenizer with the tokens of several.

The first tokenizer keeps its ids, its rules and its cuts; tokens that only others have follow, first the ordinary ones and then
those added to a model, in the order of the tokenizers and of their ids (mergekit's order, where that is determined).  Ordinary
tokens become ordinary tokens, so that texts are cut into them; mergekit adds them as literal strings such as `Ġthe`, which no
text holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modist.errors import UserError
from modist.vocabulary.merges import join
from modist.vocabulary.tokenizer import FLAGS, Merge, Tokenizer, loaded_ids, make_tokenizer

_RULES = ("normalizer", "pre_tokenizer", "decoder")
# Below every score a trained piece has, so that a text is never cut into it unless it is split off first.
_FAR = -1e4


@dataclass(frozen=True)
class United:
    """A tokenizer made of several.

    Attributes:
        tokenizer: the result.
        remarks: what does not come out as one of the tokenizers has it.
        grown: whether it has tokens, or settings of tokens, that the first has not.
        remodelled: whether texts are cut by another model than the first's, beside added tokens.
    """

    tokenizer: Tokenizer
    remarks: tuple[str, ...] = ()
    grown: bool = False
    remodelled: bool = False


def unite(tokenizers: Sequence[Tokenizer], extra: Sequence[str] = ()) -> United:
    """The union of tokenizers.

    Args:
        tokenizers: the first is the one whose ids and rules are kept.
        extra: contents of tokens to be added if nobody has them.

    Raises:
        UserError: they cut texts in ways that do not go together.
    """
    first, remarks = tokenizers[0], [text for other in tokenizers[1:] for text in _fit(tokenizers[0], other)]
    growing = _Growing(first, remarks)
    for other in tokenizers[1:]:
        growing.take_words(other)
    for other in tokenizers[1:]:
        growing.take_added(other)
    for content in extra:
        if content not in growing.tokens:
            growing.add({"content": content, **{flag: flag == "normalized" for flag in FLAGS}})
    return growing.finish()


@dataclass
class _Growing:
    """The union as it grows."""

    first: Tokenizer
    remarks: list[str]
    words: dict[str, int] = field(init=False)
    added: dict[str, dict[str, Any]] = field(init=False)
    merges: tuple[Merge, ...] = field(init=False)
    pieces: dict[str, float] = field(init=False)
    tokens: dict[str, int] = field(init=False)
    grown: bool = False
    remodelled: bool = False
    byte_fallback: bool = False

    def __post_init__(self) -> None:
        self.words, self.tokens = dict(self.first.words), dict(self.first.tokens)
        self.added = {content: dict(entry) for content, entry in self.first.added.items()}
        self.merges, self.following = self.first.merges, self.first.size
        self.pieces = dict(_pieces(self.first))
        self.byte_fallback = bool(self.first.model.get("byte_fallback"))

    def take_words(self, other: Tokenizer) -> None:
        """The ordinary tokens of another model, and how it comes to them."""
        if other.model == self.first.model:
            return
        new = [
            text
            for text in sorted(other.words, key=other.words.__getitem__)
            if text not in self.tokens and text not in other.added
        ]
        for text in new:
            self._number(text)
            self.words[text] = self.tokens[text]
        self.remodelled |= bool(new)
        if other.kind == "BPE":
            self._join(other, new)
        elif other.kind == "Unigram":
            scores = _pieces(other)
            self.pieces |= {text: scores[text] for text in new}
            common = scores.keys() & self.pieces.keys()
            if any(scores[text] != self.pieces[text] for text in common if text not in other.added):
                self.remarks.append(
                    f"{self.first.label} and {other.label} score the same pieces differently: the union has the first's scores"
                    f" and {other.label}'s for its {len(new)} new pieces, so texts may be cut as neither cuts them"
                )

    def _join(self, other: Tokenizer, new: Sequence[str]) -> None:
        if other.merges == self.merges:
            return
        joined = join(self.merges, other.merges, new, self.tokens)
        self.remodelled |= joined.merges != self.merges
        exact = joined.merges == other.merges
        if not exact and joined.merges != self.merges:
            lost = len(joined.unreachable)
            remark = (
                f"{other.label} cuts texts by other merges than {self.first.label}: the union cuts by {self.first.label}'s and"
                f" then joins further by {other.label}'s, so a text may be cut as neither cuts it"
            )
            if lost:
                example = ", ".join(map(repr, joined.unreachable[:3]))
                # What another pre-tokenizer splits before the merges are asked is not counted.
                fewest = "at least " if _odd_rules(self.first, other) else ""
                whose = f"tokens only {other.label} has are no longer cut from any text ({example})"
                remark += f"; {fewest}{lost} of the {len(new)} {whose}"
            self.remarks.append(remark)
        self.merges = joined.merges
        if (
            other.model.get("byte_fallback")
            and not self.byte_fallback
            and "ByteFallback" in json.dumps(self.first.data.get("decoder"))
        ):
            self.byte_fallback = all(f"<0x{byte:02X}>" in self.words for byte in range(256))

    def take_added(self, other: Tokenizer) -> None:
        """The added tokens of another."""
        for content, entry in sorted(other.added.items(), key=lambda item: item[1]["id"]):
            mine = self.added.get(content)
            if mine is None and content in self.tokens:
                self.remarks.append(
                    f"{content!r} is an added token of {other.label} and an ordinary one of another parent: in the union it is"
                    " added, so it is cut out of any text first"
                )
                self.add(entry)
            elif mine is None:
                self.add(entry)
            elif odd := [flag for flag in FLAGS if bool(mine[flag]) != bool(entry[flag])]:
                self.remarks.append(
                    f"{content!r} is not the same kind of token in {self.first.label} and {other.label} ({' and '.join(odd)}"
                    f" differ{'s' if len(odd) == 1 else ''}): the union has it as the first does"
                )

    def add(self, entry: Mapping[str, Any]) -> None:
        content = entry["content"]
        if content not in self.tokens:
            self._number(content)
        self.added[content] = {**{flag: bool(entry[flag]) for flag in FLAGS}, "content": content, "id": self.tokens[content]}
        self.grown = True

    def _number(self, text: str) -> None:
        self.tokens[text], self.following = self.following, self.following + 1
        self.grown = True

    def finish(self) -> United:
        if not (self.grown or self.remodelled):
            return United(self.first, tuple(self.remarks))
        if any(entry["id"] != number for entry, number in zip(self.added.values(), self._loaded(), strict=True)):
            # The library numbers added tokens behind the model's; as the model's own they keep their ids.
            for content, entry in self.added.items():
                self.words[content] = entry["id"]
                self.pieces.setdefault(content, _FAR)
        config = self._config()
        made = make_tokenizer(self._data(), config, "the union")
        if made.tokens != self.tokens:
            raise AssertionError("a union's ids are not those planned")
        return United(made, tuple(self.remarks), True, self.remodelled)

    def _loaded(self) -> list[int]:
        return list(loaded_ids(self.words, self.added).values())

    def _data(self) -> dict[str, Any]:
        model = dict(self.first.model)
        if self.first.kind == "Unigram":
            order = sorted(self.words, key=self.words.__getitem__)
            model["vocab"] = [[text, self.pieces[text]] for text in order]
        else:
            model["vocab"] = dict(sorted(self.words.items(), key=lambda item: item[1]))
        if self.first.kind == "BPE":
            # As pairs, so that a token may hold a space.
            model |= {"type": "BPE", "merges": [list(pair) for pair in self.merges], "byte_fallback": self.byte_fallback}
        return {**self.first.data, "model": model, "added_tokens": [_entry(entry) for entry in self.added.values()]}

    def _config(self) -> dict[str, Any]:
        config = dict(self.first.config)
        if isinstance(config.get("added_tokens_decoder"), Mapping):
            config["added_tokens_decoder"] = {
                str(entry["id"]): {key: entry[key] for key in ("content", *FLAGS)}
                for entry in sorted(self.added.values(), key=lambda entry: entry["id"])
            }
        if self.remodelled and "tokenizer_class" in config:
            # Named classes bring rules of their own; this one takes tokenizer.json as it stands.
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
        return config


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": entry["id"], "content": entry["content"]} | {flag: bool(entry[flag]) for flag in FLAGS}


def _pieces(tokenizer: Tokenizer) -> dict[str, float]:
    vocabulary = tokenizer.model["vocab"]
    return dict(vocabulary) if tokenizer.kind == "Unigram" else {}


def _fit(first: Tokenizer, other: Tokenizer) -> list[str]:
    """What of another's rules the union does not keep; an error where the two cannot be united.

    Raises:
        UserError: the tokens of one mean nothing to the other.
    """
    names = f"{first.label} and {other.label}"
    way_out = "; 'source: base' keeps one tokenizer, and the rows of tokens both have"
    if set(other.words) - set(other.added) <= set(first.tokens) and first.spelling == other.spelling:
        # Nothing of the other's model is taken over, so its rules do not matter to the first's tokens.
        return _odd_rules(first, other)
    if first.spelling != other.spelling:
        raise UserError(
            f"the tokenizers of {names} cannot be united: one spells tokens {first.spelling} and the other {other.spelling}, so"
            f" no token of one is cut by the other's rules{way_out}"
        )
    if first.kind != other.kind:
        raise UserError(
            f"the tokenizers of {names} cannot be united: one cuts texts by {first.kind} and the other by {other.kind}{way_out}"
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if (first.model.get(key) or "") != (other.model.get(key) or ""):
            raise UserError(
                f"the tokenizers of {names} cannot be united: their {key} differs"
                f" ({first.model.get(key)!r} and {other.model.get(key)!r}){way_out}"
            )
    return _odd_rules(first, other)


def _odd_rules(first: Tokenizer, other: Tokenizer) -> list[str]:
    odd = [key for key in _RULES if _canonical(first.data.get(key)) != _canonical(other.data.get(key))]
    if not odd:
        return []
    return [
        f"{other.label}'s tokenizer has another {' and another '.join(odd)} than {first.label}'s, which the union has, so texts"
        f" may be cut otherwise than {other.label} cut them"
    ]


def _canonical(part: Any) -> str:
    """A rule without the defaults that some versions write and others do not."""
    if isinstance(part, Mapping):
        part = {key: value for key, value in part.items() if (key, value) not in (("use_regex", True), ("trim_offsets", True))}
    return json.dumps(part, sort_keys=True, default=str)
