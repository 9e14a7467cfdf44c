"""A recipe: what to combine, read once from YAML and immutable from then on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError

from modist.errors import RecipeError, nearest
from modist.recipe.document import Document, Key, parse_document, read_document, short
from modist.recipe.reference import ModelReference, is_folder, read_reference
from modist.recipe.schema import MergeFile, MixtureFile, ScalingEntry, SliceEntry
from modist.recipe.setting import Setting, Settings, constant, read_settings
from modist.recipe.slice import Slice, Source, read_slices, refuse_twice
from modist.recipe.vocabulary import TokenizerOption, read_tokenizer_option

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class ScalingOption:
    """What a recipe's `scaling` asks for.

    Attributes:
        kind: `aim` or `fisher`.
        statistics: the file that holds them.
        omega: of `aim`, 0 to 1; None where the recipe leaves it out.
    """

    kind: str
    statistics: Path
    omega: float | None = None


@dataclass(frozen=True)
class Recipe:
    """A validated recipe, whichever dialect it was written in.

    Attributes:
        method: the merge method's name (`mod` for Configuration 1).
        slices: runs of layers from bottom to top; one for the whole depth where the recipe lists models.
        base: the model the others are measured from, or None.
        parameters: settings for the whole recipe, lowest in precedence.
        dtype: of the output, or None to keep the stored one.
        model_kwargs: for loading an expert when it is run; never obeyed for `trust_remote_code`.
        scaling: how the merged delta is scaled, or None.
        tokenizer: whose tokenizer the result carries, or None for the donor's as it is.
        chat_template: `auto`, a template's name, or the template itself; None for the tokenizer's own.
        rank: of a merged adapter, or None for the sum of the ranks.
        document: the YAML it came from.
    """

    method: str
    slices: tuple[Slice, ...]
    base: ModelReference | None
    parameters: Settings
    dtype: str | None
    document: Document = field(repr=False)
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    scaling: ScalingOption | None = None
    tokenizer: TokenizerOption | None = None
    chat_template: str | None = None
    rank: int | None = None

    @property
    def models(self) -> tuple[ModelReference, ...]:
        """The models in the order of the recipe, a base last if no slice names it as a source."""
        named = [source.model for part in self.slices for source in part.sources]
        bases = [part.base for part in self.slices if part.base is not None]
        return tuple(dict.fromkeys([*named, *([] if self.base is None else [self.base]), *bases]))

    @property
    def donor(self) -> ModelReference:
        """The model whose config, tokenizer and tensor names the result carries."""
        return self.base or self.models[0]

    @property
    def base_path(self) -> tuple[Key, ...]:
        return ("base_model",)

    def settings(self, part: Slice, source: Source | None) -> tuple[Settings, ...]:
        """From highest to lowest precedence: the source's, the slice's, the recipe's (mergekit's order)."""
        return (*((source.parameters,) if source else ()), part.parameters, self.parameters)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        path: the paper's Configuration 1, or any merge in mergekit's dialect.

    Raises:
        RecipeError: with the file, the line and the key of what is wrong.
    """
    return read_recipe(read_document(Path(path)))


def parse_recipe(text: str, name: str = "recipe") -> Recipe:
    """The same from YAML in memory."""
    return read_recipe(parse_document(text, name))


def read_recipe(document: Document) -> Recipe:
    """The same from a document already parsed."""
    data = document.data
    if not isinstance(data, dict):
        raise document.error("a recipe is a mapping of keys, such as 'experts' and 'weights', or 'models' and 'merge_method'")
    if "experts" in data or ("weights" in data and "merge_method" not in data):
        return _read_mixture(document, validate(document, MixtureFile))
    return _read_merge(document, validate(document, MergeFile))


def validate(document: Document, model: type[T]) -> T:
    """A document as an object of a schema; RecipeError with line, key and the nearest right one where it does not fit."""
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise _readable(document, model, error) from None


def _readable(document: Document, model: type[BaseModel], error: ValidationError) -> RecipeError:
    """The first problem in reading order, as one line."""
    problems = sorted(
        _branches_meant(document, error.errors(include_url=False)),
        # A key is missing, as a rule, because it is misspelt: the unknown one says more.
        key=lambda problem: (problem["type"] == "missing", document.lines.get(_known(document, problem["loc"]), 0)),
    )
    problem = problems[0]
    path = _known(document, problem["loc"])
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        key = str(problem["loc"][-1])
        return document.error(f"unknown key {key!r}{nearest(key, _allowed(model, problem['loc'][:-1]))}", *path)
    if kind == "missing":
        return document.error(f"the key {problem['loc'][-1]!r} is missing", *path)
    message = problem["msg"].removeprefix("Input ")
    shown = short(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    hint = ""
    if kind == "literal_error" and isinstance(value, str):
        hint = nearest(
            value,
            str(problem.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ").split(", "),
        )
    return document.error(f"{shown}: {message}{hint}", *path)


def _branches_meant(document: Document, problems: Sequence[Any]) -> list[Any]:
    """Where a key takes a word or a mapping, what is wrong inside the mapping, not that it is no word."""
    places = [(_known(document, problem["loc"]), problem) for problem in problems]
    return [
        problem
        for place, problem in places
        if problem["type"] != "string_type"
        or not any(other is not problem and found[: len(place)] == place for found, other in places)
    ]


def _known(document: Document, location: tuple[Key, ...]) -> tuple[Key, ...]:
    """The part of pydantic's location that the document has (unions add parts of their own)."""
    path: tuple[Key, ...] = ()
    for key in location:
        if (*path, key) in document.lines:
            path = (*path, key)
    return path


def _allowed(model: type[BaseModel], location: tuple[Key, ...]) -> list[str]:
    schema: Any = model.model_json_schema()
    definitions, node = schema.get("$defs", {}), schema
    for key in location:
        options = [node, *node.get("anyOf", [])]
        options = [definitions[o["$ref"].rsplit("/", 1)[-1]] if "$ref" in o else o for o in options]
        for option in options:
            if isinstance(key, str) and key in option.get("properties", {}):
                node = option["properties"][key]
            elif isinstance(key, int) and "items" in option:
                node = option["items"]
            elif isinstance(key, str) and isinstance(option.get("additionalProperties"), dict):
                node = option["additionalProperties"]
        if "$ref" in node:
            node = definitions[node["$ref"].rsplit("/", 1)[-1]]
    optional = [definitions[part["$ref"].rsplit("/", 1)[-1]] for part in node.get("anyOf", []) if "$ref" in part]
    return [name for part in (node, *optional) for name in part.get("properties", {})]


def _read_mixture(document: Document, file: MixtureFile) -> Recipe:
    if len(file.weights) != len(file.experts):
        raise document.error(f"{len(file.weights)} weights for {len(file.experts)} experts; give one for each", "weights")
    total = math.fsum(file.weights)
    if abs(total - 1) > 1e-6:
        raise document.error(f"the weights {file.weights} sum to {total:g}; they must sum to 1", "weights")
    sources = []
    for index, (expert, weight) in enumerate(zip(file.experts, file.weights, strict=True)):
        path: tuple[Key, ...] = ("experts", index, "source_model")
        reference = read_reference(document, expert.source_model, path)
        setting = Setting(constant(weight).cases, ("weights", index))
        sources.append(Source(reference, {"weight": setting}, path))
    refuse_twice(document, sources)
    base = read_reference(document, file.base_model, ("base_model",)) if file.base_model is not None else None
    options = {key: getattr(file, key) for key in ("normalize", "select", "scope")}
    parameters = {key: Setting(constant(value).cases, (key,)) for key, value in options.items() if value is not None}
    kwargs = file.model_kwargs or {}
    if isinstance(kwargs, list):
        kwargs = {key: value for part in kwargs for key, value in part.items()}
    return Recipe(
        method="mod",
        slices=(Slice(tuple(sources), {}, (), base),),
        base=base,
        parameters=parameters,
        dtype=file.out_dtype or file.dtype,
        document=document,
        model_kwargs=kwargs,
    )


def _read_merge(document: Document, file: MergeFile) -> Recipe:
    given = [key for key in ("models", "slices", "modules") if getattr(file, key) is not None]
    if len(given) != 1:
        found = " and ".join(repr(key) for key in given) or "none of them"
        raise document.error(f"exactly one of 'models' and 'slices' says what to merge; found {found}", *given[:1])
    _refuse_what_comes_later(document, file)
    base = read_reference(document, file.base_model, ("base_model",)) if file.base_model is not None else None
    if file.models is not None:
        sources = tuple(
            Source(
                read_reference(document, entry.model, ("models", index, "model")),
                read_settings(document, entry.parameters, ("models", index, "parameters")),
                ("models", index),
            )
            for index, entry in enumerate(file.models)
        )
        slices: tuple[Slice, ...] = (Slice(sources, {}, ("models",), base),)
    else:
        slices = read_slices(document, cast(list[SliceEntry], file.slices), base)
        base = base or slices[0].base
    for part in slices:
        refuse_twice(document, part.sources)
    return Recipe(
        method=file.merge_method,
        slices=slices,
        base=base,
        parameters=read_settings(document, file.parameters, ("parameters",)),
        dtype=file.out_dtype or file.dtype,
        document=document,
        scaling=_read_scaling(document, file.scaling),
        tokenizer=read_tokenizer_option(document, file.tokenizer_source, file.tokenizer),
        chat_template=file.chat_template,
        rank=file.rank,
    )


def _read_scaling(document: Document, entry: ScalingEntry | None) -> ScalingOption | None:
    if entry is None:
        return None
    if entry.kind != "aim" and entry.omega is not None:
        raise document.error(f"omega belongs to 'kind: aim'; {entry.kind!r} has none", "scaling", "omega")
    # As models are: from here, or from where the recipe lies.
    places = [Path(entry.statistics), Path(document.name).parent / entry.statistics]
    for place in places:
        if _is_file(place):
            return ScalingOption(entry.kind, place, entry.omega)
    known = [path.name for place in places if is_folder(str(place.parent)) for path in place.parent.glob("*.safetensors")]
    close = nearest(places[0].name, known) or "; modist statistics makes it"
    raise document.error(f"there is no file {entry.statistics!r}{close}", "scaling", "statistics")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _refuse_what_comes_later(document: Document, file: MergeFile) -> None:
    if file.modules is not None:
        raise document.error("merging by modules (vision and text towers) is not supported", "modules")
