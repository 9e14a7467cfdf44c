"""transformers' Trainer with the loss of fusing, on response positions only."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from modist.errors import ModistError
from modist.fusion.dataset import IGNORED
from modist.fusion.loss import fusion_loss
from modist.fusion.positions import PickedPositions

# Written last into a checkpoint: its files and their sizes.  One without it was torn by a kill.
MARK = "modist_checkpoint.json"


class FusionTrainer(Trainer):  # type: ignore[misc]
    """Trains a pivot on fused targets.

    Args:
        mix: lambda.
        **given: of `Trainer`; the dataset and collator are those of `modist.fusion.dataset`.
    """

    def __init__(self, *, mix: float, **given: Any) -> None:
        super().__init__(**given)
        self._mix = mix
        self._positions = PickedPositions(self.model)
        # The loss is a sum over positions divided by all positions of the step, so accumulation divides no more.
        self.model_accepts_loss_kwargs = True
        self._parts = torch.zeros(3, dtype=torch.float64)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean over the response positions of the whole step."""
        labels = inputs["labels"]
        follows = labels[:, 1:] != IGNORED
        flat = torch.arange(labels.numel(), device=labels.device).view_as(labels)
        wanted = flat[:, :-1][follows]
        counts = follows.sum(1)
        there = torch.arange(inputs["target_tail"].shape[1], device=labels.device)[None] < counts[:, None]
        more = {} if bool(inputs["attention_mask"].all()) else {"attention_mask": inputs["attention_mask"]}
        logits = self._positions.logits(model, wanted, input_ids=inputs["input_ids"], **more)
        found = fusion_loss(
            logits,
            labels[:, 1:][follows],
            inputs["target_ids"][there],
            inputs["target_probs"][there],
            inputs["target_tail"][there],
            self._mix,
        )
        with torch.no_grad():
            sums = torch.stack([found.clm.sum(), found.fused.sum(), torch.full((), float(len(wanted)), device=logits.device)])
            self._parts += sums.double().cpu()
        whole = found.total.sum()
        if num_items_in_batch is None:
            loss = whole / max(1, len(wanted))
            self.loss_is_scaled_for_ga = False
        else:
            loss = whole / num_items_in_batch
            if self.args.average_tokens_across_devices:
                # Gradients are averaged over devices; the divisor is already that of all of them.
                loss = loss * self.accelerator.num_processes
            self.loss_is_scaled_for_ga = True
        return (loss, {"logits": logits}) if return_outputs else loss

    def log(self, logs: dict[str, float], *given: Any, **more: Any) -> None:
        """Adds both parts of the loss, as this process saw them since the last time."""
        clm, fused, count = self._parts.tolist()
        if count and "loss" in logs:
            logs = {**logs, "clm": clm / count, "fused": fused / count}
            self._parts.zero_()
            if not (math.isfinite(clm) and math.isfinite(fused)):
                raise ModistError(
                    f"training: the loss is no number at step {self.state.global_step}; lower the learning_rate, or see whether"
                    " the pivot is damaged"
                )
        super().log(logs, *given, **more)


class Follow(TrainerCallback):  # type: ignore[misc]
    """Tells of steps, and marks checkpoints that are whole."""

    def __init__(self, advance: Callable[[int, int], object]) -> None:
        self._advance = advance

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._advance(state.global_step, state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            mark(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def mark(folder: Path) -> None:
    """Put a checkpoint's files on disk, and say so in it."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MARK:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            sizes[str(path.relative_to(folder))] = path.stat().st_size
    fresh = folder / f"{MARK}.new"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(sizes, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(folder / MARK)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; those that are not are removed."""
    found = []
    for path in folder.glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if not number.isdecimal():
            continue
        if _is_whole(path):
            found.append((int(number), path))
        else:
            shutil.rmtree(path, ignore_errors=True)
    return max(found)[1] if found else None


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / MARK).read_bytes())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False
