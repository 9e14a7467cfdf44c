"""The models of a recipe, looked at by their headers first and fetched only when they are needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from modist.checkpoint.adapter import Adapter, adapt
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
    """Look at each model by its headers alone; of a hub's, only small files are downloaded, adapters among them."""
    checkpoints: dict[str, Checkpoint] = {}
    commits: dict[str, str | None] = {}
    missing = 0
    references = tuple(references)
    names = [reference.name for reference in references]
    # A base under several adapters is opened once.
    plain: dict[ModelReference, Checkpoint] = {}
    for reference in references:
        key, model = str(reference), replace(reference, adapter=None)
        # Two folders of one name are told apart by their whole paths.
        label = reference.name if reference.is_local and names.count(reference.name) == 1 else key
        if model not in plain:
            if reference.is_local:
                own = model.name if reference.adapter else label
                plain[model], commits[str(model)] = Checkpoint.open(model.folder, own), None
            else:
                from modist.checkpoint.outline import outline

                found = outline(model, allow_code=allow_code)
                plain[model], commits[str(model)] = found.checkpoint, found.commit
                missing += found.download_bytes
        commits[key] = commits[str(model)]
        checkpoints[key] = _adapted(plain[model], reference, label)
    return Models(checkpoints, commits, missing)


def fetch_models(models: Models, references: Iterable[ModelReference], allow_code: bool = False) -> Models:
    """The same models with their tensors here: what a hub still has is downloaded, at the commits already looked at."""
    checkpoints = dict(models.checkpoints)
    for reference in references:
        key = str(reference)
        outlined = checkpoints[key]
        if not outlined.here:
            from modist.checkpoint.hub import fetch

            pinned = ModelReference(reference.source, models.commits[key])
            whole = Checkpoint.open(fetch(pinned, allow_code=allow_code).folder, str(replace(reference, adapter=None)))
            checkpoints[key] = whole if outlined.adapter is None else adapt(whole, outlined.adapter, outlined.label)
    return Models(checkpoints, models.commits)


def open_adapter(reference: ModelReference) -> Adapter:
    """An adapter by its reference; a hub's is fetched.

    Raises:
        UserError, CheckpointError, HubError: there is none, or none that can be added on the fly.
    """
    if reference.is_local:
        return Adapter.open(reference.folder, reference.name)
    from modist.checkpoint.hub import fetch_adapter

    found = fetch_adapter(reference)
    return Adapter.open(found.folder, str(reference), found.commit)


def _adapted(checkpoint: Checkpoint, reference: ModelReference, label: str) -> Checkpoint:
    lora = reference.lora
    if lora is None:
        # The base itself, under its own name, beside those with adapters.
        return checkpoint if checkpoint.label == label else replace(checkpoint, label=label)
    return adapt(checkpoint, open_adapter(lora), label)
