"""`inspect_models`: from names of models to everything that can be said of them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.checkpoint.folder import Checkpoint
from modist.errors import UserError
from modist.inspection.facts import ModelFacts, model_facts
from modist.inspection.kinship import Delta, Kinship, LayerNorms, Pair, delta, kinship, pair, ratio
from modist.inspection.sums import BLOCK, Shared, TensorSums, is_readable, survey
from modist.inspection.verdict import Verdict, Witness, judge
from modist.merge.compare import Aspect, architecture, context_text, rope_text
from modist.merge.layer import text_config
from modist.merge.models import fetch_models, outline_models
from modist.recipe import ModelReference
from modist.report.card import front_matter
from modist.vocabulary.chat_template import folder_template
from modist.vocabulary.tokens import token_map


@dataclass(frozen=True)
class LeftOut:
    """A tensor that was not compared between all models, and why."""

    tensor: str
    reason: str


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        models: each model, in the order given (the base first where --base adds one).
        comparison: they side by side; empty for one model.
        base: whose weights the deltas are taken from, or None for one model.
        base_reason: why that one.
        verdicts: who descends from whom, with evidence.
        pairs: weights of each two against each other.
        deltas: each other model against the base.
        kinships: each two deltas against each other; empty for fewer than three models.
        rms: for one model, if asked: root mean square of the weights by layer.
        compared: tensors that all models hold in one shape.
        left_out: tensors of which that is not so.
        nonfinite: model -> NaN and infinite elements of what was read; such elements are left out in every model.
        read_bytes: of tensors.
    """

    models: tuple[ModelFacts, ...]
    comparison: tuple[Aspect, ...] = ()
    base: str | None = None
    base_reason: str = ""
    verdicts: tuple[Verdict, ...] = ()
    pairs: tuple[Pair, ...] = ()
    deltas: tuple[Delta, ...] = ()
    kinships: tuple[Kinship, ...] = ()
    rms: tuple[LayerNorms, ...] = ()
    compared: int = 0
    left_out: tuple[LeftOut, ...] = ()
    nonfinite: Mapping[str, int] = dataclasses.field(default_factory=dict)
    read_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values; numbers that are not finite become None, as JSON has none."""
        plain = _plain(dataclasses.asdict(self))
        assert isinstance(plain, dict)
        return plain


@dataclass
class Onlooker:
    """Who is told of progress: the bytes there are to read, then bytes read, the latter from any thread."""

    begin: Callable[[int], None] = lambda total: None
    advance: Callable[[int], None] = lambda count: None


def inspect_models(
    models: Sequence[str | Path],
    *,
    base: str | Path | None = None,
    norms: bool = False,
    threads: int | None = None,
    block: int = BLOCK,
    onlooker: Onlooker | None = None,
) -> Inspection:
    """Describe one model from its headers, or compare several by reading each of their tensors once.

    Args:
        models: folders or hub ids; no model twice.
        base: whose weights deltas are taken from; None for the ancestor, where one is found, else the first model.
        norms: for one model, read it too, for the size of its weights by layer.
        threads: workers; None for one a core.
        block: elements read at a time from each model.
        onlooker: told of progress.

    Raises:
        UserError: no such model, or one named twice (exit status 2).
        CheckpointError, HubError: a model is damaged, or cannot be had (exit status 1).
    """
    references = _references(models, base)
    reading = len(references) > 1 or norms
    found_models = outline_models(references)
    if reading:
        found_models = fetch_models(found_models, references)
    checkpoints = [found_models.checkpoints[str(reference)] for reference in references]
    _name_apart(checkpoints, references)
    names = [checkpoint.label for checkpoint in checkpoints]
    stated = None if base is None else next(i for i, r in enumerate(references) if _same(r, _parse(base)))
    onlooker = onlooker or Onlooker()
    try:
        facts = tuple(
            model_facts(checkpoint, found_models.commits.get(str(reference)))
            for checkpoint, reference in zip(checkpoints, references, strict=True)
        )
        tensors, left_out = _shared(checkpoints)
        if not reading:
            return Inspection(facts)
        total = sum(checkpoints[k].tensors[tensor.name].nbytes for tensor in tensors for k in tensor.members)
        onlooker.begin(total)
        sums = survey(checkpoints, tensors, threads=threads, block=block, advance=onlooker.advance)
    finally:
        for checkpoint in checkpoints:
            checkpoint.close()
    nonfinite = _nonfinite(sums, names)
    if len(checkpoints) == 1:
        return Inspection(facts, rms=_rms(sums), left_out=tuple(left_out), nonfinite=nonfinite, read_bytes=total)

    count = len(checkpoints)
    found = {(i, j): pair(sums, names, i, j) for i in range(count) for j in range(i + 1, count)}
    witness = _witness(facts, checkpoints, references, stated)
    verdicts = judge(sums, names, found, witness)
    chosen, reason = _choose_base(names, stated, verdicts)
    others = [index for index in range(count) if index != chosen]
    return Inspection(
        facts,
        side_by_side(checkpoints, facts),
        names[chosen],
        reason,
        verdicts,
        tuple(found.values()),
        tuple(delta(sums, names, index, chosen) for index in others if found[_ordered(index, chosen)].tensors),
        tuple(
            kin
            for place, i in enumerate(others)
            for j in others[place + 1 :]
            if (kin := kinship(sums, names, i, j, chosen)).elements
        ),
        compared=sum(len(tensor.members) == count for tensor in tensors),
        left_out=tuple(left_out),
        nonfinite=nonfinite,
        read_bytes=total,
    )


def side_by_side(checkpoints: Sequence[Checkpoint], facts: Sequence[ModelFacts]) -> tuple[Aspect, ...]:
    """What the models are, one line an aspect; no judgement of what a merge may do with it."""
    configs = [text_config(checkpoint.config) for checkpoint in checkpoints]
    maps = [token_map(checkpoint.folder) for checkpoint in checkpoints]
    templates = [folder_template(checkpoint.folder) for checkpoint in checkpoints]
    lines: list[tuple[str, list[str], list[object]]] = []

    def line(name: str, values: list[str], keys: Sequence[object] | None = None) -> None:
        lines.append((name, values, list(values if keys is None else keys)))

    line("architecture", [architecture(checkpoint) for checkpoint in checkpoints])
    line("parameters", [f"{model.parameters:,}" for model in facts])
    line("layers x hidden", [f"{model.layers or '?'} x {model.hidden or '?'}" for model in facts])
    line("dtype", [", ".join(model.dtypes) for model in facts])
    line("rope", [rope_text(config) for config in configs] if len({f.rope for f in facts}) == 1 else [f.rope for f in facts])
    line("context", [context_text(config) for config in configs])
    line("tying", ["tied" if model.tied else "own head" for model in facts])
    line(
        "vocabulary",
        [f"{model.vocabulary or '?'} rows" + (f", {model.tokens} tokens" if model.tokens else "") for model in facts],
        [(model.vocabulary, tokens) for model, tokens in zip(facts, maps, strict=True)],
    )
    line("template", _lettered(templates), templates)
    line("licence", [model.licence or "not stated" for model in facts])
    aspects = []
    for name, values, keys in lines:
        if all(key == keys[0] for key in keys):
            aspects.append(Aspect(name, tuple(values)))
            continue
        hidden = len(set(values)) == 1
        aspects.append(Aspect(name, tuple(values), "note", "the same numbers, but other tokens" if hidden else "differs"))
    return tuple(aspects)


def _lettered(texts: Sequence[str | None]) -> list[str]:
    kinds: dict[str | None, str] = {None: "none"}
    for text in texts:
        kinds.setdefault(text, f"template {'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[(len(kinds) - 1) % 26]}")
    return [kinds[text] for text in texts]


def _references(models: Sequence[str | Path], base: str | Path | None) -> list[ModelReference]:
    references: list[ModelReference] = []
    for model in models:
        reference = _parse(model)
        if any(_same(reference, other) for other in references):
            raise UserError(f"{reference} is named twice")
        references.append(reference)
    if base is not None and not any(_same(reference := _parse(base), other) for other in references):
        references.insert(0, reference)
    if not references:
        raise UserError("name at least one model: a folder or a hub id")
    return references


def _parse(model: str | Path) -> ModelReference:
    try:
        reference = ModelReference.parse(str(model))
    except ValueError as error:
        raise UserError(str(error)) from None
    if reference.is_local and not reference.folder.is_dir():
        raise UserError(f"{model}: there is no such folder")
    if reference.adapter is not None:
        raise UserError(f"{reference}: adapters cannot be inspected yet; name the model alone")
    return reference


def _same(one: ModelReference, other: ModelReference) -> bool:
    if one.is_local and other.is_local:
        return one.folder.resolve() == other.folder.resolve()
    return one == other


def _name_apart(checkpoints: Sequence[Checkpoint], references: Sequence[ModelReference]) -> None:
    """Folders of one name are called by their whole paths."""
    names = Counter(checkpoint.label for checkpoint in checkpoints)
    for checkpoint, reference in zip(checkpoints, references, strict=True):
        if names[checkpoint.label] > 1:
            checkpoint.label = str(reference)


def _shared(checkpoints: Sequence[Checkpoint]) -> tuple[list[Shared], list[LeftOut]]:
    """The tensors to read, for each shape that two models or more give a name, and those that not all share."""
    names = dict.fromkeys(name for checkpoint in checkpoints for name in checkpoint.tensors)
    tensors, left_out = [], []
    for name in names:
        holders = [index for index, checkpoint in enumerate(checkpoints) if name in checkpoint.tensors]
        readable = [index for index in holders if is_readable(checkpoints[index], name)]
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index in readable:
            shapes.setdefault(checkpoints[index].tensors[name].shape, []).append(index)
        for shape, members in shapes.items():
            if len(members) > 1 or len(checkpoints) == 1:
                tensors.append(Shared(name, shape, tuple(members)))
        if len(readable) == len(checkpoints) and len(shapes) == 1:
            continue
        if len(readable) < len(holders):
            dtype = next(checkpoints[index].tensors[name].dtype for index in holders if index not in readable)
            reason = f"stored as {dtype}, which is no floating-point number to compare"
        elif len(shapes) > 1:
            reason = "shapes differ: " + ", ".join("x".join(map(str, shape)) or "scalar" for shape in shapes)
        else:
            reason = f"only in {', '.join(checkpoints[index].label for index in holders)}"
        left_out.append(LeftOut(name, reason))
    return tensors, left_out


def _nonfinite(sums: Sequence[TensorSums], names: Sequence[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for found in sums:
        for place, member in enumerate(found.tensor.members):
            if found.nonfinite[place]:
                counts[names[member]] = counts.get(names[member], 0) + int(found.nonfinite[place])
    return counts


def _witness(
    facts: Sequence[ModelFacts],
    checkpoints: Sequence[Checkpoint],
    references: Sequence[ModelReference],
    stated: int | None,
) -> Witness:
    """What manifests and cards say of descent."""
    known: dict[str, int] = {}
    for index, reference in enumerate(references):
        for name in (reference.source, reference.name, Path(reference.source).name, checkpoints[index].label):
            known.setdefault(name.lower(), index)
    parents = []
    for model, checkpoint in zip(facts, checkpoints, strict=True):
        card = front_matter(checkpoint.folder).get("base_model")
        told = [str(name) for name in (card if isinstance(card, list) else [card]) if name]
        told += model.made_by.parents if model.made_by else ()
        places = [known.get(name.lower(), known.get(Path(name).name.lower())) for name in told]
        own = known[checkpoint.label.lower()]
        parents.append(tuple(dict.fromkeys(place for place in places if place is not None and place != own)))
    return Witness(parents, [model.made_by is not None for model in facts], stated)


def _choose_base(names: Sequence[str], stated: int | None, verdicts: Sequence[Verdict]) -> tuple[int, str]:
    ancestor = next((verdict.ancestor for verdict in verdicts if verdict.ancestor is not None), None)
    if stated is not None:
        but = f", though the evidence points to {ancestor}" if ancestor not in (None, names[stated]) else ""
        return stated, f"as stated{but}"
    if ancestor is None:
        return 0, "the first model; nothing shows another to be the ancestor"
    if ancestor == names[0]:
        return 0, "the first model, and the ancestor by the evidence"
    return list(names).index(ancestor), f"the ancestor by the evidence, though {names[0]} comes first"


def _rms(sums: Sequence[TensorSums]) -> tuple[LayerNorms, ...]:
    """Root mean square of one model's weights by layer."""

    def rms(layer: int, kind: str | None = None) -> float | None:
        kept = [s for s in sums if s.tensor.layer == layer and kind in (None, s.tensor.kind)]
        mean = ratio(math.fsum(s.squares[0] for s in kept), sum(s.counted for s in kept))
        return None if mean is None else math.sqrt(mean)

    layers = sorted({s.tensor.layer for s in sums if s.tensor.layer is not None})
    return tuple(LayerNorms(layer, rms(layer), rms(layer, "attention"), rms(layer, "mlp")) for layer in layers)


def _ordered(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value
