"""Spans of outputs, written out by hand; and time linear in whatever an output holds."""

from __future__ import annotations

import time

import pytest

from modist.evaluation.answers.choice import choose
from modist.evaluation.answers.extract import LONGEST, extract
from modist.evaluation.answers.judge import prepare


@pytest.mark.parametrize(
    ("output", "span"),
    [
        # boxes
        (r"So $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"a \boxed{x_{1}+\{2\}} b", r"x_{1}+\{2\}"),
        (r"so \boxed{42", "42"),
        (r"so \boxed{\frac{1}{2} and on", r"\frac{1}{2} and on"),
        (r"\boxed{7} and \boxed{4", "7"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed 5 yes", "5"),
        (r"\boxed{ 12 }", "12"),
        (r"\fbox{9}", "9"),
        ("x=3 so\n\\[\n\\boxed{9}\n\\]", "9"),
        (r"put it in \boxed{} please. The answer is 5.", "5"),
        (r"\boxed{3} is in the \boxed{} form", "3"),
        (r"The answer is 4 but \boxed{3}", "3"),
        ("the boxed area is 12", "12"),
        # phrases
        ("Final Answer: The final answer is $12$. I hope it is correct.", "12"),
        (r"The final answer is $\boxed{8}$. I hope it is correct.", "8"),
        ("97 + 85 = 182. The answer is 182.", "182"),
        ("first the answer is 3, but then the answer is 4", "4"),
        ("The answer is 18 dollars. Great!", "18 dollars"),
        ("The answer is 5, because 2 + 3 = 5", "5"),
        ("The answer is:\n\n12", "12"),
        (r"The answer is \[" + "\n\\frac12\n" + r"\]", r"\frac12"),
        (r"the answer is $\frac{3}{4}$ of the cake", r"\frac{3}{4}"),
        ("The answer is 3.5. Then we stop.", "3.5"),
        ("Answer: 5", "5"),
        ("work\n#### 42", "42"),
        ("所以答案是 5", "5"),
        # the last number or formula
        ("She has 3 apples and then 5 more so she has 8 apples.", "8"),
        ("It costs 1,234.50 in total.", "1,234.50"),
        ("So it falls to -3 at night, she said.", "-3"),
        ("so 10-4 is 6, we find", "6"),
        (r"Therefore $x = \frac{3}{4}$.", r"x = \frac{3}{4}"),
        ("He paid $5 and then $6.", "$6"),
        ("It left the station at 3:30 PM today.", "3:30 PM"),
        ("there is nothing to be found\nhere", ""),
        ("", ""),
        # bare
        ("73", "73"),
        ("**73**", "**73**"),
        ("```\n73\n```", "```\n73\n```"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ("June 20", "June 20"),
        ("1,000", "1,000"),
        ("neither even nor odd", "neither even nor odd"),
        ("5 square meters", "5 square meters"),
        # thinking aloud
        (r"<think>\boxed{3}</think> The answer is 4", "4"),
    ],
)
def test_extract(output: str, span: str) -> None:
    assert extract(output) == span


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("\\boxed{B}\nNote that e is a number", "B"),
        (r"The answer is a function of x, so \boxed{C}", "C"),
        ("The answer is a mystery", ""),
        ("The answer is A function I guess", ""),
        ("(B)", "B"),
        ("B.", "B"),
        ("b", "B"),
        ("The answer is B", "B"),
        ("The answer is B because a dog is an animal", "B"),
        ("The answer is (c).", "C"),
        ("The correct option is **D**.", "D"),
        ("The answer is A.\n\nThe answer is A, and a cat is no dog.", "A"),
        (r"\text{B}", "B"),
        (r"\boxed{\textbf{(A)} alpha}", "A"),
        (r"\boxed{42}", "D"),
        ("The answer is 42.", "D"),
        ("answer is beta", "B"),
        ("the answer is alpha, because beta is bad", "A"),
        ("C. gamma", "C"),
        ("I think it is C", "C"),
        ("Answer: A\n", "A"),
        ("E", ""),
        (r"\boxed{E}", ""),
        ("", ""),
    ],
)
def test_choose(output: str, letter: str) -> None:
    assert choose(output, ("alpha", "beta", "gamma", "42")) == letter


def test_ten_choices() -> None:
    assert choose("The answer is (J).", [str(number) for number in range(100, 110)]) == "J"
    assert choose("The answer is (K).", [str(number) for number in range(100, 110)]) == ""


def test_pattern() -> None:
    assert extract("first <a>1</a>, then <a>2</a>", r"<a>(.*?)</a>") == "2"
    assert extract(r"the answer is \boxed{5}", r"<a>(.*?)</a>") == ""
    case = prepare("5", r"\boxed{5}", pattern=r"<a>(.*?)</a>")
    assert (case.equal, case.equal_compatible, case.extracted) == (False, False, "")


def test_only_the_end_of_a_long_output_counts() -> None:
    assert extract(r"\boxed{1}" + " word" * LONGEST + r" \boxed{2}") == "2"
    assert extract(r"\boxed{1}" + " word" * LONGEST) == ""
    assert "20,000" in prepare("2", "x " * LONGEST).note
    assert prepare("2", "x " * (LONGEST // 2)).note == ""


ENDLESS = [
    "{",
    "}",
    r"\boxed{",
    r"\boxed{}",
    "the answer is ",
    "9",
    "1,",
    " ",
    "\n",
    "$",
    "$x ",
    "-",
    r"\frac{",
    r"\(",
    "apples ",
    "1/",
]
ENDLESS += ["*", r"\text{a", ":", "1:00 ", "answer", "Ab. ", "(a) ", "A ", "```\n", "^{", "~", "a.m. ", "and "]


@pytest.mark.parametrize("piece", ENDLESS)
def test_no_output_takes_long(piece: str) -> None:
    began = time.process_time()
    for inside in ("{}", r"so \boxed{{{}}}", "the answer is {}"):
        prepare("5", inside.format(piece * (100_000 // len(piece))), "math")
        prepare("B", inside.format(piece * (100_000 // len(piece))), "choice", ("x", "y"))
    # Six outputs; a quadratic pattern takes a hundred times as long.
    assert time.process_time() - began < 10
