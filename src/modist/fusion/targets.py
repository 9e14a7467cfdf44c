"""Fused targets on disk: with the pivot's own tokens, all that training reads.

A shard's arrays, P positions and T tokens of R chats, in the order of the data:

    ids, probs, tail   int32 [P, k], float32 [P, k], float32 [P]    the target of each response position
    input_ids          int32 [T]        the pivot's tokens of each chat, prompt and response
    rows               int64 [R]        which chats
    lengths, firsts    int32 [R]        tokens of each; where the response begins
    shares             float64 [R, experts]   how much of each target is whose
    aligned            int32 [R]        positions at which the target is not the label alone
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modist.errors import ModistError
from modist.fusion.aligned import align_distribution
from modist.fusion.chat import Reading
from modist.fusion.distributions import Distributions
from modist.fusion.models import Participant
from modist.fusion.plan import FORMAT, SHARD_POSITIONS, Chats
from modist.fusion.store import Store, StoreError
from modist.fusion.target import Target, fused_target
from modist.recipe.fusion import FusionRecipe

if TYPE_CHECKING:
    from modist.vocabulary import IdMap

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Teacher:
    """One whose distributions are fused.

    Attributes:
        participant: the pivot or an expert.
        readings: its own, by row.
        said: its distributions.
        weight: of `target: weights`.
        is_pivot: whether its ids are the pivot's.
    """

    participant: Participant
    readings: Sequence[Reading | None]
    said: Distributions
    weight: float
    is_pivot: bool


@dataclass(frozen=True)
class TargetSummary:
    """What became of the data.

    Attributes:
        chats, positions: that are trained on.
        aligned: share of the positions at which the target is not the label alone.
        tail: mean mass left to ids that are not named.
        shares: by teacher's name, the mean share of a response's target that is its.
        nats: by teacher's name, the mean cross-entropy of a response over the pivot's tokens.
        ids: by teacher's name, the share of its ids that have a counterpart.
        nbytes: of the store.
    """

    chats: int
    positions: int
    aligned: float
    tail: float
    shares: Mapping[str, float]
    nats: Mapping[str, float]
    ids: Mapping[str, float]
    nbytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_targets(
    recipe: FusionRecipe,
    teachers: Sequence[Teacher],
    pivot: Participant,
    readings: Sequence[Reading | None],
    chats: Chats,
    folder: Path,
    advance: Callable[[str, int, int], object] = lambda phase, done, total: None,
) -> TargetSummary:
    """Align and fuse what teachers say of every chat that the pivot and one of them can read; goes on where it was stopped.

    Args:
        readings: the pivot's, by row.
        folder: of the store.
        advance: told a phase (`align math`: pairs of tokens; `fuse`: positions), how much is done, and of how much.

    Raises:
        UserError: the folder holds something else.
        StoreError: distributions are not there, or damaged.
    """
    rows = [
        row for row, reading in enumerate(readings) if reading is not None and any(row in teacher.said for teacher in teachers)
    ]
    if not rows:
        raise StoreError("no chat is short enough for the pivot and a teacher, so there is nothing to train on")
    shards: list[list[int]] = [[]]
    positions = 0
    for row in rows:
        if positions >= SHARD_POSITIONS:
            shards.append([])
            positions = 0
        shards[-1].append(row)
        positions += _reading(readings, row).count
    plan = {
        "format": FORMAT,
        "kind": "targets",
        "pivot": pivot.digests["tokenizer"],
        "teachers": [[teacher.participant.name, teacher.said.store.digest(), teacher.weight] for teacher in teachers],
        "fusion": recipe.fusion.model_dump(exclude={"mode", "merge"}),
        "shards": [{"rows": shard} for shard in shards],
    }
    total = sum(_reading(readings, row).count for row in rows)
    with Store(folder, plan) as store:
        missing = store.missing
        # Maps are made even where no target is: the summary tells of them.
        maps = {
            teacher.participant.name: _id_map(recipe, teacher, pivot, readings, advance)
            for teacher in teachers
            if not teacher.is_pivot
        }
        done = sum(
            _reading(readings, row).count for number, shard in enumerate(shards) if number not in missing for row in shard
        )
        for number in missing:
            built = []
            for row in shards[number]:
                built.append(_one(recipe, teachers, maps, readings, row))
                done += len(built[-1].tail)
                advance("fuse", done, total)
            store.add(number, _arrays(shards[number], built, readings, len(teachers)))
        return _summary(store, teachers, maps, readings, rows, total)


def _reading(readings: Sequence[Reading | None], row: int) -> Reading:
    found = readings[row]
    assert found is not None
    return found


def _id_map(
    recipe: FusionRecipe,
    teacher: Teacher,
    pivot: Participant,
    readings: Sequence[Reading | None],
    advance: Callable[[str, int, int], object],
) -> IdMap:
    from modist.vocabulary import PairCounts, align_ids, align_positions, cache_folder

    source, target = teacher.participant.reader.texts, pivot.reader.texts
    ends = _ends(teacher.participant, pivot, teacher.readings, readings)
    statistics = None
    if recipe.fusion.align == "statistics":
        statistics = PairCounts.between(source, target)
        for theirs, ours in zip(teacher.readings, readings, strict=True):
            if theirs is not None and ours is not None:
                statistics.add(theirs.response, ours.response, align_positions(theirs.spans, ours.spans))
    try:
        return align_ids(
            source,
            target,
            recipe.fusion.align,
            statistics=statistics,
            given=ends,
            cache=cache_folder(),
            advance=lambda done, total: advance(f"align {teacher.participant.name}", done, total),
        )
    except ImportError as error:
        raise ModistError(f"aligning vocabularies: {error}") from None


def _ends(
    expert: Participant, pivot: Participant, theirs: Sequence[Reading | None], ours: Sequence[Reading | None]
) -> dict[int, int]:
    """Which token ends a turn in each template: the expert's -> the pivot's, as the chats have them."""
    for one, two in zip(theirs, ours, strict=True):
        if one is not None and two is not None and one.ends and two.ends:
            return {int(one.ids[-1]): int(two.ids[-1])}
    return {}


def _one(
    recipe: FusionRecipe,
    teachers: Sequence[Teacher],
    maps: Mapping[str, IdMap],
    readings: Sequence[Reading | None],
    row: int,
) -> Target:
    """One chat's target; a teacher that could not read it takes no part in it."""
    here = [index for index, teacher in enumerate(teachers) if row in teacher.said]
    target = _reading(readings, row)
    aligned = [
        align_distribution(
            teachers[index].said[row],
            _reading(teachers[index].readings, row),
            target,
            maps.get(teachers[index].participant.name),
            recipe.fusion.spans,
        )
        for index in here
    ]
    weights = np.array([teachers[index].weight for index in here])
    if recipe.weights is not None:
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(here), 1 / len(here))
    found = fused_target(
        aligned,
        recipe.fusion.target,
        compare=recipe.fusion.compare,
        temperature=recipe.fusion.temperature,
        weights=weights.tolist(),
    )
    shares = np.zeros(len(teachers))
    shares[here] = found.shares
    return Target(found.ids, found.probs, found.tail, shares, found.aligned)


def _arrays(rows: Sequence[int], built: Sequence[Target], readings: Sequence[Reading | None], experts: int) -> dict[str, Array]:
    width = max(target.ids.shape[1] for target in built)

    def wide(array: Array, filler: float) -> Array:
        return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=filler)

    ours = [_reading(readings, row) for row in rows]
    return {
        "ids": np.concatenate([wide(target.ids, -1) for target in built]).astype(np.int32),
        "probs": np.concatenate([wide(target.probs, 0) for target in built]).astype(np.float32),
        "tail": np.concatenate([target.tail for target in built]).astype(np.float32),
        "input_ids": np.concatenate([reading.ids for reading in ours]).astype(np.int32),
        "rows": np.array(rows, dtype=np.int64),
        "lengths": np.array([len(reading.ids) for reading in ours], dtype=np.int32),
        "firsts": np.array([reading.first for reading in ours], dtype=np.int32),
        "shares": np.stack([target.shares for target in built]).reshape(len(built), experts),
        "aligned": np.array([target.aligned for target in built], dtype=np.int32),
    }


def _summary(
    store: Store,
    teachers: Sequence[Teacher],
    maps: Mapping[str, IdMap],
    readings: Sequence[Reading | None],
    rows: Sequence[int],
    positions: int,
) -> TargetSummary:
    found = [store.read(number) for number in range(store.shards)]
    names = [teacher.participant.name for teacher in teachers]
    shares = np.concatenate([shard["shares"] for shard in found]).mean(axis=0)
    nats = {}
    for teacher in teachers:
        known = [row for row in rows if row in teacher.said]
        total = sum(_reading(readings, row).count for row in known)
        nats[teacher.participant.name] = sum(teacher.said[row].nats for row in known) / max(1, total)
    return TargetSummary(
        chats=len(rows),
        positions=positions,
        aligned=sum(int(shard["aligned"].sum()) for shard in found) / positions,
        tail=sum(float(shard["tail"].sum(dtype=np.float64)) for shard in found) / positions,
        shares=dict(zip(names, map(float, shares), strict=True)),
        nats=nats,
        ids={name: float(map_.aligned.mean()) for name, map_ in maps.items()},
        nbytes=store.nbytes,
    )
