"""Whole outputs, both graders, in this process."""

from __future__ import annotations

import pytest

from modist.errors import UserError
from modist.evaluation.answers.grade import Grade, grade


def test_both_see_the_box() -> None:
    assert grade("18", r"So she makes $\boxed{18}$ dollars.") == Grade(True, True, "18", "18")
    assert grade("18", r"So she makes $\boxed{19}$ dollars.") == Grade(False, False, "19", "19")


def test_they_may_disagree_and_both_are_kept() -> None:
    found = grade("204", r"\boxed{2.04}")
    assert (found.equal, found.equal_compatible) == (False, True)
    found = grade("1000", r"\boxed{1{,}000}")
    assert (found.equal, found.equal_compatible) == (True, False)
    found = grade("84, 69", r"\boxed{69,84}")
    assert (found.equal, found.equal_compatible) == (True, False)


def test_a_bare_answer_is_itself_for_both() -> None:
    assert grade(r"\frac{1}{2}", r"\frac12") == Grade(True, True, r"\frac12", r"\frac{1}{2}")
    found = grade("(1,2)", "[1,2]")
    assert (found.equal, found.equal_compatible, found.extracted_compatible) == (False, True, "[1,2]")
    assert grade("73", "**73**").equal


def test_nothing_is_never_equal() -> None:
    assert not grade("", "").equal
    assert not grade("", r"\boxed{}").equal
    assert grade("", r"\boxed{}").equal_compatible  # as published
    assert not grade("5", "I cannot say").equal


def test_choice() -> None:
    choices = ("one", "two", "three", "four")
    assert grade("B", "The answer is (B).", "choice", choices) == Grade(True, True, "B", "B")
    assert grade("B", "Let us see. The answer is two.", "choice", choices).equal
    assert grade("two", r"\boxed{B}", "choice", choices).equal
    found = grade("C", "The answer is a function, so \\boxed{C}", "choice", choices)
    assert (found.equal, found.equal_compatible) == (True, False)
    assert not grade("B", r"\boxed{C}", "choice", choices).equal


def test_a_gold_letter_makes_the_published_rules_look_for_a_letter() -> None:
    assert grade("B", r"\boxed{(B) 42}") == Grade(True, True, "(B) 42", "B")


def test_text_and_code() -> None:
    assert grade("valid", "So the answer is valid.", "text").equal
    assert not grade("valid", "So the answer is invalid.", "text").equal
    found = grade("x", "def f(): pass", "code")
    assert (found.equal, found.equal_compatible) == (False, False)
    assert "running" in found.note


def test_pattern() -> None:
    assert grade("5", "A=4 A=5", pattern=r"A=(\d)").equal
    assert not grade("5", r"\boxed{5}", pattern=r"A=(\d)").equal
    assert grade("B", "pick: b", "choice", ("x", "y"), r"pick: (.)").equal


def test_unknown_kind() -> None:
    with pytest.raises(UserError, match=r"no kind of answer 'maths'.*did you mean 'math'"):
        grade("5", "5", "maths")


def test_monstrous_formulas_are_no_crash_here() -> None:
    for answer in (
        "{" * 3000,
        r"\frac{" * 200 + "1" + "}{2}" * 200,
        "(" * 400 + "x" + ")" * 400,
        r"\sqrt{" * 500 + "x" + "}" * 500,
    ):
        assert not grade("x+1", rf"\boxed{{{answer}}}").equal
