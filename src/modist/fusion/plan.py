"""Which chats an expert is run on, in which batches and which shards: fixed before anything is run.

Chats are sorted by length, so that a batch holds nearly no padding; a batch is as many as fit into a number of tokens, a shard
as many batches as make about a megabyte.  A result is then the same bytes however often its making was stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.errors import UserError
from modist.fusion.chat import Reading, is_too_long
from modist.fusion.models import Participant
from modist.merge.hashing import sha256_file
from modist.recipe import Passage, read_passages
from modist.recipe.fusion import FusionRecipe

FORMAT = 1
Advance = Callable[[int, int], object]
# Tokens of a batch, padding included; and logits of its response positions, at most: 256 million, 1 GB in float32.
BATCH_TOKENS = 4096
_BATCH_LOGITS = 1 << 28
# Positions after which a shard is closed: a megabyte, and what a killed process may lose.
SHARD_POSITIONS = 16_384


@dataclass(frozen=True, eq=False)
class Chats:
    """A recipe's data.

    Attributes:
        passages: rows of all files, in order.
        digests: SHA-256 of each file.
    """

    passages: tuple[Passage, ...]
    digests: tuple[str, ...]

    @classmethod
    def of(cls, recipe: FusionRecipe) -> Chats:
        """Read a recipe's data; raises as `read_passages`."""
        rows = [passage for file in recipe.data for passage in read_passages(Path(file))]
        return cls(tuple(rows), tuple(sha256_file(Path(file)) for file in recipe.data))

    def __len__(self) -> int:
        return len(self.passages)


@dataclass(frozen=True, eq=False)
class DistributionPlan:
    """What one expert is to say.

    Attributes:
        plan: for the store.
        readings: of each row; None for one that is left out as too long.
        skipped: how many are left out.
    """

    plan: dict[str, Any]
    readings: tuple[Reading | None, ...]
    skipped: int

    @property
    def positions(self) -> int:
        return sum(int(shard["positions"]) for shard in self.plan["shards"])

    @property
    def tokens(self) -> int:
        return sum(len(reading.ids) for reading in self.readings if reading is not None)


def plan_distributions(
    recipe: FusionRecipe, participant: Participant, chats: Chats, advance: Advance = lambda done, total: None
) -> DistributionPlan:
    """Read all chats as an expert does, and lay them out.

    Args:
        advance: told chats read, and in all.

    Raises:
        UserError: a chat cannot be read, or is too long (naming the row).
    """
    readings = read_chats(recipe, participant, chats, advance)
    rows = outputs_of(participant)
    order = sorted((len(reading.ids), row) for row, reading in enumerate(readings) if reading is not None)
    if not order:
        raise UserError(f"{participant.name}: every chat is longer than {recipe.training.max_length} tokens")
    shards = []
    for batches in _shards(_batches(order, readings, rows), readings):
        digest = hashlib.sha256()
        for row in (row for batch in batches for row in batch):
            reading = readings[row]
            assert reading is not None
            digest.update(f"{row} {reading.first}\n".encode())
            digest.update(reading.ids.astype("<i4").tobytes())
        positions = sum(_count(readings, row) for batch in batches for row in batch)
        shards.append({"batches": batches, "positions": positions, "ids": digest.hexdigest()})
    plan = {
        "format": FORMAT,
        "kind": "distributions",
        "expert": participant.name,
        **participant.digests,
        "vocabulary": rows,
        "data": list(chats.digests),
        "top_k": min(recipe.fusion.top_k, rows),
        "dtype": recipe.fusion.dtype,
        "max_length": recipe.training.max_length,
        "shards": shards,
    }
    return DistributionPlan(plan, readings, sum(reading is None for reading in readings))


def read_chats(
    recipe: FusionRecipe, participant: Participant, chats: Chats, advance: Advance = lambda done, total: None
) -> tuple[Reading | None, ...]:
    """Every row as a model reads it; None for one that is left out as too long.

    Raises:
        UserError: see `Reader.read`; or a chat is too long and the recipe says to refuse that.
    """
    longest = recipe.training.max_length
    limit = f"training.max_length is {longest}"
    if participant.context is not None and participant.context < longest:
        longest, limit = participant.context, f"its context is {participant.context}"
    found: list[Reading | None] = []
    for number, passage in enumerate(chats.passages, 1):
        reading = participant.reader.read(passage)
        if is_too_long(reading, longest):
            if recipe.fusion.too_long == "refuse":
                raise UserError(
                    f"{passage.place}: {participant.name} reads {len(reading.ids):,} tokens, and {limit};"
                    " 'fusion.too_long: skip' leaves such chats out"
                )
            found.append(None)
        else:
            found.append(reading)
        if number % 64 == 0 or number == len(chats):
            advance(number, len(chats))
    return tuple(found)


def outputs_of(participant: Participant) -> int:
    """Rows of its output, by its config."""
    text = participant.config.get("text_config")
    size = (text if isinstance(text, dict) else participant.config).get("vocab_size")
    return int(size) if isinstance(size, int) else participant.reader.texts.size


def _count(readings: Sequence[Reading | None], row: int) -> int:
    reading = readings[row]
    return 0 if reading is None else reading.count


def _batches(order: Sequence[tuple[int, int]], readings: Sequence[Reading | None], vocabulary: int) -> list[list[int]]:
    """Rows by length, cut where a batch would hold too many tokens, or logits."""
    found: list[list[int]] = []
    positions = 0
    for length, row in order:
        count = _count(readings, row)
        full = found and (length * (len(found[-1]) + 1) > BATCH_TOKENS or (positions + count) * vocabulary > _BATCH_LOGITS)
        if not found or full:
            found.append([])
            positions = 0
        found[-1].append(row)
        positions += count
    return found


def _shards(batches: Sequence[list[int]], readings: Sequence[Reading | None]) -> list[list[list[int]]]:
    found: list[list[list[int]]] = [[]]
    positions = 0
    for batch in batches:
        if positions >= SHARD_POSITIONS:
            found.append([])
            positions = 0
        found[-1].append(batch)
        positions += sum(_count(readings, row) for row in batch)
    return found
