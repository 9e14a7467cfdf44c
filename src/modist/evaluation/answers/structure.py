"""The shape of an answer: lists, tuples and intervals, sets, unions, relations, matrices; and single values.

What a shape holds is left as text; whether two values are equal is asked of them one by one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from modist.evaluation.answers.notation import flat, tidy
from modist.evaluation.answers.quantity import quantity

_OPEN, _CLOSE = "([{", ")]}"
_DEEPEST = 12
_RELATION = re.compile(
    r"\\(?:le|ge|ne|approx|equiv|sim|simeq)(?![A-Za-z])|<=|>=|!=|==|(?<![<>!:=])=|<|>|\\in(?![A-Za-z])|\\notin(?![A-Za-z])"
)
_OPERATORS = {
    r"\le": "<=",
    r"\ge": ">=",
    r"\ne": "!=",
    r"\approx": "=",
    r"\equiv": "=",
    r"\sim": "=",
    r"\simeq": "=",
    "==": "=",
    r"\in": "in",
    r"\notin": "notin",
}
_WORD_BETWEEN = re.compile(
    r"\s*(?:,|;)?\s*(?:\\(?:text|mathrm|mbox|textbf)\s*\{\s*(?:,\s*)?(?:and|or)\s*,?\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z]))"
    r"\s*,?\s*|\s*\\(?:lor|vee|land|wedge)(?![A-Za-z])\s*"
)
_MATRIX = re.compile(
    r"(?P<before>[\[(|]?)\s*\\begin\s*\{(?P<kind>[pbvBV]?matrix|smallmatrix|array)\}\s*(?:\{[clr| ]*\})?(?P<body>.*?)"
    r"\\end\s*\{(?P=kind)\}\s*(?P<after>[\])|]?)",
    re.DOTALL,
)
_TRAILING_UNIT = re.compile(
    r"(?<=[\w}).])\s*(?:\\(?:text|mathrm|mbox|textrm|textbf)\s*"
    r"\{[\s~]*(?!(?:and|or|if|for|where|when)\b)([A-Za-z][A-Za-z. /]*)\}\s*(\^\s*\{?\s*-?\d\s*\}?)?"
    r"|\s(cm|mm|km|kg|meters?|inches|feet|ft|units?|dollars|cents|degrees|hours|minutes|seconds|miles|square units)"
    r"(\s*\^\s*\{?\s*\d\s*\}?)?)\s*$"
)
_NAME = re.compile(
    r"\\?(?:[A-Za-z]|alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|sigma|rho|tau|varepsilon|[A-Za-z]+)'*"
    r"(?:\s*_\s*(?:\{[^{}]*\}|\w))?'*(?:\s*\^\s*\{\s*-1\s*\})?(?:\s*\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\))?"
)


@dataclass(frozen=True)
class Shape:
    """`kind` is value, list, tuple, set, union, relation or matrix.

    A value is `text`.  A tuple's `text` is its pair of brackets, a matrix's `|` if it is a determinant, a union's is empty.
    `parts` are what it holds; a matrix's are its rows, each a list; a relation's are its sides, with `signs` between them.
    """

    kind: str
    text: str = ""
    parts: tuple[Shape, ...] = ()
    signs: tuple[str, ...] = ()
    unit: str = field(default="", compare=False)


def value(text: str) -> Shape:
    return Shape("value", text.strip())


def read(text: str, depth: int = 0) -> Shape:
    """The shape of an answer as it is written."""
    if depth == 0:
        # A wide space parts what stands on its sides, but for a unit or a word.
        text = re.sub(r"[,;]?\s*\\q?quad(?![A-Za-z])(?!\s*\\(?:text|mathrm|q?quad))\s*", ", ", text)
        text = tidy(text).replace(r"\langle", "(").replace(r"\rangle", ")")
    text = text.strip()
    if depth > _DEEPEST:
        return value(text)
    if quantity(text) is not None:
        return value(text)
    text = _WORD_BETWEEN.sub(" , ", text).strip().strip(",;").strip()
    text = _unbraced(text)
    worded = re.fullmatch(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}", text)
    if worded:
        text = worded[1].strip()
    if depth == 0:
        text = re.sub(r"^\]([^\[\]]*)\[$", r"(\1)", text)
        text = re.sub(r"^\\?(?:Solution|solution|Solutions)(?: set)?(?: is)?\s*:\s*", "", text)
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        return _matrix(matrix, depth)
    parts = split(text, ",;")
    if len(parts) > 1:
        return _list(parts, depth)
    if r"\pm" in text or r"\mp" in text:
        signed = re.sub(r"^\s*\+\s*", "", text.replace(r"\pm", "+").replace(r"\mp", "-"))
        both = (re.sub(r"(?<=[=<>,(])\s*\+", "", signed), text.replace(r"\pm", "-").replace(r"\mp", "+"))
        return Shape("list", "", tuple(read(one, depth + 1) for one in both))
    found = _related(text, depth)
    if found is not None:
        return found
    united = _split_union(text)
    if len(united) > 1:
        return Shape("union", "", tuple(read(one, depth + 1) for one in united))
    return _bracketed(text, depth)


def _bracketed(text: str, depth: int) -> Shape:
    if text.startswith(r"\{") and text.endswith(r"\}") and _closes(text, 1) == len(text) - 1:
        inside = text[2:-2].strip()
        built = re.match(r"[^|:]*?(?:\||:|\\vert|\\colon)(.*)", inside, re.DOTALL)
        if built and re.search(r"[<>=]|\\(?:le|ge|ne|in)(?![A-Za-z])", built[1]):
            # {x | 1 < x < 2} is what its condition says.
            return read(built[1], depth + 1)
        return Shape("set", "", tuple(read(one, depth + 1) for one in split(inside, ",;") if one.strip()))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and len(text) > 2 and _closes(text, 0) == len(text) - 1:
        parts = split(text[1:-1], ",;")
        if len(parts) > 1:
            return Shape("tuple", text[0] + text[-1], tuple(read(one, depth + 1) for one in parts))
        if text[0] + text[-1] in ("()", "[]"):
            within = read(text[1:-1], depth + 1)
            return within if within.kind in ("value", "tuple", "list", "relation") else value(text)
    found = _TRAILING_UNIT.search(text)
    if found and found.start() > 0:
        unit = re.sub(r"[\s{}~]", "", (found[1] or found[3] or "") + (found[2] or found[4] or "")).lower()
        return Shape("value", text[: found.start()].strip(), unit=unit.rstrip("s"))
    return value(text)


def _list(parts: list[str], depth: int) -> Shape:
    shapes: list[Shape] = []
    for one in (read(part, depth + 1) for part in parts if part.strip()):
        # Of `x = \pm 1, 3` the first part is two values.
        shapes.extend(one.parts if one.kind == "list" else (one,))
    first = shapes[0] if shapes else value("")
    if first.kind == "relation" and first.signs == ("=",) and all(one.kind != "relation" for one in shapes[1:]):
        # x = 1, 2 names both.
        shapes = [first, *(Shape("relation", "", (first.parts[0], one), ("=",)) for one in shapes[1:])]
    return shapes[0] if len(shapes) == 1 else Shape("list", "", tuple(shapes))


def _matrix(found: re.Match[str], depth: int) -> Shape:
    rows = [
        row for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?|\\cr(?![A-Za-z])", found["body"]) if row.replace(r"\hline", "").strip()
    ]
    cells = tuple(
        Shape("list", "", tuple(read(cell, depth + 1) for cell in row.replace(r"\hline", "").split("&"))) for row in rows
    )
    bars = found["kind"].lower() == "vmatrix" or found["before"] == "|"
    return Shape("matrix", "|" if bars else "", cells)


def _related(text: str, depth: int) -> Shape | None:
    sides, signs, start, level = [], [], 0, 0
    place = 0
    while place < len(text):
        character = text[place]
        if character in _OPEN:
            level += 1
        elif character in _CLOSE:
            level -= 1
        if level == 0 and character in "\\<>=!":
            found = _RELATION.match(text, place)
            if found:
                sides.append(text[start:place])
                signs.append(_OPERATORS.get(found[0], found[0]))
                place = start = found.end()
                continue
        place += 1
    if not signs:
        return None
    sides.append(text[start:])
    if not sides[0].strip() and set(signs) == {"="}:
        return read(text[start:], depth + 1)
    if not all(side.strip() for side in sides):
        return None
    if signs == ["in"]:
        return read(sides[1], depth + 1)
    parts = tuple(read(side, depth + 1) for side in sides)
    if parts[-1].kind == "list" and set(signs) == {"="}:
        # x = \pm 2
        return Shape("list", "", tuple(Shape("relation", "", (*parts[:-1], one), tuple(signs)) for one in parts[-1].parts))
    return Shape("relation", "", parts, tuple(signs))


def split(text: str, marks: str) -> list[str]:
    """At the marks outside brackets; commas within a grouped number of a spaced list (1,200, 1,500) do not part it."""
    places, level = [], 0
    for place, character in enumerate(text):
        if character in _OPEN:
            level += 1
        elif character in _CLOSE:
            level = max(0, level - 1)
        elif character in marks and level == 0:
            places.append(place)
    if any(text[place + 1 : place + 2] == " " for place in places):
        grouped = {
            found.start(1) + at
            for found in re.finditer(r"(?<![\d.,])\d{1,3}((?:,\d{3})+)(?!\d)", text)
            for at in _commas(found[1])
        }
        places = [place for place in places if place not in grouped]
    parts, start = [], 0
    for place in places:
        parts.append(text[start:place])
        start = place + 1
    return [*parts, text[start:]]


def _commas(text: str) -> list[int]:
    return [place for place, character in enumerate(text) if character == ","]


def _split_union(text: str) -> list[str]:
    parts, start, level, place = [], 0, 0, 0
    while place < len(text):
        if text[place] in _OPEN:
            level += 1
        elif text[place] in _CLOSE:
            level -= 1
        found = re.compile(r"\\(?:cup|bigcup)(?![A-Za-z])").match(text, place) if level == 0 and text[place] == "\\" else None
        if found is None and level == 0 and text[place] == "U" and re.search(r"[)\]]\s*$", text[:place]):
            found = re.compile("U").match(text, place)
        if found:
            parts.append(text[start:place])
            place = start = found.end()
        else:
            place += 1
    return [*parts, text[start:]]


def _closes(text: str, start: int) -> int:
    """Where the bracket at `start` closes, whatever the kind of the closing one; -1 if nowhere."""
    level = 0
    for place in range(start, len(text)):
        if text[place] in _OPEN:
            level += 1
        elif text[place] in _CLOSE:
            level -= 1
            if level == 0:
                return place
    return -1


def _unbraced(text: str) -> str:
    while text.startswith("{") and text.endswith("}") and _closes(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def name_of(shape: Shape) -> str:
    """`x`, `f(x)`, `a_1` if the value is only a name, else an empty string."""
    if shape.kind != "value":
        return ""
    text = flat(shape.text)
    return text.replace(" ", "") if _NAME.fullmatch(text) else ""
