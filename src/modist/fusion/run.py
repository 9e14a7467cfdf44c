"""`fuse`: from a recipe to a finished checkpoint.

OUT.distributions/<expert>/    what each expert says; kept, so that another target of the same data costs no forward pass
OUT.partial/<name>/targets/    fused targets of one training
OUT.partial/<name>/training/   its checkpoints
OUT.partial/<name>/model/      its result, where several are to be merged
OUT.partial/model/             the output to be; renamed to OUT when whole
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modist.checkpoint.staging import Staging, check_output
from modist.errors import UserError
from modist.fusion.distributions import Distributions
from modist.fusion.extraction import Extracted, extract_one, plan_all
from modist.fusion.models import Participant, Participants
from modist.fusion.plan import FORMAT, Chats, DistributionPlan, read_chats
from modist.fusion.processes import Processes
from modist.fusion.result import dtype_of, write_model, write_rest
from modist.fusion.store import Part
from modist.fusion.targets import TargetSummary, Teacher, make_targets
from modist.fusion.training import Trained, check_training, final_model, train
from modist.merge.manifest import read_manifest
from modist.recipe.fusion import FusionRecipe, load_fusion_recipe
from modist.version import VERSION


@dataclass
class Watch:
    """Where a fusion says what it is doing; every hook may be left alone.

    Attributes:
        note: one remark.
        advance: a phase (`extract math`, `align`, `train` ...), how much of it is done, and of how much.
    """

    note: Callable[[str], None] = lambda line: None
    advance: Callable[[str, int, int], object] = lambda phase, done, total: None


@dataclass(frozen=True)
class FusionReport:
    """What a fusion did.

    Attributes:
        out: the finished folder.
        mode, target, seed: as run.
        extracted: by expert; empty where everything was there.
        targets, trained: by training: the pivot's name, or an expert's where each is fused alone.
        seconds: `extract`, `targets`, `train`, `merge`, `total`.
        already: whether there was nothing to do.
    """

    out: str
    mode: str
    target: str
    seed: int
    extracted: tuple[Extracted, ...] = ()
    targets: dict[str, TargetSummary] = field(default_factory=dict)
    trained: dict[str, Trained] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    already: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A fusion that is read, found possible and planned; nothing is written yet.

    Attributes:
        plans: of each teacher's distributions.
        pivot_plan: the pivot's readings, whether it is a teacher or not.
    """

    recipe: FusionRecipe
    participants: Participants
    chats: Chats
    plans: tuple[DistributionPlan, ...]
    readings: tuple[Any, ...]

    @property
    def teachers(self) -> tuple[Participant, ...]:
        return self.participants.teachers(self.recipe)

    def jobs(self) -> list[tuple[str, tuple[int, ...]]]:
        """The trainings: a name, and the numbers of its teachers."""
        everyone = tuple(range(len(self.teachers)))
        if self.recipe.fusion.mode == "unified":
            return [(self.participants.pivot.name, everyone)]
        pivot = [number for number, teacher in enumerate(self.teachers) if teacher is self.participants.pivot]
        return [
            (teacher.name, (*pivot, number))
            for number, teacher in enumerate(self.teachers)
            if teacher is not self.participants.pivot
        ]


def prepare(
    recipe: str | Path | FusionRecipe,
    *,
    trust_remote_code: bool = False,
    watch: Watch | None = None,
    weights: bool = True,
) -> Prepared:
    """Read a recipe, its data and its tokenizers; no model is loaded, and without `weights` none is downloaded.

    Raises:
        UserError, CheckpointError, HubError: see each.
    """
    recipe = recipe if isinstance(recipe, FusionRecipe) else load_fusion_recipe(recipe)
    participants = Participants.of(recipe, trust_remote_code=trust_remote_code, weights=weights)
    chats = Chats.of(recipe)
    watch = watch or Watch()
    plans = tuple(plan_all(recipe, participants.teachers(recipe), chats, watch.advance))
    own = [plan.readings for plan, who in zip(plans, participants.teachers(recipe), strict=True) if who is participants.pivot]
    readings = own[0] if own else read_chats(recipe, participants.pivot, chats)
    return Prepared(recipe, participants, chats, plans, readings)


def fuse(
    recipe: str | Path | FusionRecipe,
    out: str | Path,
    *,
    distributions: str | Path | None = None,
    seed: int = 0,
    resume: bool = False,
    device: str | None = None,
    trust_remote_code: bool = False,
    watch: Watch | None = None,
) -> FusionReport:
    """Distil experts into a pivot.

    Under a launcher (`accelerate launch`, `torchrun`) every process calls this: each extracts its part of what is missing, all
    train together, the first writes the result.

    Args:
        recipe: a YAML file, or a recipe already read.
        out: the folder to write; it appears whole or not at all.
        distributions: folder of what experts say, made by `extract` or here; OUT.distributions by default.
        seed: of the order of chats and of dropout; recorded in the manifest.
        resume: go on from what a killed run left; a finished output of the same fusion is left as it is.
        device: `cpu`, `cuda`, ...; for training only `cpu` counts, the rest is the launcher's to say.
        trust_remote_code: run the Python files that come with a model.
        watch: told of progress.

    Raises:
        UserError: what the user asked cannot be done (exit status 2).
        CheckpointError, HubError, ModistError: it failed (exit status 1); the output is absent or the old one.
    """
    began = time.perf_counter()
    watch, out = watch or Watch(), Path(out)
    if not 0 <= seed < 1 << 32:
        raise UserError(f"--seed {seed}: must be from 0 to 4294967295")
    prepared = prepare(recipe, trust_remote_code=trust_remote_code, watch=watch)
    participants = prepared.participants
    check_output(out, {participant.name: participant.folder for participant in participants.all})
    store = Path(distributions) if distributions is not None else out.with_name(out.name + ".distributions")
    if out.resolve() in (store.resolve(), *store.resolve().parents):
        raise UserError(f"--distributions {store}: lies inside the output {out}; keep it elsewhere")
    check_training(prepared.recipe.training)
    print_ = fingerprint(prepared, seed)
    report = FusionReport(str(out), prepared.recipe.fusion.mode, prepared.recipe.fusion.target, seed)
    if resume and (found := read_manifest(out)) and found.get("fingerprint") == print_:
        Staging(out).sweep()
        return FusionReport(**{**vars(report), "already": True})
    processes = Processes.here()
    timer: dict[str, float] = {}
    staging = Staging(out)
    try:
        if processes.first:
            staging.begin(print_, resume)
            # From here on there is something to go on from.
            staging.finish("fusion", None)
            staging.synced(staging.recorded)
        with _timed(timer, "extract"):
            extracted = _extracted(prepared, store, processes, device, watch)
            processes.wait()
        teachers = _teachers(prepared, store)
        targets: dict[str, TargetSummary] = {}
        trained: dict[str, Trained] = {}
        for name, numbers in prepared.jobs():
            place = _place(staging.root, prepared, name)
            with _timed(timer, "targets"):
                if processes.first:
                    targets[name] = _targets(prepared, [teachers[number] for number in numbers], place, watch)
                processes.wait()
            with _timed(timer, "train"):
                trained[name] = _train(prepared, place, name, seed, device, resume, processes, watch)
                processes.wait()
        if processes.first:
            _finish(prepared, staging, store, print_, seed, targets, trained, timer, watch)
        processes.wait()
    except UserError:
        staging.close()
        raise
    except BaseException:
        staging.abandon_if_empty()
        raise
    timer["total"] = time.perf_counter() - began
    return FusionReport(
        **{**vars(report), "extracted": tuple(extracted), "targets": targets, "trained": trained, "seconds": timer}
    )


def fingerprint(prepared: Prepared, seed: int) -> str:
    """SHA-256 over everything that decides what a fusion makes."""
    data = {
        "format": FORMAT,
        "modist": VERSION,
        "method": "fuse",
        "recipe": prepared.recipe.document.text,
        "seed": seed,
        "data": list(prepared.chats.digests),
        "models": [participant.digests for participant in prepared.participants.all],
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@contextmanager
def _timed(timer: dict[str, float], name: str) -> Iterator[None]:
    """Adds the seconds of the block."""
    began = time.perf_counter()
    yield
    timer[name] = timer.get(name, 0.0) + time.perf_counter() - began


def _teachers(prepared: Prepared, store: Path) -> list[Teacher]:
    everyone, weights = prepared.participants.all, prepared.recipe.weights
    return [
        Teacher(
            participant,
            plan.readings,
            Distributions(store / participant.slug, plan.plan),
            0.0 if weights is None else weights[everyone.index(participant)],
            participant is prepared.participants.pivot,
        )
        for participant, plan in zip(prepared.teachers, prepared.plans, strict=True)
    ]


def _place(root: Path, prepared: Prepared, name: str) -> Path:
    """A training's folder."""
    slug = next(participant.slug for participant in prepared.participants.all if participant.name == name)
    return root / f"{prepared.recipe.fusion.mode}-{slug}"


def _extracted(prepared: Prepared, store: Path, processes: Processes, device: str | None, watch: Watch) -> list[Extracted]:
    part = None if processes.count == 1 else Part(processes.number + 1, processes.count)
    return [
        extract_one(
            participant,
            plan,
            prepared.chats,
            store,
            part,
            processes.device(device),
            prepared.recipe.fusion.dtype,
            watch.note,
            watch.advance,
        )
        for participant, plan in zip(prepared.teachers, prepared.plans, strict=True)
    ]


def _targets(prepared: Prepared, teachers: Sequence[Teacher], place: Path, watch: Watch) -> TargetSummary:
    return make_targets(
        prepared.recipe,
        teachers,
        prepared.participants.pivot,
        prepared.readings,
        prepared.chats,
        place / "targets",
        watch.advance,
    )


def _train(
    prepared: Prepared,
    place: Path,
    name: str,
    seed: int,
    device: str | None,
    resume: bool,
    processes: Processes,
    watch: Watch,
) -> Trained:
    return train(
        prepared.recipe.training,
        prepared.participants.pivot,
        place / "targets",
        place / "training",
        seed=seed,
        device=device,
        resume=resume,
        say=watch.note if processes.first else lambda line: None,
        advance=lambda done, total: watch.advance("train" if len(prepared.jobs()) == 1 else f"train {name}", done, total),
    )


def _finish(
    prepared: Prepared,
    staging: Staging,
    store: Path,
    print_: str,
    seed: int,
    targets: dict[str, TargetSummary],
    trained: dict[str, Trained],
    timer: dict[str, float],
    watch: Watch,
) -> None:
    recipe, pivot = prepared.recipe, prepared.participants.pivot
    dtype = dtype_of(pivot)
    jobs = prepared.jobs()
    told: dict[str, Any] = {
        "mode": recipe.fusion.mode,
        "distributions": str(store),
        "targets": {name: summary.as_dict() for name, summary in targets.items()},
        "training": {name: {**found.as_dict(), "history": None} for name, found in trained.items()},
    }
    # What an earlier run was writing when it was killed.
    shutil.rmtree(staging.model)
    staging.model.mkdir()
    if recipe.fusion.mode == "unified":
        model = final_model(recipe.training, pivot, _place(staging.root, prepared, jobs[0][0]) / "training", dtype)
        files = write_model(model, pivot, staging.model)
    else:
        from modist.fusion.pairwise import merge_pairs

        pairs = {}
        for name, _ in jobs:
            place = _place(staging.root, prepared, name)
            model = final_model(recipe.training, pivot, place / "training", dtype)
            write_model(model, pivot, place / "model")
            pairs[name] = place / "model"
        with _timed(timer, "merge"):
            files, told["merge"] = merge_pairs(recipe, pivot, pairs, staging, seed, watch.note)
    write_rest(
        staging,
        recipe,
        prepared.participants,
        files,
        seed=seed,
        fingerprint=print_,
        options={"dtype": dtype},
        trained=trained,
        fusion=told,
    )
    staging.commit()
