"""Text answers: what counts as the answer of a reply, and what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modist.evaluation.answers.reasoning import extract_text, grade_text

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "reasoning" / "bbh"

CASES = [
    # options
    ("(A)", "So the answer is (A).", True),
    ("(A)", "So the answer is A.", True),
    ("(A)", "The answer is (A) 12/11/1937", True),
    ("(A)", "the answer is A) 12/11/1937.", True),
    ("(A)", "The answer is **(A)**.", True),
    ("(A)", "**Answer:** (A)", True),
    ("(A)", "Answer: option A", True),
    ("(A)", "We get $\\boxed{A}$.", True),
    ("(A)", "We get \\boxed{\\text{(A)}}", True),
    ("(A)", "(A)", True),
    ("(A)", "The answer is (B). No, wait: the answer is (A).", True),
    ("(K)", "The answer is (K).\n\nQ: What is next?\nA: The answer is (B).", True),
    ("(A)", "The answer is (A). Had it rained, it would be (B).", True),
    ("(A)", "So the answer is (B).", False),
    ("(A)", "The answer is (A) or (B).", False),
    ("(B)", "The answer is (A) or (B).", False),
    ("(A)", "The answer is not (A) but (B).", False),
    ("(A)", "The answer is a heptagon.", False),
    ("(A)", "The answer is AB.", False),
    ("(A)", "The answer is (A). No, wait: the answer is (B).", False),
    ("(A)", "A man walks in.\nNobody knows.", False),
    ("(B)", "The answer is unknown.", False),
    ("(A)", "", False),
    # words of two
    ("True", "So the answer is True.", True),
    ("True", "the answer is true", True),
    ("False", "The answer is: False", True),
    ("Yes", "The answer is yes, because it closed the circuit.", True),
    ("No", "The answer is no, it is not.", True),
    ("no", "The answer is No.", True),
    ("valid", "The answer is valid.", True),
    ("invalid", "The answer is deductively invalid.", True),
    ("True", "So the answer is False.", False),
    ("Yes", "The answer is yes or no.", False),
    ("Yes", "The answer is not yes.", False),
    ("valid", "The answer is invalid.", False),
    ("valid", "The answer is not valid.", False),
    ("invalid", "The answer is valid.", False),
    ("No", "The answer is unknown.", False),
    ("no", "The answer is now.", False),
    # numbers
    ("-35", "The answer is -35.", True),
    ("-35", "The answer is $-35$.", True),
    ("-35", "The answer is −35.", True),
    ("-35", "The answer is 5 - 40 = -35.", True),
    ("8", "The answer is 8.0", True),
    ("8", "The answer is eight.", True),
    ("8", "The answer is 8 musical instruments.", True),
    ("1024", "The answer is 1,024.", True),
    ("8", "Answer: **8**", True),
    ("-35", "The answer is 35.", False),
    ("35", "The answer is -35.", False),
    ("8", "The answer is 8 or 9.", False),
    ("8", "The answer is 80.", False),
    ("8", "The answer is 8/3.", False),
    ("8", "The answer is 4 + 4.", False),
    ("8", "The answer is 8.5.", False),
    ("8", "The answer is nine.", False),
    ("8", "The answer is (H).", False),
    # closing brackets
    ("] ) >", "So the answer is ] ) >.", True),
    ("] ) >", "The answer is `] )>`", True),
    (")", "The answer is ).", True),
    ("] ) >", "The answer is ] > ).", False),
    ("] ) >", "The answer is [ ( < > ) ].", False),
    (")", "The answer is ) ).", False),
    ("}", "The answer is a brace.", False),
    # lists and titles
    ("bee cow dog", "The answer is bee cow dog.", True),
    ("bee cow dog", "The answer is: bee, cow, dog", True),
    ("bee cow dog", "The answer is Bee, Cow, and Dog.", True),
    ("bee cow dog", "The answer is:\n1. bee\n2. cow\n3. dog", True),
    ("bee cow dog", "The answer is:\n- bee\n- cow\n- dog", True),
    ("and bee", "The answer is and bee.", True),
    ("it&t r&d", "The answer is it&t r&d", True),
    ("Monsters, Inc", "The answer is Monsters, Inc.", True),
    ("dearth, wind, & fire", 'The answer is "dearth, wind, & fire".', True),
    ("bee cow dog", "The answer is bee dog cow.", False),
    ("bee cow dog", "The answer is bee cow.", False),
    ("bee cow dog", "The answer is bee cow cow dog.", False),
    ("bee cow dog", "The answer is cow, bee, dog", False),
    ("and bee", "The answer is bee.", False),
    ("it&t r&d", "The answer is itt rd", False),
    ("Monsters, Inc", "The answer is Monsters.", False),
]


@pytest.mark.parametrize(("gold", "answer", "expected"), CASES)
def test_case(gold: str, answer: str, expected: bool) -> None:
    assert grade_text(gold, answer)[0] is expected


def test_cases_are_many_and_half_of_them_wrong() -> None:
    wrong = sum(not expected for _, _, expected in CASES)
    assert len(CASES) >= 70
    assert 0.4 < wrong / len(CASES) < 0.6


def test_span_is_told() -> None:
    assert extract_text("First this.\nSo the answer is **(C)**.") == "(C)"
    assert extract_text("") == ""
    assert grade_text("(C)", "The answer is (D).") == (False, "(D)")


@pytest.mark.parametrize(
    "answer", ["(" * 100_000, "answer is " * 10_000, "*" * 100_000, "answer" + " " * 100_000, "9" * 100_000]
)
def test_long_answer_ends(answer: str) -> None:
    assert not grade_text("8", answer)[0]


@pytest.mark.skipif(not DATA.is_dir(), reason="the rows of BIG-Bench Hard (../shared/data/reasoning) are not here")
def test_every_gold_said_is_right_and_its_neighbours_is_not() -> None:
    seen, mistaken, differing = 0, 0, 0
    for file in sorted(DATA.glob("*.json")):
        golds = [row["target"] for row in json.loads(file.read_text(encoding="utf-8"))["examples"]]
        for gold, other in zip(golds, [*golds[1:], golds[0]], strict=True):
            seen += 1
            assert grade_text(gold, f"Let's see.\nSo the answer is {gold}.")[0], (file.name, gold)
            if gold.lower() != other.lower():
                differing += 1
                mistaken += grade_text(gold, f"So the answer is {other}.")[0]
    assert (seen, mistaken) == (6511, 0)
    assert differing > 3000
