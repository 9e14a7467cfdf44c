"""Which tokenizer a result carries, worked out from the recipe and the parents' small files alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from modist.checkpoint.folder import Checkpoint, read_json, refuse_link_out
from modist.errors import CheckpointError, RecipeError, UserError, nearest
from modist.merge.vocabulary import Vocabulary
from modist.recipe import ModelReference, Recipe
from modist.recipe.vocabulary import TokenizerOption, TokenOption
from modist.vocabulary.alignment import ZERO, Holder, Wish
from modist.vocabulary.tokenizer import CONFIG, FILE, Tokenizer, read_tokenizer
from modist.vocabulary.tokens import token_map
from modist.vocabulary.union import United, unite

# What speaks of a tokenizer in a model's folder: of one that was made anew, these would tell the old story.
FORMER = ("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "tokenizer.tiktoken",
          "sentencepiece.bpe.model")  # fmt: skip
_WHOLE = (FILE, CONFIG, "special_tokens_map.json", "chat_template.jinja", "chat_template.json", *FORMER)
_NAMED_IN_MESSAGE = 3
SPECIAL_IN = ("config.json", "generation_config.json")


def plan_vocabulary(
    recipe: Recipe,
    inputs: Sequence[Checkpoint],
    base: int | None,
    lead: int,
    models: Mapping[str, Checkpoint],
    rows: Callable[[Checkpoint], int | None],
) -> Vocabulary | None:
    """The vocabulary a recipe asks for; None where every parent's rows are taken as they stand.

    Args:
        inputs, base, lead: of the plan.
        models: every model of the recipe by `str(reference)`.
        rows: a checkpoint's rows of embeddings, None where it has none.

    Raises:
        RecipeError, CheckpointError: the tokenizers cannot be had, or do not go together; the line where the recipe asks.
    """
    option = recipe.tokenizer
    if option is None:
        return _padding(inputs, lead, [rows(checkpoint) for checkpoint in inputs])
    donor = models[str(recipe.donor)]
    parents = tuple(inputs) if any(donor is one for one in inputs) else (*inputs, donor)
    counts = [rows(checkpoint) or 0 for checkpoint in parents]
    plain = option.source == "base" and not option.tokens and option.multiple is None
    if plain and not (donor.folder / FILE).exists() and len(set(counts)) == 1:
        # Nothing to align to, and nothing that must be: the base's tokenizer is carried as it is, whatever its form.
        return None
    at = next(index for index, one in enumerate(parents) if one is donor)
    found = [_tokenizer(recipe, option, one.folder, one.label) for one in parents]
    own = found[at]
    if own is None:
        raise recipe.document.error(f"{donor.label} has no {FILE}, so there is no vocabulary to align to", *option.path)
    warnings = [
        f"{parent.label} has no {FILE}: its rows are taken to stand for {donor.label}'s tokens"
        for parent, tokenizer in zip(parents, found, strict=True)
        if tokenizer is None
    ]
    tokenizers = [tokenizer or own for tokenizer in found]
    try:
        united, leader, folder = _united(recipe, option, parents, tokenizers, at, models)
    except UserError as error:
        if isinstance(error, RecipeError):
            raise
        raise recipe.document.error(str(error), *option.path) from None
    holders = tuple(Holder(tokenizer.tokens, count) for tokenizer, count in zip(tokenizers, counts, strict=True))
    wishes = {
        token: wish
        for token, asked in option.tokens.items()
        if (wish := _wish(recipe, token, asked, parents, models, holders)) is not None
    }
    special: Mapping[str, Mapping[str, Any]] = {}
    if folder is not None:
        special, remarks = _special_ids(donor, folder, own, united.tokenizer)
        warnings += remarks
    files = _files(united, folder)
    vocabulary = Vocabulary(
        parents=parents,
        lead=leader,
        holders=holders,
        tokenizer=united.tokenizer,
        option=option,
        wishes=wishes,
        base=base,
        files=files,
        special=special,
        digest=sha256(files.get(FILE) or (donor.folder / FILE).read_bytes()).hexdigest(),
    )
    warnings += [recipe.document.where(*option.path) + " " + remark for remark in united.remarks]
    orphans = vocabulary.alignment(range(len(parents)), counts).orphans
    if orphans:
        shown = ", ".join(map(repr, orphans[:_NAMED_IN_MESSAGE]))
        warnings.append(f"no parent has a row for {len(orphans)} tokens of the result ({shown}): theirs are zeros")
    vocabulary.warnings.extend(warnings)
    return vocabulary


def _padding(inputs: Sequence[Checkpoint], lead: int, counts: Sequence[int | None]) -> Vocabulary | None:
    """Rows of different number behind the same tokens."""
    known = [count for count in counts if count is not None]
    if len(known) < len(counts) or len(set(known)) < 2:
        return None
    maps = [token_map(checkpoint.folder) for checkpoint in inputs]
    tokens = maps[lead]
    if tokens is None or any(other != tokens for other in maps) or max(tokens.values(), default=0) >= min(known):
        return None
    holders = tuple(Holder({}, count) for count in known)
    vocabulary = Vocabulary(tuple(inputs), lead, holders)
    vocabulary.warnings.extend(
        f"{checkpoint.label} has {count} rows of embeddings and {inputs[lead].label} {known[lead]}: padding behind the same"
        f" {len(tokens)} tokens, of which the result has {inputs[lead].label}'s"
        for checkpoint, count in zip(inputs, known, strict=True)
        if count != known[lead]
    )
    return vocabulary


def _tokenizer(recipe: Recipe, option: TokenizerOption, folder: Path, label: str) -> Tokenizer | None:
    try:
        for name in (FILE, CONFIG):
            refuse_link_out(folder / name, folder)
        return read_tokenizer(folder, label)
    except CheckpointError as error:
        raise CheckpointError(f"{recipe.document.where(*option.path)} {error}") from None


def _united(
    recipe: Recipe,
    option: TokenizerOption,
    parents: Sequence[Checkpoint],
    tokenizers: Sequence[Tokenizer],
    at: int,
    models: Mapping[str, Checkpoint],
) -> tuple[United, int | None, Path | None]:
    """The tokenizer, whose ids it has, and the folder it comes from where that is not the donor's."""
    extra = list(option.tokens)
    if option.source == "union":
        order = [at, *(index for index in range(len(parents)) if index != at)]
        return unite([tokenizers[index] for index in order], extra), at, None
    if option.source == "base":
        return unite([tokenizers[at]], extra), at, None
    chosen = models.get(str(option.source))
    index = next((number for number, parent in enumerate(parents) if parent is chosen), None)
    if index is not None:
        return unite([tokenizers[index]], extra), index, None if index == at else parents[index].folder
    folder = _texts_of(option.source)
    tokenizer = _tokenizer(recipe, option, folder, str(option.source))
    if tokenizer is None:
        raise recipe.document.error(f"{option.source} has no {FILE}", *option.path)
    return unite([tokenizer], extra), None, folder


def _texts_of(reference: ModelReference) -> Path:
    """The folder of a model of which only the tokenizer is wanted."""
    if reference.is_local:
        return reference.folder
    from modist.checkpoint.hub import fetch_texts

    return fetch_texts(reference).folder


def _wish(
    recipe: Recipe,
    token: str,
    asked: TokenOption,
    parents: Sequence[Checkpoint],
    models: Mapping[str, Checkpoint],
    holders: Sequence[Holder],
) -> Wish | None:
    """What is asked for a token, as a parent and a row; None where nothing is."""
    error = recipe.document.error
    known = {text for holder in holders for text in holder.tokens}
    if asked.kind == "zero":
        return Wish(ZERO, 0, asked.force)
    if asked.kind == "default":
        if token not in known:
            raise error(f"no parent has the token {token!r}{nearest(token, _likely(token, known))}", *asked.path)
        return None
    here = (*asked.path, "source", *(("model",) if asked.kind == "model_token" else ()))
    chosen = models.get(str(asked.model))
    index = next((number for number, parent in enumerate(parents) if parent is chosen), None)
    if index is None:
        raise error(f"{str(asked.model)!r} is no model of this merge{nearest(str(asked.model), models)}", *here)
    holder, name = holders[index], parents[index].label
    if asked.token_id is not None:
        if asked.token_id >= holder.rows:
            raise error(f"{name} has no row {asked.token_id}; its embeddings have {holder.rows}", *here[:-1], "token_id")
        return Wish(index, asked.token_id, asked.force)
    wanted = token if asked.token is None else asked.token
    row = holder.row(wanted)
    if row < 0:
        place = (*here[:-1], "token") if asked.token is not None else here
        close = nearest(wanted, _likely(wanted, holder.tokens))
        raise error(f"{name} has no row for the token {wanted!r}{close}", *place)
    return Wish(index, row, asked.force)


def _likely(token: str, tokens: Mapping[str, int] | set[str]) -> list[str]:
    """The tokens worth comparing with one that was misspelt; there are too many for all."""
    return [text for text in tokens if abs(len(text) - len(token)) <= 2 and text[:1] == token[:1]]


def _special_ids(
    donor: Checkpoint, folder: Path, old: Tokenizer, new: Tokenizer
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The ids of special tokens where the tokenizer is not the donor's: its own model's, else the donor's by their strings.

    Returns:
        For config.json and generation_config.json, `..._token_id` -> id, ids or None; and remarks.
    """
    texts = {number: text for text, number in old.tokens.items()}
    found: dict[str, dict[str, Any]] = {}
    lost: list[str] = []
    for name in SPECIAL_IN:
        theirs = _ids(folder / "config.json") | _ids(folder / name)
        found[name] = dict(_ids(folder / name))
        for key, value in _ids(donor.folder / name).items():
            if key in theirs:
                found[name][key] = theirs[key]
                continue
            listed = [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)]
            ids = [new.tokens[texts[number]] for number in listed if texts.get(number) in new.tokens]
            if len(ids) < len(listed):
                lost.append(f"{folder.name}'s tokenizer has no token for {donor.label}'s {key} {value}, which is left out")
            found[name][key] = (ids or None) if isinstance(value, list) else ids[0] if ids else None
    return found, list(dict.fromkeys(lost))


def _ids(path: Path) -> dict[str, Any]:
    config = read_json(path) if path.exists() else {}
    inner = config.get("text_config")
    whole = {**config, **inner} if isinstance(inner, Mapping) else config
    return {key: value for key, value in whole.items() if key.endswith("_token_id")}


def _files(united: United, folder: Path | None) -> dict[str, bytes | None]:
    """The tokenizer's files, in place of the donor's."""
    files: dict[str, bytes | None] = {}
    if folder is not None:
        for name in _WHOLE:
            refuse_link_out(folder / name, folder)
            files[name] = (folder / name).read_bytes() if (folder / name).is_file() else None
    if united.grown:
        files |= dict.fromkeys(FORMER)
        # In one line: the standard library lays out a large file only slowly.
        files[FILE] = json.dumps(united.tokenizer.data, ensure_ascii=False).encode("utf-8", "surrogatepass")
        if united.tokenizer.config:
            text = json.dumps(united.tokenizer.config, ensure_ascii=False, indent=2) + "\n"
            files[CONFIG] = text.encode("utf-8", "surrogatepass")
    return files
