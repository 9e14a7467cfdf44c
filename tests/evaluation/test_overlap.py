"""Who solves what, what merges kept, lost and gained, and whether that is more than a second try."""

from __future__ import annotations

import json
import random

import pytest

from modist.errors import UserError
from modist.evaluation.overlap import overlap
from modist.evaluation.results import Results
from modist.evaluation.statistics import mcnemar
from tests.evaluation.synthetic_results import record, results


def run(name: str, right: str, benchmark: str = "a") -> Results:
    """A run whose answers are spelled: 1 for right."""
    return results(name, {benchmark: [letter == "1" for letter in right]})


def test_cells_kept_lost_gained() -> None:
    found = overlap(run("A", "11110000"), run("B", "11001100"), [run("M", "10100110")])
    assert found.counts == {"both": 2, "first": 2, "second": 2, "neither": 2}
    (row,) = found.rows
    assert row.right == {"both": 1, "first": 1, "second": 1, "neither": 1}
    assert (row.kept, row.lost, row.gained) == (3, 3, 1)
    assert row.gained_ids == (("a", "a-0006"),)
    assert row.kept + row.lost + found.counts["neither"] == 8


def test_against_brute_force_on_several_benchmarks() -> None:
    draw = random.Random(2)
    spelled = {name: {b: [draw.random() < 0.5 for _ in range(50)] for b in ("a", "b")} for name in "ABMC"}
    one, two, merge, control = (results(name, spelled[name]) for name in "ABMC")
    for benchmark in (None, "a", "b"):
        found = overlap(one, two, [merge], [control], benchmark=benchmark)
        picked = [(b, at) for b in ("a", "b") for at in range(50) if benchmark in (None, b)]
        hard = [(b, at) for b, at in picked if not spelled["A"][b][at] and not spelled["B"][b][at]]
        (claim,) = found.claims
        assert claim.asked == found.counts["neither"] == len(hard)
        assert claim.gained == sum(spelled["M"][b][at] for b, at in hard)
        assert claim.again == sum(spelled["C"][b][at] for b, at in hard)
        only = [sum(spelled[x][b][at] > spelled[y][b][at] for b, at in hard) for x, y in ("MC", "CM")]
        assert [claim.only_row, claim.only_control] == only
        assert claim.p == mcnemar(*only)
        assert sum(found.counts.values()) == len(picked)


@pytest.mark.parametrize(
    ("merge", "again", "holds", "words"),
    [
        ("1" * 9 + "0" * 11, "0" * 20, True, "as the combinatorial claim says"),
        ("1" * 9 + "0" * 11, "0" * 11 + "1" * 9, False, "no more than a second try may find by luck"),
        ("0" * 20, "1" * 9 + "0" * 11, False, "fewer than a second try"),
    ],
)
def test_the_claim_in_a_sentence(merge: str, again: str, holds: bool, words: str) -> None:
    nothing = "0" * 20
    found = overlap(run("A", nothing), run("B", nothing), [run("M", merge)], [run("A again", again)])
    assert found.claims[0].holds is holds
    assert words in found.sentences()[0]
    assert "Of 20 questions neither parent solves" in found.sentences()[0]


def test_nothing_left_to_gain() -> None:
    found = overlap(run("A", "11"), run("B", "11"), [run("M", "10")], [run("again", "11")])
    assert "nothing can be said" in found.sentences()[0]
    assert found.claims[0].p == 1.0


def test_only_the_first_sample_and_only_common_questions() -> None:
    one = results("A", [record("a", item, sample > 0, sample=sample) for item in range(4) for sample in range(3)])
    found = overlap(one, run("B", "0000"), [run("M", "11")])
    assert found.counts["neither"] == 4
    assert found.rows[0].asked["neither"] == 2
    with pytest.raises(UserError, match="no question in common"):
        overlap(run("A", "1", "a"), run("B", "1", "b"), [])
    with pytest.raises(UserError, match="no question of c in common"):
        overlap(run("A", "1"), run("B", "1"), [], benchmark="c")


def test_the_compatible_grader_sorts_for_itself() -> None:
    one = results("A", [record("a", item, False, compatible=True) for item in range(3)])
    two = run("B", "000")
    assert overlap(one, two, []).counts["neither"] == 3
    assert overlap(one, two, [], compatible=True).counts["first"] == 3


def test_it_can_be_shown_and_kept() -> None:
    found = overlap(run("A", "1100"), run("B", "1010"), [run("M", "1111")], [run("A again", "1101")])
    json.dumps(found.as_dict(), allow_nan=False)
    grid = found.grid()
    assert [line.name for line in grid.lines] == ["A again", "M"]
    assert [face.text for face in grid.lines[1].faces] == ["1 of 1"] * 4 + ["3", "0", "1"]
    assert grid.notes == tuple(found.sentences())
