"""What a map covers, and what is worst in it."""

from __future__ import annotations

import pytest

from modist.vocabulary import TokenTexts, align_ids
from modist.vocabulary.coverage import SENTENCE, cover, side_by_side
from tests.vocabulary.small_tokenizers import SHARED, byte_level, metaspace
from tests.vocabulary.test_id_map import made


def test_counts_and_worst_matches_of_a_small_map() -> None:
    one = made([b"", b"abc", b"abcdefgh", b"xy", b"q", b"", b"abd"], bos=0)
    two = made([b"abc", b"abcdxxxx", b"x", b""], bos=3)
    told = cover(one, two, align_ids(one, two), count=2)
    assert (told.source_tokens, told.target_tokens) == (6, 4)  # one id of the source stands for nothing
    assert (told.exact, told.role, told.edit, told.aligned, told.unaligned) == (2, 0, 3, 5, 1)
    assert told.distances == {1: 2, 4: 1}
    # Half of the longer text differs in both; of these the greater distance first.
    assert [(match.text, match.target_text, match.distance) for match in told.worst] == [
        ("abcdefgh", "abcdxxxx", 4),
        ("xy", "x", 1),
    ]
    assert [(match.text, match.target_id, match.distance) for match in told.lost] == [("q", -1, -1)]
    assert told.as_dict()["worst"][0]["target_id"] == 1


def test_a_part_of_a_short_text_is_worse_than_more_of_a_long_one() -> None:
    told = cover(
        made([b"ab", b"abcdefghij"]),
        made([b"a", b"abcdefgxyz"]),
        align_ids(made([b"ab", b"abcdefghij"]), made([b"a", b"abcdefgxyz"])),
    )
    assert [(match.text, match.distance) for match in told.worst] == [("ab", 1), ("abcdefghij", 3)]


def test_the_sentence_is_all_there_on_both_sides() -> None:
    one, two = byte_level(), metaspace()
    stretches, kinds = side_by_side(TokenTexts.of(one), TokenTexts.of(two), one, two, SENTENCE)
    assert sum(kinds.values()) == len(two.encode(SENTENCE, add_special_tokens=False).ids)
    assert sum(len(stretch.source) for stretch in stretches) == len(one.encode(SENTENCE).ids)
    assert any(stretch.source == stretch.target for stretch in stretches)


@pytest.mark.skipif(not (SHARED / "tokenizers").is_dir(), reason="the shared tokenizers are not here")
@pytest.mark.full
def test_qwen_and_mistral() -> None:
    """The pair for which the time is promised: every exact match is one, every match by distance is the nearest of a sample."""
    import random

    from tests.vocabulary.test_edit_distance import brute

    one, two = (TokenTexts.of(SHARED / "tokenizers" / name) for name in ("qwen2.5", "mistral-v3"))
    found = align_ids(one, two)
    told = cover(one, two, found)
    assert (told.exact, told.role, told.edit, told.unaligned) == (29_234, 6, 107_235, 15_190)
    assert all(one.texts[i] == two.texts[found.ids[i]] for i in range(one.size) if found.exact[i])
    texts = sorted(two.by_text, key=two.by_text.__getitem__)
    for number in random.Random(5).sample([i for i in range(one.size) if not found.exact[i] and one.texts[i]], 3):
        (place,), (far,) = brute([one.texts[number]], texts)
        assert found.distance[number] == far
        assert found.ids[number] == (two.by_text[texts[place]] if place >= 0 else -1)
