"""The models of a recipe, looked at by their headers first and fetched only when they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modist.checkpoint.folder import Checkpoint
from modist.recipe import ModelReference


@dataclass(frozen=True)
class Models:
    """The models of a recipe, each under `str(reference)`.

    Attributes:
        checkpoints: open, or outlined where a hub still has the tensors.
        commits: of those that came from a hub.
        download_bytes: what is still to be fetched.
    """

    checkpoints: Mapping[str, Checkpoint]
    commits: Mapping[str, str | None]
    download_bytes: int = 0


def outline_models(references: Iterable[ModelReference], allow_code: bool = False) -> Models:
    """Look at each model by its headers alone; of a hub's, only small files are downloaded."""
    checkpoints: dict[str, Checkpoint] = {}
    commits: dict[str, str | None] = {}
    missing = 0
    references = tuple(references)
    names = [reference.name for reference in references]
    for reference in references:
        key = str(reference)
        if reference.is_local:
            # Two folders of one name are told apart by their whole paths.
            label = reference.name if names.count(reference.name) == 1 else key
            checkpoints[key], commits[key] = Checkpoint.open(reference.folder, label), None
        else:
            from modist.checkpoint.outline import outline

            found = outline(reference, allow_code=allow_code)
            checkpoints[key], commits[key] = found.checkpoint, found.commit
            missing += found.download_bytes
    return Models(checkpoints, commits, missing)


def fetch_models(models: Models, references: Iterable[ModelReference], allow_code: bool = False) -> Models:
    """The same models with their tensors here: what a hub still has is downloaded, at the commits already looked at."""
    checkpoints = dict(models.checkpoints)
    for reference in references:
        key = str(reference)
        if not checkpoints[key].here:
            from modist.checkpoint.hub import fetch

            pinned = ModelReference(reference.source, models.commits[key])
            checkpoints[key] = Checkpoint.open(fetch(pinned, allow_code=allow_code).folder, key)
    return Models(checkpoints, models.commits)
