"""The published normaliser: how an answer is rewritten before two answers are compared as strings.

Rules of the Qwen2.5-Math evaluation (and ToRA's and PRM800K's before it), written anew from their description.  With `bugs`
they do what was published; without, each rule known to be wrong does what it was meant to.
"""

from __future__ import annotations

import re

from modist.evaluation.answers.compatible.words import number_words, trailing_unit_pattern, unit_pattern

_PLAIN = re.compile(r"-?(?:0|[1-9]\d*)\Z", re.ASCII)
_LETTER = re.compile(r"[^\W\d_]")
_ARRAY = re.compile(r"\\(begin|end)\{(?:array|bmatrix)\}(?:(?<=begin\{array\})\{[^}]*\})?")
_TRAILING_TEXT = re.compile(r"\\text\{[^{}]*\}$")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_MBOX = re.compile(r"\\mbox\{([^{}]*)\}")
_ASSIGNED = re.compile(r"(?:[xyzXYZ]=|[xyz]\\(?:in|to)(?![a-zA-Z]))")
_ZERO_DECIMALS = re.compile(r"(\d)\.0*(?!\d)")
_SQRT = re.compile(r"\\sqrt(\w+)")
_FRAC = re.compile(r"\\frac(?:\{([^{}]*)\}|(\w))(?:\{([^{}]*)\}|(\w))")
_SLASH = re.compile(r"(-?\d+)/(-?\d+)\Z")
_INFINITE = re.compile(r"(?<![\\a-zA-Z])inf(?:inity)?(?![a-zA-Z])")
_AND = re.compile(r"\s*(?:\\text\{\s*and\s*\}|(?<![a-zA-Z\\])and(?![a-zA-Z]))\s*")
_NAMED = re.compile(r"[a-zA-Z]\([a-zA-Z](?:,[a-zA-Z])*\)")


def normalise(text: str, bugs: bool = True, units: bool = True) -> str:
    """`text` in the form in which the published rules compare strings.

    Args:
        bugs: as published; otherwise the known errors are gone (`1{,}000` is 1000, only a unit after a number is dropped).
        units: whether unit words are deleted (carp_en's predictions keep them).
    """
    if _PLAIN.match(text):
        return text
    text = text.strip().replace("\n", "").replace("\\right.", "").rstrip(".").replace("\\!", "")
    if not bugs:
        text = _mend(text, units)
    if "\\" in text:
        text = _latex(text)
    if units and bugs and _LETTER.search(text):
        for _ in range(2):
            text = unit_pattern().sub(r"\1\2", text)
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "").replace("$", "")
    text = text.replace("\\(", "").replace("\\)", "")
    if not text.isascii() or _LETTER.search(text):
        text = _worded(text, bugs)
    text = text.replace("\\%", "%")
    if bugs:
        text = text.replace("%", "")
    text = _decimals(text)
    return _fractions(_one_side(text, bugs))


def _latex(text: str) -> str:
    """One spelling for each of LaTeX's several."""
    text = _ARRAY.sub(r"\\\1{pmatrix}", text)
    for old, new in (("tfrac", "frac"), ("dfrac", "frac"), ("\\neq", "\\ne"), ("\\leq", "\\le"), ("\\geq", "\\ge")):
        text = text.replace(old, new)
    text = text.replace("\\left.", "")
    # \leftarrow is no bracket; the published replacement takes its head off, and both sides alike.
    text = text.replace("\\left", "").replace("\\right", "").replace("\\{", "{").replace("\\}", "}")
    shorter = _TRAILING_TEXT.sub("", text).strip()
    return shorter or text


def _worded(text: str, bugs: bool) -> str:
    """English numbers, wrappers, names before an equals sign, infinity and `and`."""
    text = number_words().get(text.strip().lower(), text)
    text = _TEXT.sub(r"\1", text)
    if bugs:
        text = _ASSIGNED.sub("", text)
        # Anywhere: `infinite` becomes `\inftyinite`.
        text = re.sub(r"\\?inf(?:inity|ty)?", r"\\infty", text)
        text = text.replace("and", "")
    else:
        text = _INFINITE.sub(r"\\infty", re.sub(r"^\s*[xyzXYZ]\s*(?:=|\\in(?![a-zA-Z]))", "", text))
    text = _MBOX.sub("" if bugs else r"\1", text.replace("\\mathbf", ""))
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    return text


def _mend(text: str, units: bool) -> str:
    """What the published rules overlook."""
    text = (
        re.sub(r"\s+", " ", text)
        .replace("'", "")
        .replace('"', "")
        .replace("+\\infty", "\\infty")
        .replace("+\\inity", "\\infty")
    )
    # A name such as \pi must not swallow the letter after it when spaces go.
    text = re.sub(r"(\\[a-zA-Z]+) (?=[a-zA-Z])", r"\1{}", text)
    text = re.sub(r"(?<=\d)(?:\{,\}|\\,|\\ |,\\!)(?=\d{3}(?!\d))", "", text)
    text = text.removeprefix("$").removesuffix("$").strip()
    if units and _LETTER.search(text):
        text = trailing_unit_pattern().sub("", text)
    return _AND.sub(",", text)


def _decimals(text: str) -> str:
    """A zero before a bare point, none after the last."""
    if "." not in text:
        return text
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = "0" + text
    return _ZERO_DECIMALS.sub(r"\1", text)


def _one_side(text: str, bugs: bool) -> str:
    """`k = v` is v where k has at most two characters; without bugs also where k is f(x)."""
    if text.count("=") == 1:
        left, right = text.split("=")
        name = left.strip()
        if len(name) <= 2 or (not bugs and _NAMED.fullmatch(name.replace(" ", ""))):
            text = right
    return text


def _fractions(text: str) -> str:
    """Roots and fractions with their braces, no spaces."""
    if "\\sqrt" in text:
        text = _SQRT.sub(r"\\sqrt{\1}", text)
    text = text.replace(" ", "")
    if "\\frac" in text:
        text = _FRAC.sub(lambda m: f"\\frac{{{_given(m[1], m[2])}}}{{{_given(m[3], m[4])}}}", text)
    elif "/" in text and (plain := _SLASH.match(text)):
        text = f"\\frac{{{plain[1]}}}{{{plain[2]}}}"
    return text


def _given(braced: str | None, bare: str | None) -> str:
    return braced if braced is not None else bare or ""
