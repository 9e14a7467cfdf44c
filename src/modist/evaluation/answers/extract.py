"""The span of an output that is its answer.  Linear in the output's length, whatever it holds."""

from __future__ import annotations

import re
from collections import deque

# The end of an output holds its answer; what stands before this many characters is not looked at.
LONGEST = 20_000
_LONGEST_BARE = 300

_BOX = re.compile(r"\\?\b(?:boxed|fbox)\b\s*")
_TRIGGER = re.compile(
    r"(?:\banswers?\s*(?:\*\*)?\s*(?:is|are|=)(?![A-Za-z])|\banswers?\s*(?:\*\*)?\s*:|答案是|答案为|^####)\s*:?",
    re.IGNORECASE | re.MULTILINE,
)
_MINERVA_OPEN, _MINERVA_CLOSE = "final answer is $", "$. I hope"
_SENTENCE_END = re.compile(r"(?<![\s.][A-Z])(?<!\bp\.m)(?<!\ba\.m)[.!](?=\s+[A-Z*#\\]|\s*$)|(?<=\S)\s+(?=I hope it is correct)")
_REASON = re.compile(r",?\s+(?:because|since|as (?:the|we|it)|which (?:is|means)|so that)\b.*", re.DOTALL)
_NUMBER = re.compile(
    r"(?<![\w.])\d{1,2}:\d{2}(?:\s?[ap]\.?m\b\.?)?"
    r"|(?<![\w)}\]])-?[$£€]?\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?%?"
    r"|(?<![\w)}\]])-?[$£€]?(?:\d+\s+)?\d+/\d+(?![\d/])%?"
    r"|(?:(?<![\w)}\]])-)?[$£€]?(?:\d+(?:\.\d+)?|\.\d+)\s?(?:\\?%)?",
    re.IGNORECASE,
)
_MATHS = re.compile(r"\$\$?([^$\n]{1,400})\$\$?|\\\(([^\n]{1,400}?)\\\)|\\\[([^\n]{1,400}?)\\\]")
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}")
_TEXT_GROUP = re.compile(r"\\(?:text|mathrm|mbox|operatorname|textbf|mathbf|begin|end)\s*\{[^{}]*\}")


def cut(output: str) -> tuple[str, bool]:
    """The last LONGEST characters, and whether something was cut off."""
    return (output[-LONGEST:], True) if len(output) > LONGEST else (output, False)


def extract(output: str, pattern: str | None = None) -> str:
    """The answer in `output`, as written there; an empty string if there is none.

    In order: the last match's group 1 of `pattern` (and nothing else, where one is given); `final answer is $...$. I hope`; the
    last box that holds something; what follows the last `answer is`, `Answer:` or `####`; a bare answer, itself; the last
    formula or number.
    """
    output, _ = cut(output)
    if pattern is not None:
        return _matched(output, pattern)
    end = output.rfind("</think>")
    if end >= 0 and output[end + 8 :].strip():
        output = output[end + 8 :]
    found = _minerva(output)
    if found is None:
        found = boxed(output)
    if found is None:
        found = _after_trigger(output)
    if found is None:
        found = output.strip() if is_bare(output) and _BOX.search(output) is None else _last(output)
    return found


def _matched(output: str, pattern: str) -> str:
    last = ""
    for found in re.finditer(pattern, output):
        last = (found[1] if found.re.groups else found[0]) or ""
    return last.strip()


def _minerva(output: str) -> str | None:
    start = output.rfind(_MINERVA_OPEN)
    if start < 0:
        return None
    start += len(_MINERVA_OPEN)
    end = output.find(_MINERVA_CLOSE, start)
    if end < 0:
        return None
    inside = output[start:end]
    return boxed(inside) or inside.strip()


def boxed(output: str) -> str | None:
    r"""What the last box with something in it holds: `\boxed{...}` to its own brace, `\boxed 5` to the next space or dollar.

    Of an unclosed box, which only a cut output has, what is left of its line; a closed one before it goes first.
    """
    unclosed = None
    # Each closing brace's opening one, in one pass over the text.
    places = list(_BOX.finditer(output))
    if not places:
        return None
    closing = _braces(output, places[0].start())
    for found in reversed(places):
        start = found.end()
        if output[start : start + 1] == "{":
            end = closing.get(start, -1)
            if end < 0:
                if unclosed is None:
                    unclosed = re.split(r"[\n$]", output[start + 1 : start + 2000], maxsplit=1)[0].strip()
            elif output[start + 1 : end].strip():
                return output[start + 1 : end].strip()
        elif found[0].startswith("\\") and start > found.start() + len("\\boxed"):
            word = re.split(r"[\s$]", output[start : start + 200], maxsplit=1)[0]
            if word:
                return word
        elif found[0].startswith("\\"):
            word = re.match(r"\d|\w", output[start : start + 1])
            if word:
                return re.split(r"[\s$]", output[start : start + 200], maxsplit=1)[0]
    return unclosed or None


def _braces(output: str, start: int) -> dict[int, int]:
    closing, opened = {}, []
    for found in re.compile(r"\\[{}\\]|[{}]").finditer(output, start):
        if found[0] == "{":
            opened.append(found.start())
        elif found[0] == "}" and opened:
            closing[opened.pop()] = found.start()
    return closing


def _after_trigger(output: str) -> str | None:
    triggers = list(_TRIGGER.finditer(output))
    for trigger in reversed(triggers[-20:]):
        rest = output[trigger.end() :].lstrip(" \t:*")
        line = next((one.strip() for one in rest.split("\n", 3)[:3] if one.strip("*`$ \t:\\[")), "")
        if not line:
            continue
        # A formula of several lines, from \[ or $$ to its end.
        opening = re.match(r"\s*(\\\[|\$\$)", rest)
        if opening:
            end = rest.find("\\]" if opening[1] == "\\[" else "$$", opening.end())
            if 0 <= end - opening.end() <= 2000:
                return rest[opening.end() : end].strip()
        line = _clause(line)
        if line.strip("*`$. "):
            return line
    return None


def has_trigger(output: str) -> bool:
    """Whether something in `output` says where its answer is: a box, even an empty one, or such words."""
    return _TRIGGER.search(output) is not None or _BOX.search(output) is not None


def _clause(line: str) -> str:
    """An answer's own clause: without the next sentence and reasons, and only the formula where words lead to one."""
    line = _REASON.sub("", line[:2000])
    found = _SENTENCE_END.search(line)
    line = (line[: found.start()] if found else line).strip().strip("*").strip()
    formulas = list(_MATHS.finditer(line))
    if len(formulas) == 1:
        before, after = line[: formulas[0].start()], line[formulas[0].end() :]
        inside = next(group for group in formulas[0].groups() if group)
        around = len(_WORD.findall(before)) >= 2 or (
            not before and len(_WORD.findall(after)) >= 2 and not re.search(r"\d", after)
        )
        if around and len(_WORD.findall(_TEXT_GROUP.sub("", inside))) < 2:
            return inside.strip()
    return re.sub(r"(?<=[\d}])\s*\((?:[a-z]+[ -]?)+\)$", "", line)


def is_bare(output: str) -> bool:
    """Whether the whole output is an answer and nothing else: one short line, no sentence, no working."""
    text = re.sub(r"^```[A-Za-z]*\n|\n?```$", "", output.strip()).strip()
    if not text:
        return False
    if r"\begin" in text and text.count("\n") < 12 and len(text) < 1200 and not _WORD.search(_TEXT_GROUP.sub(" ", text)):
        return True
    if "\n" in text or len(text) > _LONGEST_BARE:
        return False
    words = _WORD.findall(_TEXT_GROUP.sub(" ", text))
    if not re.search(r"\d", text):
        return len(words) <= 12
    # A verb, or much to read: a sentence with a number somewhere.
    verb = re.search(
        r"\b(?:is|are|was|were|has|have|had|gives?|equals?|total|so|therefore|thus|left|needs?|costs?|will|can)\b",
        text,
        re.IGNORECASE,
    )
    sentence = len(words) >= 3 and (text.endswith(".") or len(_NUMBER.findall(text)) > 1)
    return len(words) <= 6 and not verb and not sentence


def _last(output: str) -> str:
    """The last formula if the last number stands in it, else that number; an empty string without a number."""
    number = next(iter(deque(_NUMBER.finditer(output), maxlen=1)), None)
    if number is None:
        return ""
    line_start = output.rfind("\n", 0, number.start()) + 1
    for found in _MATHS.finditer(output, line_start):
        if found.start() <= number.start() and number.end() <= found.end():
            inside = next(group for group in found.groups() if group)
            if not _WORD.search(_TEXT_GROUP.sub(" ", inside)):
                return inside.strip()
    return number[0].strip()
