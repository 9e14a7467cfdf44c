"""Ids matched by bytes, role, edit distance and statistics."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from modist.errors import UserError
from modist.vocabulary import IdMap, PairCounts, TokenTexts, align_ids, align_positions, encode
from modist.vocabulary.id_map import ABSENT, EDIT, EXACT, GIVEN, ROLE, STATISTICS, UNALIGNED, match_exactly
from modist.vocabulary.texts import SPECIAL, TEXT, UNUSED
from tests.vocabulary.small_tokenizers import CORPUS, SHARED, byte_level, letters, metaspace, unigram, wordpiece
from tests.vocabulary.test_edit_distance import brute

real = pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="the shared tokenizers are not here")


def made(texts: Sequence[bytes], family: str = "plain", **roles: int) -> TokenTexts:
    """A tokenizer as far as alignment knows one; ids with a role are special."""
    kind = np.array([TEXT if text else UNUSED for text in texts], dtype=np.uint8)
    kind[list(roles.values())] = SPECIAL
    names = {number: f"<{role}>" for role, number in roles.items()}
    return TokenTexts(
        "made",
        family,
        tuple(b"" if number in names else text for number, text in enumerate(texts)),
        tuple(names.get(number, text.decode("latin-1")) for number, text in enumerate(texts)),
        kind,
        np.zeros(len(texts), dtype=np.bool_),
        {role: (number,) for role, number in roles.items()},
    )


WORDS = st.one_of(st.text("ab c", min_size=1, max_size=6).map(str.encode), st.binary(min_size=1, max_size=3))


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=12), st.lists(WORDS, min_size=1, max_size=20))
def test_ids_are_those_of_brute_force(source: list[bytes], target: list[bytes]) -> None:
    found = align_ids(made(source), made(target), workers=1)
    places, distances = brute(source, target)
    for number, (place, far) in enumerate(zip(places, distances, strict=True)):
        assert found.ids[number] == (target.index(source[number]) if source[number] in target else place)
        assert found.distance[number] == far
        assert found.reason[number] == (EXACT if far == 0 else EDIT if far > 0 else UNALIGNED)


@pytest.mark.parametrize("make", [byte_level, metaspace, unigram, wordpiece, lambda: letters("abc 12")])
def test_a_tokenizer_aligned_to_itself_is_the_identity(make: Callable[[], Tokenizer]) -> None:
    tokenizer = make()
    for how in ("edit", "exact"):
        found = align_ids(tokenizer, tokenizer, how)  # type: ignore[arg-type]
        assert found.is_identity and found.ids.tolist() == list(range(tokenizer.get_vocab_size()))
        assert found.exact.all() and not found.distance.any()


@real
@pytest.mark.parametrize("name", ["gpt2-hf", "mistral-v3", "qwen2.5"])
def test_a_real_tokenizer_aligned_to_itself_is_the_identity(name: str) -> None:
    texts = TokenTexts.of(SHARED / "tokenizers" / name)
    found = align_ids(texts, texts)
    assert found.is_identity and (found.ids == np.arange(texts.size)).all()


def test_conventions_of_families_do_not_matter() -> None:
    """Every text that both can say is matched exactly, whoever spells it how."""
    one, two = TokenTexts.of(byte_level()), TokenTexts.of(metaspace())
    found = align_ids(one, two, "exact")
    in_both = [number for number in range(one.size) if one.texts[number] and one.texts[number] in two.texts]
    assert found.exact[in_both].all() and int(found.exact.sum()) == len(in_both)
    assert {one.spellings[number][0] for number in in_both} >= {"Ġ", "t", "Ċ"}
    for number in in_both:
        assert two.texts[found.ids[number]] == one.texts[number]
    # A line break is a byte-fallback piece on one side or a piece; the way back ends at the same text.
    back = align_ids(two, one, "exact")
    assert two.spellings.index("<0x41>") and one.texts[back.ids[two.spellings.index("<0x41>")]] == b"A"


def test_specials_go_by_role() -> None:
    one = made([b"", b"", b"", b"", b"a", b""], bos=0, turn_end=1, pad=2, tool=3)
    two = made([b"a", b"", b""], eos=1, bos=2)
    two = dataclasses.replace(two, spellings=("a", "END", "BEGIN"))
    found = align_ids(one, two)
    assert found.ids.tolist() == [2, 1, -1, -1, 0, -1]  # no turn mark there: the end of the text ends the answer
    assert found.reason.tolist() == [ROLE, ROLE, UNALIGNED, UNALIGNED, EXACT, ABSENT]
    assert found.distance.tolist() == [0, 0, -1, -1, 0, -1]
    # The same name comes before the same role, and a role of its own before one that another stands in for.
    three = dataclasses.replace(made([b"", b"", b""], eos=0, turn_end=1, bos=2), spellings=("<x>", "<y>", "<bos>"))
    assert align_ids(one, three).ids.tolist()[:2] == [2, 1]


def test_special_and_unused_ids_are_nobodys_nearest() -> None:
    two = dataclasses.replace(made([b"", b"zzz", b"", b"abcx"], eos=0), spellings=("abc", "zzz", "abd", "abcx"))
    found = align_ids(made([b"abc", b"q"]), two)
    assert found.ids.tolist() == [3, -1] and found.distance.tolist() == [1, -1]


def test_what_the_caller_knows_goes_first() -> None:
    one, two = made([b"a", b"b"]), made([b"b", b"a"])
    found = align_ids(one, two, given={0: 0})
    assert found.ids.tolist() == [0, 0] and found.reason.tolist() == [GIVEN, EXACT]
    for bad in ({2: 0}, {0: 2}, {-1: 0}):
        with pytest.raises(UserError, match="has ids below 2"):
            align_ids(one, two, given=bad)


def test_ids_are_applied_to_any_shape() -> None:
    found = align_ids(made([b"a", b"b", b"q"]), made([b"b", b"a"]))
    assert found.apply([[0, 1], [2, 7]]).tolist() == [[1, 0], [-1, -1]]
    assert found.apply(np.array([-1, 0])).tolist() == [-1, 1] and found.apply(1).tolist() == 0
    assert found.apply(np.empty((0, 3), dtype=np.int64)).shape == (0, 3) and found.apply([0]).dtype == np.int32


def test_an_unknown_way_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'edits'.*edit, exact, statistics; did you mean 'edit'\?"):
        align_ids(made([b"a"]), made([b"a"]), "edits")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="needs counts of a corpus"):
        align_ids(made([b"a"]), made([b"a"]), "statistics")
    counts = PairCounts.between(made([b"a"]), made([b"a"]))
    with pytest.raises(UserError, match="'edit' takes no statistics"):
        align_ids(made([b"a"]), made([b"a"]), statistics=counts)


def test_statistics_choose_among_what_was_seen() -> None:
    """Distance first, then how often: a frequent pair wins a tie, and never loses one for being frequent."""
    one, two = made([b"abc", b"x", b"never"]), made([b"abd", b"abe", b"zbc", b"qqqq"])
    counts = PairCounts.between(one, two)
    for target, times in ((0, 1), (1, 3), (3, 50)):
        for _ in range(times):
            counts.add([0], [target], align_positions([(0, 3)], [(0, 3)]))
    counts.add([1], [3], align_positions([(0, 3)], [(0, 3)]))
    assert [part.tolist() for part in counts.table()] == [[0, 0, 0, 1], [0, 1, 3, 3], [1, 3, 50, 1]]
    found = align_ids(one, two, "statistics", statistics=counts)
    assert found.ids.tolist() == [1, 3, -1] and found.distance.tolist() == [1, 4, -1]
    assert found.reason.tolist() == [STATISTICS, STATISTICS, UNALIGNED]
    with pytest.raises(UserError, match="of other tokenizers"):
        align_ids(two, one, "statistics", statistics=counts)


def test_counts_of_a_text_are_those_of_bytes() -> None:
    one, two = byte_level(), metaspace()
    source, target = TokenTexts.of(one), TokenTexts.of(two)
    counts, expected = PairCounts.between(source, target), {}
    for text in CORPUS * 2:
        ids, spans = encode(one, text, source)
        others, places = encode(two, text, target)
        counts.add(ids, others, align_positions(spans, places))
        for number, (a, b) in zip(ids.tolist(), spans.tolist(), strict=True):
            for other, (c, d) in zip(others.tolist(), places.tolist(), strict=True):
                if max(a, c) < min(b, d):
                    expected[number, other] = expected.get((number, other), 0) + 1
    ids, others, times = (part.tolist() for part in counts.table())
    assert dict(zip(zip(ids, others, strict=True), times, strict=True)) == expected
    with pytest.raises(ValueError, match="1 and 2 ids"):
        counts.add([0], [0, 1], align_positions([(0, 1)], [(0, 1)]))


def test_an_extended_tokenizer_is_no_identity() -> None:
    one, two = made([b"a", b"b"]), made([b"a", b"b", b"c"])
    assert not align_ids(one, two).is_identity and not align_ids(two, one).is_identity
    assert not align_ids(made([b"b", b"a"]), one).is_identity


@real
def test_real_ones_agree_with_a_plain_reading() -> None:
    """Exact matches counted from the spellings alone: `Ġ` and `▁` for a space, printable ASCII for itself."""
    names = ("gpt2-hf", "mistral-v3")
    vocabularies = [json.loads((SHARED / "tokenizers" / n / "tokenizer.json").read_text())["model"]["vocab"] for n in names]

    def plain(spelling: str, mark: str) -> str | None:
        text = spelling.replace(mark, " ")
        return text if text.isascii() and text.isprintable() else None

    pieces = {plain(spelling, "▁") for spelling, number in vocabularies[1].items() if number >= 771}  # after [..] and <0x..>
    found: IdMap = align_ids(*(SHARED / "tokenizers" / n for n in names), "exact")
    checked = [(number, text) for spelling, number in vocabularies[0].items() if (text := plain(spelling, "Ġ")) is not None]
    assert len(checked) > 45_000
    for number, text in checked:
        assert found.exact[number] == (text in pieces), text


def test_matching_is_by_kind_where_there_are_two() -> None:
    """A byte-fallback piece goes to its own kind, a piece to a piece."""
    one, two = TokenTexts.of(metaspace(420)), TokenTexts.of(metaspace(400))
    ids = match_exactly(one, two)
    for spelling in ("<0x61>", "a", "<0x20>", "▁"):
        assert two.spellings[ids[one.spellings.index(spelling)]] == spelling
