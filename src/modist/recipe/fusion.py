"""A fusion's recipe: read once from YAML, immutable from then on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from modist.errors import nearest
from modist.recipe.document import Document, Key, parse_document, read_document
from modist.recipe.fusion_schema import FusionFile, FusionModel, FusionSettings, TrainingSettings
from modist.recipe.recipe import validate
from modist.recipe.reference import ModelReference, is_folder, read_reference


@dataclass(frozen=True)
class FusionRecipe:
    """What to fuse.

    Attributes:
        pivot: the model that is trained.
        experts: whose distributions it learns from, in the recipe's order.
        weights: of the pivot (0 where it gets none) and of each expert, summing to 1; None unless `target: weights`.
        data: the files of chats.
        fusion, training: settings.
        document: the YAML it came from.
    """

    pivot: ModelReference
    experts: tuple[ModelReference, ...]
    weights: tuple[float, ...] | None
    data: tuple[Path, ...]
    fusion: FusionSettings
    training: TrainingSettings
    document: Document = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """What to call the pivot and each expert: by their folders' names, whole where those are not unique."""
        models = (self.pivot, *self.experts)
        short = tuple(model.name for model in models)
        return short if len(set(short)) == len(short) else tuple(map(str, models))


def load_fusion_recipe(path: str | Path) -> FusionRecipe:
    """Read a fusion's recipe from a YAML file.

    Raises:
        RecipeError: with the file, the line and the key of what is wrong.
    """
    return read_fusion_recipe(read_document(Path(path)))


def parse_fusion_recipe(text: str, name: str = "recipe") -> FusionRecipe:
    """The same from YAML in memory."""
    return read_fusion_recipe(parse_document(text, name))


def read_fusion_recipe(document: Document) -> FusionRecipe:
    """The same from a document already parsed."""
    if not isinstance(document.data, dict):
        raise document.error("a fusion's recipe is a mapping of keys: 'pivot', 'experts', 'data'")
    file = validate(document, FusionFile)
    pivot = read_reference(document, file.pivot.source_model, _written(document, "pivot", "source_model"))
    experts = tuple(
        read_reference(document, expert.source_model, ("experts", index, "source_model"))
        for index, expert in enumerate(file.experts)
    )
    for reference, path in ((pivot, ("pivot",)), *((expert, ("experts", i)) for i, expert in enumerate(experts))):
        if reference.adapter is not None:
            raise document.error(f"{str(reference)!r}: adapters cannot be run; merge it into its model first", *path)
    for index, expert in enumerate(experts):
        if expert == pivot:
            raise document.error(
                f"{str(expert)!r} is the pivot, which takes part by 'include_pivot'", "experts", index, "source_model"
            )
        if expert in experts[:index]:
            raise document.error(f"{str(expert)!r} is listed twice", "experts", index, "source_model")
    if file.fusion.mode == "pairwise_then_merge" and len(experts) < 2:
        raise document.error("'pairwise_then_merge' needs two experts; of one there is nothing to merge", "fusion", "mode")
    weights = _weights(document, file, file.pivot)
    _check_training(document, file)
    return FusionRecipe(pivot, experts, weights, _data(document, file), file.fusion, file.training, document)


def _weights(document: Document, file: FusionFile, pivot: FusionModel) -> tuple[float, ...] | None:
    given = [pivot.weight, *(expert.weight for expert in file.experts)]
    if file.fusion.target != "weights":
        for index, weight in enumerate(given):
            if weight is not None:
                path: tuple[Key, ...] = ("experts", index - 1, "weight") if index else ("pivot", "weight")
                raise document.error(f"weights belong to 'target: weights'; the target is {file.fusion.target!r}", *path)
        return None
    if file.fusion.mode != "unified":
        raise document.error("'target: weights' needs 'mode: unified'; a pair has no weights of its own", "fusion", "mode")
    for index, weight in enumerate(given[1:]):
        if weight is None:
            raise document.error("'target: weights' needs a weight for every expert", "experts", index)
    found = [weight or 0.0 for weight in given]
    if pivot.weight and not file.fusion.include_pivot:
        raise document.error("the pivot has a weight and 'include_pivot' is false", "pivot", "weight")
    total = math.fsum(found)
    if abs(total - 1) > 1e-6:
        raise document.error(f"the weights {found}, the pivot's first, sum to {total:g}; they must sum to 1", "experts")
    return tuple(found)


def _check_training(document: Document, file: FusionFile) -> None:
    batch, whole = file.training.batch_size, file.training.global_batch
    if whole % batch:
        near = max(number for number in range(1, batch + 1) if whole % number == 0)
        raise document.error(f"{batch} does not divide the global_batch of {whole}; {near} does", "training", "batch_size")


def _data(document: Document, file: FusionFile) -> tuple[Path, ...]:
    if not file.data:
        raise document.error("names no file", "data")
    found: list[Path] = []
    for index, name in enumerate(file.data):
        path = _written(document, "data", index)
        # As models are: from here, or from where the recipe lies.
        places = [Path(name), Path(document.name).parent / name]
        here = next((place for place in places if place.is_file()), None)
        if here is None:
            known = [file.name for place in places if is_folder(str(place.parent)) for file in place.parent.glob("*.jsonl")]
            raise document.error(f"there is no file {name!r}{nearest(places[0].name, known)}", *path)
        found.append(here)
    return tuple(found)


def _written(document: Document, *path: Key) -> tuple[Key, ...]:
    """The path, or what stands for it: `pivot: x` for `pivot: {source_model: x}`."""
    return path if path in document.lines else path[:-1]
