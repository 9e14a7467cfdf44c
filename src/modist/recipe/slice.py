"""Slices: runs of layers, each made of the same number of layers of one model or of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modist.recipe.document import Document, Key
from modist.recipe.reference import ModelReference, read_reference
from modist.recipe.schema import SliceEntry
from modist.recipe.setting import Settings, read_settings


@dataclass(frozen=True)
class Source:
    """One model's part in a slice; `layers` [first, one past the last] of it, None for all of them."""

    model: ModelReference
    parameters: Settings
    path: tuple[Key, ...]
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Slice:
    """A run of layers of the output, bottom to top, and what it is made of.

    Attributes:
        sources: models, in the recipe's order; their `layers` are equally many.
        parameters: settings for all of them.
        path: in the recipe.
        base: the model the others are measured from here, or None.
    """

    sources: tuple[Source, ...]
    parameters: Settings
    path: tuple[Key, ...]
    base: ModelReference | None = None

    @property
    def length(self) -> int | None:
        """How many layers; None for as many as the model has."""
        layers = self.sources[0].layers
        return None if layers is None else layers[1] - layers[0]


def read_slices(document: Document, entries: Sequence[SliceEntry], base: ModelReference | None) -> tuple[Slice, ...]:
    """Read `slices`.

    Args:
        base: the recipe's own base; a slice that names none has this one, or else the first that a slice names.

    Raises:
        RecipeError: with the line and key.
    """
    bases = [
        None if entry.base_model is None else read_reference(document, entry.base_model, ("slices", index, "base_model"))
        for index, entry in enumerate(entries)
    ]
    common = base or next((own for own in bases if own is not None), None)
    return tuple(
        _read_slice(document, entry, ("slices", index), own or common)
        for index, (entry, own) in enumerate(zip(entries, bases, strict=True))
    )


def _read_slice(document: Document, entry: SliceEntry, path: tuple[Key, ...], base: ModelReference | None) -> Slice:
    if entry.residual_weight is not None:
        raise document.error("not supported; mergekit ignores it too", *path, "residual_weight")
    sources: list[Source] = []
    for index, item in enumerate(entry.sources):
        here: tuple[Key, ...] = (*path, "sources", index)
        start, stop = item.layer_range
        if not 0 <= start < stop:
            raise document.error(
                f"{item.layer_range} is no range of layers; write [first, one past the last]", *here, "layer_range"
            )
        first = entry.sources[0].layer_range
        wanted = first[1] - first[0]
        if stop - start != wanted:
            raise document.error(
                f"{item.layer_range} is {stop - start} layers, {first} above is {wanted}: the sources of a slice have equally"
                f" many, such as {[start, start + wanted]}",
                *here,
                "layer_range",
            )
        model = read_reference(document, item.model, (*here, "model"))
        sources.append(Source(model, read_settings(document, item.parameters, (*here, "parameters")), here, (start, stop)))
    return Slice(tuple(sources), read_settings(document, entry.parameters, (*path, "parameters")), path, base)


def refuse_twice(document: Document, sources: Sequence[Source]) -> None:
    """A model stands once in a slice, or with other layers each time."""
    seen: set[tuple[ModelReference, tuple[int, int] | None]] = set()
    for source in sources:
        if (source.model, source.layers) in seen:
            raise document.error(f"{str(source.model)!r} is listed twice", *source.path)
        seen.add((source.model, source.layers))
