"""One way of writing: what only looks different in two answers is made the same.

Nothing here changes a value.  Every rule is one pass of a linear pattern, so that an answer of any length is safe.
"""

from __future__ import annotations

import re

# Commands that only place or space what they stand before.
_PLACING = re.compile(
    r"\\(?:left|right|middle|bigl|bigr|Bigl|Bigr|biggl|biggr|Biggl|Biggr|big|Big|bigg|Bigg|displaystyle|textstyle"
    r"|scriptstyle|limits|nolimits|quad|qquad|enspace|thinspace|hfill|noindent|cdotp)(?![A-Za-z])\.?"
)
_FONT = re.compile(
    r"\\(?:mathrm|mathbf|mathit|mathsf|mathtt|mathcal|mathfrak|boldsymbol|bm|textbf|textit|texttt|textsf|textnormal|textrm"
    r"|mbox|hbox|operatorname\*?|rm|bf|it|emph|underline|fbox|boxed|ensuremath|pmb)(?![A-Za-z])"
)
_SPACING = re.compile(r"(?<!\\)\\[,;:!> ]|(?<!\\)~|\\(?:hspace|vspace)\*?\{[^{}]*\}|\\phantom\{[^{}]*\}")
_RENAMED = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:leqslant|leq|leqq)(?![A-Za-z])"), r"\\le "),
    (re.compile(r"\\(?:geqslant|geq|geqq)(?![A-Za-z])"), r"\\ge "),
    (re.compile(r"\\neq(?![A-Za-z])|\\not\s*="), r"\\ne "),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:lbrace|lbrack|rbrace|rbrack|lvert|rvert|vert)(?![A-Za-z])"), None),
    (re.compile(r"\\mid(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:dots|ldots|cdots|dotsc|dotsb)(?![A-Za-z])|…"), r"\\ldots "),
    (re.compile(r"\\(?:varnothing|O)(?![A-Za-z])|∅"), r"\\emptyset "),
    (re.compile(r"\\(?:degree|textdegree)(?![A-Za-z])|\^\s*\{?\s*\\circ\s*\}?|°|º|\^\s*\{\s*o\s*\}"), r"^\\circ "),
    (re.compile(r"\\(?:euro|texteuro)(?![A-Za-z])"), "€"),
    (re.compile(r"\\pounds(?![A-Za-z])"), "£"),
    (re.compile(r"\\(?:space|,|dollar)(?![A-Za-z])"), " "),
    (re.compile(r"\\epsilon(?![A-Za-z])"), r"\\varepsilon "),
)
_BRACKETS = {
    "lbrace": r"\{",
    "rbrace": r"\}",
    "lbrack": "[",
    "rbrack": "]",
    "lvert": "|",
    "rvert": "|",
    "vert": "|",
}
_LOOKALIKE = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "‐": "-",
        "‑": "-",
        "—": "-",
        "×": r" \times ",
        "·": r" \cdot ",
        "⋅": r" \cdot ",
        "÷": r" \div ",
        "≤": r" \le ",
        "⩽": r" \le ",
        "≥": r" \ge ",
        "⩾": r" \ge ",
        "≠": r" \ne ",
        "≈": r" \approx ",
        "±": r" \pm ",
        "∞": r" \infty ",
        "π": r" \pi ",
        "θ": r" \theta ",
        "∪": r" \cup ",
        "∩": r" \cap ",
        "∈": r" \in ",
        "ℝ": r" \mathbb{R} ",
        "½": r"\frac{1}{2}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "²": "^{2}",
        "³": "^{3}",
        "’": "'",
        "‘": "'",
        "“": '"',
        "”": '"',
        "，": ",",
        "（": "(",
        "）": ")",
        "％": "%",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
        "\u200b": None,
        "\ufeff": None,
    }
)
# `\sqrt 2` and `√2`: the argument is the next sign or number.
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[a-z]))")
_GROUPED = re.compile(r"(?<![\d.])(\d{1,3})((?:(?:\{,\}|,?\s?\\[,!;:]\s?|,\s\\!\s?|\\ )\d{3})+)(?!\d)")
# A dollar before a number, with no other after it, is money and stays.
_DECORATION = re.compile(
    r"^(?:\*\*|__|\$\$|\$(?!\s*[-\d.][^$]*$)|`|\\\[|\\\(|\\\])+|(?:\*\*|__|(?<!\\)\$\$?|`|\\\]|\\\)|\\\[)+$"
)
_FENCE = re.compile(r"^```[A-Za-z]*\n|\n?```$")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|textit|textrm|mbox|operatorname|mathbf|mathit|textnormal)\s*\{([^{}]*)\}")
_ONE_BRACED = re.compile(r"\{\s*(\d+|[A-Za-z])\s*\}")
_EDGE = " \t\r\n.,;:"


def undress(text: str) -> str:
    """Without the marks around a whole answer: dollars, `\\( \\)`, asterisks, code fences, a closing full stop."""
    before = None
    while before != text:
        before = text
        text = text.strip()
        text = _DECORATION.sub("", _FENCE.sub("", text)).strip()
        if text.endswith(".") and not text.endswith("..") and not re.search(r"\b[ap]\.\s?m\.$", text):
            text = text[:-1].rstrip()
        text = text.rstrip(";,").rstrip() if not text.endswith(("\\,", "\\;")) else text[:-2].rstrip()
    return text


def tidy(text: str) -> str:
    """The same answer in one notation: no placing, no fonts, one name a relation, thousands joined, `$` gone.

    `\\text{...}` is kept, for it says what is prose and what a product of letters; `flat` takes it away.
    """
    text = undress(text).translate(_LOOKALIKE)
    text = text.replace("{,}", r"\,").replace(r"\$", "$ ")
    for _ in range(2):
        text = _GROUPED.sub(lambda found: found[1] + re.sub(r"\D", "", found[2]), text)
    for pattern, put in _RENAMED:
        text = pattern.sub(put or (lambda found: _BRACKETS[found[0][1:]]), text)
    text = _PLACING.sub(" ", text)
    text = _SPACING.sub(" ", text)
    text = _ROOT.sub(lambda found: rf"\sqrt{{{found[1] or found[2]}}}", text)
    text = text.replace(r"\%", "%").replace(r"\#", "#").replace(r"\&", "&").replace(r"\_", "_")
    text = _dollars(text)
    text = re.sub(r"\s+", " ", text).strip()
    return undress(text)


def _dollars(text: str) -> str:
    """Dollars that open and close mathematics go; one before a number with none after it is money and stays."""
    if "$" not in text:
        return text
    money = re.compile(r"\$\s*(?=-?\s*\.?\d)")
    if text.count("$") == 1:
        return text if money.search(text) or re.search(r"\d\s*\$", text) else text.replace("$", " ")
    return text.replace("$", " ")


def flat(text: str) -> str:
    """`tidy`, and with `\\text{...}` and fonts taken away: what a reader sees."""
    text = tidy(text)
    for _ in range(3):
        text = _TEXT.sub(r" \1 ", text)
    return re.sub(r"\s+", " ", _FONT.sub(" ", text)).strip()


def key(text: str) -> str:
    """A string that two answers share only if they are written alike but for spaces, fonts, braces and placing.

    Case counts, but in prose (no digit, no command and some word of four letters or more).
    """
    text = flat(text)
    text = _ONE_BRACED.sub(r" \1 ", text) if "frac" not in text else text
    # A space between digits or before a fraction is a sign of its own: 1 1/2 is not 11/2.
    text = re.sub(r"(?<=\d) (?=\d)", "\0", text)
    text = re.sub(r"(?<=[A-Za-z]) (?=[A-Za-z])", "\0", text) if prose(text) else text
    text = text.replace(" ", "").strip("\0" + _EDGE)
    return text.casefold() if prose(text) else text


def prose(text: str) -> bool:
    """Whether this is words: a run of four letters that is no command, or a short name such as `Tom` or `No`."""
    bare = re.sub(r"\\[A-Za-z]+", " ", text)
    if re.search(r"[A-Za-z]{4}", bare):
        return True
    return bool(re.fullmatch(r"\W*(?:[A-Z][a-z]{1,2}|no|yes|dne|NO|YES|DNE)\W*", bare))
