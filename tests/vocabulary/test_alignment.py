"""Which row stands where, against the rules written out token by token."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.vocabulary.alignment import MEAN, MEAN_OF_ALL, ZERO, Holder, Wish, align, pad

_TOKENS = [f"t{number}" for number in range(7)]


@st.composite
def holders(draw: st.DrawFn) -> list[Holder]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        listed = draw(st.permutations(_TOKENS))[: draw(st.integers(1, 7))]
        found.append(Holder({text: number for number, text in enumerate(listed)}, draw(st.integers(1, 8))))
    return found


@settings(max_examples=200, deadline=None)
@given(
    found=holders(),
    listed=st.lists(st.sampled_from([*_TOKENS, "new"]), min_size=1, unique=True),
    base=st.none() | st.integers(0, 2),
    multiple=st.none() | st.integers(1, 5),
    wished=st.dictionaries(
        st.sampled_from(_TOKENS), st.tuples(st.integers(-1, 0), st.integers(0, 0), st.booleans()), max_size=2
    ),
)
def test_the_rules(
    found: list[Holder],
    listed: list[str],
    base: int | None,
    multiple: int | None,
    wished: dict[str, tuple[int, int, bool]],
) -> None:
    base = base if base is not None and base < len(found) else None
    output = {text: number for number, text in enumerate(listed)}
    wishes = {text: Wish(*wish) for text, wish in wished.items()}
    made = align(output, found, base=base, wishes=wishes, multiple=multiple)
    assert made.rows == (len(listed) if multiple is None else -(-len(listed) // multiple) * multiple)
    for text, number in output.items():
        rows = [holder.tokens[text] if holder.tokens.get(text, 99) < holder.rows else -1 for holder in found]
        having = [index for index, row in enumerate(rows) if row >= 0]
        wish = wishes.get(text)
        forced = wish is not None and wish.force
        assert made.own[:, number].tolist() == ([-1] * len(found) if forced else rows)
        if wish is not None:
            expected = (wish.parent, wish.row)
        elif not having:
            expected = (ZERO, None)
            assert text in made.orphans
        elif len(having) == 1:
            expected = (having[0], rows[having[0]])
        elif base in having:
            expected = (base, rows[base])
        else:
            expected = (MEAN, None)
        assert made.parent[number] == expected[0]
        assert expected[1] is None or expected[0] == ZERO or made.row[number] == expected[1]
    assert (made.parent[len(listed) :] == MEAN_OF_ALL).all() and (made.own[:, len(listed) :] == -1).all()


def test_ids_without_a_token_keep_the_owners_row() -> None:
    one, two = Holder({"a": 0, "b": 3}, 4), Holder({"a": 1, "b": 0}, 2)
    made = align({"a": 0, "b": 3}, [one, two])
    assert made.rows == 4 and made.own.tolist() == [[0, 1, 2, 3], [1, -1, -1, 0]]
    assert made.parent[[1, 2]].tolist() == [0, 0] and made.row[[1, 2]].tolist() == [1, 2]
    nobody = align({"a": 0, "b": 3}, [one, two], gaps=None)
    assert nobody.own.tolist() == [[0, -1, -1, 3], [1, -1, -1, 0]] and (nobody.parent[[1, 2]] == ZERO).all()
    # The owner's rows end before its tokens do.
    short = align({"a": 0, "b": 3}, [Holder({"a": 0, "b": 3}, 2), two])
    assert short.own.tolist() == [[0, 1, -1, -1], [1, -1, -1, 0]] and short.parent[2] == ZERO and short.parent[3] == 1


def test_those_who_take_no_part_are_asked_last() -> None:
    found = [Holder({"a": 0}, 2), Holder({"a": 1, "b": 0}, 2), Holder({"b": 1, "c": 0}, 2)]
    made = align({"a": 0, "b": 1, "c": 2}, found, taking_part=[0, 2], base=1)
    assert made.parent.tolist() == [0, 2, 2] and made.row.tolist() == [0, 1, 0]
    assert align({"c": 0}, found, taking_part=[0, 1]).parent.tolist() == [2]
    both = align({"b": 0}, found, taking_part=[1, 2])
    assert both.parent.tolist() == [MEAN] and both.held[:, 0].tolist() == [-1, 0, 1]


def test_padding_alone() -> None:
    made = pad([4, 2, 6], lead=0)
    assert made.own.tolist() == [[0, 1, 2, 3], [0, 1, -1, -1], [0, 1, 2, 3]]
    assert made.parent.tolist() == [0] * 4 and made.row.tolist() == [0, 1, 2, 3]


def test_the_digest_tells_alignments_apart() -> None:
    one = Holder({"a": 0, "b": 1}, 2)
    digests = {
        align(output, [one, one], base=base).digest for output in ({"a": 0, "b": 1}, {"a": 1, "b": 0}) for base in (None, 0)
    }
    assert len(digests) == 4
    assert np.array_equal(align({"a": 0}, [one]).own, [[0]])
