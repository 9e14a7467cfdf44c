"""The nearest text of a vocabulary, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.vocabulary import edit_distance
from modist.vocabulary.edit_distance import characters, nearest_texts, pair_distances


def levenshtein(one: str, two: str) -> int:
    """Wagner and Fischer's table."""
    row = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        above, row = row, [i]
        for j, b in enumerate(two, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]


def brute(sources: list[bytes], targets: list[bytes]) -> tuple[list[int], list[int]]:
    places, distances = [], []
    for source in map(characters, sources):
        best = (10**9, 10**9, -1)
        for place, target in enumerate(map(characters, targets)):
            far = levenshtein(source, target)
            if far < max(len(source), len(target)):
                best = min(best, (far, len(target), place))
        places.append(best[2])
        distances.append(best[0] if best[2] >= 0 else -1)
    return places, distances


# Few letters make many ties; halves of characters, letters of two and four bytes, and long runs are among them.
WORDS = st.one_of(
    st.text(alphabet="ab c", min_size=1, max_size=9).map(str.encode),
    st.text(alphabet="aé你🙂", min_size=1, max_size=5).map(str.encode),
    st.binary(min_size=1, max_size=4),
    st.integers(1, 80).map(lambda count: b" " * count),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=12), st.lists(WORDS, max_size=25))
def test_the_nearest_is_that_of_brute_force(sources: list[bytes], targets: list[bytes]) -> None:
    places, distances = nearest_texts(sources, targets, workers=1)
    assert (places.tolist(), distances.tolist()) == brute(sources, targets)


def test_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    words = ["".join(random.choice(list("abcd"), size=random.integers(1, 9))).encode() for _ in range(700)]
    whole = nearest_texts(words[:300], words[300:], workers=1)
    monkeypatch.setattr(edit_distance, "_BLOCK", 64)
    monkeypatch.setattr(edit_distance, "_SOURCES", 7)
    told: list[tuple[int, int]] = []
    parts = nearest_texts(words[:300], words[300:], workers=3, advance=lambda done, total: told.append((done, total)))
    assert [a.tolist() for a in whole] == [a.tolist() for a in parts]
    assert whole[0][:40].tolist() == brute(words[:40], words[300:])[0]
    assert told[-1] == (300 * 400, 300 * 400) and [done for done, _ in told] == sorted(done for done, _ in told)


def test_what_keeps_no_character_in_its_place_does_not_count() -> None:
    """`xyz` and `abx` share a letter, but not so that any edit keeps it more cheaply than writing all anew."""
    places, distances = nearest_texts([b"xyz", b"x", "你".encode()], [b"ab", b"abx", b"q", b"axyb"])
    assert places.tolist() == [3, 1, -1] and distances.tolist() == [2, 2, -1]
    assert nearest_texts([b"xyz"], [b"abx"])[0].tolist() == [-1]


def test_long_texts_do_not_wrap_around() -> None:
    places, distances = nearest_texts([b"a" * 300 + b"b"], [b"c" * 301, b"a" * 10, b"a" * 299 + b"cd"])
    assert places.tolist() == [2] and distances.tolist() == [2]
    # 257 characters away, which in a byte would be 1.
    places, distances = nearest_texts([b"a" * 300], [b"c" * 257 + b"a" * 43, b"a" * 298 + b"cd"])
    assert places.tolist() == [1] and distances.tolist() == [2]


def test_distances_count_characters_and_halves_of_one() -> None:
    assert characters("é你".encode()) == "é你" and len(characters(b"\xe4\xbd a")) == 4
    hanzi, near, half = "你好".encode(), "你们".encode(), "你".encode()[:2]
    places, distances = nearest_texts([hanzi, half], [b"ab", near, half + b"x"])
    assert places.tolist() == [1, 2] and distances.tolist() == [1, 1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=10))
def test_pairs_are_measured_alike(pairs: list[tuple[bytes, bytes]]) -> None:
    one, two = zip(*pairs, strict=True)
    expected = [levenshtein(characters(a), characters(b)) for a, b in pairs]
    assert pair_distances(one, two).tolist() == expected


def test_without_rapidfuzz_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rapidfuzz.distance", None)
    monkeypatch.setitem(__import__("sys").modules, "rapidfuzz", None)
    with pytest.raises(ImportError, match=r"pip install 'modist\[fuse\]'"):
        nearest_texts([b"a"], [b"b"])
