"""Prompts to the character, and what ends a reply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from modist.errors import UserError
from modist.evaluation.benchmark import Benchmark, Item, Shot
from modist.evaluation.benchmarks import find, known
from modist.evaluation.prompt import STYLES, build, stop_strings
from modist.evaluation.shots import STEM

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."


def item(question: str = "What is 1 + 1?", gold: str = "2", **others: object) -> Item:
    return Item("b", "b-0000", question, gold, **others)  # type: ignore[arg-type]


def test_the_published_text_to_the_character() -> None:
    assert build(item(), find("gsm8k"), "qwen25-math-cot") == (
        "<|im_start|>system\n"
        "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n"
        "What is 1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_braces_and_placeholders_of_a_question_stay_as_they_are() -> None:
    question = r"Let {user} be {system} and \frac{1}{2}, {0} %s."
    assert build(item(question), find("math"), "qwen25-math-cot").count(question) == 1  # type: ignore[union-attr]
    assert question in build(item(question), find("math"), "plain")
    own = Benchmark("own", "own", None, "", "text", instruction="Say {user}, {system}.")
    assert "system\nSay {user}, {system}.<|im_end|>" in build(item(question), own, "qwen25-math-cot")


def test_worked_examples_stand_in_the_one_user_turn() -> None:
    benchmark = replace(find("gsm8k"), shots=2, examples=(Shot("Q1", "A1"), Shot("Q2", "A2"), Shot("Q3", "A3")))
    assert build(item("Q"), benchmark, "qwen25-math-cot") == (
        f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n"
        "<|im_start|>user\nQ1\nA1\n\nQ2\nA2\n\nQ<|im_end|>\n<|im_start|>assistant\n"
    )
    assert build(item("Q"), benchmark, "chat") == [
        {"role": "user", "content": f"Q1\n\n{INSTRUCTION}"},
        {"role": "assistant", "content": "A1"},
        {"role": "user", "content": f"Q2\n\n{INSTRUCTION}"},
        {"role": "assistant", "content": "A2"},
        {"role": "user", "content": f"Q\n\n{INSTRUCTION}"},
    ]
    assert build(item("Q"), benchmark, "plain") == (
        f"{INSTRUCTION}\n\nQuestion: Q1\nAnswer: A1\n\nQuestion: Q2\nAnswer: A2\n\nQuestion: Q\nAnswer:"
    )


@pytest.mark.parametrize(
    ("gold", "told"),
    [
        ("Yes", " (Yes or No)"),
        ("no.", " (Yes or No)"),
        (r"$\text{Yes}$", " (Yes or No)"),
        ("TRUE", " (True or False)"),
        ("false", " (True or False)"),
        ("12", ""),
        ("yesterday", ""),
        ("", ""),
    ],
)
def test_only_the_published_text_tells_the_type_of_a_yes_or_no(gold: str, told: str) -> None:
    text = build(item("Is it?", gold), find("asdiv"), "qwen25-math-cot")
    assert f"user\nIs it?{told}<|im_end|>" in text
    assert "or No" not in str(build(item("Is it?", gold), find("asdiv"), "chat"))
    assert "or No" not in str(build(item("Is it?", gold), find("asdiv"), "plain"))
    assert "or No" not in str(build(item("Is it?", gold), find("bbh"), "qwen25-math-cot")).split("<|im_start|>user")[1]


@pytest.mark.skipif(not DATA.is_dir(), reason="the benchmarks' rows are not beside the repository (../shared/data)")
def test_how_many_questions_tell_it() -> None:
    def told(name: str) -> int:
        benchmark = find(name)
        return sum(f"{one.question} (Yes or No)" in build(one, benchmark, "qwen25-math-cot") for one in benchmark.items(DATA))

    assert (told("asdiv"), told("college_math"), told("gsm8k")) == (5, 18, 0)


def test_a_benchmark_without_instruction_is_asked_bare() -> None:
    own = Benchmark("own", "own", None, "", "text")
    assert build(item(" Hm? "), own, "chat") == [{"role": "user", "content": "Hm?"}]
    assert build(item(" Hm? "), own, "plain") == "Question: Hm?\nAnswer:"
    assert INSTRUCTION in build(item("Hm?"), own, "qwen25-math-cot")


def test_text_and_code_get_their_own_instruction() -> None:
    for name in ("bbh", "humaneval", "mbpp"):
        benchmark = find(name)
        assert benchmark.instruction
        text = build(item("Q"), benchmark, "qwen25-math-cot")
        assert text.startswith(f"<|im_start|>system\n{benchmark.instruction}<|im_end|>\n")  # type: ignore[union-attr]
        assert "boxed" not in text


def test_humaneval_is_bare_code_in_the_plain_style() -> None:
    code = 'def f(x):\n    """Twice x."""\n'
    extra = {"prompt": code, "tests": "check(f)", "entry_point": "f"}
    assert build(item("```python\n...", extra=extra), find("humaneval"), "plain") == code
    assert "\ndef " in stop_strings("plain", find("humaneval"))
    assert "\ndef " not in stop_strings("plain", find("mbpp"))
    assert "\ndef " not in stop_strings("chat", find("humaneval"))


def test_stop_strings() -> None:
    assert stop_strings("qwen25-math-cot") == ("</s>", "<|im_end|>", "<|endoftext|>")
    assert stop_strings("chat") == ()
    assert "\nQuestion:" in stop_strings("plain")
    own = Benchmark("own", "own", None, "", "text", stop=("</s>", "###"))
    assert stop_strings("qwen25-math-cot", own) == ("</s>", "<|im_end|>", "<|endoftext|>", "###")
    assert stop_strings("chat", own) == ("</s>", "###")


@pytest.mark.parametrize("asked", [lambda: build(item(), find("math"), "chatt"), lambda: stop_strings("chatt")])
def test_a_style_that_is_none(asked: object) -> None:
    with pytest.raises(UserError, match=r"'chatt': no such prompt style; did you mean 'chat'\?; there are qwen25-math-cot, "):
        asked()  # type: ignore[operator]


def test_every_benchmark_can_be_asked_in_every_style() -> None:
    extra = {"prompt": "def f():\n", "tests": "", "entry_point": "f"}
    for benchmark in known().values():
        for style in STYLES:
            found = benchmark.prompt_for(item("The question", extra=extra if benchmark.kind == "code" else {}), style)
            assert isinstance(found, list) == (style == "chat")
            assert "The question" in str(found) or (benchmark.name, style) in [("humaneval", "plain"), ("mbpp", "plain")]


def test_the_five_worked_examples_are_whole() -> None:
    assert len(STEM) == 5
    for shot in STEM:
        _, _, choices = shot.question.partition("\nAnswer Choices: (A) ")
        assert choices.count("(") >= 3
        assert shot.answer.splitlines()[-1].startswith("The answer is $\\boxed{")
        assert shot.answer.rstrip(".$}")[-1] in "ABCD"
        # The published ones have a form feed where \f was meant; ours have no control characters.
        assert all(character == "\n" or character.isprintable() for character in shot.question + shot.answer)
    assert len({shot.answer.rstrip(".$}")[-1] for shot in STEM}) == 4


def test_mmlu_stem_is_asked_with_five_examples() -> None:
    text = build(item("Which?\nAnswer Choices: (A) a (B) b (C) c (D) d", "A"), find("mmlu_stem"), "qwen25-math-cot")
    assert text.count("\nAnswer Choices: (A) ") == 6  # type: ignore[union-attr]
    assert text.count("<|im_start|>") == 3  # type: ignore[union-attr]
    assert text.count("\n\n") == 5  # type: ignore[union-attr]
