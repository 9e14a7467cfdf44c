"""The published extraction: which part of a whole output is its answer."""

from __future__ import annotations

import re

from modist.evaluation.answers.compatible.normalise import normalise

_NUMBER = re.compile(r"-?\d*\.?\d+")
_TRIGGER = re.compile(r"answer is|choice is", re.IGNORECASE)
_OPTION = re.compile(r"\b([A-E])\b")
_BRACE = re.compile(r"[{}]")
_UNESCAPED = re.compile(r"\\.|[{}]", re.DOTALL)
_BLANK = "\n\n"


def extract(output: str, kind: str = "math", bugs: bool = True, units: bool = True) -> str:
    """The answer in `output`, normalised once; "" if there is none.

    Args:
        kind: "choice" looks for an option letter, everything else for a boxed answer, a phrase, then the last number.
        bugs: as published, see `normalise` and `choose`.
        units: whether unit words are deleted.
    """
    output = output.replace("ки", "")
    if kind == "choice":
        return choose(output, bugs)
    found = _span(output, bugs).replace("\n", "").strip()
    found = found.removeprefix(":").strip()
    if found.endswith((".", "/")):
        found = found[:-1]
    return normalise(found, bugs, units)


def _span(output: str, bugs: bool) -> str:
    start = output.find("final answer is $")
    if start >= 0:
        start += len("final answer is $")
        end = output.find("$. I hope", start)
        if end >= 0:
            return output[start:end]
    if "boxed" in output:
        return boxed(output[output.rindex("boxed") + len("boxed") :], bugs)
    for phrase in ("he answer is", "final answer is"):
        if phrase in output:
            return output[output.rindex(phrase) + len(phrase) :].strip()
    if "答案是" in output:
        return output[output.index("答案是") + len("答案是") :].strip()
    last = ""
    for match in _NUMBER.finditer(output.replace(",", "")):
        last = match[0]
    return last


def boxed(after: str, bugs: bool = True) -> str:
    """What a box holds, by matching braces; all of it where none closes, and up to a dollar where none opens.

    As published \\{ opens a group like {; a piecewise function's never closes.
    """
    if not after.startswith("{"):
        return after.split("$", 1)[0].strip()
    depth = 0
    for match in (_BRACE if bugs else _UNESCAPED).finditer(after):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return after[1 : match.start()]
    return after[1:]


def choose(output: str, bugs: bool = True) -> str:
    """The option letter in `output`, or the text as it is where none is found.

    As published: a second "answer is" cuts the output at its first blank line (meant for worked examples that go on), and the
    rest is upper-cased, so that the article "a" is option A.  Without bugs a boxed letter comes first, nothing is cut, and
    only capitals count: standing alone, in brackets before anything else.
    """
    if not bugs:
        return _choose_well(output)
    if len(_TRIGGER.findall(output)) > 1:
        output = output.split(_BLANK, 1)[0]
    pieces = _TRIGGER.split(output)
    last = pieces[-1].strip()
    letters = _OPTION.findall(last.upper())
    if not letters:
        return last.rstrip(".").rstrip("/").strip()
    return str(letters[0] if len(pieces) > 1 else letters[-1])


def _choose_well(output: str) -> str:
    if "boxed" in output:
        box = boxed(output[output.rindex("boxed") + len("boxed") :], bugs=False)
        inside = _OPTION.findall(box)
        if len(set(inside)) == 1:
            return str(inside[0])
        if re.fullmatch(r"\W*[a-e]\W*", box):
            return re.sub(r"\W", "", box).upper()
    pieces = _TRIGGER.split(output)
    last = pieces[-1].strip()
    bracketed = re.findall(r"\(([A-E])\)", last)
    # An article at the head of a phrase is no option: "A function ..." goes on with a small letter.
    letters = bracketed or re.findall(r"\b([A-E])\b(?!\s+[a-z])", last)
    if not letters:
        return last.rstrip("./").strip()
    return str(letters[0] if len(pieces) > 1 else letters[-1])
