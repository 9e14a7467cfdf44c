"""A merge of adapters carried out: one weight file, its config, card and manifest, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modist.checkpoint.adapter import WEIGHTS, Adapter
from modist.checkpoint.adapter_config import CONFIG
from modist.checkpoint.dtype import all_finite, narrow
from modist.checkpoint.header import identity
from modist.checkpoint.shards import Shard, ShardFiles, lay_out
from modist.checkpoint.staging import MANIFEST, Staging, check_output
from modist.errors import MergeError, UserError
from modist.merge.adapters import AdapterPlan, common_copies, factors, plan_adapters
from modist.merge.hashing import sha256_file
from modist.merge.manifest import FORMAT, RECIPE_FILE, read_manifest, recipe_digest, versions
from modist.merge.report import MergeReport, peak_memory
from modist.merge.share import ParentShare
from modist.recipe import Recipe
from modist.report.card import Parent, licence_of, model_card
from modist.version import VERSION

if TYPE_CHECKING:
    from modist.merge.run import Watch


def merge_adapters(recipe: Recipe, out: Path, *, resume: bool, hash_inputs: bool, seed: int, watch: Watch) -> MergeReport:
    """Merge a recipe of adapters into one; as `modist.merge.merge`, whose arguments these are."""
    began = time.perf_counter()
    plan = plan_adapters(recipe)
    watch.planned(plan, ())
    for text in plan.warnings:
        watch.warning(text)
    check_output(out, {adapter.label: adapter.folder for adapter in plan.adapters})
    inputs = [_describe(adapter, hash_inputs) for adapter in plan.adapters]
    print_ = _fingerprint(plan, inputs)
    given = tuple(
        ParentShare(name, "expert", "weight", weight, {}) for name, weight in zip(plan.names, plan.weights, strict=True)
    )
    report = MergeReport(
        out=str(out), method=plan.method.name, seed=seed, parents=given, warnings=plan.warnings,
        read_bytes=plan.read_bytes, write_bytes=plan.write_bytes,
    )  # fmt: skip
    if resume and (found := read_manifest(out)) and found.get("fingerprint") == print_:
        Staging(out).sweep()
        return replace(report, lost=found.get("lost"), already=True, peak_memory_bytes=peak_memory())
    staging = Staging(out)
    try:
        # There is no journal worth going on from: a merge of adapters takes seconds.
        staging.begin(print_, resume=False)
        lost, seconds = _write(plan, staging, watch)
        report = replace(report, lost=lost)
        files = _write_rest(plan, staging, given, seed)
        manifest = {
            "format": FORMAT, "versions": versions(), "fingerprint": print_, "method": plan.method.name, "seed": seed,
            "recipe": {"file": RECIPE_FILE, "sha256": recipe_digest(recipe.document.text), "text": recipe.document.text},
            "inputs": inputs, "parents": [asdict(parent) for parent in given], "warnings": list(plan.warnings),
            "ranks": {module.name: module.rank for module in plan.modules}, "lost": lost, "files": files,
        }  # fmt: skip
        staging.write_text(MANIFEST, json.dumps(manifest, indent=1) + "\n")
        watch.phase("rename")
        staging.commit()
    except UserError:
        staging.close()
        raise
    except BaseException:
        if staging.root.exists() and (staging.root / "lock").exists():
            staging.discard()
        raise
    finally:
        for adapter in plan.adapters:
            adapter.close()
    seconds["total"] = time.perf_counter() - began
    return replace(report, seconds=seconds, peak_memory_bytes=peak_memory())


def _write(plan: AdapterPlan, staging: Staging, watch: Watch) -> tuple[float | None, dict[str, float]]:
    """The weight file; returns the share of the norm that was lost, and seconds."""
    began = time.perf_counter()
    entries: list[tuple[str, str, tuple[int, ...]]] = [
        (name, plan.dtype, shape) for module in plan.modules for name, shape in module.stored
    ]
    copies = common_copies(plan)
    entries += [(name, held.weights.tensors[name].dtype, held.weights.tensors[name].shape) for name, held in copies.items()]
    (laid,) = lay_out(entries, staging.model, 1 << 62)
    tensors = tuple(replace(tensor, file=staging.model / WEIGHTS) for tensor in laid.tensors)
    files = ShardFiles(staging.model, [Shard(WEIGHTS, laid.prefix, tensors, laid.size)])
    targets = {tensor.name: tensor for tensor in tensors}
    whole = gone = 0.0
    try:
        for module in plan.modules:
            made = factors(module)
            for (name, _), values in zip(module.stored, (made.a, made.b), strict=True):
                stored = narrow(np.ascontiguousarray(values).reshape(-1), plan.dtype)
                if not all_finite(stored, plan.dtype):
                    raise MergeError(f"tensor {name!r} of the result holds NaN or infinite values")
                files.write(targets[name], 0, stored)
                watch.advance(stored.nbytes)
            whole, gone = whole + made.whole, gone + made.gone
        for name, held in copies.items():
            files.write(targets[name], 0, held.weights.read(name))
        engine = time.perf_counter() - began
        watch.phase("fsync")
        files.sync()
    finally:
        files.close()
    lost = None if plan.recipe.rank is None else math.sqrt(gone / whole) if whole else 0.0
    return lost, {"engine": engine, "fsync": time.perf_counter() - began - engine}


def _write_rest(plan: AdapterPlan, staging: Staging, given: tuple[ParentShare, ...], seed: int) -> dict[str, dict[str, Any]]:
    text = plan.recipe.document.text
    licences = {adapter.label: licence_of(adapter.folder) for adapter in plan.adapters}
    parents = [Parent(entry.name, licences[entry.name], entry.phrase) for entry in given]
    card = model_card(
        staging.out.name, plan.method.name, plan.method.source, parents, text, seed, VERSION,
        adapter_of=plan.adapters[0].base or "",
    )  # fmt: skip
    small = {
        CONFIG: (json.dumps(_config(plan), indent=2) + "\n").encode(),
        RECIPE_FILE: text.encode(),
        "README.md": card.encode("utf-8", "replace"),
    }
    for name, data in small.items():
        staging.write_bytes(name, data)
    return {
        name: {"size": (staging.model / name).stat().st_size, "sha256": sha256_file(staging.model / name)}
        for name in (WEIGHTS, *small)
    }


def _config(plan: AdapterPlan) -> dict[str, Any]:
    """adapter_config.json: every module by its whole name, its alpha equal to its rank, so that its factors' scale is 1."""
    ranks = {module.name: module.rank for module in plan.modules}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    odd = {name: rank for name, rank in ranks.items() if rank != usual}
    first = plan.adapters[0].config
    # PEFT reads the keys as regular expressions.
    patterns = {re.escape(name): rank for name, rank in odd.items()}
    return {
        "peft_type": "LORA",
        "task_type": first.get("task_type"),
        "base_model_name_or_path": next((adapter.base for adapter in plan.adapters if adapter.base), None),
        "revision": first.get("revision"),
        "inference_mode": True,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": bool(first.get("fan_in_fan_out")),
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _describe(adapter: Adapter, hash_files: bool) -> dict[str, Any]:
    path = adapter.weights.files[0]
    hashed = {"sha256": sha256_file(path)} if hash_files else {}
    return {"model": adapter.label, "files": {path.name: identity(path) | hashed}, "adapter": adapter.identity}


def _fingerprint(plan: AdapterPlan, inputs: list[dict[str, Any]]) -> str:
    files = [
        {**entry, "files": [f["header_sha256"] + str(f["modified_ns"]) for f in entry["files"].values()]} for entry in inputs
    ]
    data = [FORMAT, VERSION, plan.recipe.document.text, files]
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
