"""`modist_manifest.json`: what made a result and what it holds, so that anyone can check both later."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modist.checkpoint.folder import Checkpoint
from modist.checkpoint.header import identity
from modist.merge.hashing import sha256_file
from modist.merge.plan import Plan
from modist.version import VERSION

RECIPE_FILE = "modist_recipe.yml"
FORMAT = 1


def versions() -> dict[str, str]:
    return {"modist": VERSION, "numpy": np.__version__, "python": platform.python_version()}


def describe_input(checkpoint: Checkpoint, commit: str | None, hash_files: bool) -> dict[str, Any]:
    """What identifies one parent: its files' sizes, times and header digests, and on request their SHA-256."""
    files: dict[str, Any] = {}
    for path in checkpoint.files:
        files[path.name] = identity(path) | ({"sha256": sha256_file(path)} if hash_files else {})
    adapter = {} if checkpoint.adapter is None else checkpoint.adapter.identity
    return {"model": checkpoint.label, "commit": commit, "files": files} | ({"adapter": adapter} if adapter else {})


def without_hashes(entry: dict[str, Any]) -> dict[str, Any]:
    """An input's description without what --hash-inputs adds, so that a run may be resumed with or without that flag."""
    files = {name: {key: value for key, value in file.items() if key != "sha256"} for name, file in entry["files"].items()}
    return {**entry, "files": files}


def fingerprint(plan: Plan, seed: int, inputs: list[dict[str, Any]], options: Mapping[str, Any]) -> str:
    """SHA-256 over everything that decides the output's bytes; equal fingerprints mean equal results."""
    tensors = [
        [
            planned.name,
            planned.dtype,
            list(planned.tensor.shape),
            dict(planned.tensor.values),
            [dict(each) for each in planned.tensor.each],
            [[source.model, source.name, *source.identity] for source in planned.tensor.sources],
        ]
        for planned in plan.tensors
    ]
    random = any(plan.method.random(planned.tensor) for planned in plan.tensors)
    data = {
        "format": FORMAT,
        "modist": VERSION,
        "method": plan.method.name,
        "recipe": plan.recipe.document.text,
        "seed": seed if random else None,
        "inputs": [without_hashes(entry) for entry in inputs],
        "donor": plan.donor.label,
        "tensors": tensors,
        "options": dict(options),
    }
    if plan.scaling is not None:
        data["scaling"] = plan.scaling.record
    if plan.vocabulary is not None:
        data["vocabulary"] = plan.vocabulary.record
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def recipe_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """A folder's manifest, or None where it has none that can be read."""
    try:
        data = json.loads((folder / "modist_manifest.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
