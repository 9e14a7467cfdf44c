"""What a person names to be evaluated: a folder, a hub id, a mixture's recipe or an endpoint's address."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modist.errors import ModistError, UserError, nearest
from modist.evaluation.generators.open import KINDS

_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


@dataclass(frozen=True)
class Model:
    """One model to be evaluated; nothing is loaded.

    Attributes:
        what: as it was named.
        kind: of the generator that answers for it.
        name: for tables, and of its run's folder.
        role: `merge`, `mixture` or `other`, as in tables.
        identity: a folder's real path or a hub id: what tells whether two names mean one model.
        parents: identities of what it was made of, as far as that is written down.
        share: what it has of them, in words.
    """

    what: str
    kind: str
    name: str
    role: str = "other"
    identity: str = ""
    parents: tuple[str, ...] = ()
    share: str = ""


def read_model(what: str, kind: str | None = None, model_name: str | None = None) -> Model:
    """Tell what kind of model a word names.

    Args:
        kind: of its generator; seen from `what` by default.
        model_name: what an endpoint calls it.

    Raises:
        UserError: no such kind, recipe or folder; an address without a model's name.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"--generator {kind!r}: known are {', '.join(KINDS)}{nearest(kind, KINDS)}")
    if _ADDRESS.match(what):
        if kind not in (None, "openai"):
            raise UserError(f"{what}: an address is for --generator openai, not {kind}")
        if not model_name:
            raise UserError(f"{what}: say with --model-name what the endpoint calls the model")
        return Model(what, "openai", model_name)
    if kind == "openai":
        return Model(what, kind, model_name or what)
    path = Path(what).expanduser()
    if path.suffix.lower() in (".yml", ".yaml") or path.is_file():
        return _recipe(what, path, kind)
    from modist.recipe import ModelReference

    try:
        reference = ModelReference.parse(what)
    except ValueError as error:
        raise UserError(str(error)) from None
    if reference.adapter:
        raise UserError(f"{what}: adapters cannot be run; merge it into its model first")
    if not reference.is_local:
        return Model(what, kind or "transformers", reference.name, identity=reference.source)
    folder = reference.folder
    if not folder.is_dir():
        raise UserError(f"{what}: there is neither such a recipe nor such a folder")
    if kind == "mixture" or (kind is None and _model_type(folder) == "modist_mixture"):
        return Model(what, "mixture", reference.name, "mixture", str(folder.resolve()))
    made = Model(what, kind or "transformers", reference.name, identity=str(folder.resolve()))
    return _merged(made, folder)


def _recipe(what: str, path: Path, kind: str | None) -> Model:
    from modist.recipe import load_recipe

    if kind not in (None, "mixture"):
        raise UserError(f"{what}: is a recipe, and the {kind} generator answers for a folder or a hub id")
    recipe = load_recipe(path)
    if "experts" not in recipe.document.data:
        raise UserError(f"{what}: is the recipe of a merge; merge it first, and evaluate the folder it wrote")
    parents = tuple(_identity(str(source.model)) for source in recipe.slices[0].sources)
    return Model(what, "mixture", path.resolve().stem, "mixture", str(path.resolve()), parents)


def _merged(model: Model, folder: Path) -> Model:
    """The same with what the folder's manifest and recipe tell, where modist merged it."""
    from modist.merge.manifest import RECIPE_FILE, read_manifest
    from modist.merge.share import ParentShare
    from modist.recipe import load_recipe

    manifest = read_manifest(folder)
    if manifest is None:
        return model
    try:
        parents = tuple(_identity(str(reference)) for reference in load_recipe(folder / RECIPE_FILE).models)
        given = [ParentShare(**entry) for entry in manifest.get("parents", [])]
        share = "; ".join(f"{parent.name}: {parent.phrase}" for parent in given if parent.role != "base")
    except (ModistError, TypeError):
        return replace(model, role="merge")
    return replace(model, role="merge", parents=parents, share=share)


def _identity(what: str) -> str:
    from modist.recipe import ModelReference

    try:
        reference = ModelReference.parse(what)
    except ValueError:
        return what
    model = str(reference.folder.resolve()) if reference.is_local else reference.source
    return model if reference.lora is None else f"{model}+{_identity(str(reference.lora))}"


def _model_type(folder: Path) -> Any:
    from modist.checkpoint.folder import read_json

    return read_json(folder / "config.json").get("model_type") if (folder / "config.json").exists() else None


def with_own_names(models: Sequence[Model]) -> list[Model]:
    """The same, no two of one name and every name good for a folder: `a/math` and `b/math` become `a-math` and `b-math`.

    Raises:
        UserError: one model is there twice.
    """
    whats = Counter(model.what for model in models)
    if twice := next((what for what, count in whats.items() if count > 1), None):
        if _ADDRESS.match(twice):
            raise UserError(f"{twice}: is there twice; one --model-name goes with one address")
        raise UserError(f"{twice}: is there twice")
    names = [_folder_name(model.name) for model in models]
    there = Counter(names)
    longer = [
        _folder_name(f"{Path(model.identity or model.what).parent.name}-{name}") if there[name] > 1 else name
        for model, name in zip(models, names, strict=True)
    ]
    found: list[str] = []
    for name in longer:
        number = 2
        unique = name
        while unique in found:
            unique, number = f"{name}-{number}", number + 1
        found.append(unique)
    return [replace(model, name=name) for model, name in zip(models, found, strict=True)]


def _folder_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-")[:100] or "model"


def parents_of(models: Sequence[Model], named: Sequence[str]) -> list[str]:
    """Names of the parents: those that are named, or, where none is, those that others say they were made of.

    Raises:
        UserError: a named one is not among the models.
    """
    if not named:
        made_of = {parent for model in models for parent in model.parents}
        return [model.name for model in models if model.identity in made_of]
    found: list[str] = []
    known = {key: model.name for model in models for key in (model.what, model.name)}
    for name in named:
        if name not in known:
            raise UserError(f"--parents {name}: is not one of the models{nearest(name, known)}")
        if known[name] not in found:
            found.append(known[name])
    return found


def orphans(models: Sequence[Model]) -> dict[str, list[str]]:
    """Names of merges and mixtures -> those of their parents that are not among the models."""
    there = {model.identity for model in models}
    found = {model.name: [parent for parent in model.parents if parent not in there] for model in models}
    return {name: missing for name, missing in found.items() if missing}
