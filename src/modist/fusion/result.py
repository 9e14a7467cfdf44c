"""From trained weights to a checkpoint like any other: weights in the pivot's dtype, its tokenizer, a manifest, a card."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modist.checkpoint import Checkpoint
from modist.checkpoint.dtype import TORCH_NAMES, all_finite
from modist.checkpoint.staging import MANIFEST, Staging
from modist.errors import ModistError
from modist.fusion.models import Participant, Participants
from modist.fusion.training import Trained
from modist.merge.carry import carried_files
from modist.merge.hashing import sha256_file
from modist.merge.manifest import RECIPE_FILE, describe_input, recipe_digest, versions
from modist.recipe.fusion import FusionRecipe
from modist.report.card import licence_of
from modist.report.fusion_card import FusedParent, fusion_card
from modist.report.loss_picture import Curve, draw_losses
from modist.version import VERSION

CURVE, PICTURE = "fusion_losses.json", "fusion_losses.png"
_STEP = 1 << 20


def dtype_of(pivot: Participant) -> str:
    """In which most of a checkpoint's elements are stored, by torch's name; what a result is written in."""
    checkpoint = Checkpoint.open(pivot.folder, pivot.name)
    counts: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        if tensor.dtype in TORCH_NAMES:
            counts[TORCH_NAMES[tensor.dtype]] += tensor.elements
    checkpoint.close()
    return counts.most_common(1)[0][0] if counts else "float32"


def write_model(model: Any, pivot: Participant, folder: Path, shard_size: str = "5GB") -> dict[str, dict[str, Any]]:
    """A model folder: weights, config, and the small files of the pivot that belong with them.

    Returns:
        Name -> size and SHA-256 of every file.

    Raises:
        ModistError: a weight is no number; nothing may be made of such a folder.
        CheckpointError: a small file of the pivot cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The pivot's own generation config may hold what transformers refuses to write, and is carried along as it is.
    model.save_pretrained(folder, max_shard_size=shard_size)
    donor = Checkpoint.open(pivot.folder, pivot.name)
    carried = carried_files(donor, pivot.trust_remote_code)
    donor.close()
    for name, data in carried.items():
        (folder / name).write_bytes(data)
    _refuse_nonfinite(folder)
    return describe_files(folder)


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file, all of them on disk."""
    found = {}
    mask = os.umask(0)
    os.umask(mask)
    for path in sorted(folder.iterdir()):
        # safetensors writes files that only their owner may read.
        path.chmod(0o666 & ~mask)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        if path.name != MANIFEST:
            found[path.name] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
    return found


def _refuse_nonfinite(folder: Path) -> None:
    checkpoint = Checkpoint.open(folder)
    try:
        for name, tensor in checkpoint.tensors.items():
            for start in range(0, tensor.elements, _STEP):
                if not all_finite(checkpoint.read(name, start, min(start + _STEP, tensor.elements)), tensor.dtype):
                    raise ModistError(f"training left NaN or infinite values in {name!r}; lower the learning_rate")
    finally:
        checkpoint.close()


def write_rest(
    staging: Staging,
    recipe: FusionRecipe,
    participants: Participants,
    files: Mapping[str, Mapping[str, Any]],
    *,
    seed: int,
    fingerprint: str,
    options: Mapping[str, Any],
    trained: Mapping[str, Trained],
    fusion: Mapping[str, Any],
) -> None:
    """Everything but weights: the recipe, the loss curves, the card, and last the manifest.

    Args:
        files: of the model folder so far, as `write_model` describes them.
        trained: by name (the pivot's in a unified fusion, each expert's in a pairwise one).
        fusion: for the manifest: what the targets were made of.
    """
    text = recipe.document.text
    small = {
        RECIPE_FILE: text.encode(),
        CURVE: (json.dumps({name: found.as_dict()["history"] for name, found in trained.items()}) + "\n").encode(),
        "README.md": _card(staging.out.name, recipe, participants, seed, trained, fusion).encode("utf-8", "replace"),
    }
    picture = _picture(staging.root, recipe, trained)
    if picture is not None:
        small[PICTURE] = picture
    for name, data in small.items():
        staging.write_bytes(name, data)
    described = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in small.items()}
    manifest = {
        "format": 1,
        "versions": versions() | _versions(),
        "fingerprint": fingerprint,
        "method": "fuse",
        "seed": seed,
        "recipe": {"file": RECIPE_FILE, "sha256": recipe_digest(text), "text": text},
        "options": dict(options),
        "inputs": [_input(participant) for participant in participants.all],
        "config_from": participants.pivot.name,
        "fusion": dict(fusion),
        "files": {name: dict(entry) for name, entry in sorted({**files, **described}.items())},
    }
    staging.write_text(MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _input(participant: Participant) -> dict[str, Any]:
    checkpoint = Checkpoint.open(participant.folder, participant.name)
    found = describe_input(checkpoint, participant.commit, False)
    checkpoint.close()
    # The digests that distributions are kept by: of all weights and the config, and of the tokenizer's files.
    return {**found, "sha256": participant.digests}


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}


def _picture(folder: Path, recipe: FusionRecipe, trained: Mapping[str, Trained]) -> bytes | None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        return None
    curves = [
        Curve(
            name,
            tuple(point.step for point in found.history),
            tuple(point.loss for point in found.history),
            tuple(point.clm for point in found.history),
            tuple(point.fused for point in found.history),
        )
        for name, found in trained.items()
        if found.history
    ]
    if not curves:
        return None
    path = folder / PICTURE
    draw_losses(path, curves, recipe.training.lambda_)
    data = path.read_bytes()
    path.unlink()
    return data


def _card(
    name: str,
    recipe: FusionRecipe,
    participants: Participants,
    seed: int,
    trained: Mapping[str, Trained],
    fusion: Mapping[str, Any],
) -> str:
    targets: Mapping[str, Any] = fusion.get("targets", {})
    parents = []
    for participant in participants.all:
        told = [entry["shares"][participant.name] for entry in targets.values() if participant.name in entry["shares"]]
        gave = f"{sum(told) / len(told):.1%} of the targets" if told else "no targets"
        gave = f"the weights at the beginning, and {gave}" if participant is participants.pivot else gave
        parents.append(FusedParent(participant.name, licence_of(participant.folder), gave))
    return fusion_card(
        name,
        parents,
        mode=recipe.fusion.mode,
        target=recipe.fusion.target,
        mix=recipe.training.lambda_,
        chats=max((int(entry["chats"]) for entry in targets.values()), default=0),
        steps=[found.steps for found in trained.values()],
        recipe=recipe.document.text,
        seed=seed,
        version=VERSION,
    )
