"""Distributions on disk: what each expert says of every response token, ten ids and a tail, about 60 bytes a position.

A shard's arrays, P positions of R rows:

    ids        int32   [P, k]   the k most probable ids, the most probable first
    log_probs  float16 [P, k]   of those, over the expert's full output
    log_tail   float16 [P]      log of what all other ids have together
    gold       float16 [P]      log p of the token that followed
    rows       int64   [R]      which chats, in the order of their positions
    counts     int32   [R]      positions of each
    nats       float64 [R]      of each response: -sum log p of its tokens, before any rounding

float16 rounds to nearest: a probability is off by at most a relative 2^-11 |log p|, which is 0.05% at p = 0.37 and 0.2% at
p = 0.02; read back, the k probabilities and the tail are divided by their sum.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modist.errors import ModistError, UserError
from modist.fusion.models import Participant, Participants
from modist.fusion.plan import Chats, DistributionPlan, plan_distributions
from modist.fusion.store import Part, Store, StoreError
from modist.recipe.fusion import FusionRecipe, load_fusion_recipe

Array = NDArray[Any]


@dataclass(frozen=True)
class Extracted:
    """What one expert has said.

    Attributes:
        expert: its name.
        folder: of the store.
        chats, positions: that are stored, by all parts.
        skipped: chats left out as too long.
        nbytes: on disk.
        made: shards made now; the others were there.
        repaired: of those, shards that were there and damaged.
        lacking: shards that other parts have yet to make.
        nats_per_position: of the stored responses, by the expert's own tokens.
        seconds: of this run, loading included.
    """

    expert: str
    folder: str
    chats: int
    positions: int
    skipped: int
    nbytes: int
    made: int
    repaired: int
    lacking: int
    nats_per_position: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# A phase, how much of it is done, and of how much.
Advance = Callable[[str, int, int], object]


def extract(
    recipe: str | Path | FusionRecipe,
    folder: str | Path,
    *,
    experts: Collection[str] = (),
    part: Part | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = lambda line: None,
    advance: Advance = lambda phase, done, total: None,
) -> list[Extracted]:
    """Have experts say what comes next, once, and keep it.

    Args:
        recipe: a YAML file, or a recipe already read.
        folder: of all experts' distributions; each has a folder in it.  What is there of the same plan is kept.
        experts: names of those to run; all of them when left out.
        part: of the shards; the others are left to other processes.
        device: `cpu`, `cuda`, `cuda:1`, `mps`, `auto`.
        trust_remote_code: run the Python files that come with a model.
        say: told what the user ought to know.
        advance: told a phase (`read math`: chats; `extract math`: positions), how much is done, and of how much.

    Raises:
        UserError: the recipe, the data or the folder cannot stand.
        CheckpointError, HubError, ModistError: a model is damaged, cannot be had, or gives no numbers.
    """
    recipe = recipe if isinstance(recipe, FusionRecipe) else load_fusion_recipe(recipe)
    participants = Participants.of(recipe, trust_remote_code=trust_remote_code)
    chats = Chats.of(recipe)
    chosen = participants.named(experts, recipe)
    # All are planned before one is run: a chat that the last expert cannot read is told at once.
    plans = plan_all(recipe, chosen, chats, advance)
    return [
        extract_one(participant, plan, chats, Path(folder), part, device, recipe.fusion.dtype, say, advance)
        for participant, plan in zip(chosen, plans, strict=True)
    ]


def plan_all(
    recipe: FusionRecipe, participants: Sequence[Participant], chats: Chats, advance: Advance
) -> list[DistributionPlan]:
    """Each one's plan; raises as `plan_distributions`."""

    def planned(participant: Participant) -> DistributionPlan:
        return plan_distributions(
            recipe, participant, chats, lambda done, total: advance(f"read {participant.name}", done, total)
        )

    return [planned(participant) for participant in participants]


def extract_one(
    participant: Participant,
    planned: DistributionPlan,
    chats: Chats,
    folder: Path,
    part: Part | None,
    device: str | None,
    dtype: str,
    say: Callable[[str], None],
    advance: Advance,
) -> Extracted:
    """One expert's distributions; see `extract`."""
    began = time.perf_counter()
    done = _finished(folder / participant.slug, planned)
    if done is not None:
        # Nothing to write, so nothing to lock: several fusions may read the same distributions.
        with done as store:
            return _told(participant, planned, store, 0, began)
    with Store(folder / participant.slug, planned.plan, part) as store:
        missing = store.missing
        if store.damaged:
            say(f"{participant.name}: {len(store.damaged)} shards were damaged, such as {store.damaged[0]}; making them again")
        if planned.skipped:
            say(f"{participant.name}: {planned.skipped:,} chats are too long and left out")
        if missing:
            total = sum(planned.plan["shards"][number]["positions"] for number in missing)
            tell: Callable[[int], object] = lambda count: advance(f"extract {participant.name}", count, total)  # noqa: E731
            _run(participant, planned, chats, store, missing, device, dtype, say, tell)
        return _told(participant, planned, store, len(missing), began)


def _finished(folder: Path, planned: DistributionPlan) -> Store | None:
    """The store, if all of it is there and sound."""
    if not (folder / "plan.json").is_file():
        return None
    store = Store(folder, planned.plan, write=False)
    try:
        store.verify()
    except StoreError:
        store.close()
        return None
    return store


def _told(participant: Participant, planned: DistributionPlan, store: Store, made: int, began: float) -> Extracted:
    there = sorted(set(range(store.shards)) - set(store.lacking))
    nats = [store.read(number)["nats"] for number in there]
    positions = sum(int(planned.plan["shards"][number]["positions"]) for number in there)
    return Extracted(
        expert=participant.name,
        folder=str(store.folder),
        chats=sum(map(len, nats)),
        positions=positions,
        skipped=planned.skipped,
        nbytes=store.nbytes,
        made=made,
        repaired=len(store.damaged),
        lacking=len(store.lacking),
        nats_per_position=float(np.concatenate(nats).sum()) / max(1, positions) if nats else 0.0,
        seconds=time.perf_counter() - began,
    )


def _run(
    participant: Participant,
    planned: DistributionPlan,
    chats: Chats,
    store: Store,
    missing: list[int],
    device: str | None,
    dtype: str,
    say: Callable[[str], None],
    advance: Callable[[int], object],
) -> None:
    from modist.fusion.positions import picked_positions
    from modist.mixture.load import output_rows

    model = participant.load(device, dtype, say)
    if output_rows(model) != planned.plan["vocabulary"]:
        raise UserError(
            f"{participant.name}: its output has {output_rows(model):,} rows, its config says {planned.plan['vocabulary']:,}"
        )
    done = 0
    with picked_positions(model) as picked:
        for number in missing:
            parts = []
            for batch in planned.plan["shards"][number]["batches"]:
                parts.append(batch_distributions(picked, model, participant.name, batch, planned, chats))
                done += len(parts[-1]["gold"])
                advance(done)
            store.add(number, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def batch_distributions(
    picked: Any, model: Any, name: str, batch: list[int], planned: DistributionPlan, chats: Chats
) -> dict[str, Array]:
    """A shard's arrays of one batch.

    Args:
        picked: `PickedPositions` of the model.
        batch: rows.

    Raises:
        UserError: no memory for it.
        ModistError: the model gives no numbers for a row.
    """
    import torch

    from modist.fusion.sparse import sparse_log_probs

    readings = [reading for row in batch if (reading := planned.readings[row]) is not None]
    width = max(len(reading.ids) for reading in readings)
    # Padding stands on the right, where causal attention never looks back at it, so no mask is needed.
    ids = np.zeros((len(batch), width), dtype=np.int64)
    for place, reading in enumerate(readings):
        ids[place, : len(reading.ids)] = reading.ids
    # The token before predicts.
    before = [place * width + np.arange(r.first - 1, len(r.ids) - 1) for place, r in enumerate(readings)]
    gold = np.concatenate([reading.response for reading in readings]).astype(np.int64)
    counts = np.array([reading.count for reading in readings], dtype=np.int32)
    device = model.device
    try:
        with torch.inference_mode():
            wanted = torch.from_numpy(np.concatenate(before)).to(device)
            logits = picked.logits(model, wanted, input_ids=torch.from_numpy(ids).to(device))
            found = sparse_log_probs(logits, torch.from_numpy(gold).to(logits.device), planned.plan["top_k"])
            arrays = [part.cpu().numpy() for part in found]
    except torch.OutOfMemoryError:
        raise UserError(f"{name}: no memory for a batch of {len(batch)} chats of {width} tokens on {device}") from None
    except ValueError as error:
        if not (error.args and isinstance(error.args[0], int)):
            raise
        row = batch[int(np.searchsorted(np.cumsum(counts), error.args[0], side="right"))]
        raise ModistError(
            f"{chats.passages[row].place}: {name} gives NaN or infinite logits; the model is damaged or overflows"
        ) from None
    numbers, log_probs, log_tail, of_gold = arrays
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    with np.errstate(over="ignore"):
        return {
            "ids": numbers,
            "log_probs": log_probs.astype(np.float16),
            "log_tail": log_tail.astype(np.float16),
            "gold": of_gold.astype(np.float16),
            "rows": np.array(batch, dtype=np.int64),
            "counts": counts,
            "nats": -np.add.reduceat(of_gold.astype(np.float64), starts),
        }
