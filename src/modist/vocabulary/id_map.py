"""Which id of one tokenizer says what an id of another says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modist.errors import UserError, nearest
from modist.vocabulary.texts import TEXT, TokenTexts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from modist.vocabulary.counts import PairCounts

How = Literal["edit", "exact", "statistics"]
HOWS = ("edit", "exact", "statistics")

# Why an id maps to what it maps to.
UNALIGNED, EXACT, ROLE, EDIT, STATISTICS, GIVEN, ABSENT = 0, 1, 2, 3, 4, 5, 6
REASONS = ("unaligned", "exact", "role", "edit", "statistics", "given", "absent")


@dataclass(frozen=True, eq=False)
class IdMap:
    """Source id -> target id.

    Attributes:
        source, target: names of the tokenizers.
        ids: the target id of each source id, -1 where nothing fits; int32 [source size].
        reason: EXACT (the same bytes, or a special token of the same name), ROLE (a special token for the same purpose), EDIT,
            STATISTICS, GIVEN (by the caller), UNALIGNED, or ABSENT (the source has no token of this id); uint8 [source size].
        distance: characters to insert, delete or replace between the two texts; 0 for EXACT, ROLE and GIVEN, -1 where ids is;
            int32 [source size].
        target_size: one more than the largest target id.
    """

    source: str
    target: str
    ids: NDArray[np.int32]
    reason: NDArray[np.uint8]
    distance: NDArray[np.int32]
    target_size: int

    @property
    def exact(self) -> NDArray[np.bool_]:
        """Whether a source id has an exact counterpart; bool [source size]."""
        return np.equal(self.reason, EXACT)

    @property
    def aligned(self) -> NDArray[np.bool_]:
        """Whether a source id has a counterpart at all; bool [source size]."""
        return np.greater_equal(self.ids, 0)

    @property
    def is_identity(self) -> bool:
        """Whether every token maps, exactly, to the id of the same number, and the sizes agree."""
        same = (self.reason == ABSENT) | (self.exact & (self.ids == np.arange(len(self.ids))))
        return len(self.ids) == self.target_size and bool(same.all())

    def apply(self, ids: ArrayLike) -> NDArray[np.int32]:
        """Target ids of source ids, of any shape; -1 for an id that has none or that the tokenizer does not know.

        An output may have more rows than the tokenizer has tokens (padding): those have no counterpart either.
        """
        given = np.asarray(ids)
        known = (given >= 0) & (given < len(self.ids))
        found = self.ids[np.where(known, given, 0)] if len(self.ids) else np.full(given.shape, -1, dtype=np.int32)
        return np.where(known, found, np.int32(-1)).astype(np.int32)


def align_ids(
    source: Any,
    target: Any,
    how: How = "edit",
    *,
    statistics: PairCounts | None = None,
    given: Mapping[int, int] | None = None,
    cache: Path | None = None,
    workers: int | None = None,
    advance: Callable[[int, int], object] | None = None,
) -> IdMap:
    """Map the ids of one tokenizer to those of another.

    In every way of aligning, tokens with the same bytes are matched first, and special tokens by role.  Of the rest, `exact`
    leaves all out; `edit` takes the target text at the least edit distance, of several the shorter and then the lower id,
    among those that keep at least one character in its place; `statistics` takes, of the target ids that stood for the same
    bytes in a corpus, the one at the least edit distance, then the most frequent.

    Args:
        source, target: anything `TokenTexts.of` takes.
        how: `edit`, `exact` or `statistics`.
        statistics: counted on a corpus, for `statistics`.
        given: source id -> target id that the caller knows better, such as the tokens that end an answer in each template.
        cache: folder of finished maps (see `cache_folder`); None keeps none.
        workers: threads for edit distances; None for one a core.
        advance: told (pairs of tokens compared, pairs in all), from one thread.

    Raises:
        UserError: an unknown way, or statistics missing or of other tokenizers.
        ImportError: edit distances need rapidfuzz (`pip install 'modist[fuse]'`).
    """
    if how not in HOWS:
        raise UserError(f"alignment {how!r}: there is no such way; one of {', '.join(HOWS)}{nearest(how, HOWS)}")
    if (how == "statistics") != (statistics is not None):
        raise UserError("alignment by statistics needs counts of a corpus (PairCounts)" if how == "statistics" else
                        f"alignment {how!r} takes no statistics")  # fmt: skip
    one, two = TokenTexts.of(source), TokenTexts.of(target)
    if statistics is not None:
        statistics.check(one, two)
    from modist.vocabulary.alignment_cache import recall

    found = recall(cache, one, two, how, lambda: _align(one, two, how, statistics, workers, advance), statistics)
    return _override(found, given) if given else found


def match_exactly(one: TokenTexts, two: TokenTexts) -> NDArray[np.int32]:
    """Target id with the same bytes, or the same name and no bytes; -1 elsewhere.  int32 [source size]."""
    ids = np.full(one.size, -1, dtype=np.int32)
    spelled = {spelling: number for number, spelling in reversed([*enumerate(two.spellings)]) if spelling}
    by_text = two.by_text
    # A byte-fallback piece says what a whole piece says, but is used elsewhere: it goes to its own kind where there is one.
    bytewise = {two.texts[number]: number for number in np.flatnonzero(two.fallback).tolist()}
    same_family = one.family == two.family
    for number, (text, spelling) in enumerate(zip(one.texts, one.spellings, strict=True)):
        if not spelling:
            continue
        twin = spelled.get(spelling)
        if not text:
            if twin is not None and not two.texts[twin]:
                ids[number] = twin
        elif same_family and twin is not None and two.texts[twin] == text:
            ids[number] = twin
        elif one.fallback[number] and text in bytewise:
            ids[number] = bytewise[text]
        else:
            ids[number] = by_text.get(text, -1)
    return ids


def match_roles(one: TokenTexts, two: TokenTexts) -> dict[int, int]:
    """Source id -> target id of the same role, the roles in the order in which `TokenTexts.roles` lists them."""
    from modist.vocabulary.roles import STAND_INS

    found: dict[int, int] = {}
    for others in (False, True):  # a role both have comes before one that another role stands in for
        for role, numbers in one.roles.items():
            wanted = STAND_INS.get(role, "") if others else role
            if wanted in two.roles:
                for number in numbers:
                    found.setdefault(number, two.roles[wanted][0])
    return found


def _align(
    one: TokenTexts,
    two: TokenTexts,
    how: How,
    statistics: PairCounts | None,
    workers: int | None,
    advance: Callable[[int, int], object] | None,
) -> IdMap:
    ids = match_exactly(one, two)
    reason = np.where(ids >= 0, EXACT, UNALIGNED).astype(np.uint8)
    reason[[number for number, spelling in enumerate(one.spellings) if not spelling]] = ABSENT
    distance = np.where(ids >= 0, 0, -1).astype(np.int32)
    for number, other in match_roles(one, two).items():
        if ids[number] < 0:
            ids[number], reason[number], distance[number] = other, ROLE, 0
    rest = np.flatnonzero((ids < 0) & (one.kind == TEXT))
    if how != "exact" and len(rest):
        if statistics is not None:
            chosen, far = statistics.choose(one, two, rest)
        else:
            from modist.vocabulary.edit_distance import nearest_texts

            candidates = np.sort(np.fromiter(two.by_text.values(), dtype=np.int64, count=len(two.by_text)))
            sources = [one.texts[number] for number in rest.tolist()]
            places, far = nearest_texts(sources, [two.texts[i] for i in candidates.tolist()], workers=workers, advance=advance)
            chosen = np.where(places >= 0, candidates[np.maximum(places, 0)], -1) if len(candidates) else places
        ids[rest], distance[rest] = chosen, far
        reason[rest] = np.where(chosen >= 0, STATISTICS if statistics is not None else EDIT, UNALIGNED)
    return IdMap(one.name, two.name, ids, reason, distance, two.size)


def _override(found: IdMap, given: Mapping[int, int]) -> IdMap:
    ids, reason, distance = found.ids.copy(), found.reason.copy(), found.distance.copy()
    for number, other in given.items():
        if not (0 <= number < len(ids) and 0 <= other < found.target_size):
            raise UserError(
                f"given {number} -> {other}: {found.source} has ids below {len(ids)}, {found.target} below {found.target_size}"
            )
        ids[number], reason[number], distance[number] = other, GIVEN, 0
    return IdMap(found.source, found.target, ids, reason, distance, found.target_size)
