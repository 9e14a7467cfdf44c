"""Text answers, as BIG-Bench Hard has them: an option, a word of two, a number, a sorted list, closing brackets, a title.

The gold says which it is; an answer is read accordingly, and is right only if nothing else in its span contradicts it.
"""

from __future__ import annotations

import re
from fractions import Fraction

from modist.evaluation.answers.compatible.extract import boxed
from modist.evaluation.answers.compatible.words import number_words

_LONGEST = 20_000
_PHRASE = re.compile(r"\banswer\W{0,3}(?:\s(?:is|should be|would be|must be)\b|:)[\s*:]*", re.IGNORECASE)
_NEXT_QUESTION = re.compile(r"^\s*(?:Q|Question|Input)\s?:", re.MULTILINE)
_SENTENCE = re.compile(r"(?<=[\w)\]}\"'*>])[.!?]\s+(?=[A-Z])")
_OPTION = re.compile(r"\(([A-Z])\)")
_BARE_OPTION = re.compile(r"(?:(?:option|choice)\s+)?([A-Za-z])(?:\s*[.:)\]]|$)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
_BULLET = re.compile(r"(?m)^\s*(?:\d+[.)]|[-*•])\s+")
_PAIRS = (("true", "false"), ("yes", "no"), ("valid", "invalid"))
_BRACKETS = set("()[]{}<>")


def grade_text(gold: str, answer: str) -> tuple[bool, str]:
    """Whether a reply gives the answer `gold`, and the span taken for its answer.

    The span follows the last "answer is" (or "answer:"), else is the last box, else the last line.  Options may lose their
    brackets or bring their text along, words may change case, lists may have commas, numbers may be words or bring a unit;
    two different options, both words of a pair, or two numbers are no answer.
    """
    gold = gold.strip()
    span = extract_text(answer)
    return bool(span) and _same(gold, span), span


def extract_text(answer: str) -> str:
    """The span of a reply that holds its answer, without Markdown, quotes and the final stop; "" where there is none."""
    answer = answer.strip()[-_LONGEST:]
    later = _NEXT_QUESTION.search(answer, 1)
    if later:
        answer = answer[: later.start()].rstrip()
    found = list(_PHRASE.finditer(answer))
    if found and (after := answer[found[-1].end() :].strip()):
        span = after if _BULLET.match(after) else after.split("\n", 1)[0]
    elif "\\boxed{" in answer:
        span = boxed(answer[answer.rindex("\\boxed{") + len("\\boxed") :])
    else:
        span = answer.rsplit("\n", 1)[-1]
    return _undress(_SENTENCE.split(_undress(span), maxsplit=1)[0])


def _undress(text: str) -> str:
    """Without the marks around a span that are no part of what it says."""
    text = text.strip()
    while True:
        before = text
        for opening, closing in (("**", "**"), ("`", "`"), ('"', '"'), ("'", "'"), ("“", "”"), ("$", "$"), ("\\(", "\\)")):
            if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening + closing):
                text = text[len(opening) : -len(closing)].strip()
        wrapped = re.match(r"\\(?:boxed|text|mathrm|textbf)\{(.*)\}\Z", text, re.DOTALL)
        text = wrapped[1].strip() if wrapped else text
        text = text.removesuffix(".").removesuffix("**").removeprefix("**").strip()
        if text == before:
            return text


def _same(gold: str, span: str) -> bool:
    lowered = gold.lower()
    if option := re.fullmatch(r"\(([A-Z])\)", gold):
        return _option(span) == str(option[1])
    for pair in _PAIRS:
        if lowered in pair:
            return _word(span, pair) == lowered
    if _NUMBER.fullmatch(gold):
        return _value(span) == Fraction(gold.replace(",", "").replace("−", "-"))
    if set(gold) <= _BRACKETS | {" "}:
        return "".join(span.split()) == "".join(gold.split())
    said, wanted = _words(span), _words(gold)
    return said == wanted or ("and" not in wanted and [word for word in said if word != "and"] == wanted)


def _option(span: str) -> str:
    """The one letter a span chooses, or "": the article in `A circle` is no choice."""
    letters = set(_OPTION.findall(span))
    if letters:
        return str(letters.pop()) if len(letters) == 1 else ""
    bare = _BARE_OPTION.match(span)
    return str(bare[1]).upper() if bare else ""


def _word(span: str, pair: tuple[str, str]) -> str:
    """The one word of a pair that a span says, or ""; `not` after it explains, before it denies."""
    words: list[str] = re.findall(r"[a-z']+", span.lower())
    said: list[str] = [word for word in words if word in pair]
    if len(set(said)) != 1 or {"not", "neither", "nor"} & set(words[: words.index(said[0])]):
        return ""
    return said[0]


def _value(span: str) -> Fraction | None:
    """The one number in a span, or what stands after its last equals sign; None where there is not one."""
    span = span.rsplit("=", 1)[-1].strip().replace("\\,", "").replace("{,}", ",")
    word = number_words().get(span.lower())
    if word is not None:
        return Fraction(word)
    numbers = _NUMBER.findall(span)
    if not numbers or len(numbers[0]) > 60:
        return None
    # Half of an expression is no number.
    rest = span.replace(numbers[0], "", 1)
    if re.search(r"[*/^()\\+%]|\d", rest):
        return None
    return Fraction(numbers[0].replace(",", "").replace("−", "-"))


def _words(text: str) -> list[str]:
    """Lower-cased words in their order, without list marks and separators; `it&t` is one word."""
    text = _BULLET.sub(" ", text.lower())
    words = (word.strip(".,;:!?\"'`*[]()") for word in re.split(r"[\s,;]+|->|>|<", text))
    return [word for word in words if word]
