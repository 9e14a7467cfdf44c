"""Position maps against brute force over bytes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.vocabulary import PositionMap, align_positions
from modist.vocabulary.pairing import pair_spans
from modist.vocabulary.positions import CROSSED, JOINED, KINDS, NONE, PART, SAME


@st.composite
def cuts(draw: st.DrawFn, length: int) -> list[tuple[int, int]]:
    """A text of `length` bytes cut into tokens, some without text."""
    inner = sorted(draw(st.lists(st.integers(0, length), max_size=8)))
    bounds = [0, *inner, length]
    return list(itertools.pairwise(bounds))


@st.composite
def two_cuts(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    length = draw(st.integers(0, 14))
    return draw(cuts(length)), draw(cuts(length))


def brute(source: list[tuple[int, int]], target: list[tuple[int, int]]) -> list[tuple[list[int], int]]:
    """Source positions and kind of each target position, byte by byte."""
    found = []
    for a, b in target:
        own = set(range(a, b))
        run = [i for i, (c, d) in enumerate(source) if own & set(range(c, d))]
        covered = set().union(*(range(*source[i]) for i in run)) if run else set()
        if not run:
            kind = NONE
        elif covered == own:
            kind = SAME if len(run) == 1 else JOINED
        else:
            # Of several target tokens made, and of nothing else.
            touched = [set(range(c, d)) for c, d in target if set(range(c, d)) & covered]
            kind = PART if len(run) == 1 and set().union(*touched) == covered else CROSSED
        found.append((run, kind))
    return found


@settings(max_examples=200, deadline=None)
@given(two_cuts())
def test_runs_and_kinds_are_those_of_bytes(spans: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> None:
    source, target = spans
    found = align_positions(source, target)
    for j, (run, kind) in enumerate(brute(source, target)):
        texted = [i for i in range(found.start[j], found.stop[j]) if source[i][1] > source[i][0]]
        assert texted == run and KINDS[found.kind[j]] == KINDS[kind]
        assert bool(found.aligned[j]) == bool(run) and bool(found.one_to_one[j]) == (kind == SAME)
        assert bool(found.same_start[j]) == (bool(run) and source[run[0]][0] == target[j][0])
        assert bool(found.same_stop[j]) == (bool(run) and source[run[-1]][1] == target[j][1])


@settings(max_examples=150, deadline=None)
@given(two_cuts())
def test_groups_partition_both_sides(spans: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> None:
    source, target = spans
    found = align_positions(source, target)
    for side, columns in ((source, (0, 1)), (target, (2, 3))):
        inside = [
            i for row in found.groups.tolist() for i in range(row[columns[0]], row[columns[1]]) if side[i][0] < side[i][1]
        ]
        assert inside == [i for i, (a, b) in enumerate(side) if a < b]
    ends = {b for a, b in source if b > a} & {b for a, b in target if b > a}
    assert len(found.groups) == len(ends)  # as small as can be
    for a, b, c, d in found.groups.tolist():
        assert (source[a][0], source[b - 1][1]) == (target[c][0], target[d - 1][1])


@settings(max_examples=200, deadline=None)
@given(two_cuts())
def test_both_directions_agree_on_what_is_one_to_one(spans: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> None:
    there, back = align_positions(*spans), align_positions(*reversed(spans))
    pairs = {(int(there.start[j]), j) for j in np.flatnonzero(there.one_to_one).tolist()}
    assert pairs == {(i, int(back.start[i])) for i in np.flatnonzero(back.one_to_one).tolist()}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 14).flatmap(cuts))
def test_a_tokenization_aligned_to_itself_is_the_identity(spans: list[tuple[int, int]]) -> None:
    found = align_positions(spans, spans)
    assert found.is_identity
    texted = [j for j, (a, b) in enumerate(spans) if a < b]
    assert found.partner[texted].tolist() == texted
    assert all(not found.aligned[j] for j in range(len(spans)) if j not in texted)


def test_one_token_off_is_no_identity() -> None:
    assert not align_positions([(0, 0), (0, 2), (2, 3)], [(0, 2), (2, 3), (3, 3)]).is_identity
    assert not align_positions([(0, 2), (2, 3)], [(0, 2)]).is_identity


def shared_bytes(source: list[tuple[int, int]], target: list[tuple[int, int]], pairs: list[tuple[int, int]]) -> int:
    return sum(max(0, min(source[i][1], target[j][1]) - max(source[i][0], target[j][0])) for i, j in pairs)


def best_pairing(source: list[tuple[int, int]], target: list[tuple[int, int]]) -> int:
    """The most bytes that any pairing in order shares, by trying all."""
    most = 0
    for count in range(1, min(len(source), len(target)) + 1):
        for left in itertools.combinations(range(len(source)), count):
            for right in itertools.combinations(range(len(target)), count):
                most = max(most, shared_bytes(source, target, list(zip(left, right, strict=True))))
    return most


@st.composite
def short_cuts(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    length = draw(st.integers(4, 12))
    sides = []
    for _ in range(2):
        inner = sorted(draw(st.sets(st.integers(1, length - 1), max_size=5)))
        sides.append(list(itertools.pairwise([0, *inner, length])))
    return sides[0], sides[1]


@settings(max_examples=150, deadline=None)
@given(short_cuts())
def test_the_pairing_shares_as_much_as_any(spans: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> None:
    source, target = spans
    pairs = pair_spans(np.array(source), np.array(target)).tolist()
    found = [(i, j) for j, i in enumerate(pairs) if i >= 0]
    assert [i for i, _ in found] == sorted({i for i, _ in found})
    assert shared_bytes(source, target, found) == best_pairing(source, target)


@settings(max_examples=150, deadline=None)
@given(short_cuts())
def test_pairing_only_where_boundaries_cross_loses_nothing(spans: tuple[list[tuple[int, int]], list[tuple[int, int]]]) -> None:
    """The partners within the crossing stretches share what a pairing of the whole text would give them."""
    source, target = spans
    found = align_positions(source, target)
    crossed = np.flatnonzero(found.kind == CROSSED).tolist()
    whole = pair_spans(np.array(source), np.array(target)).tolist()
    one = shared_bytes(source, target, [(int(found.partner[j]), j) for j in crossed if found.partner[j] >= 0])
    two = shared_bytes(source, target, [(whole[j], j) for j in crossed if whole[j] >= 0])
    assert one == two


def test_kinds_of_an_example() -> None:
    """A text of 10 bytes: same, joined, part, part, crossed, crossed, and a mark without text."""
    source = [(0, 0), (0, 2), (2, 3), (3, 4), (4, 6), (6, 9), (9, 10)]
    target = [(0, 2), (2, 4), (4, 5), (5, 6), (6, 8), (8, 10), (10, 10)]
    found = align_positions(source, target)
    assert [KINDS[kind] for kind in found.kind] == ["same", "joined", "part", "part", "crossed", "crossed", "none"]
    assert list(zip(found.start.tolist(), found.stop.tolist(), strict=True))[:6] == [
        (1, 2),
        (2, 4),
        (4, 5),
        (4, 5),
        (5, 6),
        (5, 7),
    ]
    assert found.partner.tolist() == [1, 2, 4, 4, 5, 6, -1]
    assert found.groups.tolist() == [[1, 2, 0, 1], [2, 4, 1, 2], [4, 5, 2, 4], [5, 7, 4, 6]]
    assert found.same_start.tolist() == [True, True, True, False, True, False, False]
    assert found.same_stop.tolist() == [True, True, False, True, False, True, False]


def test_text_the_source_left_out_has_no_position() -> None:
    found = align_positions([(0, 2), (5, 6)], [(0, 2), (2, 4), (4, 6)])
    assert [KINDS[kind] for kind in found.kind] == ["same", "none", "crossed"]
    # A stretch begins where both begin last, not where they began before text that only one of them cuts.
    assert align_positions([(0, 1), (3, 5)], [(0, 2), (3, 5)]).groups.tolist() == [[1, 2, 1, 2]]


@pytest.mark.parametrize("spans", [[(0, 2), (1, 3)], [(2, 1)], [(-1, 2)], [(0, 1, 2)]])
def test_spans_out_of_order_are_refused(spans: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match="source spans"):
        align_positions(spans, [(0, 3)])
    with pytest.raises(ValueError, match="target spans"):
        align_positions([(0, 3)], spans)


def test_nothing_aligns_with_nothing() -> None:
    found: PositionMap = align_positions([], [])
    assert len(found.kind) == 0 and found.groups.shape == (0, 4) and found.is_identity and len(found.partner) == 0
    assert not align_positions([], [(0, 1)]).aligned.any()
