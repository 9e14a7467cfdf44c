"""The output's layers: which layer of which model each is made of, as a recipe's slices stack them.

A recipe of `models` is one slice over all layers.  Layers of the output are counted through its slices, bottom to top;
embeddings come from the first slice's models, final norm and head from the last's, as mergekit has it.  What lies in another
stack (a vision tower's layers) is outside: it is not stacked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from modist.checkpoint.folder import Checkpoint
from modist.errors import UserError, nearest
from modist.merge.layer import layer_of, main_stack, renumbered, stack_depths, stack_of, template
from modist.merge.layer_lists import depth_of
from modist.recipe import ModelReference, Recipe, Slice, Source

# What stands below the first layer; the rest of what is outside the layers stands above the last.
_BELOW = re.compile(r"embed|\bw[tp]e\.")


@dataclass(frozen=True)
class Part:
    """One slice with its models open.

    Attributes:
        slice: as the recipe has it.
        sources: its sources, and None for a base that takes part without being listed.
        checkpoints: of each.
        members: which of the merge's inputs each is.
        base: which of them is the base, or None.
        lead: which of them gives names, shapes and dtypes.
        starts: the first layer of each.
        length: how many layers.
    """

    slice: Slice
    sources: tuple[Source | None, ...]
    checkpoints: tuple[Checkpoint, ...]
    members: tuple[int, ...]
    base: int | None
    lead: int
    starts: tuple[int, ...]
    length: int

    @property
    def leader(self) -> Checkpoint:
        return self.checkpoints[self.lead]


@dataclass(frozen=True)
class Place:
    """Where an output tensor stands.

    Attributes:
        part: the slice that speaks for it.
        layer: of the output, in the tensor's own stack, or None outside layers.
        offset: of its layer in the slice, or None outside the stack.
        depth: how deep in the slice, 0 to 1; 0 outside layers (mergekit's rule).
    """

    part: Part
    layer: int | None
    offset: int | None
    depth: float

    def name_in(self, index: int, tensor: str) -> str:
        """The tensor's name in the part's input `index`."""
        return tensor if self.offset is None else renumbered(tensor, self.part.starts[index] + self.offset)


@dataclass(frozen=True)
class Stack:
    """All slices of a merge.

    Attributes:
        parts: bottom to top.
        name: of the stack in tensors' names; None for a model without layers.
        reordered: whether the output's layers are other than the donor's own, in order.
    """

    parts: tuple[Part, ...]
    name: str | None
    reordered: bool

    @property
    def origins(self) -> tuple[tuple[Checkpoint, int], ...]:
        """For each layer of the output, the leading model and the layer there."""
        return tuple((part.leader, part.starts[part.lead] + offset) for part in self.parts for offset in range(part.length))

    def places(self) -> dict[str, Place]:
        """Every tensor of the output, by its name there, in the order in which the leading models hold them."""
        first, last = self.parts[0], self.parts[-1]
        found: dict[str, Place] = {}
        for name in first.leader.tensors:
            if self._outside(name) and _BELOW.search(name):
                found[name] = self._place_outside(first, name)
        below = 0
        for part in self.parts:
            for name in part.leader.tensors:
                layer = layer_of(name)
                offset = -1 if layer is None or self._outside(name) else layer - part.starts[part.lead]
                if 0 <= offset < part.length:
                    depth = offset / (part.length - 1) if part.length > 1 else 1.0
                    found[renumbered(name, below + offset)] = Place(part, below + offset, offset, depth)
            below += part.length
        for name in last.leader.tensors:
            if self._outside(name) and not _BELOW.search(name):
                found[name] = self._place_outside(last, name)
        order = {name: place for place, name in enumerate(first.leader.tensors)}
        return dict(sorted(found.items(), key=lambda item: order[item[0]])) if found.keys() <= order.keys() else found

    def place_of_head(self) -> Place:
        """Where a head stands that no leading model has of its own."""
        return Place(self.parts[-1], None, None, 0.0)

    def _outside(self, name: str) -> bool:
        return self.name is None or stack_of(name) != self.name

    @staticmethod
    def _place_outside(part: Part, name: str) -> Place:
        layer, stack = layer_of(name), stack_of(name)
        if layer is None or stack is None or part.slice.length is not None:
            return Place(part, layer, None, 0.0)
        # A tower of a model merged whole has gradients of its own.
        depth = stack_depths(part.leader.tensors)[stack]
        return Place(part, layer, None, layer / (depth - 1) if depth > 1 else 1.0)


def open_stack(
    recipe: Recipe, inputs: Mapping[ModelReference, tuple[int, Checkpoint]], donor: Checkpoint, with_base: bool
) -> Stack:
    """Work out a recipe's slices.

    Args:
        inputs: each model that takes part, its place among the inputs and its checkpoint.
        donor: whose config the output carries.
        with_base: whether the method measures from a base.

    Raises:
        RecipeError: a range of layers outside its model, or a base whose layers cannot be told.
    """
    parts = tuple(_part(recipe, part, inputs, donor, with_base) for part in recipe.slices)
    leader = parts[0].leader
    name = main_stack(leader.tensors, leader.config)
    return Stack(parts, name, not _in_order(parts))


def _in_order(parts: tuple[Part, ...]) -> bool:
    """Whether the output's layers are those of one leading model, each once, merged with others of the same numbers."""
    below, leader = 0, parts[0].leader
    for part in parts:
        if part.leader is not leader or set(part.starts) != {below}:
            return False
        below += part.length
    return below == depth_of(leader)


def _part(
    recipe: Recipe,
    part: Slice,
    inputs: Mapping[ModelReference, tuple[int, Checkpoint]],
    donor: Checkpoint,
    with_base: bool,
) -> Part:
    sources: list[Source | None] = list(part.sources)
    models = [source.model for source in part.sources]
    base = None
    if with_base and part.base is not None:
        if part.base not in models:
            sources.append(None)
            models.append(part.base)
        base = models.index(part.base)
    checkpoints = tuple(inputs[model][1] for model in models)
    lead = next((index for index, checkpoint in enumerate(checkpoints) if checkpoint is donor), 0)
    length = depth_of(checkpoints[lead]) if part.length is None else part.length
    starts = []
    for source, model, checkpoint in zip(sources, models, checkpoints, strict=True):
        if source is not None and source.layers is not None:
            _check_range(recipe, source, source.layers, checkpoint)
        starts.append(_start(recipe, part, source, model))
    if part.length is not None and length > len(checkpoints[lead].tensors):
        # A name may claim any number.
        raise recipe.document.error(f"{length} layers are more than {checkpoints[lead].label} has tensors", *part.path)
    if None in sources and part.length is not None and starts[-1] + length > depth_of(checkpoints[-1]):
        raise recipe.document.error(
            f"the base {models[-1]} has {depth_of(checkpoints[-1])} layers, the slice goes to {starts[-1] + length}; list the"
            " base as a source with the layer_range that the deltas are measured from",
            *part.path,
        )
    members = tuple(inputs[model][0] for model in models)
    return Part(part, tuple(sources), checkpoints, members, base, lead, tuple(starts), length)


def _start(recipe: Recipe, part: Slice, source: Source | None, model: ModelReference) -> int:
    if source is not None:
        return source.layers[0] if source.layers else 0
    ranges = {other.layers for other in part.sources}
    if len(ranges) > 1:
        raise recipe.document.error(
            f"the sources have other layers each, so the base's are not known: list {model} as a source with its layer_range",
            *part.path,
        )
    (layers,) = ranges
    return layers[0] if layers else 0


def _check_range(recipe: Recipe, source: Source, layers: tuple[int, int], checkpoint: Checkpoint) -> None:
    count = depth_of(checkpoint)
    first, stop = layers
    if stop <= count:
        return
    length = stop - first
    nearest_right = [count - length, count] if length <= count else [0, count]
    raise recipe.document.error(
        f"{[first, stop]} reaches beyond {checkpoint.label}, whose layers are [0, {count}]"
        + (f"; did you mean {nearest_right}?" if count else ""),
        *source.path,
        "layer_range",
    )


def _by_layer(checkpoint: Checkpoint, stack: str | None) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name in checkpoint.tensors:
        layer = layer_of(name)
        if layer is not None and stack_of(name) == stack:
            found.setdefault(layer, []).append(name)
    return found


def check_fit(stack: Stack, donor: Checkpoint) -> None:
    """Whether every layer could be one of the donor's: the same tensors of the same shapes.

    Raises:
        UserError: naming the tensor that has no place, or another shape.
    """
    own = _by_layer(donor, stack.name)
    kinds = {frozenset(map(template, names)) for names in own.values()}
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for names in own.values():
        for name in names:
            shapes.setdefault(template(name), set()).add(donor.tensors[name].shape)
    for part in stack.parts:
        if part.leader is donor:
            continue
        held = _by_layer(part.leader, stack.name)
        for layer in range(part.starts[part.lead], part.starts[part.lead] + part.length):
            found = {template(name): name for name in held.get(layer, ())}
            where = f"{part.leader.label}: layer {layer} cannot stand among {donor.label}'s layers: "
            for pattern, name in found.items():
                if pattern not in shapes:
                    raise UserError(f"{where}it has {name!r}, which they have not{nearest(pattern, shapes)}")
                shape = part.leader.tensors[name].shape
                if shape not in shapes[pattern]:
                    known = " or ".join(str(list(one)) for one in sorted(shapes[pattern]))
                    raise UserError(f"{where}its {name!r} has the shape {list(shape)}, theirs have {known}")
            if frozenset(found) not in kinds:
                lacking = sorted(set(shapes) - set(found))
                raise UserError(f"{where}it lacks {(lacking or ['something'])[0]!r}")
