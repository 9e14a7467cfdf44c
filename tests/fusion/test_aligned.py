"""What an expert says, told in the pivot's tokens: against a table made by hand and against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from modist.fusion.aligned import align_distribution
from modist.fusion.chat import Reading
from modist.fusion.distributions import Distribution
from modist.vocabulary import IdMap
from modist.vocabulary.id_map import EXACT, UNALIGNED

# The expert's letters and the pivot's pieces; both end a turn with their last id.
LETTERS = ["a", "b", "c", "d", "<end>"]
PIECES = ["a", "b", "ab", "c", "cd", "x", "<stop>"]
MAP = {0: 0, 1: 1, 2: 3}  # a, b, c; the pivot has no d, and the ends are told apart


def id_map() -> IdMap:
    ids = np.array([MAP.get(number, -1) for number in range(len(LETTERS))], dtype=np.int32)
    return IdMap("letters", "pieces", ids, np.where(ids >= 0, EXACT, UNALIGNED).astype(np.uint8), ids * 0, len(PIECES))


def reading(tokens: list[str], vocabulary: list[str], ends: bool = True) -> Reading:
    """A response after a prompt of one token."""
    lengths = [0 if token.startswith("<") else len(token) for token in tokens]
    stops = np.cumsum(lengths)
    spans = np.stack([stops - lengths, stops], axis=1).astype(np.int32)
    ids = np.array([0] + [vocabulary.index(token) for token in tokens], dtype=np.int32)
    return Reading(ids, 1, spans, ends)


def said(source: Reading, rows: list[dict[str, float]]) -> Distribution:
    """Three ids a position, the rest in the tail."""
    ids = np.array([[LETTERS.index(letter) for letter in row] for row in rows], dtype=np.int32)
    probs = np.array([list(row.values()) for row in rows])
    gold = np.log([row[LETTERS[number]] for row, number in zip(rows, source.response, strict=True)])
    return Distribution(ids, probs, 1 - probs.sum(1), gold, -float(gold.sum()))


def told(found, row: int) -> dict[str, float]:
    return {PIECES[number]: p for number, p in zip(found.ids[row], found.probs[row], strict=True) if number >= 0}


SOURCE = reading(["a", "b", "c", "<end>"], LETTERS)
ROWS = [
    {"a": 0.6, "b": 0.2, "c": 0.1},
    {"b": 0.5, "d": 0.3, "a": 0.1},
    {"c": 0.7, "d": 0.2, "<end>": 0.05},
    {"<end>": 0.8, "a": 0.1, "d": 0.05},
]


def test_tokens_of_one_span_keep_their_distribution_and_what_has_no_counterpart_joins_the_tail() -> None:
    target = reading(["a", "b", "c", "<stop>"], PIECES)
    found = align_distribution(said(SOURCE, ROWS), SOURCE, target, id_map())
    assert found.aligned.all() and found.tokens == 4
    assert told(found, 0) == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.1})
    assert told(found, 1) == pytest.approx({"b": 0.5, "a": 0.1})
    assert told(found, 3) == pytest.approx({"<stop>": 0.8, "a": 0.1})
    np.testing.assert_allclose(found.tail, [0.1, 0.4, 0.3, 0.1])
    np.testing.assert_allclose(found.gold, np.log([0.6, 0.5, 0.7, 0.8]))


def test_several_tokens_that_make_one_say_their_product_by_the_chain_rule() -> None:
    target = reading(["ab", "c", "<stop>"], PIECES)
    found = align_distribution(said(SOURCE, ROWS), SOURCE, target, id_map())
    assert told(found, 0) == pytest.approx({"ab": 0.6 * 0.5})
    assert found.tail[0] == pytest.approx(0.7) and found.gold[0] == pytest.approx(np.log(0.3))
    assert told(found, 1) == pytest.approx({"c": 0.7})
    label = align_distribution(said(SOURCE, ROWS), SOURCE, target, id_map(), "label")
    assert label.aligned.tolist() == [False, True, True]
    assert told(label, 0) == {"ab": 1.0} and label.tail[0] == 0


def test_a_token_that_reaches_beyond_the_pivots_falls_back_to_the_label() -> None:
    source = reading(["ab", "c", "<stop>"], PIECES)
    same = IdMap(
        "pieces", "letters", np.full(7, -1, dtype=np.int32), np.zeros(7, dtype=np.uint8), np.zeros(7, dtype=np.int32), 5
    )
    target = reading(["a", "b", "c", "<end>"], LETTERS)
    rows = Distribution(np.array([[2], [3], [6]], dtype=np.int32), np.full((3, 1), 0.9), np.full(3, 0.1), np.full(3, -0.1), 0.3)
    found = align_distribution(rows, source, target, same)
    assert found.aligned.tolist() == [False, False, True, True]
    assert [found.ids[row, 0] for row in (0, 1)] == [0, 1] and found.probs[:2, 0].tolist() == [1, 1]
    # The tokens that stand there say the same bytes, although the map knows nothing of them.
    assert found.ids[2, 0] == 2 and found.probs[2, 0] == pytest.approx(0.9)


def test_an_end_only_one_of_them_has_is_the_label() -> None:
    source = reading(["a", "b", "c"], LETTERS, ends=False)
    target = reading(["ab", "c", "<stop>"], PIECES)
    found = align_distribution(said(source, ROWS[:3]), source, target, id_map())
    assert found.aligned.tolist() == [True, True, False] and told(found, 2) == {"<stop>": 1.0}


def test_two_ids_that_become_one_are_added() -> None:
    both = id_map()
    both.ids[3] = 3  # d is c's now
    target = reading(["a", "b", "c", "<stop>"], PIECES)
    found = align_distribution(said(SOURCE, ROWS), SOURCE, target, both)
    assert told(found, 2) == pytest.approx({"c": 0.9})
    assert told(found, 1) == pytest.approx({"b": 0.5, "c": 0.3, "a": 0.1})


def test_nothing_known_is_the_label() -> None:
    nothing = id_map()
    nothing.ids[:] = -1
    source = reading(["a", "b", "c", "<end>"], LETTERS)
    rows = said(source, ROWS)
    others = Distribution(rows.ids[:, 1:], rows.probs[:, 1:], rows.tail, rows.gold, rows.nats)  # not even the token itself
    found = align_distribution(others, source, reading(["a", "b", "c", "<stop>"], PIECES), nothing)
    assert not found.aligned.any() and found.probs[:, 0].tolist() == [1, 1, 1, 1]


def test_the_pivot_itself_is_the_identity() -> None:
    rows = said(SOURCE, ROWS)
    found = align_distribution(rows, SOURCE, SOURCE, None)
    for row in range(4):
        there = {LETTERS[n]: p for n, p in zip(found.ids[row], found.probs[row], strict=True) if n >= 0}
        assert there == pytest.approx(ROWS[row])
    np.testing.assert_allclose(found.tail, rows.tail, atol=1e-12)


def test_a_token_the_expert_cannot_say_does_not_poison_the_others() -> None:
    rows = [dict(row) for row in ROWS]
    rows[0]["a"] = 1e-320
    found = align_distribution(said(SOURCE, rows), SOURCE, reading(["a", "b", "c", "<stop>"], PIECES), id_map())
    assert np.isfinite(found.probs).all() and np.isfinite(found.gold[1:]).all()
