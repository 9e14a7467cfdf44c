"""Which bytes of a text each token stands for.

Offsets as tokenizers tell them count characters: a byte-level tokenizer that splits `é` in two says of both halves that they
are the whole character, and some leave the space before a word to nobody.  Spans here count bytes, leave nothing out and
never overlap: each token with text begins where the one before it ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modist.vocabulary.texts import TokenTexts

Ints = NDArray[np.int32]


def encode(tokenizer: Any, text: str, texts: TokenTexts | None = None, *, specials: bool = False) -> tuple[Ints, Ints]:
    """Tokenize a text.

    Args:
        tokenizer: a `tokenizers.Tokenizer` or a fast tokenizer of transformers.
        text: to be cut; special tokens written in it are read as such.
        texts: of the same tokenizer; made anew when left out, which takes a second for a large one.
        specials: whether the tokenizer adds its own special tokens around the text.

    Returns:
        The ids, int32 [n], and their spans in bytes of the UTF-8 of `text`, int32 [n, 2].
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    with _unbounded(backend):
        found = backend.encode(text, add_special_tokens=specials)
    ids = np.asarray(found.ids, dtype=np.int32)
    return ids, _spans(texts or TokenTexts.of(tokenizer), ids, text, lambda: found.offsets)


@contextmanager
def _unbounded(backend: Any) -> Iterator[None]:
    """Without the truncation and padding that a tokenizer.json, or an earlier call, may have left switched on."""
    truncation, padding = backend.truncation, backend.padding
    if truncation is not None:
        backend.no_truncation()
    if padding is not None:
        backend.no_padding()
    try:
        yield
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def token_spans(
    texts: TokenTexts, ids: ArrayLike, text: str, offsets: Sequence[tuple[int, int]] | ArrayLike | None = None
) -> Ints:
    """The bytes that each token of a text stands for.

    Where the tokens spell the text (but for a space put before it) their lengths say everything.  Where they do not, because
    the tokenizer changed the text first or has no token for part of it, the offsets say which characters a token comes from;
    where several tokens come from the same characters and do not spell them, what they do not spell is the last one's.

    Args:
        texts: of the tokenizer.
        ids: of the text's tokens, [n].
        text: what was tokenized.
        offsets: begin and end of each token in characters of `text`, [n, 2], as `Encoding.offsets` and `offset_mapping` give
            them.

    Returns:
        int32 [n, 2], in bytes of the UTF-8 of `text`; together they cover it.  Special tokens that are not written in the text
        get an empty span.

    Raises:
        ValueError: the tokens do not spell the text, and there are no offsets.
    """
    return _spans(texts, np.asarray(ids, dtype=np.int64), text, None if offsets is None else lambda: offsets)


def _spans(texts: TokenTexts, ids: NDArray[Any], text: str, offsets: Callable[[], Any] | None) -> Ints:
    """The same, asking for the offsets only where they are needed."""
    numbers = ids.tolist()
    raw = text.encode("utf-8", "surrogatepass")
    pieces = [texts.texts[number] for number in numbers]
    ends = _by_length(pieces, raw)
    if ends is None:
        specials = texts.specials
        pieces = [texts.spellings[n].encode() if n in specials else p for n, p in zip(numbers, pieces, strict=True)]
        ends = _by_length(pieces, raw)
    if ends is None:
        if offsets is None:
            raise ValueError(f"the {len(pieces)} tokens of {texts.name} do not spell the text; give their offsets")
        ends = _by_offsets(pieces, raw, _in_bytes(text, offsets()))
    spans = np.zeros((len(ends), 2), dtype=np.int32)
    spans[:, 1] = ends
    spans[1:, 0] = ends[:-1]
    return spans


def _by_length(pieces: Sequence[bytes], raw: bytes) -> Ints | None:
    """End of each token, if all spell the text; a space that the tokenizer put before it is forgiven."""
    joined = b"".join(pieces)
    ahead = len(joined) - len(raw)
    if joined != (raw if ahead == 0 else b" " + raw):
        return None
    return np.maximum(np.fromiter(accumulate(map(len, pieces)), dtype=np.int32, count=len(pieces)) - ahead, 0)


def _within(pieces: Sequence[bytes], raw: bytes) -> list[int]:
    """End of each of some tokens in the bytes they stand for together: by length as far as they spell them."""
    joined = b"".join(pieces)
    ahead = int(joined == b" " + raw or joined[:1] == b" " != raw[:1])
    pairs = zip(joined[ahead:], raw, strict=False)
    alike = next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(joined) - ahead, len(raw)))
    ends = [max(0, min(end - ahead, alike)) for end in accumulate(map(len, pieces))]
    return [*ends[:-1], len(raw)]


def _in_bytes(text: str, offsets: Sequence[tuple[int, int]] | ArrayLike) -> Ints:
    """Offsets in characters, [n, 2], as offsets in bytes."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    widths = 1 + (points >= 0x80).astype(np.int32) + (points >= 0x800) + (points >= 0x10000)
    before = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
    return before[np.asarray(offsets, dtype=np.int64).reshape(-1, 2)]


def _by_offsets(pieces: Sequence[bytes], raw: bytes, told: Ints) -> Ints:
    """End of each token from what the tokenizer told, in bytes, and from what tokens that share characters spell."""
    count = len(pieces)
    begin, end = told[:, 0].tolist(), told[:, 1].tolist()
    texted = [j for j in range(count) if end[j] > begin[j]]
    ends = [0] * count
    place = done = 0
    while place < len(texted):
        # Tokens that share characters with the next one form a group, to be cut by what they spell.
        last, reach = place, end[texted[place]]
        while last + 1 < len(texted) and begin[texted[last + 1]] < reach:
            last += 1
            reach = max(reach, end[texted[last]])
        group = texted[place : last + 1]
        low = min(begin[j] for j in group)
        for j, inner in zip(group, _within([pieces[j] for j in group], raw[low:reach]), strict=True):
            ends[j] = low + inner
        if low > done and place and not raw[done : done + 1].isspace():
            # Nobody's characters: white space is the next token's, and what normalising took away the last one's.
            ends[texted[place - 1]] = low
        place, done = last + 1, reach
    if texted:
        ends[texted[-1]] = len(raw)
    # A token without text ends where the one before it did.
    return np.maximum.accumulate(np.asarray(ends, dtype=np.int32)) if count else np.empty(0, dtype=np.int32)
