"""Answers to multiple choice: a letter, however it is written, or the text of the choice."""

from __future__ import annotations

import re
from collections.abc import Sequence

from modist.evaluation.answers.exact import exact
from modist.evaluation.answers.extract import boxed, cut
from modist.evaluation.answers.notation import flat, key

LETTERS = "ABCDEFGHIJ"
_TRIGGER = re.compile(
    r"\b(?:(?:answers?|choices?|options?)(?:\s+(?:choice|option))?"
    r"(?:\s+(?:here|should be|must be|would be|is|are|=)|\s*\**\s*:)"
    r"|correct\s+(?:answer|choice|option|one)(?:\s+is)?)\s*:?(?![A-Za-z])",
    re.IGNORECASE,
)
# Words that may follow the letter itself; after the article "A" and the pronoun "I" stands another word.
_AFTER = r"because|since|as|which|is|and|for|with|in|from|by|but|therefore|so|i\.e"


def choose(output: str, choices: Sequence[str] = ()) -> str:
    """The letter that `output` chooses, a capital of those offered; an empty string if none can be told.

    In order: the last box, the words after the last "answer is" (also "choice is", "Answer:"), a letter alone or in brackets,
    the text of one of the `choices`.  The articles "a" and "A" are no letters.
    """
    output = cut(output)[0].strip()
    offered = LETTERS[: len(choices)] if choices else LETTERS
    inside = boxed(output)
    if inside is not None:
        found = _letter(inside, offered, choices)
        if found:
            return found
    for trigger in reversed(list(_TRIGGER.finditer(output))[-20:]):
        rest = output[trigger.end() :].lstrip(" \t\n:")
        found = _letter(rest.split("\n", 1)[0], offered, choices)
        if found:
            return found
    if "\n" not in output:
        found = _letter(output, offered, choices)
        if found:
            return found
    return _anywhere(output, offered, choices)


def _letter(text: str, offered: str, choices: Sequence[str]) -> str:
    """The choice that a short text names at its start."""
    text = flat(text).strip(" *_`$")
    text = re.sub(r"^(?:the\s+)?(?:(?:option|choice|answer|letter)\s+)+", "", text, flags=re.IGNORECASE).strip(" *_`$:")
    found = re.match(rf"[(\[{{]\s*([{offered}{offered.lower()}])\s*[)\]}}]", text)
    if found:
        return found[1].upper()
    found = re.match(rf"([{offered}])(?:\*\*)?\s*(?:[.,:;)\]*}}\-]|$|\s(?={_AFTER}\b)|\s*\()", text)
    if found:
        return found[1]
    found = re.fullmatch(rf"([{offered}{offered.lower()}])\W*", text)
    if found:
        return found[1].upper()
    named = _by_text(text, choices)
    if named:
        return named
    # B Mitochondria; but "A function" is the article's.
    found = re.match(rf"([{re.sub('[AI]', '', offered) or 'A'}])\s", text)
    return found[1] if found and found[1] in offered else ""


def _by_text(text: str, choices: Sequence[str]) -> str:
    """The letter of the only choice whose words these are."""
    text = text.strip().rstrip(".")
    same = [
        letter
        for letter, choice in zip(LETTERS, choices, strict=False)
        if text and (key(text) == key(choice) or exact(choice, text))
    ]
    if len(same) == 1:
        return same[0]
    clause = re.split(r"(?<=[^\d])[.;]\s|, (?:because|since|which|as)\b", text, maxsplit=1)[0]
    if clause != text:
        return _by_text(clause, choices)
    return ""


def _anywhere(output: str, offered: str, choices: Sequence[str]) -> str:
    last = output.rstrip().rsplit("\n", 1)[-1]
    for text in (last, output):
        found = re.findall(rf"\(([{offered}])\)", text)
        if found:
            return str(found[-1])
        found = re.findall(rf"(?:^|\n)\s*\**([{offered}])\**\s*[.):](?:\s|\*|$)", text)
        if found:
            return str(found[-1])
        found = re.findall(rf"(?<![\w'\\$])([{offered}])(?![\w'])(?!\s+[a-z])", text)
        if found:
            return str(found[-1])
    return _by_text(last, choices)


def gold_letter(gold: str, choices: Sequence[str] = ()) -> str:
    """A gold as a letter: `B`, `(B)`, or the text of a choice."""
    found = re.fullmatch(r"\W*([A-J])\W*", flat(gold).upper() if len(gold.strip()) <= 3 else flat(gold))
    return found[1] if found else _by_text(flat(gold), choices)
