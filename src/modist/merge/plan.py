"""What a merge will do, known from the recipe and the headers alone: every output tensor, its inputs and its parameters."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from modist.checkpoint.dtype import FLOATS, NAMES
from modist.checkpoint.folder import Checkpoint
from modist.checkpoint.quantised import quantisation, way_out
from modist.errors import UserError
from modist.merge.layer import template, text_config
from modist.merge.layer_lists import mixed_layers, restack
from modist.merge.method import Method, find_method
from modist.merge.output_template import OutputTemplate, check_template_of, plan_template
from modist.merge.output_tokenizer import plan_vocabulary
from modist.merge.parameters import check_filters, check_parameters, misplaced, resolve
from modist.merge.scaling import Scaling, attach_scaling
from modist.merge.source import open_source
from modist.merge.stack import Place, Stack, check_fit, open_stack
from modist.merge.tensor import Tensor
from modist.merge.vocabulary import Vocabulary, is_by_token
from modist.recipe import Key, ModelReference, Recipe, Scalar
from modist.vocabulary.tokens import token_map

_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$")
HEAD = "lm_head.weight"
# Rebuilt from the config by every loader; old checkpoints store them.
_BUFFER = re.compile(r"rotary_emb\.inv_freq$|\.masked_bias$|\.attn\.bias$")


def is_embedding(tensor: str) -> bool:
    return bool(_EMBEDDING.search(tensor))


def is_attention(tensor: str) -> bool:
    return "attn" in tensor or "attention" in tensor


def is_kind(tensor: str, kind: str) -> bool:
    """Whether a tensor is part of `attention`, of the `embeddings` (the head included), or of `any` of them."""
    if kind == "attention":
        return is_attention(tensor)
    return kind == "any" or is_embedding(tensor) or tensor == HEAD


def embedding_name(tensors: Iterable[str]) -> str | None:
    return next((name for name in tensors if is_embedding(name)), None)


@dataclass(frozen=True)
class PlannedTensor:
    """One output tensor.

    Attributes:
        tensor: what the method will be given.
        dtype: of the output, as stored.
        layer: its layer's number, or None.
        used: for each of the tensor's sources, whether any of it reaches the output.
        members: which of the plan's inputs each source is of.
        lead: the source that gives shape and dtype.
        copied: True for tensors no method touches (integers, buffers): taken from the lead as they are.
    """

    tensor: Tensor
    dtype: str
    layer: int | None
    used: tuple[bool, ...]
    members: tuple[int, ...]
    lead: int
    copied: bool = False

    @property
    def name(self) -> str:
        return self.tensor.name

    def uses(self, index: int) -> bool:
        """Whether any of the plan's input `index` reaches this tensor."""
        return any(used for used, member in zip(self.used, self.members, strict=True) if member == index)

    def sources_of(self, index: int) -> tuple[int, ...]:
        """Which of the tensor's sources are of the plan's input `index`."""
        return tuple(place for place, member in enumerate(self.members) if member == index)


@dataclass(frozen=True)
class Plan:
    """A whole merge before any tensor is read.

    Attributes:
        method: how tensors are merged.
        inputs: the models that take part, in the recipe's order, the base last where the recipe names it only as base.
        base: which input is the base, or None; None too where slices have bases of their own.
        lead: which input gives the first slice's names, shapes and order.
        donor: whose config and tokenizer are carried.
        tensors: the output.
        untied: whether the output gets a head of its own where the donor's config ties it.
        drops: tensors of the lead that are not written, and why.
        warnings: remarks for the user.
        scaling: of the merged deltas, or None; the tensors have their scales.
        origins: for each layer of the output, the model and the layer there that lead it; None where they are the lead's own.
        vocabulary: of the result, where its rows are not simply the parents'.
        template: the chat template, where it is not the tokenizer's own.
    """

    recipe: Recipe
    method: Method
    inputs: tuple[Checkpoint, ...]
    base: int | None
    lead: int
    donor: Checkpoint
    tensors: tuple[PlannedTensor, ...]
    untied: bool
    drops: Mapping[str, str]
    warnings: tuple[str, ...]
    scaling: Scaling | None = None
    origins: tuple[tuple[Checkpoint, int], ...] | None = None
    vocabulary: Vocabulary | None = None
    template: OutputTemplate | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(checkpoint.label for checkpoint in self.inputs)

    def uses(self, index: int, kind: str) -> bool:
        """Whether input `index`'s tensors of a kind (attention, embeddings, any) reach the output."""
        return any(planned.uses(index) for planned in self.tensors if is_kind(planned.name, kind))

    @property
    def stacked(self) -> bool:
        """Whether tensors have other inputs, or come from other layers, than all of the recipe's models in their order."""
        every = tuple(range(len(self.inputs)))
        return self.origins is not None or any(planned.members != every for planned in self.tensors)

    @property
    def read_bytes(self) -> int:
        """Bytes of the inputs that take part; surveys read some of them twice, from memory as a rule."""
        return sum(
            source.nbytes
            for planned in self.tensors
            for source, used in zip(planned.tensor.sources, planned.used, strict=True)
            if used
        )

    @property
    def write_bytes(self) -> int:
        size = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
        return sum(
            planned.tensor.size * size.get(planned.dtype, 1)
            if planned.dtype in FLOATS
            else planned.tensor.sources[planned.lead].nbytes
            for planned in self.tensors
        )


def make_plan(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    *,
    seed: int = 0,
    allow: frozenset[str] = frozenset(),
) -> Plan:
    """Work out the whole merge.

    Args:
        recipe: what the user wrote.
        checkpoints: an open checkpoint for `str(reference)` of each of the recipe's models.
        seed: for methods that draw.
        allow: differences the user accepts; see `modist.merge.compare`.

    Raises:
        RecipeError, UserError: with the place and the nearest right value.
    """
    document = recipe.document
    if recipe.rank is not None:
        raise document.error("only adapters have a rank, and these are models", "rank")
    method = _method_of(recipe)
    check_parameters(recipe, method)
    with_base = _takes_base(recipe, method)
    _check_counts(recipe, method, with_base)
    references = _references(recipe, with_base)
    inputs = tuple(checkpoints[str(reference)] for reference in references)
    donor = checkpoints[str(recipe.donor)]
    for checkpoint in inputs:
        _refuse_quantised(checkpoint)
    places_of = {reference: (index, inputs[index]) for index, reference in enumerate(references)}
    stack = open_stack(recipe, places_of, donor, with_base)
    first = stack.parts[0]
    lead = first.members[first.lead]
    bases = {part.members[part.base] for part in stack.parts if part.base is not None}
    base = bases.pop() if len(bases) == 1 else None
    if stack.reordered:
        check_fit(stack, donor)

    places, drops, untied, warnings = _output_places(stack, inputs, donor, allow)
    check_filters(recipe, _every_name(places))
    warnings += misplaced(recipe, method)
    planned = [_plan_tensor(recipe, method, place, name, seed) for name, place in places.items()]
    vocabulary = plan_vocabulary(recipe, inputs, base, lead, checkpoints, embedding_rows)
    if vocabulary is not None:
        warnings += vocabulary.warnings
        for entry in planned:
            _align(entry, vocabulary)
    known = vocabulary.tokenizer.tokens if vocabulary and vocabulary.tokenizer else token_map(donor.folder)
    chat, remarks = plan_template(recipe, inputs, donor, known)
    warnings += remarks
    origins = stack.origins if stack.reordered else None
    plan = Plan(
        recipe, method, inputs, base, lead, donor, tuple(planned), untied, drops, (),
        origins=origins, vocabulary=vocabulary, template=chat,
    )  # fmt: skip
    _check_presence(plan)
    if plan.stacked and method.across is not None:
        raise document.error(f"{method.name} ranks whole models, which slices of other layers or models are not", "slices")
    if origins is not None:
        _check_outside(plan)
        # Whether its config can be written is known before any tensor is read.
        restack(json.loads(json.dumps(donor.config)), donor, origins)
        warnings += mixed_layers([(part.checkpoints, part.starts, part.length) for part in stack.parts])
        if recipe.scaling is not None:
            raise document.error("statistics are of the base's own layers, which are stacked otherwise here", "scaling")
    scaling = None if base is None else attach_scaling(recipe, inputs[base], planned, drops)
    for entry in planned:
        if entry.copied:
            continue
        reason = method.refuses(entry.tensor)
        if reason:
            raise document.error(f"{reason} (tensor {entry.name!r})", *_weights_path(recipe))
        names = [source.model for source in entry.tensor.sources]
        warnings += [text for text in method.warns(entry.tensor, names) if text not in warnings]
    return replace(plan, warnings=tuple(warnings), scaling=scaling)


def check_recipe(recipe: Recipe) -> None:
    """Check what can be checked without any model: the method, its parameters' names and ranges, the template."""
    check_parameters(recipe, _method_of(recipe))
    check_template_of(recipe)


def _method_of(recipe: Recipe) -> Method:
    try:
        return find_method(recipe.method)
    except UserError as error:
        raise recipe.document.error(str(error), "merge_method") from None


def _weights_path(recipe: Recipe) -> tuple[Key, ...]:
    return ("weights",) if ("weights",) in recipe.document.lines else ("merge_method",)


def _takes_base(recipe: Recipe, method: Method) -> bool:
    if method.base == "required" and any(part.base is None for part in recipe.slices):
        raise recipe.document.error(f"{method.name} needs a base_model", "merge_method")
    return method.base != "ignored" and any(part.base is not None for part in recipe.slices)


def _references(recipe: Recipe, with_base: bool) -> list[ModelReference]:
    """The models that take part, each once, a base that no slice lists behind them."""
    found = [source.model for part in recipe.slices for source in part.sources]
    if with_base:
        found += [part.base for part in recipe.slices if part.base is not None]
    return list(dict.fromkeys(found))


def _check_counts(recipe: Recipe, method: Method, with_base: bool) -> None:
    fewest, most = method.inputs
    for part in recipe.slices:
        based = with_base and part.base is not None
        # A base listed with other layers too is a model like others there.
        others = len(part.sources) - (based and part.base in [source.model for source in part.sources])
        if others < fewest or (most is not None and others > most):
            wanted = str(fewest) if most == fewest else f"at least {fewest}" if most is None else f"{fewest} to {most}"
            beside = " beside the base" if based else ""
            raise recipe.document.error(
                f"{method.name} merges {wanted} model{'' if wanted == '1' else 's'}{beside}; the"
                f" {'recipe' if len(recipe.slices) == 1 else 'slice'} names {others}",
                *part.path,
            )


def _every_name(places: Mapping[str, Place]) -> list[str]:
    """The output's names, then those that its sources have and it has not."""
    there = (place.name_in(index, name) for name, place in places.items() for index in range(len(place.part.sources)))
    return list(dict.fromkeys([*places, *there]))


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    kind = quantisation(checkpoint)
    if kind is not None:
        raise UserError(f"{checkpoint.label}: its weights are quantised ({kind}) and cannot be averaged; {way_out(kind)}")


def _output_places(
    stack: Stack, inputs: Sequence[Checkpoint], donor: Checkpoint, allow: frozenset[str]
) -> tuple[dict[str, Place], dict[str, str], bool, list[str]]:
    """The tensors to write, those left out, whether the output gets a head that the donor's config ties, and remarks."""
    places, drops = stack.places(), {}
    bottom, top = stack.parts[0].leader, stack.parts[-1].leader
    embedding = embedding_name(top.tensors)
    tied = bool(text_config(donor.config).get("tie_word_embeddings"))
    top_tied = bool(text_config(top.config).get("tie_word_embeddings"))
    if HEAD in places and embedding and bottom is top and top_tied and _equal(top, HEAD, embedding):
        drops[HEAD] = "tied to the embeddings, which hold the same values"
        del places[HEAD]
    untied, warnings = False, []
    if HEAD not in places and HEAD not in drops and embedding:
        if "tying" in allow and (bottom is not top or any(HEAD in checkpoint.tensors for checkpoint in inputs)):
            places[HEAD] = stack.place_of_head()
            untied = True
        elif bottom is not top:
            warnings.append(
                f"the head is tied to the embeddings of {bottom.label}, and the last layers are of {top.label}, which has its"
                " own; --allow tying gives the result a head of its own"
            )
    elif HEAD in places and tied:
        untied = True
    return places, drops, untied, warnings


def _equal(checkpoint: Checkpoint, one: str, two: str) -> bool:
    a, b = checkpoint.tensors[one], checkpoint.tensors[two]
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    if not checkpoint.here:
        return True
    step = 1 << 22
    return all(
        checkpoint.read(one, start, min(start + step, a.elements)).tobytes()
        == checkpoint.read(two, start, min(start + step, a.elements)).tobytes()
        for start in range(0, a.elements, step)
    )


def _plan_tensor(recipe: Recipe, method: Method, place: Place, name: str, seed: int) -> PlannedTensor:
    part = place.part
    shared = {
        parameter.name: resolve(recipe, part.slice, None, parameter, name, place.depth, "")
        for parameter in method.parameters
        if parameter.scope == "shared"
    }
    each: list[dict[str, Scalar]] = []
    for index, (source, checkpoint) in enumerate(zip(part.sources, part.checkpoints, strict=True)):
        each.append(
            {
                # mergekit's rule: what each input has for itself is filtered by the tensor's name there.
                parameter.name: resolve(
                    recipe, part.slice, source, parameter, place.name_in(index, name), place.depth, checkpoint.label
                )
                for parameter in method.parameters
                if parameter.scope == "input" or (parameter.scope == "other" and index != part.base)
            }
        )
    sources = [
        open_source(checkpoint, _stored_name(checkpoint, place.name_in(index, name)))
        for index, checkpoint in enumerate(part.checkpoints)
    ]
    led = sources[part.lead]
    tensor = Tensor(name, led.shape, sources, part.base, shared, each, seed)
    if led.dtype not in FLOATS or _BUFFER.search(name):
        taken = tuple(index == part.lead for index in range(len(sources)))
        return PlannedTensor(tensor, led.dtype, place.layer, taken, part.members, part.lead, copied=True)
    dtype = NAMES[recipe.dtype] if recipe.dtype else method.dtype(tensor) or led.dtype
    used = tuple(method.contributes(tensor, index) for index in range(len(sources)))
    return PlannedTensor(tensor, dtype, place.layer, used, part.members, part.lead)


def _align(planned: PlannedTensor, vocabulary: Vocabulary) -> None:
    """Give a tensor with a row for each token the rows of the output's vocabulary."""
    tensor = planned.tensor
    if planned.copied or not vocabulary.covers(tensor.name, tensor.sources[planned.lead], planned.members[planned.lead]):
        return
    everywhere = [open_source(parent, _stored_name(parent, tensor.name)) for parent in vocabulary.parents]
    tensor.sources = vocabulary.aligned(tensor.sources, planned.members, everywhere)
    tensor.shape = tensor.sources[planned.lead].shape


def embedding_rows(checkpoint: Checkpoint) -> int | None:
    """How many rows a model's embeddings have; None where it has none."""
    name = embedding_name(checkpoint.tensors)
    held = checkpoint.tensors[name] if name else None
    return held.shape[0] if held is not None and held.elements and held.shape else None


def _stored_name(checkpoint: Checkpoint, name: str) -> str:
    """The name under which an input holds a tensor: a tied model's head is its embedding."""
    if name == HEAD and HEAD not in checkpoint.tensors:
        return embedding_name(checkpoint.tensors) or name
    return name


def _check_presence(plan: Plan) -> None:
    for planned in plan.tensors:
        lead = planned.tensor.sources[planned.lead]
        for source, used in zip(planned.tensor.sources, planned.used, strict=True):
            if not used:
                continue
            if not source.present:
                raise UserError(
                    f"{source.model}: has no tensor {source.name!r}, which {lead.model} has: these are models of different"
                    " architectures, which can be mixed or fused, not merged"
                )
            if source.shape != planned.tensor.shape:
                raise UserError(
                    f"{source.model}: tensor {source.name!r} has the shape {list(source.shape)}, in {lead.model} it is"
                    f" {list(planned.tensor.shape)}: only tensors of one shape can be merged"
                    + ("; 'tokenizer' in the recipe aligns vocabularies" if is_by_token(planned.name) else "")
                )
            if source.dtype not in FLOATS and not planned.copied:
                raise UserError(f"{source.model}: tensor {source.name!r} has the dtype {source.dtype}, not a float")


def _check_outside(plan: Plan) -> None:
    """Whether what lies outside a stack of several models' layers has the donor's shapes."""
    for planned in plan.tensors:
        own = plan.donor.tensors.get(planned.name)
        if plan.vocabulary is not None and is_by_token(planned.name):
            continue
        if planned.layer is None and own is not None and own.shape != planned.tensor.shape:
            raise UserError(
                f"{planned.tensor.sources[planned.lead].model}: {planned.name!r} has the shape {list(planned.tensor.shape)},"
                f" {plan.donor.label}, whose config the result carries, has {list(own.shape)}"
            )


def left_out(plan: Plan, index: int) -> list[str]:
    """Tensors of an input that the output has no place for; layers that a recipe leaves out are none."""
    kinds = {template(name) for name in [*(planned.name for planned in plan.tensors), *plan.drops]}
    named = {planned.name for planned in plan.tensors} | set(plan.drops)
    return [
        name
        for name in plan.inputs[index].tensors
        if (template(name) not in kinds if plan.origins else name not in named) and not _BUFFER.search(name)
    ]
