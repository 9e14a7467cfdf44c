"""Votes, counted once more the slow way."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modist.evaluation.study.rivals import voted
from modist.evaluation.study.vote import vote, votes_for
from tests.evaluation.study.records import record, run


def slow(ballots: list[str]) -> int:
    """The first place whose ballot no other answer beats; 0 where all are empty."""
    for place, ballot in enumerate(ballots):
        if ballot and all(ballots.count(ballot) >= ballots.count(other) for other in ballots if other):
            return place
    return 0


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_every_vote_of_three_answers_and_an_empty_one(size: int) -> None:
    for ballots in itertools.product(["", "7", "8", "9"], repeat=size):
        records = [record("q", text, text == "8", output=f"{place}") for place, text in enumerate(ballots)]
        won = vote(records)
        assert won.output == str(slow(list(ballots))), ballots
        assert won.equal == (ballots[slow(list(ballots))] == "8")


def test_a_tie_goes_to_the_earlier_parent_and_an_empty_answer_is_no_vote() -> None:
    assert vote([record("q", "1"), record("q", "2")]).extracted == "1"
    assert vote([record("q", ""), record("q", ""), record("q", "2")]).extracted == "2"
    assert vote([record("q", ""), record("q", "")]).extracted == ""
    assert vote([record("q", "1"), record("q", "2"), record("q", "2")]).extracted == "2"


def test_blanks_and_capitals_do_not_split_a_vote() -> None:
    ballots = [record("q", "apple, bed"), record("q", "Cat"), record("q", " cat")]
    assert vote(ballots).extracted == "Cat"
    assert votes_for(ballots) == {"cat": 2, "apple,bed": 1}


def test_the_two_graders_are_counted_apart() -> None:
    ballots = [
        record("q", "1", False, compatible=("5", True)),
        record("q", "2", True, compatible=("6", False)),
        record("q", "2", True, compatible=("5", True)),
    ]
    won = vote(ballots)
    assert (won.extracted, won.equal) == ("2", True)
    assert (won.extracted_compatible, won.equal_compatible) == ("5", True)


def test_a_vote_costs_all_its_answers() -> None:
    won = vote([record("q", "1", tokens=3), record("q", "1", tokens=4), record("q", "2", tokens=50)])
    assert won.tokens == 57 and won.prompt_tokens == 9 and won.seconds == 1.5 and won.sample == 0


def test_a_row_takes_the_first_samples_of_each_parent_in_order() -> None:
    draw = random.Random(0)
    ids = [f"q{number}" for number in range(40)]
    sampled = {
        name: run(name, [record(id, draw.choice("123"), sample=k, output=f"{name}{k}") for id in ids for k in range(4)], 4)
        for name in ("one", "two")
    }
    row = cast(Any, SimpleNamespace(name="vote", label="Vote", parents=("two", "one"), samples=4))
    found = voted(row, sampled)
    assert found.name == "Vote" and found.samples == 1 and [one.id for one in found.records] == ids
    for one in found.records:
        ballots = [*sampled["two"].questions("sums")[one.id][:2], *sampled["one"].questions("sums")[one.id][:2]]
        assert one.output == ballots[slow([ballot.extracted for ballot in ballots])].output
        assert one.tokens == 20
