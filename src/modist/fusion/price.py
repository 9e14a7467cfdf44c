"""What a fusion will take, before any model is loaded: `--dry-run`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modist.fusion.run import Prepared
from modist.fusion.store import Store
from modist.fusion.training import steps_of

# One position of a shard: k ids and log-probabilities, a tail and the gold token's; and what a target adds.
_WIDTHS = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ExpertPrice:
    """Extracting one expert.

    Attributes:
        name: of the expert.
        tokens: it reads, prompts included.
        positions, nbytes: it stores.
        there: share of the positions that is stored already.
        weights_bytes: of the model while it runs.
        skipped: chats too long for it.
    """

    name: str
    tokens: int
    positions: int
    nbytes: int
    there: float
    weights_bytes: int
    skipped: int


@dataclass(frozen=True)
class FusionPrice:
    """A whole fusion.

    Attributes:
        chats: of the data.
        experts: each teacher's part.
        trainings: how many; each of `steps` steps of `global_batch` chats, `tokens` tokens in all.
        parameters: of the pivot.
        training_bytes: weights, gradients and Adam's two moments in float32 (LoRA: the weights alone), without activations.
        target_bytes: of the fused targets on disk, for one training.
        target_bytes_a_position: in memory while training, against `dense_bytes_a_position` of a dense float32 target.
        output_bytes: of the result's weights.
        download_bytes: of models a hub still has.
    """

    chats: int
    experts: tuple[ExpertPrice, ...]
    trainings: int
    steps: int
    global_batch: int
    tokens: int
    parameters: int
    training_bytes: int
    target_bytes: int
    target_bytes_a_position: int
    dense_bytes_a_position: int
    output_bytes: int
    download_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def price(prepared: Prepared, distributions: Path, world: int = 1) -> FusionPrice:
    """Price a fusion.

    Args:
        distributions: where they are or will be.
        world: processes that will train.

    Raises:
        UserError: the folder holds distributions of something else; batches do not divide.
    """
    recipe = prepared.recipe
    experts = []
    for participant, plan in zip(prepared.teachers, prepared.plans, strict=True):
        k = int(plan.plan["top_k"])
        checkpoint = participant.checkpoint()
        elements = sum(tensor.elements for tensor in checkpoint.tensors.values())
        stored = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
        checkpoint.close()
        there = 0.0 if participant.download_bytes else _there(distributions / participant.slug, plan.plan, plan.positions)
        weights = stored if recipe.fusion.dtype == "auto" else elements * _WIDTHS[recipe.fusion.dtype]
        size = plan.positions * (6 * k + 4)
        experts.append(ExpertPrice(participant.name, plan.tokens, plan.positions, size, there, weights, plan.skipped))
    checkpoint = prepared.participants.pivot.checkpoint()
    parameters = sum(tensor.elements for tensor in checkpoint.tensors.values())
    output = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    checkpoint.close()
    readings = [reading for reading in prepared.readings if reading is not None]
    positions = sum(reading.count for reading in readings)
    steps, _ = steps_of(recipe.training, len(readings), world)
    teachers = 1 if recipe.fusion.target == "mince" else max(len(numbers) for _, numbers in prepared.jobs())
    width = recipe.fusion.top_k * teachers
    mean = sum(len(reading.ids) for reading in readings) / max(1, len(readings))
    return FusionPrice(
        chats=len(prepared.chats),
        experts=tuple(experts),
        trainings=len(prepared.jobs()),
        steps=steps,
        global_batch=recipe.training.global_batch,
        tokens=round(steps * min(recipe.training.global_batch, len(readings)) * mean),
        parameters=parameters,
        training_bytes=parameters * (16 if recipe.training.lora is None else 4),
        target_bytes=positions * (8 * width + 4) + 4 * sum(len(reading.ids) for reading in readings),
        target_bytes_a_position=8 * width + 4,
        dense_bytes_a_position=4 * prepared.participants.pivot.reader.texts.size,
        output_bytes=output,
        download_bytes=sum(participant.download_bytes for participant in prepared.participants.all),
    )


def _there(folder: Path, plan: dict[str, Any], positions: int) -> float:
    if not (folder / "plan.json").is_file():
        return 0.0
    with Store(folder, plan, write=False) as store:
        lacking = sum(int(plan["shards"][number]["positions"]) for number in store.lacking)
    return 1 - lacking / max(1, positions)
