"""`merge`: from a recipe to a finished checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from modist.checkpoint.folder import INDEX, Checkpoint
from modist.checkpoint.header import read_header
from modist.checkpoint.shards import DEFAULT_SHARD_BYTES, Shard, ShardFiles, disk_error, index_json, lay_out
from modist.checkpoint.staging import MANIFEST, Staging, check_output
from modist.errors import MergeError, UserError, nearest
from modist.merge.adapter_run import merge_adapters
from modist.merge.adapters import AdapterPlan, merges_adapters
from modist.merge.carry import patched_config, result_files
from modist.merge.compare import ALLOWABLE, Aspect, compare, refuse
from modist.merge.engine import Engine, Events, Nonfinite, Note
from modist.merge.hashing import Hasher
from modist.merge.manifest import (
    RECIPE_FILE,
    describe_input,
    fingerprint,
    read_manifest,
    recipe_digest,
    versions,
)
from modist.merge.models import Models, fetch_models, outline_models
from modist.merge.plan import Plan, check_recipe, make_plan
from modist.merge.report import MergeReport, peak_memory
from modist.merge.share import ParentShare, shares
from modist.recipe import Recipe, load_recipe
from modist.report.card import Parent, common_licence, licence_of, model_card
from modist.version import VERSION


@dataclass
class Watch:
    """Where a merge says what it is doing; every hook may be left alone, and may be called from any thread.

    Attributes:
        planned: the plan and the comparison, before anything is read or written.
        warning: one remark.
        phase: `survey`, `blend`, `fsync`, `verify`, `rename`.
        advance: bytes of output written.
    """

    planned: Callable[[Plan | AdapterPlan, tuple[Aspect, ...]], None] = lambda plan, aspects: None
    warning: Callable[[str], None] = lambda text: None
    phase: Callable[[str], None] = lambda name: None
    advance: Callable[[int], None] = lambda count: None


@dataclass(frozen=True)
class Prepared:
    """A merge that is planned, compared and found possible."""

    recipe: Recipe
    models: Models
    plan: Plan
    aspects: tuple[Aspect, ...]

    @property
    def checkpoints(self) -> Mapping[str, Checkpoint]:
        return self.models.checkpoints


def prepare(
    recipe: str | Path | Recipe,
    *,
    seed: int = 0,
    allow: Iterable[str] = (),
    allow_code: bool = False,
) -> Prepared:
    """Plan a merge from headers alone: nothing is written, no tensor is read or downloaded.

    Raises:
        RecipeError, UserError, CheckpointError, HubError: see each; the parents' fitness is judged by the caller through
            `modist.merge.compare.refuse`.
    """
    allowed = frozenset(allow)
    for word in allowed - ALLOWABLE.keys():
        raise UserError(f"--allow {word}: unknown{nearest(word, ALLOWABLE)} (known: {', '.join(ALLOWABLE)})")
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    check_recipe(recipe)
    return _planned(recipe, outline_models(recipe.models, allow_code), seed, allowed)


def _planned(recipe: Recipe, models: Models, seed: int, allowed: frozenset[str]) -> Prepared:
    plan = make_plan(recipe, models.checkpoints, seed=seed, allow=allowed)
    return Prepared(recipe, models, plan, compare(plan, allowed))


def merge(
    recipe: str | Path | Recipe,
    out: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    allow: Iterable[str] = (),
    threads: int | None = None,
    memory: int = 1 << 30,
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    hash_inputs: bool = False,
    trust_remote_code: bool = False,
    watch: Watch | None = None,
) -> MergeReport:
    """Merge the models of a recipe into one checkpoint, or its adapters into one adapter.

    Args:
        recipe: a YAML file in either dialect, or a recipe already read.
        out: the folder to write; it appears whole or not at all.
        seed: for methods that draw; recorded in the manifest.
        resume: go on from what a killed run left; a finished output of the same merge is left as it is.
        allow: differences between parents to accept: keys of `modist.merge.compare.ALLOWABLE`.
        threads: workers; None for one a core.
        memory: budget in bytes above the interpreter.
        shard_bytes: largest weight file.
        hash_inputs: record the inputs' SHA-256 too (else size, time and header digest).
        trust_remote_code: carry the base's own Python files along (nothing here runs them).
        watch: told of progress.

    Returns:
        What was done, and what each parent gave.

    Raises:
        UserError: what the user asked cannot be done (exit status 2).
        CheckpointError, HubError, MergeError: it failed (exit status 1); the output is absent or the old one.
    """
    began = time.perf_counter()
    watch, out, allowed = watch or Watch(), Path(out), frozenset(allow)
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if merges_adapters(recipe):
        return merge_adapters(recipe, out, resume=resume, hash_inputs=hash_inputs, seed=seed, watch=watch)
    prepared = prepare(recipe, seed=seed, allow=allowed, allow_code=trust_remote_code)
    watch.planned(prepared.plan, prepared.aspects)
    refuse(prepared.aspects)
    if prepared.models.download_bytes:
        models = fetch_models(prepared.models, prepared.recipe.models, trust_remote_code)
        prepared = _planned(prepared.recipe, models, seed, allowed)
        refuse(prepared.aspects)
    plan = prepared.plan
    warnings = _warnings(prepared, trust_remote_code)
    for text in warnings:
        watch.warning(text)
    check_output(out, _folders(prepared))

    carried = result_files(plan, trust_remote_code)
    inputs = [describe_input(c, prepared.models.commits[key], hash_inputs) for key, c in prepared.checkpoints.items()]
    options = {"shard_bytes": shard_bytes, "allow": sorted(allowed), "trust_remote_code": trust_remote_code}
    print_ = fingerprint(plan, seed, inputs, options)
    engine = Engine(threads or os.cpu_count() or 1, memory, allow_nonfinite="nonfinite" in allowed)
    engine.workers(plan)
    if resume and (found := read_manifest(out)) and found.get("fingerprint") == print_:
        Staging(out).sweep()
        return _already(out, found, plan, seed, prepared.aspects, tuple(warnings))
    planned_s = time.perf_counter() - began

    staging = Staging(out)
    shards = lay_out([(p.name, p.dtype, p.tensor.shape) for p in plan.tensors], staging.model, shard_bytes)
    _check_space(out, sum(shard.size for shard in shards), staging, resume)
    with _staged(staging):
        resumed = staging.begin(print_, resume)
        done: dict[str, Note] = dict(staging.finished)
        timer = {"plan": planned_s}
        notes, digests = _write_tensors(engine, plan, shards, staging, done, resumed, watch, timer)
        given = shares(plan, notes)
        files = _write_rest(prepared, staging, shards, digests, given, seed, carried)
        watch.phase("verify")
        _verify_staged(staging, shards, plan)
        report = MergeReport(
            out=str(out),
            method=plan.method.name,
            seed=seed,
            parents=tuple(given),
            comparison=prepared.aspects,
            warnings=tuple(warnings),
            read_bytes=plan.read_bytes,
            write_bytes=plan.write_bytes,
            resumed=len(done),
        )
        nonfinite = {name: int(note["nonfinite"]) for name, note in notes.items() if "nonfinite" in note}
        manifest = _manifest(prepared, report, print_, inputs, files, options, nonfinite)
        staging.write_text(MANIFEST, json.dumps(manifest, indent=1) + "\n")
        watch.phase("rename")
        staging.commit()
    for checkpoint in prepared.checkpoints.values():
        checkpoint.close()
    timer["total"] = time.perf_counter() - began
    return MergeReport(**{**vars(report), "seconds": timer, "peak_memory_bytes": peak_memory()})


@contextmanager
def _staged(staging: Staging) -> Iterator[None]:
    """Keep what was finished for --resume, and leave nothing where nothing was."""
    try:
        yield
    except UserError:
        staging.close()
        raise
    except Nonfinite:
        staging.discard()
        raise
    except BaseException:
        staging.abandon_if_empty()
        raise


def _write_tensors(
    engine: Engine,
    plan: Plan,
    shards: tuple[Shard, ...],
    staging: Staging,
    done: dict[str, Note],
    resumed: bool,
    watch: Watch,
    timer: dict[str, float],
) -> tuple[dict[str, Note], dict[str, str]]:
    targets = {tensor.name: tensor for shard in shards for tensor in shard.tensors}
    files = ShardFiles(staging.model, shards, keep=resumed)
    try:

        def checkpoint() -> None:
            recorded = staging.recorded
            files.sync()
            staging.synced(recorded)

        hasher = Hasher(files, staging.model, checkpoint)
        for name in done:
            hasher.finished(name)
            watch.advance(targets[name].nbytes)
        hasher.start()

        def finished(name: str, note: Note) -> None:
            staging.finish(name, note)
            hasher.finished(name)

        began = time.perf_counter()
        try:
            notes = engine.run(plan, targets, files, Events(watch.phase, watch.advance, finished), done)
        except BaseException:
            hasher.stop()
            hasher.join()
            raise
        timer["engine"] = time.perf_counter() - began
        began = time.perf_counter()
        hasher.join()
        if hasher.failure is not None:
            raise hasher.failure
        timer["hashing"] = time.perf_counter() - began
        watch.phase("fsync")
        began = time.perf_counter()
        files.sync()
        staging.synced(staging.recorded)
        timer["fsync"] = time.perf_counter() - began
        return notes, hasher.digests
    except OSError as error:
        raise disk_error(staging.root, error) from None
    finally:
        files.close()


def _write_rest(
    prepared: Prepared,
    staging: Staging,
    shards: tuple[Shard, ...],
    digests: Mapping[str, str],
    given: list[ParentShare],
    seed: int,
    carried: Mapping[str, bytes],
) -> dict[str, dict[str, Any]]:
    """Everything but tensors; returns name -> size and SHA-256 of every file of the result but the manifest."""
    from hashlib import sha256

    plan, text = prepared.plan, prepared.recipe.document.text
    small = dict(carried)
    small["config.json"] = patched_config(plan).encode()
    small[RECIPE_FILE] = text.encode()
    index = index_json(shards)
    if index is not None:
        small[INDEX] = index.encode()
    parents = [_on_card(prepared, entry) for entry in given]
    card = model_card(staging.out.name, plan.method.name, plan.method.source, parents, text, seed, VERSION)
    small["README.md"] = card.encode("utf-8", "replace")
    for name, data in small.items():
        staging.write_bytes(name, data)
    files = {shard.name: {"size": shard.size, "sha256": digests[shard.name]} for shard in shards}
    return files | {name: {"size": len(data), "sha256": sha256(data).hexdigest()} for name, data in sorted(small.items())}


def _verify_staged(staging: Staging, shards: tuple[Shard, ...], plan: Plan) -> None:
    """Read the new headers back, as any loader will."""
    found = {name for shard in shards for name in read_header(staging.model / shard.name)}
    wanted = {planned.name for planned in plan.tensors}
    if found != wanted:
        raise MergeError(f"{staging.model}: the written headers do not hold the planned tensors; nothing was renamed")


def _manifest(
    prepared: Prepared,
    report: MergeReport,
    print_: str,
    inputs: list[dict[str, Any]],
    files: dict[str, dict[str, Any]],
    options: dict[str, Any],
    nonfinite: Mapping[str, int],
) -> dict[str, Any]:
    text, scaling = prepared.recipe.document.text, prepared.plan.scaling
    vocabulary = prepared.plan.vocabulary
    return {
        "format": 1,
        "versions": versions(),
        "fingerprint": print_,
        "method": report.method,
        "seed": report.seed,
        "recipe": {"file": RECIPE_FILE, "sha256": recipe_digest(text), "text": text},
        "options": options,
        **({} if scaling is None else {"scaling": scaling.record}),
        **({} if vocabulary is None else {"vocabulary": vocabulary.record}),
        "inputs": inputs,
        "config_from": prepared.plan.donor.label,
        "parents": [asdict(parent) for parent in report.parents],
        "comparison": [asdict(aspect) for aspect in report.comparison],
        "warnings": list(report.warnings),
        "left_out": dict(prepared.plan.drops),
        "nonfinite_blocks": dict(nonfinite),
        "files": files,
    }


def _warnings(prepared: Prepared, trust_remote_code: bool) -> list[str]:
    plan = prepared.plan
    found = [note for checkpoint in prepared.checkpoints.values() for note in checkpoint.notes]
    found += plan.warnings
    if prepared.recipe.model_kwargs.get("trust_remote_code") and not trust_remote_code:
        found.append(
            "trust_remote_code in the recipe is read and not obeyed: a recipe is data; give --trust-remote-code if you trust"
            " the models' code"
        )
    if plan.donor.config.get("auto_map") and not trust_remote_code:
        found.append(
            f"{plan.donor.label}: its config names code of its own (auto_map), which is not carried along; give"
            " --trust-remote-code to copy it"
        )
    found += [f"{aspect.name}: {aspect.reason} (allowed)" for aspect in prepared.aspects if aspect.gravity == "allowed"]
    return found


def _check_space(out: Path, needed: int, staging: Staging, resume: bool) -> None:
    place = out.absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if staging.model.is_dir():
        free += sum(path.stat().st_blocks * 512 for path in staging.model.iterdir() if path.is_file())
    if free < needed:
        raise MergeError(f"{out}: the disk is full: the result needs {needed:,} bytes, {free:,} are free")


def _on_card(prepared: Prepared, given: ParentShare) -> Parent:
    reference, checkpoint = next(
        (reference, checkpoint)
        for reference in prepared.recipe.models
        if (checkpoint := prepared.checkpoints[str(reference)]).label == given.name
    )
    licence = licence_of(checkpoint.folder)
    if checkpoint.adapter is None or reference.lora is None:
        return Parent(given.name, licence, given.phrase)
    models = (replace(reference, adapter=None).name, reference.lora.name)
    return Parent(given.name, common_licence(licence, licence_of(checkpoint.adapter.folder)), given.phrase, models)


def _folders(prepared: Prepared) -> dict[str, Path]:
    """Every folder that is read."""
    found = {checkpoint.label: checkpoint.folder for checkpoint in prepared.checkpoints.values()}
    adapters = [checkpoint.adapter for checkpoint in prepared.checkpoints.values() if checkpoint.adapter is not None]
    return found | {adapter.label: adapter.folder for adapter in adapters}


def _already(
    out: Path,
    manifest: dict[str, Any],
    plan: Plan,
    seed: int,
    aspects: tuple[Aspect, ...],
    warnings: tuple[str, ...],
) -> MergeReport:
    parents = tuple(ParentShare(**entry) for entry in manifest.get("parents", []))
    return MergeReport(
        str(out), plan.method.name, seed, parents, aspects, warnings, plan.read_bytes, plan.write_bytes,
        seconds={}, resumed=len(plan.tensors), already=True, peak_memory_bytes=peak_memory(),
    )  # fmt: skip
