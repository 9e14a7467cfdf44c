"""What each id of a tokenizer stands for, whichever family it is of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modist.checkpoint.folder import read_json
from modist.errors import CheckpointError, UserError
from modist.vocabulary.conventions import fallback_byte, family_of, has_byte_fallback, speller, unmark
from modist.vocabulary.roles import is_reserved, roles_of

# What an id is.
TEXT, SPECIAL, UNUSED = 0, 1, 2


@dataclass(frozen=True, eq=False)
class TokenTexts:
    """The tokens of one tokenizer, undone to bytes.

    Attributes:
        name: of the tokenizer, for messages.
        family: `byte-level`, `metaspace`, `wordpiece` or `plain`.
        texts: the bytes an id adds to a text, [size]; empty for special and unused ids.
        spellings: as the vocabulary has it, [size]; empty where no token has the id.
        kind: TEXT, SPECIAL or UNUSED; uint8 [size].
        fallback: whether an id is a byte-fallback piece such as `<0x0A>`; bool [size].
        roles: `bos`, `eos`, `pad`, `unk`, `turn_start`, `turn_end` ... -> the ids that have the role, the one to use first.
    """

    name: str
    family: str
    texts: tuple[bytes, ...]
    spellings: tuple[str, ...]
    kind: NDArray[np.uint8]
    fallback: NDArray[np.bool_]
    roles: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, source: Any, name: str | None = None) -> TokenTexts:
        """Read a tokenizer.

        Args:
            source: a folder that holds a tokenizer.json (its tokenizer_config.json is read too, where there is one), the file
                itself, a `tokenizers.Tokenizer`, a fast tokenizer of transformers, or a TokenTexts, which is returned.
            name: for messages; the folder's name when left out.

        Raises:
            UserError: there is no tokenizer.json, or the tokenizer is no fast one.
            CheckpointError: the tokenizer.json cannot be understood.
        """
        if isinstance(source, TokenTexts):
            return source
        if isinstance(source, (str, Path)):
            return _from_folder(Path(source), name)
        backend = getattr(source, "backend_tokenizer", source)
        if not hasattr(backend, "to_str"):
            raise UserError(
                f"{name or type(source).__name__}: is no fast tokenizer, and only those can be aligned;"
                " save it with a tokenizer.json (AutoTokenizer.from_pretrained(...).save_pretrained(...))"
            )
        stated = {f"{role}_token": getattr(source, f"{role}_token", None) for role in ("bos", "eos", "pad", "unk")}
        label = name or Path(str(getattr(source, "name_or_path", "") or "tokenizer")).name
        return _from_document(json.loads(backend.to_str()), stated, label)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return len(self.texts)

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Bytes of each text, int32 [size]."""
        return np.fromiter(map(len, self.texts), dtype=np.int32, count=self.size)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that an alignment depends on; 64 hexadecimal digits."""
        told = hashlib.sha256()
        told.update(json.dumps([self.spellings, {role: self.roles[role] for role in sorted(self.roles)}]).encode())
        for part in (self.lengths, self.kind, self.fallback):
            told.update(part.tobytes())
        told.update(b"".join(self.texts))
        return told.hexdigest()

    @cached_property
    def by_text(self) -> dict[bytes, int]:
        """Text -> the id to use for it: a piece before a byte-fallback one, then the lower id."""
        found: dict[bytes, int] = {}
        for wanted in (False, True):
            for number in np.flatnonzero((self.kind == TEXT) & (self.fallback == wanted)).tolist():
                found.setdefault(self.texts[number], number)
        return found

    def show(self, number: int) -> str:
        """An id for people: its text with what cannot be printed escaped, or a special's name in its own brackets."""
        if not 0 <= number < self.size or not self.spellings[number]:
            return f"(no token {number})"
        if self.kind[number] != TEXT:
            return self.spellings[number]
        text = self.texts[number].decode("utf-8", "backslashreplace")
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _from_folder(path: Path, name: str | None) -> TokenTexts:
    file = path / "tokenizer.json" if path.is_dir() else path
    folder = file.parent
    label = name or (path.resolve().name if path.is_dir() else folder.resolve().name)
    if not file.is_file():
        hint = ""
        if (folder / "tokenizer.model").exists():
            hint = "; it has a tokenizer.model, which AutoTokenizer.from_pretrained(...).save_pretrained(...) turns into one"
        raise UserError(f"{path}: there is no tokenizer.json here{hint}")
    stated: dict[str, Any] = {}
    for other in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / other).is_file():
            stated |= {key: value for key, value in read_json(folder / other).items() if value is not None}
    return _from_document(read_json(file), stated, label)


def _from_document(document: Mapping[str, Any], stated: Mapping[str, Any], name: str) -> TokenTexts:
    try:
        return _read(document, stated, name)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise CheckpointError(f"{name}: its tokenizer.json cannot be understood ({type(error).__name__}: {error})") from None


def _read(document: Mapping[str, Any], stated: Mapping[str, Any], name: str) -> TokenTexts:
    vocabulary = document["model"]["vocab"]
    pairs = (
        [(str(piece), int(number)) for piece, number in vocabulary.items()]
        if isinstance(vocabulary, Mapping)
        else [(str(entry[0]), number) for number, entry in enumerate(vocabulary)]
    )
    added = {int(entry["id"]): entry for entry in document.get("added_tokens") or ()}
    size = 1 + max([number for _, number in pairs] + list(added), default=-1)
    if size == 0 or min([number for _, number in pairs] + list(added)) < 0:
        raise ValueError("no tokens, or a negative id")

    texts, spellings = [b""] * size, [""] * size
    kind = np.full(size, UNUSED, dtype=np.uint8)
    fallback = np.zeros(size, dtype=np.bool_)
    spell, bytes_too = speller(document), has_byte_fallback(document)
    for piece, number in pairs:
        byte = fallback_byte(piece) if bytes_too else None
        texts[number] = spell(piece) if byte is None else bytes([byte])
        spellings[number], fallback[number] = piece, byte is not None
        kind[number] = TEXT if texts[number] else UNUSED
    for number, entry in added.items():
        content = str(entry["content"])
        spellings[number], fallback[number] = content, False
        if entry.get("special") or is_reserved(content):
            texts[number], kind[number] = b"", UNUSED if is_reserved(content) else SPECIAL
        else:
            texts[number] = unmark(content, document)
            kind[number] = TEXT if texts[number] else UNUSED

    known = {spellings[number]: number for number in added}
    told = dict(stated)
    unknown = document["model"].get("unk_token")
    if isinstance(document["model"].get("unk_id"), int):
        unknown = spellings[document["model"]["unk_id"]]
    if told.get("unk_token") is None:
        told["unk_token"] = unknown
    # A vocabulary may hold its unknown token among the pieces.
    for token in (told.get(f"{role}_token") for role in ("bos", "eos", "pad", "unk")):
        word = token.get("content") if isinstance(token, Mapping) else token
        if isinstance(word, str) and word not in known and word in spellings:
            number = spellings.index(word)
            known[word], texts[number], kind[number] = number, b"", SPECIAL
    return TokenTexts(
        name, family_of(document), tuple(texts), tuple(spellings), kind, fallback, roles_of(known, told, _first(document))
    )


def _first(document: Mapping[str, Any]) -> list[str]:
    """Special tokens that the template puts before every text."""
    post = document.get("post_processor") or {}
    found = []
    for part in [post, *(post.get("processors") or ())]:
        for entry in part.get("single") or ():
            if "SpecialToken" not in entry:
                break
            found.append(str(entry["SpecialToken"]["id"]))
    return found
