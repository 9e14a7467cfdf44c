"""Training a pivot on fused targets: set up, gone on with, and left as plain weights.

TRAINING/checkpoint-500/   of transformers' Trainer: weights, optimiser, schedule, draws; the last two are kept
TRAINING/final/            the trained weights in float32 (LoRA: the adapter), once training is done
TRAINING/history.json      the loss curve
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from modist.errors import ModistError, UserError
from modist.fusion.models import Participant
from modist.recipe.fusion_schema import TrainingSettings

FINAL, HISTORY = "final", "history.json"
_NO_PEFT = "training.lora needs peft, which is not here: pip install 'modist[fuse]'"


@dataclass(frozen=True)
class Point:
    """The loss at one step: means over the positions since the point before."""

    step: int
    loss: float
    clm: float
    fused: float
    learning_rate: float


@dataclass(frozen=True)
class Trained:
    """What training did.

    Attributes:
        steps: optimiser steps in all, and `resumed` of them by earlier runs.
        chats: in an epoch.
        parameters: that were trained, and `of` so many.
        history: the loss curve.
        seconds: of this run.
    """

    steps: int
    resumed: int
    chats: int
    parameters: int
    of: int
    history: tuple[Point, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def world_size() -> int:
    """How many processes a launcher started."""
    return max(1, int(os.environ.get("WORLD_SIZE", "1")))


def steps_of(settings: TrainingSettings, chats: int, world: int = 1) -> tuple[int, int]:
    """Optimiser steps, and batches a step on each device.

    Raises:
        UserError: the global batch is no multiple of what the devices hold.
    """
    at_once = settings.batch_size * world
    if settings.global_batch % at_once:
        raise UserError(
            f"training: a global_batch of {settings.global_batch} is no multiple of {settings.batch_size} chats on each of"
            f" {world} devices"
        )
    accumulation = settings.global_batch // at_once
    batches = -(-chats // at_once)
    an_epoch = -(-batches // accumulation)
    return settings.max_steps or max(1, round(an_epoch * settings.epochs)), accumulation


def check_training(settings: TrainingSettings) -> None:
    """Refuse what is known to fail before anything is run.

    Raises:
        UserError: peft is missing, or the global batch does not divide among the processes.
    """
    if settings.lora is not None and find_spec("peft") is None:
        raise UserError(_NO_PEFT)
    steps_of(settings, settings.global_batch, world_size())


def train(
    settings: TrainingSettings,
    pivot: Participant,
    targets: Path,
    folder: Path,
    *,
    seed: int,
    device: str | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda line: None,
    advance: Callable[[int, int], object] = lambda done, total: None,
) -> Trained:
    """Train; every process of a distributed run calls this.

    Args:
        pivot: whose weights are the beginning.
        targets: store of `make_targets`.
        folder: for checkpoints and the trained weights.
        seed: of the order of chats and of dropout.
        device: `cpu` keeps it off a GPU; everything else is left to the launcher.
        resume: go on from the last whole checkpoint.
        advance: told steps done, and in all.

    Raises:
        UserError: no memory, peft is missing, a batch that does not divide.
        ModistError: the loss is no number.
    """
    import torch
    from transformers import PrinterCallback

    from modist.fusion.dataset import FusionDataset, collate
    from modist.fusion.trainer import Follow, FusionTrainer, last_checkpoint, mark

    began = time.perf_counter()
    dataset = FusionDataset(targets)
    steps, accumulation = steps_of(settings, len(dataset), world_size())
    if resume and (folder / FINAL / "modist_checkpoint.json").is_file() and (folder / HISTORY).is_file():
        told = json.loads((folder / HISTORY).read_bytes())
        return Trained(**{**told, "history": tuple(Point(**point) for point in told["history"]), "resumed": told["steps"]})
    # Before the model is made: new LoRA matrices are drawn.
    torch.manual_seed(seed)
    # The trainer puts it where it belongs.
    model = pivot.load("cpu", "float32", say)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if settings.lora is not None:
        model = with_lora(model, settings)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    trainer = FusionTrainer(
        mix=settings.lambda_,
        model=model,
        args=arguments(settings, folder, steps, accumulation, seed, device),
        train_dataset=dataset,
        data_collator=collate,
        callbacks=[Follow(advance)],
    )
    # Every log line as a dictionary on stdout is nothing for a person.
    trainer.remove_callback(PrinterCallback)
    last = last_checkpoint(folder) if resume else None
    before = int(last.name.removeprefix("checkpoint-")) if last else 0
    if last:
        say(f"going on from step {before}")
    try:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    except torch.OutOfMemoryError:
        raise UserError(
            f"training {pivot.name}: no memory for batches of {settings.batch_size}; lower training.batch_size (global_batch"
            " stays), or set gradient_checkpointing or lora"
        ) from None
    trainer.save_model(str(folder / FINAL))
    history = tuple(
        Point(
            entry["step"],
            settings.lambda_ * entry["clm"] + (1 - settings.lambda_) * entry["fused"],
            entry["clm"],
            entry["fused"],
            entry["learning_rate"],
        )
        for entry in trainer.state.log_history
        if "clm" in entry
    )
    found = Trained(steps, before, len(dataset), trained, parameters, history, time.perf_counter() - began)
    if trainer.is_world_process_zero():
        (folder / HISTORY).write_text(json.dumps(found.as_dict()), encoding="utf-8")
        mark(folder / FINAL)
        for path in folder.glob("checkpoint-*"):
            shutil.rmtree(path)
    return found


def arguments(settings: TrainingSettings, folder: Path, steps: int, accumulation: int, seed: int, device: str | None) -> Any:
    """The settings as `TrainingArguments`."""
    import torch
    from transformers import TrainingArguments

    gpu = torch.cuda.is_available() and device != "cpu"
    precision = settings.precision
    if precision == "auto":
        precision = "bfloat16" if gpu and torch.cuda.is_bf16_supported() else "float32"
    known = {field.name for field in fields_of(TrainingArguments)}
    # Renamed in the course of version 5.
    checkpointing = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    more: dict[str, Any] = {}
    if settings.gradient_checkpointing:
        more = {checkpointing: True, f"{checkpointing}_kwargs": {"use_reentrant": False}}
    found = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=round(settings.warmup * steps),
        weight_decay=settings.weight_decay,
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        max_grad_norm=settings.max_grad_norm,
        bf16=precision == "bfloat16",
        use_cpu=(not gpu and not torch.backends.mps.is_available()) or device == "cpu",
        seed=seed,
        data_seed=seed,
        logging_strategy="steps",
        logging_steps=settings.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
        disable_tqdm=True,
        report_to="none",
        log_level="error",
        **more,
    )
    # Several GPUs in one process would be split by replicas that copy the model at every step: accelerate's launcher instead.
    found._n_gpu = min(1, found.n_gpu)
    return found


def with_lora(model: Any, settings: TrainingSettings) -> Any:
    """The model with low-rank updates in place of its own parameters.

    Raises:
        UserError: no module is called so.
    """
    assert settings.lora is not None
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.lora.rank,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules="all-linear" if settings.lora.targets == ["all-linear"] else settings.lora.targets,
        task_type="CAUSAL_LM",
    )
    try:
        found = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"training.lora.targets: {' '.join(str(error).split())[:200]}") from None
    if settings.gradient_checkpointing:
        found.enable_input_require_grads()
    return found


def final_model(settings: TrainingSettings, pivot: Participant, folder: Path, dtype: str) -> Any:
    """The trained weights as a plain model in `dtype`; LoRA is merged in float32 first.

    Raises:
        CheckpointError: they are damaged.
    """
    from modist.mixture.load import load_model

    if settings.lora is None:
        return load_model(pivot.name, folder / FINAL, trust_remote_code=pivot.trust_remote_code, dtype=dtype)
    import torch
    from peft import PeftModel

    try:
        model = PeftModel.from_pretrained(pivot.load("cpu", "float32"), str(folder / FINAL)).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        raise ModistError(f"{folder / FINAL}: the adapter cannot be read ({' '.join(str(error).split())[:200]})") from None
    return model.to(getattr(torch, dtype))


def last_losses(history: Sequence[Point]) -> dict[str, float]:
    """The end of the curve, for reports."""
    return {} if not history else {"loss": history[-1].loss, "clm": history[-1].clm, "fused": history[-1].fused}
