"""Bytes of each token, on any text, by any family."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from modist.vocabulary import TokenTexts, align_positions, encode, token_spans
from tests.vocabulary.small_tokenizers import CORPUS, SHARED, byte_level, letters, metaspace, unigram, wordpiece

REAL = ("gpt2-hf", "mistral-v3", "qwen2.5")
real = pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="the shared tokenizers are not here")

# Words, code, digits, emoji in pieces, combining and composed letters, control characters, white space of all sorts.
PIECES = st.sampled_from(
    [
        "the", " there", "Once upon", "1234567", "3.14", "x = f(y)\n", "\n\n", "\t", "  ", "    return", "\r\n", "é", "e\u0301",
        "Å", "ﬁ", "한국", "你好", "مرحبا", "🙂", "👩‍👩‍👧", "🇫🇷", "\u0000", "\u0007", "\u200b", "\ufeff",
        "\u00a0", "▁", "Ġ", "<0x0A>", "<s>", "</s>", "<unk>", "<|im_end|>", "[INST]", "##ed", "_", "''", "…",
    ]
)  # fmt: skip
TEXTS = st.one_of(st.lists(PIECES, max_size=9).map("".join), st.text(max_size=20), st.text("ab e\u0301\u0327", max_size=9))


@cache
def known(name: str) -> tuple[Tokenizer, TokenTexts]:
    makers: dict[str, Callable[[], Tokenizer]] = {
        "byte-level": byte_level,
        "metaspace": metaspace,
        "unigram": unigram,
        "wordpiece": wordpiece,
        "letters": lambda: letters("abcdefghij "),
    }
    file = SHARED / "tokenizers" / name / "tokenizer.json"
    tokenizer = makers[name]() if name in makers else Tokenizer.from_file(str(file))
    return tokenizer, TokenTexts.of(tokenizer)


def check_cover(name: str, text: str, specials: bool) -> None:
    """Spans are in order, overlap nowhere, leave nothing out, and hold what the token spells wherever it spells the text."""
    tokenizer, texts = known(name)
    ids, spans = encode(tokenizer, text, texts, specials=specials)
    raw = text.encode()
    assert spans.dtype == np.int32 and spans.shape == (len(ids), 2)
    if not len(ids):
        return
    assert spans[0, 0] == 0 and (spans[:, 0] <= spans[:, 1]).all() and (spans[1:, 0] == spans[:-1, 1]).all()
    texted = [j for j, (begin, end) in enumerate(spans.tolist()) if end > begin]
    if texted:
        assert spans[texted[-1], 1] == len(raw)
    assert b"".join(raw[begin:end] for begin, end in spans.tolist()) == (raw if texted else b"")


@pytest.mark.parametrize("name", ["byte-level", "metaspace", "unigram", "wordpiece", "letters"])
@settings(max_examples=50, deadline=None)
@given(TEXTS, st.booleans())
def test_spans_cover_the_text(name: str, text: str, specials: bool) -> None:
    check_cover(name, text, specials)


@real
@pytest.mark.parametrize("name", REAL)
@settings(max_examples=35, deadline=None)
@given(TEXTS, st.booleans())
def test_spans_of_real_tokenizers_cover_the_text(name: str, text: str, specials: bool) -> None:
    check_cover(name, text, specials)


@pytest.mark.parametrize("name", ["byte-level", "metaspace"])
@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="<▁"), max_size=20))
def test_a_span_holds_what_its_token_spells(name: str, text: str) -> None:
    """Byte for byte, on text that normalising leaves alone."""
    text = unicodedata.normalize("NFC", text)
    tokenizer, texts = known(name)
    ids, spans = encode(tokenizer, text, texts)
    if "unk" in texts.roles and texts.roles["unk"][0] in ids.tolist():
        return
    raw = text.encode()
    spelled = b"".join(raw[begin:end] for begin, end in spans.tolist())
    assert spelled == raw
    for place, (number, (begin, end)) in enumerate(zip(ids.tolist(), spans.tolist(), strict=True)):
        own = raw[begin:end]
        # The space that Metaspace puts before a text is nowhere in it.
        ahead = b" " if name == "metaspace" and (begin == 0 or place == 0) else b""
        assert texts.texts[number] in (own, ahead + own)


@pytest.mark.parametrize("names", [("byte-level", "metaspace"), ("unigram", "byte-level"), ("wordpiece", "metaspace")])
@settings(max_examples=35, deadline=None)
@given(text=TEXTS)
def test_maps_of_two_tokenizers_partition_both(names: tuple[str, str], text: str) -> None:
    (one, one_texts), (two, two_texts) = map(known, names)
    _, source = encode(one, text, one_texts)
    _, target = encode(two, text, two_texts)
    found = align_positions(source, target)
    raw = text.encode()
    for side, (a, b) in ((source, (0, 1)), (target, (2, 3))):
        inside = {i for row in found.groups.tolist() for i in range(row[a], row[b])}
        texted = {i for i, (begin, end) in enumerate(side.tolist()) if end > begin}
        if len(source) and len(target) and source[-1, 1] == target[-1, 1] == len(raw):
            assert texted <= inside
    for a, b, c, d in found.groups.tolist():
        assert raw[source[a, 0] : source[b - 1, 1]] == raw[target[c, 0] : target[d - 1, 1]]


def test_characters_split_among_tokens_are_cut_by_bytes() -> None:
    tokenizer, texts = known("byte-level")
    text = "ａ🙃🙃"
    found = tokenizer.encode(text)
    assert len({tuple(offset) for offset in found.offsets}) < len(found.ids)  # characters that several tokens claim
    _, spans = encode(tokenizer, text, texts)
    assert [end - begin for begin, end in spans.tolist()] == [len(texts.texts[i]) for i in found.ids]


def test_a_space_put_before_every_stretch_is_nowhere_in_the_text() -> None:
    """Metaspace puts one after each special token too, so that the tokens no longer spell the text."""
    tokenizer, texts = known("metaspace")
    text = "<s>the dog</s>the"
    ids, spans = encode(tokenizer, text, texts)
    named = [(texts.show(number), text[begin:end]) for number, (begin, end) in zip(ids.tolist(), spans.tolist(), strict=True)]
    assert named[0] == ("<s>", "<s>") and ("</s>", "</s>") in named
    assert "".join(own for _, own in named) == text
    assert all(told.strip() == own.strip() for told, own in named)


@real
def test_of_two_spaces_where_the_text_has_one_the_first_is_nowhere() -> None:
    tokenizer, texts = known("mistral-v3")
    ids, spans = encode(tokenizer, "[INST] hi 你[/INST]  yes</s>", texts)
    assert [texts.spellings[i] for i in ids.tolist()] == ["[INST]", "▁", "▁hi", "▁", "你", "[/INST]", "▁▁", "▁yes", "</s>"]
    assert spans[:, 1].tolist() == [6, 6, 9, 10, 13, 20, 21, 25, 29]


def test_what_normalising_joined_stays_together() -> None:
    tokenizer, texts = known("byte-level")
    ids, spans = encode(tokenizer, "ae\u0301b", texts)
    spelled = b"".join(texts.texts[i] for i in ids.tolist())
    assert spelled == "aéb".encode()
    assert spans[0].tolist() == [0, 1] and spans[-1].tolist() == [4, 5]


def test_an_unknown_stretch_is_one_token() -> None:
    tokenizer, texts = known("letters")
    ids, spans = encode(tokenizer, "ab🙂c", texts)
    assert [texts.show(i) for i in ids.tolist()] == ["a", "b", "<unk>", "c"]
    assert spans.tolist() == [[0, 1], [1, 2], [2, 6], [6, 7]]


def test_without_offsets_the_tokens_must_spell_the_text() -> None:
    tokenizer, texts = known("byte-level")
    text = CORPUS[0]
    ids = tokenizer.encode(text).ids
    assert token_spans(texts, ids, text).tolist() == encode(tokenizer, text, texts)[1].tolist()
    with pytest.raises(ValueError, match="do not spell the text; give their offsets"):
        token_spans(texts, ids, text + "!")
    assert token_spans(texts, [], "").shape == (0, 2)
    # A space put before the text is forgiven.
    tokenizer, texts = known("metaspace")
    assert token_spans(texts, tokenizer.encode(text, add_special_tokens=False).ids, text)[-1, 1] == len(text)


def test_special_tokens_around_a_text_have_empty_spans() -> None:
    tokenizer, texts = known("metaspace")
    ids, spans = encode(tokenizer, "the dog", texts, specials=True)
    assert texts.show(int(ids[0])) == "<s>" and spans[0].tolist() == [0, 0] and spans[-1, 1] == 7


def test_truncation_left_switched_on_cuts_nothing() -> None:
    tokenizer = byte_level()
    whole, spans = encode(tokenizer, CORPUS[0])
    tokenizer.enable_truncation(5, strategy="only_first")
    tokenizer.enable_padding(length=200, pad_id=1)
    before = (tokenizer.truncation, tokenizer.padding)
    again, others = encode(tokenizer, CORPUS[0])
    assert again.tolist() == whole.tolist() and others.tolist() == spans.tolist() and len(whole) > 5
    assert (tokenizer.truncation, tokenizer.padding) == before and len(tokenizer.encode(CORPUS[0]).ids) == 200
