"""What a recipe says of the result's tokenizer: whose it is, and where the rows of single tokens come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from modist.errors import nearest
from modist.recipe.document import Document, Key, short
from modist.recipe.reference import ModelReference, is_folder, read_reference

if TYPE_CHECKING:
    from modist.recipe.schema import TokenEntry, TokenizerEntry

Path = tuple[Key, ...]


@dataclass(frozen=True)
class TokenOption:
    """What one token is made from.

    Attributes:
        kind: `model`, that model's row of the token; `zero`, zeros; `model_token`, that model's row of another token;
            `default`, as for tokens the recipe does not name.
        model: of `model` and `model_token`.
        token, token_id: of `model_token`, one of the two.
        force: for every model, those that have the token too.
    """

    kind: Literal["model", "zero", "model_token", "default"]
    path: Path
    model: ModelReference | None = None
    token: str | None = None
    token_id: int | None = None
    force: bool = False


@dataclass(frozen=True)
class TokenizerOption:
    """The result's tokenizer.

    Attributes:
        source: `base`, `union`, or the model whose tokenizer it is.
        tokens: token -> what it is made from.
        multiple: pad the rows to a multiple of so many, or None.
        path: where the recipe says so.
    """

    source: Literal["base", "union"] | ModelReference
    path: Path
    tokens: Mapping[str, TokenOption] = field(default_factory=dict)
    multiple: int | None = None


def read_tokenizer_option(document: Document, legacy: str | None, entry: TokenizerEntry | None) -> TokenizerOption | None:
    """What `tokenizer_source` (`legacy`) or `tokenizer` (`entry`) of a recipe say; None where it has neither."""
    if legacy is not None and entry is not None:
        raise document.error("'tokenizer' says it already; give one of the two", "tokenizer_source")
    if legacy is not None:
        return TokenizerOption(_source(document, legacy, ("tokenizer_source",)), ("tokenizer_source",))
    if entry is None:
        return None
    tokens = {text: _token(document, one, ("tokenizer", "tokens", text)) for text, one in (entry.tokens or {}).items()}
    source = _source(document, entry.source, ("tokenizer", "source"))
    return TokenizerOption(source, ("tokenizer",), tokens, entry.pad_to_multiple_of)


def _source(document: Document, text: str, path: Path) -> Literal["base", "union"] | ModelReference:
    if text == "base":
        return "base"
    if text == "union":
        return "union"
    close = nearest(text, ("base", "union"))
    if close and not is_folder(text):
        raise document.error(f"{text!r} is neither base nor union nor a folder{close}", *path)
    return read_reference(document, text, path)


def _token(document: Document, entry: TokenEntry, path: Path) -> TokenOption:
    if not path[-1]:
        raise document.error("an empty token", *path[:-1])
    source, here = entry.source, (*path, "source")
    if source is None:
        if entry.force:
            raise document.error("'force' needs a source to take the row from", *path, "force")
        return TokenOption("default", path)
    if isinstance(source, str):
        return TokenOption("model", path, read_reference(document, source, here), force=entry.force)
    if source.kind == "zero":
        given = [key for key in ("model", "token", "token_id") if getattr(source, key) is not None]
        if given:
            raise document.error(f"{given[0]!r} belongs to 'kind: model_token'; zeros come from no model", *here, given[0])
        return TokenOption("zero", path, force=entry.force)
    if source.model is None:
        raise document.error("'kind: model_token' needs the 'model'", *here)
    if (source.token is None) == (source.token_id is None):
        found = "neither" if source.token is None else f"both {short(source.token)} and {source.token_id}"
        raise document.error(f"'kind: model_token' needs 'token' or 'token_id', one of the two; found {found}", *here)
    model = read_reference(document, source.model, (*here, "model"))
    return TokenOption("model_token", path, model, source.token, source.token_id, entry.force)
