"""What some models are to each other, before any of them runs: one tokenizer or several, and what they were tuned from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modist.checkpoint import Checkpoint
from modist.errors import UserError
from modist.inspection import Inspection, Onlooker, inspect_models
from modist.merge.models import outline_models
from modist.recipe import ModelReference
from modist.report.card import front_matter
from modist.vocabulary.common import compared_maps


@dataclass(frozen=True)
class Kin:
    """What was found.

    Attributes:
        models: as the user named them.
        names: what to call them.
        ancestor: the model they were tuned from, as it can be named in a recipe; None where it is not known or not here.
        how: in words, how that is known, or why not.
        inspection: of the models and, where it is not one of them, the ancestor.
    """

    models: tuple[str, ...]
    names: tuple[str, ...]
    ancestor: str | None
    how: str
    inspection: Inspection = field(repr=False)


def look(models: Sequence[str], base: str | None = None, onlooker: Onlooker | None = None) -> Kin:
    """Compare models by their tokenizers, cards and weights.

    Args:
        models: folders or hub ids, two or more.
        base: what they were tuned from, where the user knows it.
        onlooker: told of progress; every tensor is read once.

    Raises:
        UserError: fewer than two models, one twice, none of that name, or tokenizers so different that nothing can be
            recommended but fusing.
        CheckpointError, HubError: a model is damaged, or cannot be had.
    """
    if len(models) < 2:
        raise UserError("a recommendation compares models: name at least two")
    references = _references(models)
    checkpoints = outline_models(references).checkpoints
    held = [checkpoints[str(reference)] for reference in references]
    try:
        _check_tokenizers(held)
        claimed, hint = (base, "") if base is not None else _claimed(references, held)
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()
    found = inspect_models(models, base=claimed, onlooker=onlooker)
    # The base is put before the models unless it is one of them.
    added = len(found.models) > len(models)
    known = dict(zip((facts.name for facts in found.models), [*([str(claimed)] if added else []), *models], strict=True))
    names = tuple(name for name in known if not (added and name == next(iter(known))))
    ancestor, how = _ancestor(found, known, claimed, base is not None)
    return Kin(tuple(models), names, ancestor, how or hint, found)


def _references(models: Sequence[str]) -> list[ModelReference]:
    found = []
    for model in models:
        try:
            reference = ModelReference.parse(model)
        except ValueError as error:
            raise UserError(str(error)) from None
        if reference.adapter is not None:
            raise UserError(f"{model}: adapters cannot be compared; merge it into its model first")
        if reference.is_local and not reference.folder.is_dir():
            raise UserError(f"{model}: there is no such folder")
        found.append(reference)
    return found


def _check_tokenizers(checkpoints: Sequence[Checkpoint]) -> None:
    try:
        compared_maps([checkpoint.folder for checkpoint in checkpoints], [checkpoint.label for checkpoint in checkpoints])
    except UserError as error:
        raise UserError(f"nothing but fusing can be recommended, for mixing and merging need one tokenizer: {error}") from None


def _claimed(references: Sequence[ModelReference], checkpoints: Sequence[Checkpoint]) -> tuple[str | None, str]:
    """The base that all cards name, where it is a folder here; else what to say of it."""
    claims = []
    for reference, checkpoint in zip(references, checkpoints, strict=True):
        card = front_matter(checkpoint.folder).get("base_model")
        name = card[0] if isinstance(card, list) and len(card) == 1 else card
        if not isinstance(name, str) or not name:
            return None, ""
        claims.append(_place(name, checkpoint.folder if reference.is_local else None))
    if len(set(claims)) != 1:
        return None, ""
    claim = claims[0]
    if not Path(claim).is_dir():
        return None, f"their cards name {claim} as the base; --base with its folder or id would have it looked at"
    same = any(r.is_local and os.path.samefile(r.folder, claim) for r in references)
    return (None if same else os.path.relpath(claim)), ""


def _place(name: str, folder: Path | None) -> str:
    """A base as a card names it: the folder, seen from the card's own, where there is one; else as it stands."""
    for place in ([folder / name] if folder is not None else []) + [Path(name)]:
        if (place / "config.json").is_file():
            return str(place.resolve())
    return name


def _ancestor(found: Inspection, known: Mapping[str, str], claimed: str | None, stated: bool) -> tuple[str | None, str]:
    """The ancestor, and how it is known."""
    verdict = next((verdict for verdict in found.verdicts if verdict.ancestor is not None), None)
    if verdict is not None and verdict.ancestor is not None:
        own = known[verdict.ancestor]
        return own, verdict.text + (_by_cards(own, claimed, stated))
    said = "; ".join(verdict.text for verdict in found.verdicts)
    if claimed is None:
        return None, said
    if any(verdict.kind == "unrelated" for verdict in found.verdicts):
        return None, f"{said}, so {claimed} is no base for a merge"
    return claimed, f"{said}; {claimed} is taken as the base, {'as stated' if stated else 'as their cards say'}"


def _by_cards(own: str, claimed: str | None, stated: bool) -> str:
    if claimed is None or own != claimed:
        return ""
    return ", as stated" if stated else ", as their cards say"
