"""How families of tokenizers spell bytes, and how to undo it.

A vocabulary does not hold texts but spellings: byte-level BPE writes a space as `Ġ`, SentencePiece as `▁`, WordPiece marks
what continues a word with `##`; a byte that no piece covers is `<0x0A>`.  Undone, the tokens of two families can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# The mark of SentencePiece, which `replacement` of a Metaspace may change.
_MARK = "▁"


def byte_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE (GPT-2): printable Latin-1 stands for itself, the rest for 256, 257 ..."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    for place, byte in enumerate(byte for byte in range(256) if chr(byte) not in alphabet):
        alphabet[chr(256 + place)] = byte
    return alphabet


_TO_LATIN = {ord(character): chr(byte) for character, byte in byte_alphabet().items()}


def family_of(document: Mapping[str, Any]) -> str:
    """`byte-level`, `metaspace`, `wordpiece` or `plain`, from a parsed tokenizer.json."""
    model = document.get("model") or {}
    parts = [part for key in ("pre_tokenizer", "decoder", "normalizer") for part in _parts(document.get(key))]
    types = {part.get("type") for part in parts}
    if "ByteLevel" in types:
        return "byte-level"
    if "Metaspace" in types or any(_is_mark(part) for part in parts) or model.get("type") == "Unigram":
        return "metaspace"
    if model.get("type") == "WordPiece":
        return "wordpiece"
    return "plain"


def has_byte_fallback(document: Mapping[str, Any]) -> bool:
    """Whether `<0x0A>` is spelled for a byte that no piece covers."""
    parts = _parts(document.get("decoder"))
    return bool((document.get("model") or {}).get("byte_fallback")) or any(part.get("type") == "ByteFallback" for part in parts)


def speller(document: Mapping[str, Any]) -> Callable[[str], bytes]:
    """The function from a piece of the model's vocabulary to the bytes it adds to a text."""
    model = document.get("model") or {}
    family = family_of(document)
    suffix = model.get("end_of_word_suffix") or ""
    inner: Callable[[str], bytes]
    if family == "byte-level":
        inner = _byte_level
    elif family == "metaspace":
        mark = _mark(document)
        inner = lambda piece: _utf8(piece.replace(mark, " "))  # noqa: E731
    elif family == "wordpiece":
        prefix = model.get("continuing_subword_prefix") or "##"
        inner = lambda piece: _utf8(piece[len(prefix) :] if piece.startswith(prefix) else " " + piece)  # noqa: E731
    else:
        inner = _utf8
    if suffix:
        inner = _with_suffix(inner, suffix)
    return inner


def fallback_byte(piece: str) -> int | None:
    """The byte of a byte-fallback piece (`<0x0A>`: 10), else None."""
    found = _BYTE.fullmatch(piece)
    return int(found[1], 16) if found else None


def unmark(content: str, document: Mapping[str, Any]) -> bytes:
    """The bytes of an added token, which is text already, apart from the mark of spaces."""
    return _utf8(content.replace(_mark(document), " ") if family_of(document) == "metaspace" else content)


def _with_suffix(inner: Callable[[str], bytes], suffix: str) -> Callable[[str], bytes]:
    return lambda piece: inner(piece.removesuffix(suffix)) + (b" " if piece.endswith(suffix) else b"")


def _byte_level(piece: str) -> bytes:
    try:
        return piece.translate(_TO_LATIN).encode("latin-1")
    except UnicodeEncodeError:  # not in the alphabet: a token that somebody added by hand
        return _utf8(piece)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _parts(node: Any) -> Iterator[Mapping[str, Any]]:
    """A normalizer, pre-tokenizer or decoder and all it is a sequence of."""
    if not isinstance(node, Mapping):
        return
    yield node
    for key in ("normalizers", "pretokenizers", "decoders"):
        for inner in node.get(key) or ():
            yield from _parts(inner)


def _is_mark(part: Mapping[str, Any]) -> bool:
    pattern = part.get("pattern")
    told = pattern.get("String") if isinstance(pattern, Mapping) else None
    return part.get("type") == "Replace" and _MARK in (told, part.get("content"))


def _mark(document: Mapping[str, Any]) -> str:
    for key in ("pre_tokenizer", "decoder"):
        for part in _parts(document.get(key)):
            if part.get("type") == "Metaspace" and part.get("replacement"):
                return str(part["replacement"])
    return _MARK
