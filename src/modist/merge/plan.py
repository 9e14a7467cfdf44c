"""What a merge will do, known from the recipe and the headers alone: every output tensor, its inputs and its parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from modist.checkpoint.dtype import FLOATS, NAMES, QUANTISED
from modist.checkpoint.folder import Checkpoint
from modist.errors import UserError, nearest
from modist.merge.method import Method, Parameter, find_method, methods
from modist.merge.scaling import Scaling, attach_scaling
from modist.merge.source import open_source
from modist.merge.tensor import Tensor
from modist.recipe import Key, Recipe, Scalar, Setting, Slice, Source

_LAYER = re.compile(r"\.(\d+)\.")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$")
HEAD = "lm_head.weight"
# Rebuilt from the config by every loader; old checkpoints store them.
_BUFFER = re.compile(r"rotary_emb\.inv_freq$|\.masked_bias$|\.attn\.bias$")


def layer_of(tensor: str) -> int | None:
    """The number of the layer a tensor belongs to, or None for embeddings, final norm and head."""
    found = _LAYER.search(tensor)
    return int(found[1]) if found else None


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
        used: for each input, whether any of it reaches the output.
        copied: True for tensors no method touches (integers, buffers): taken from the lead as they are.
    """

    tensor: Tensor
    dtype: str
    layer: int | None
    used: tuple[bool, ...]
    copied: bool = False

    @property
    def name(self) -> str:
        return self.tensor.name


@dataclass(frozen=True)
class Plan:
    """A whole merge before any tensor is read.

    Attributes:
        method: how tensors are merged.
        inputs: the models that take part, in the recipe's order, the base last where the recipe names it only as base.
        base: which input is the base, or None.
        lead: which input gives names, shapes and order of the output's tensors.
        donor: whose config and tokenizer are carried.
        tensors: the output.
        untied: whether the output gets a head of its own where the donor's config ties it.
        drops: tensors of the lead that are not written, and why.
        warnings: remarks for the user.
        scaling: of the merged deltas, or None; the tensors have their scales.
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

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(checkpoint.label for checkpoint in self.inputs)

    def uses(self, index: int, kind: str) -> bool:
        """Whether input `index`'s tensors of a kind (attention, embeddings, any) reach the output."""
        return any(planned.used[index] for planned in self.tensors if is_kind(planned.name, kind))

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
            else planned.tensor.sources[self.lead].nbytes
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
    method = _method_of(recipe)
    _check_parameters(recipe, method)
    inputs, base = _inputs(recipe, method, checkpoints)
    donor = checkpoints[str(recipe.donor)]
    lead = next((index for index, checkpoint in enumerate(inputs) if checkpoint is donor), 0)
    for checkpoint in inputs:
        _refuse_quantised(checkpoint)
    layers = 1 + max((layer for name in inputs[lead].tensors if (layer := layer_of(name)) is not None), default=-1)
    _check_slices(recipe, layers)

    names, drops, untied = _output_names(inputs, lead, allow)
    _check_filters(recipe, names)
    warnings = _misplaced(recipe, method)
    planned = []
    for name in names:
        planned.append(_plan_tensor(recipe, method, inputs, base, lead, name, layers, seed))
    plan = Plan(recipe, method, inputs, base, lead, donor, tuple(planned), untied, drops, ())
    _check_presence(plan)
    scaling = None if base is None else attach_scaling(recipe, inputs[base], planned, drops)
    for entry in planned:
        if entry.copied:
            continue
        reason = method.refuses(entry.tensor)
        if reason:
            raise document.error(f"{reason} (tensor {entry.name!r})", *_weights_path(recipe))
        warnings += [text for text in method.warns(entry.tensor, plan.names) if text not in warnings]
    return Plan(recipe, method, inputs, base, lead, donor, tuple(planned), untied, drops, tuple(warnings), scaling)


def check_recipe(recipe: Recipe) -> None:
    """Check what can be checked without any model: the method, its parameters' names and ranges."""
    _check_parameters(recipe, _method_of(recipe))


def _method_of(recipe: Recipe) -> Method:
    try:
        return find_method(recipe.method)
    except UserError as error:
        raise recipe.document.error(str(error), "merge_method") from None


def _weights_path(recipe: Recipe) -> tuple[Key, ...]:
    return ("weights",) if ("weights",) in recipe.document.lines else ("merge_method",)


def _inputs(recipe: Recipe, method: Method, checkpoints: Mapping[str, Checkpoint]) -> tuple[tuple[Checkpoint, ...], int | None]:
    document = recipe.document
    models = [source.model for source in recipe.slices[0].sources]
    base = None
    if method.base == "required" and recipe.base is None:
        raise document.error(f"{method.name} needs a base_model", "merge_method")
    if method.base != "ignored" and recipe.base is not None:
        if recipe.base not in models:
            models.append(recipe.base)
        base = models.index(recipe.base)
    fewest, most = method.inputs
    others = len(models) - (base is not None)
    if others < fewest or (most is not None and others > most):
        wanted = str(fewest) if most == fewest else f"at least {fewest}" if most is None else f"{fewest} to {most}"
        beside = " beside the base" if base is not None else ""
        raise document.error(
            f"{method.name} merges {wanted} model{'' if wanted == '1' else 's'}{beside}; the recipe names {others}",
            *recipe.slices[0].path,
        )
    return tuple(checkpoints[str(model)] for model in models), base


def _every_settings(recipe: Recipe) -> Iterable[tuple[str, Setting, Source | None]]:
    for name, setting in recipe.parameters.items():
        yield name, setting, None
    for part in recipe.slices:
        for name, setting in part.parameters.items():
            yield name, setting, None
        for source in part.sources:
            for name, setting in source.parameters.items():
                yield name, setting, source


def _check_parameters(recipe: Recipe, method: Method) -> None:
    if recipe.scaling is not None and not method.scales:
        scaled = ", ".join(name for name, other in methods().items() if other.scales)
        raise recipe.document.error(f"{method.name} merges no deltas that could be scaled; {scaled} do", "scaling")
    known = [parameter.name for parameter in method.parameters]
    for name, setting, _ in _every_settings(recipe):
        parameter = method.parameter(name)
        if parameter is None:
            raise recipe.document.error(
                f"{method.name} has no parameter {name!r}{nearest(name, known)} (it has: {', '.join(known) or 'none'})",
                *setting.path,
            )
        for value, path in setting.scalars():
            try:
                parameter.check(value)
            except ValueError as error:
                raise recipe.document.error(str(error), *path) from None


def _misplaced(recipe: Recipe, method: Method) -> list[str]:
    remarks = []
    for name, setting, source in _every_settings(recipe):
        parameter = method.parameter(name)
        if source is not None and parameter is not None and parameter.scope == "shared":
            remarks.append(
                f"{recipe.document.where(*setting.path)} {name} is shared by all models and has no effect under one;"
                " move it to the recipe's parameters"
            )
    return remarks


def _check_slices(recipe: Recipe, layers: int) -> None:
    last = recipe.slices[-1]
    if last.layers is not None and last.layers[1] != layers:
        stop = last.layers[1]
        verb = "ends" if stop < layers else "reaches beyond the model: it ends"
        raise recipe.document.error(
            f"the slice {verb} at layer {stop}, the model at {layers}: full ranges are supported, pruning and stacking"
            " (frankenmerging) not yet",
            *last.path,
        )


def _check_filters(recipe: Recipe, names: Sequence[str]) -> None:
    parts = sorted({part for name in names for part in re.split(r"[.]", name) if not part.isdigit()})
    for _, setting, _ in _every_settings(recipe):
        for case in setting.filters():
            if not any(case.matches(name) for name in names):
                assert case.filter is not None
                raise recipe.document.error(
                    f"the filter {case.filter!r} matches no tensor{nearest(case.filter, parts)}"
                    f" (names are made of: {', '.join(parts[:14])})",
                    *case.path,
                )


def _refuse_quantised(checkpoint: Checkpoint) -> None:
    quantised = next((tensor for tensor in checkpoint.tensors.values() if tensor.dtype in QUANTISED), None)
    config = checkpoint.config.get("quantization_config")
    if quantised is None and not config:
        return
    kind = quantised.dtype if quantised else (config.get("quant_method") if isinstance(config, dict) else None)
    raise UserError(
        f"{checkpoint.label}: its weights are quantised ({kind}) and cannot be averaged; use the original checkpoint, or load"
        " it with transformers, dequantise() and save_pretrained()"
    )


def _output_names(inputs: Sequence[Checkpoint], lead: int, allow: frozenset[str]) -> tuple[list[str], dict[str, str], bool]:
    """The tensors to write, those of the lead that are left out, and whether a head is added to a tied lead."""
    tensors = inputs[lead].tensors
    drops: dict[str, str] = {}
    names = list(tensors)
    embedding = embedding_name(names)
    tied_config = bool(text_config(inputs[lead].config).get("tie_word_embeddings"))
    if HEAD in tensors and embedding and tied_config and _equal(inputs[lead], HEAD, embedding):
        drops[HEAD] = "tied to the embeddings, which hold the same values"
        names.remove(HEAD)
    untied = False
    if HEAD not in names and HEAD not in drops and embedding and "tying" in allow:
        if any(HEAD in checkpoint.tensors for checkpoint in inputs):
            names.append(HEAD)
            untied = True
    elif HEAD in names and tied_config:
        untied = True
    return names, drops, untied


def text_config(config: Mapping[str, object]) -> Mapping[str, object]:
    """The part of a config that speaks of the language model."""
    inner = config.get("text_config")
    return inner if isinstance(inner, Mapping) else config


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


def _slice_of(recipe: Recipe, name: str, layer: int | None, layers: int) -> tuple[Slice, float]:
    """The slice that speaks for a tensor, and how deep in it the tensor lies (mergekit's rule)."""
    if layer is None:
        return recipe.slices[0 if is_embedding(name) else -1], 0.0
    for part in recipe.slices:
        first, stop = part.layers or (0, layers)
        if first <= layer < stop:
            return part, (layer - first) / (stop - first - 1) if stop - first > 1 else 1.0
    return recipe.slices[-1], 1.0


def _resolve(
    recipe: Recipe,
    part: Slice,
    source: Source | None,
    parameter: Parameter,
    name: str,
    depth: float,
    label: str,
) -> Scalar:
    for settings in recipe.settings(part, source):
        setting = settings.get(parameter.name)
        value = setting.at(name, depth) if setting else None
        if value is not None:
            return parameter.check(value)
    if parameter.default is None:
        whose = f" for {label}" if source else ""
        raise recipe.document.error(
            f"the parameter {parameter.name!r} ({parameter.help}) is missing{whose} at tensor {name!r}",
            *(source.path if source else ("merge_method",)),
        )
    return parameter.default


def _plan_tensor(
    recipe: Recipe,
    method: Method,
    inputs: tuple[Checkpoint, ...],
    base: int | None,
    lead: int,
    name: str,
    layers: int,
    seed: int,
) -> PlannedTensor:
    layer = layer_of(name)
    part, depth = _slice_of(recipe, name, layer, layers)
    shared = {
        parameter.name: _resolve(recipe, part, None, parameter, name, depth, "")
        for parameter in method.parameters
        if parameter.scope == "shared"
    }
    each: list[dict[str, Scalar]] = []
    for index, checkpoint in enumerate(inputs):
        source = part.sources[index] if index < len(part.sources) else None
        each.append(
            {
                parameter.name: _resolve(recipe, part, source, parameter, name, depth, checkpoint.label)
                for parameter in method.parameters
                if parameter.scope == "input" or (parameter.scope == "other" and index != base)
            }
        )
    sources = [open_source(checkpoint, _stored_name(checkpoint, name)) for checkpoint in inputs]
    stored = inputs[lead].tensors[sources[lead].name]
    tensor = Tensor(name, stored.shape, sources, base, shared, each, seed)
    if stored.dtype not in FLOATS or _BUFFER.search(name):
        return PlannedTensor(tensor, stored.dtype, layer, tuple(i == lead for i in range(len(inputs))), copied=True)
    dtype = NAMES[recipe.dtype] if recipe.dtype else method.dtype(tensor) or stored.dtype
    used = tuple(method.contributes(tensor, index) for index in range(len(inputs)))
    return PlannedTensor(tensor, dtype, layer, used)


def _stored_name(checkpoint: Checkpoint, name: str) -> str:
    """The name under which an input holds a tensor: a tied model's head is its embedding."""
    if name == HEAD and HEAD not in checkpoint.tensors:
        return embedding_name(checkpoint.tensors) or name
    return name


def _check_presence(plan: Plan) -> None:
    for planned in plan.tensors:
        for source, used in zip(planned.tensor.sources, planned.used, strict=True):
            if not used:
                continue
            lead = plan.inputs[plan.lead].label
            if not source.present:
                raise UserError(
                    f"{source.model}: has no tensor {source.name!r}, which {lead} has: these are models of different"
                    " architectures, which can be mixed or fused, not merged"
                )
            if source.shape != planned.tensor.shape:
                raise UserError(
                    f"{source.model}: tensor {source.name!r} has the shape {list(source.shape)}, in {lead} it is"
                    f" {list(planned.tensor.shape)}: only tensors of one shape can be merged"
                )
            if source.dtype not in FLOATS and not planned.copied:
                raise UserError(f"{source.model}: tensor {source.name!r} has the dtype {source.dtype}, not a float")


def left_out(plan: Plan, index: int) -> list[str]:
    """Tensors of an input that the output has no place for."""
    written = {planned.name for planned in plan.tensors} | set(plan.drops)
    return [name for name in plan.inputs[index].tensors if name not in written and not _BUFFER.search(name)]
