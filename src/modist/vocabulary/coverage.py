"""How well one tokenizer's ids can be said by another's: counts, the worst matches, a sentence side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from modist.vocabulary.edit_distance import characters
from modist.vocabulary.id_map import ABSENT, EDIT, REASONS, STATISTICS, UNALIGNED, IdMap
from modist.vocabulary.positions import KINDS, PositionMap, align_positions
from modist.vocabulary.spans import encode
from modist.vocabulary.texts import TokenTexts

# Something of each sort: words, digits, accents, two scripts, a picture, code.
SENTENCE = "The quick brown fox, born in 1987, naïvely jumps: 你好, мир 🙂\n    return f(x) ** 2\n"


@dataclass(frozen=True)
class Match:
    """A source id and what it maps to.

    Attributes:
        id, text: of the source.
        target_id, target_text: -1 and an empty text where it maps to nothing.
        distance: in characters; -1 where it maps to nothing.
    """

    id: int
    text: str
    target_id: int
    target_text: str
    distance: int


@dataclass(frozen=True)
class Stretch:
    """A stretch of the sentence that both tokenizers cut out whole."""

    source: tuple[str, ...]
    target: tuple[str, ...]


@dataclass(frozen=True)
class Coverage:
    """Source ids in the target's words.

    Attributes:
        source, target: names.
        source_family, target_family: how each spells bytes.
        source_tokens, target_tokens: ids in use.
        exact: source ids with the same bytes, or the same special name, in the target.
        role: special ones matched by what they are for.
        edit: those matched by edit distance (or by statistics).
        aligned: all that have a counterpart: exact + role + edit.
        unaligned: all that have none.
        distances: edit distance -> how many of `edit`.
        worst: the matches that differ by the largest part of the longer text, worst first.
        lost: some of the unaligned, by id.
        text: the sentence.
        stretches: the sentence side by side.
        positions: kind of a target position (`same`, `joined`, `part`, `crossed`, `none`) -> how many in the sentence.
    """

    source: str
    target: str
    source_family: str
    target_family: str
    source_tokens: int
    target_tokens: int
    exact: int
    role: int
    edit: int
    aligned: int
    unaligned: int
    distances: dict[int, int]
    worst: tuple[Match, ...]
    lost: tuple[Match, ...]
    text: str = ""
    stretches: tuple[Stretch, ...] = ()
    positions: dict[str, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def cover(source: TokenTexts, target: TokenTexts, found: IdMap, *, count: int = 10) -> Coverage:
    """Count a map and pick what is worst in it.

    Args:
        source, target: what was aligned.
        found: source to target.
        count: how many matches to show.
    """
    by_reason = dict(zip(REASONS, np.bincount(found.reason, minlength=len(REASONS)).tolist(), strict=True))
    near = np.flatnonzero((found.reason == EDIT) | (found.reason == STATISTICS))
    longest = [
        max(len(characters(source.texts[i])), len(characters(target.texts[j])))
        for i, j in zip(near.tolist(), found.ids[near].tolist(), strict=True)
    ]
    far = found.distance[near]
    order = np.lexsort((near, -far, -(far / np.array(longest, dtype=np.float64)))) if len(near) else near
    values, counts = np.unique(far, return_counts=True)
    used = int(np.count_nonzero(found.reason != ABSENT))
    aligned = int(np.count_nonzero(found.aligned))
    return Coverage(
        source.name,
        target.name,
        source.family,
        target.family,
        used,
        sum(1 for spelling in target.spellings if spelling),
        by_reason["exact"],
        by_reason["role"],
        len(near),
        aligned,
        used - aligned,
        dict(zip(values.tolist(), counts.tolist(), strict=True)),
        tuple(_match(source, target, found, i) for i in near[order[:count]].tolist()),
        tuple(_match(source, target, found, i) for i in np.flatnonzero(found.reason == UNALIGNED)[:count].tolist()),
    )


def side_by_side(
    source: TokenTexts, target: TokenTexts, source_tokenizer: Any, target_tokenizer: Any, text: str
) -> tuple[tuple[Stretch, ...], dict[str, int]]:
    """Cut a text by both tokenizers (as `encode` takes them) and lay the tokens of each stretch side by side.

    Returns:
        The stretches, and kind of a target position -> how many.
    """
    one, spans = encode(source_tokenizer, text, source)
    two, others = encode(target_tokenizer, text, target)
    found = align_positions(spans, others)
    stretches = tuple(
        Stretch(
            tuple(source.show(i) for i in one[a:b].tolist()),
            tuple(target.show(i) for i in two[c:d].tolist()),
        )
        for a, b, c, d in found.groups.tolist()
    )
    return stretches, count_kinds(found)


def count_kinds(found: PositionMap) -> dict[str, int]:
    """Kind of a target position -> how many."""
    return dict(zip(KINDS, np.bincount(found.kind, minlength=len(KINDS)).tolist(), strict=True))


def _match(source: TokenTexts, target: TokenTexts, found: IdMap, number: int) -> Match:
    other = int(found.ids[number])
    return Match(
        number, source.show(number), other, target.show(other) if other >= 0 else "", int(found.distance[number])
    )  # fmt: skip
