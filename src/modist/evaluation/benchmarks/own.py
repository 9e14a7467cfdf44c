"""A user's own benchmark: one YAML file beside a file of JSON lines.

    name: my-questions
    file: questions.jsonl        # relative to this YAML
    question: question           # a key of the rows, or a text with {keys} in it
    gold: answer                 # likewise
    kind: math                   # math, choice or text

Optional: `title`, `rows` (how many there must be), `id`, `domain` and `choices` (keys of the rows), `prompt` (a style),
`instruction`, `shots` (a list of `question` and `answer`), `stop`, `max_new_tokens`, `pattern` and `split`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modist.errors import RecipeError, UserError, nearest
from modist.evaluation.benchmark import Benchmark, Item, Shot
from modist.evaluation.benchmarks.rows import Row, read_lines
from modist.recipe.document import MAX_BYTES, Document, Key, parse_document, short

REQUIRED = ("name", "file", "question", "gold", "kind")
OPTIONAL = (
    *("title", "rows", "id", "domain", "choices", "prompt", "instruction", "shots", "stop"),
    *("max_new_tokens", "pattern", "split"),
)
KINDS = ("math", "choice", "text")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def read_own(path: Path) -> Benchmark:
    """The benchmark a YAML file declares.

    Raises:
        UserError: the file is missing or wrong (`file:line: key:` and the nearest right one), or names rows that are not there.
    """
    document = _document(path)
    if not isinstance(document.data, dict):
        raise document.error(f"a benchmark is a mapping with {', '.join(REQUIRED)}")
    for key in document.data:
        if key not in REQUIRED + OPTIONAL:
            raise document.error(f"no such key{nearest(str(key), REQUIRED + OPTIONAL)}", key)
    lacking = [key for key in REQUIRED if key not in document.data]
    if lacking:
        raise document.error(f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing")
    return _Reader(document, path).benchmark()


@dataclass(frozen=True)
class _Reader:
    document: Document
    path: Path

    def benchmark(self) -> Benchmark:
        from modist.evaluation.prompt import STYLES

        name, file = self._name(), self._file()
        kind = self._one_of("kind", KINDS)
        shots = self._shots()
        return Benchmark(
            name=name,
            title=self._text("title", name),
            expected=self._count("rows", None),
            source=str(file),
            kind=kind,
            shots=len(shots),
            max_new_tokens=self._count("max_new_tokens", 2048) or 2048,
            stop=self._stop(),
            prompt=self._one_of("prompt", STYLES) if "prompt" in self.document.data else None,
            pattern=self._pattern(),
            instruction=self._text("instruction", "", empty=True),
            examples=shots,
            split="development" if self._split() == "development" else "test",
            files=(str(file.absolute()),),
            read=self._items(kind),
        )

    def _items(self, kind: str) -> Callable[[Path, str], list[Item]]:
        question, gold = self._template("question"), self._template("gold")
        keys = {key: self._text(key, "") for key in ("id", "domain", "choices")}
        if keys["choices"] and kind != "choice":
            raise self.document.error(f"only a benchmark of kind 'choice' has choices, and this is {kind!r}", "choices")

        def read(file: Path, name: str) -> list[Item]:
            items: dict[str, tuple[Item, Row]] = {}
            for row in read_lines(file):
                choices = row.texts(keys["choices"]) if keys["choices"] else ()
                identity = row.text(keys["id"]) if keys["id"] else f"{name}-{row.index:04d}"
                asked, right = question(row).strip(), gold(row).strip()
                if kind == "choice":
                    right = _letter(row, right, choices)
                if choices:
                    asked = _written(asked, choices)
                if not asked:
                    raise row.error("the question is empty")
                if identity in items:
                    raise row.error(f"the id {short(identity)} stands on {items[identity][1].where} too")
                domain = row.text(keys["domain"]) if keys["domain"] else ""
                items[identity] = Item(name, identity, asked, right, choices, domain), row
            return [item for item, _ in items.values()]

        return read

    def _value(self, key: str, what: str, *types: type) -> Any:
        value = self.document.data[key]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise self.document.error(f"must be {what}, not {short(value)}", key)
        return value

    def _text(self, key: str, default: str, *, empty: bool = False) -> str:
        if key not in self.document.data:
            return default
        text = str(self._value(key, "a text", str))
        if not text.strip() and not empty:
            raise self.document.error("is empty", key)
        return text

    def _one_of(self, key: str, known: tuple[str, ...]) -> str:
        value = self._text(key, "")
        if value not in known:
            raise self.document.error(f"must be one of {', '.join(known)}, not {short(value)}{nearest(value, known)}", key)
        return value

    def _count(self, key: str, default: int | None) -> int | None:
        if key not in self.document.data:
            return default
        value = int(self._value(key, "a whole number from 1", int))
        if not 1 <= value <= 1_000_000:
            raise self.document.error(f"must be a whole number from 1 to 1,000,000, not {value}", key)
        return value

    def _name(self) -> str:
        from modist.evaluation.benchmarks import known

        name = self._text("name", "")
        if not _NAME.fullmatch(name):
            raise self.document.error(f"letters, digits, '.', '_' and '-' only, at most 64, not {short(name)}", "name")
        if name in known():
            raise self.document.error(f"{name!r} is a benchmark modist brings; take another name", "name")
        return name

    def _file(self) -> Path:
        file = self.path.parent / Path(self._text("file", "")).expanduser()
        if not file.is_file():
            raise self.document.error(f"there is no such file: {file}", "file")
        return file

    def _split(self) -> str:
        return self._one_of("split", ("test", "development")) if "split" in self.document.data else "test"

    def _stop(self) -> tuple[str, ...]:
        if "stop" not in self.document.data:
            return ()
        given = self._value("stop", "a text or a list of texts", str, list)
        stops = [given] if isinstance(given, str) else given
        for place, stop in enumerate(stops):
            if not isinstance(stop, str) or not stop:
                raise self.document.error(f"must be a text that is not empty, not {short(stop)}", "stop", place)
        return tuple(stops)

    def _pattern(self) -> str | None:
        if "pattern" not in self.document.data:
            return None
        pattern = self._text("pattern", "")
        try:
            groups = re.compile(pattern, re.MULTILINE).groups
        except (re.error, RecursionError, OverflowError) as error:
            raise self.document.error(f"not a regular expression: {error}", "pattern") from None
        if groups < 1:
            raise self.document.error("needs a group, as in 'The answer is (.*)'; group 1 is the answer", "pattern")
        return pattern

    def _shots(self) -> tuple[Shot, ...]:
        if "shots" not in self.document.data:
            return ()
        found = []
        for place, shot in enumerate(self._value("shots", "a list of worked examples (question, answer)", list)):
            where: tuple[Key, ...] = ("shots", place)
            if not isinstance(shot, dict):
                raise self.document.error(f"must be a mapping with question and answer, not {short(shot)}", *where)
            for key in shot:
                if key not in ("question", "answer"):
                    raise self.document.error(f"no such key{nearest(str(key), ('question', 'answer'))}", *where, key)
            for key in ("question", "answer"):
                if not isinstance(shot.get(key), str) or not shot[key].strip():
                    raise self.document.error(f"{key} must be a text", *where)
            found.append(Shot(shot["question"].strip(), shot["answer"].strip()))
        return tuple(found)

    def _template(self, key: str) -> Callable[[Row], str]:
        """A key of the rows, or a text with `{keys}` in it; `{{` and `}}` are the braces themselves."""
        text = self._text(key, "")
        if "{" not in text and "}" not in text:
            return lambda row: row.text(text)
        fields = []
        for match in _FIELD.finditer(text):
            if match[0] in ("{", "}") or match[1] == "":
                raise self.document.error(f"{match[0]!r} is not a {{key}}; write {{{{ or }}}} for a brace", key)
            fields.append(match[1])
        if not any(fields):
            raise self.document.error("names no {key} of the rows: every row would be the same", key)

        def fill(row: Row) -> str:
            return _FIELD.sub(lambda match: row.text(match[1]) if match[1] else match[0][0], text)

        return fill


def _letter(row: Row, gold: str, choices: tuple[str, ...]) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices) or 26]
    bare = gold.strip("() ").upper()
    if len(bare) == 1 and bare in letters:
        return bare
    if choices and bare.isdecimal() and int(bare) < len(letters):
        return letters[int(bare)]
    wanted = f"a letter up to {letters[-1]}" + (" or a place from 0" if choices else "")
    raise row.error(f"the gold must be {wanted}, not {short(gold)}")


def _written(question: str, choices: tuple[str, ...]) -> str:
    from modist.evaluation.benchmarks.maths import stem_question

    return stem_question(question, choices)


def _document(path: Path) -> Document:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such benchmark file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: this is a folder; a benchmark is a YAML file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > MAX_BYTES:
        raise UserError(
            f"{path}: larger than {MAX_BYTES >> 20} MiB, too much for a benchmark's YAML; its rows are another file"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    try:
        return parse_document(text, str(path))
    except RecipeError as error:
        if ": empty;" in str(error):
            raise UserError(f"{path}: empty; a benchmark is a mapping with {', '.join(REQUIRED)}") from None
        raise
