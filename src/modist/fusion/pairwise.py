"""Pairwise fusions made one: SCE over the deltas from the pivot, by modist's own merge engine (FuseChat, arXiv 2408.07990)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from modist.checkpoint.staging import MANIFEST, Staging
from modist.fusion.models import Participant
from modist.fusion.result import describe_files
from modist.merge import Watch, merge
from modist.merge.manifest import RECIPE_FILE
from modist.recipe import parse_recipe
from modist.recipe.fusion import FusionRecipe

MERGE_RECIPE = "modist_merge_recipe.yml"


def merge_recipe(recipe: FusionRecipe, pivot: Participant, pairs: Mapping[str, Path]) -> str:
    """The merge as modist's own dialect has it."""
    settings = recipe.fusion.merge
    return json.dumps(
        {
            "merge_method": "sce",
            "base_model": str(pivot.folder),
            "models": [{"model": str(folder)} for folder in pairs.values()],
            "parameters": {"select_topk": settings.select_topk, "select": settings.select},
        },
        indent=1,
    )


def merge_pairs(
    recipe: FusionRecipe,
    pivot: Participant,
    pairs: Mapping[str, Path],
    staging: Staging,
    seed: int,
    note: Callable[[str], None],
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Merge into the staged model's folder.

    Args:
        pairs: the experts' names, and the folders of what the pivot became with each.

    Returns:
        The files as `describe_files` has them, and what the merge's manifest says of parents and method.

    Raises:
        UserError, MergeError: see `merge`.
    """
    text = merge_recipe(recipe, pivot, pairs)
    merged = staging.root / "merged"
    if merged.exists():
        shutil.rmtree(merged)
    merge(parse_recipe(text, MERGE_RECIPE), merged, seed=seed, watch=Watch(warning=note))
    manifest = json.loads((merged / MANIFEST).read_bytes())
    for path in sorted(merged.iterdir()):
        if path.name == RECIPE_FILE:
            # Folders that are gone once the result is whole: named by the experts they came from.
            told = text
            for name, folder in pairs.items():
                told = told.replace(json.dumps(str(folder)), json.dumps(f"fused with {name}"))
            (staging.model / MERGE_RECIPE).write_text(told.replace(str(pivot.folder), pivot.name) + "\n", encoding="utf-8")
        elif path.name not in (MANIFEST, "README.md"):
            path.rename(staging.model / path.name)
    shutil.rmtree(merged)
    kept = {key: manifest[key] for key in ("method", "parents", "warnings") if key in manifest}
    return describe_files(staging.model), kept
