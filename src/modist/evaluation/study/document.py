"""A study: which models are compared, made how, on what; read once from YAML and immutable from then on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from modist.errors import ModistError, RecipeError, UserError, nearest
from modist.evaluation.study.schema import DecodeEntry, ParentEntry, PriceEntry, RowEntry, StudyFile
from modist.recipe import ModelReference, Recipe
from modist.recipe.document import Document, Key, read_document, short
from modist.recipe.recipe import read_recipe, validate

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,79}")
_SUFFIXES = (".yml", ".yaml")
Kind = Literal["merge", "mixture", "route", "vote"]
KINDS: tuple[Kind, ...] = ("merge", "mixture", "route", "vote")
# Which keys belong to which kind of row; the others are refused there.
_BELONGS = {
    "allow": "merge", "seed": "merge", "tune": "merge", "gate": "mixture", "discount": "mixture", "stride": "mixture",
    "law": "mixture", "samples": "vote",
}  # fmt: skip


@dataclass(frozen=True)
class Parent:
    """An expert as it was found: always evaluated, always the table's first rows."""

    name: str
    label: str
    reference: ModelReference


@dataclass(frozen=True)
class Row:
    """One line of the table beside the parents'.

    Attributes:
        name, label: of its folders, and for people.
        kind: what it is.
        entry: the options as written.
        recipe: of a merge or mixture.
        parents: names, of a route or vote.
        samples: of a vote, in all.
        path: where it stands in the YAML.
    """

    name: str
    label: str
    kind: Kind
    entry: RowEntry = field(repr=False)
    recipe: Recipe | None = field(default=None, repr=False)
    parents: tuple[str, ...] = ()
    samples: int = 0
    path: tuple[Key, ...] = ()

    @property
    def tuned(self) -> tuple[str, tuple[float, ...]] | None:
        """The parameter that is tuned and its grid."""
        if not self.entry.tune:
            return None
        ((parameter, grid),) = self.entry.tune.items()
        return parameter, tuple(grid)

    def at(self, value: float | None) -> Recipe:
        """A merge's recipe, with its tuned parameter at a value."""
        assert self.recipe is not None
        if value is None or self.tuned is None:
            return self.recipe
        return with_parameter(self.recipe, self.tuned[0], value)


@dataclass(frozen=True)
class Study:
    """A validated study.

    Attributes:
        parents: in the YAML's order; the first one is where ties go.
        benchmarks, retention, development: names of built-in benchmarks, or paths of YAML files.
        paper: row -> benchmark -> the published accuracy in percent.
    """

    title: str
    parents: tuple[Parent, ...]
    benchmarks: tuple[str, ...]
    retention: tuple[str, ...]
    development: tuple[str, ...]
    development_limit: int | None
    decode: DecodeEntry
    price: PriceEntry
    paper: Mapping[str, Mapping[str, float]]
    paper_source: str
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    document: Document = field(repr=False)

    def parent(self, name: str) -> Parent:
        return next(parent for parent in self.parents if parent.name == name)

    def samples_needed(self, rows: tuple[Row, ...]) -> dict[str, int]:
        """Sampled answers to a question that each parent must give for the votes among `rows`."""
        needed: dict[str, int] = {}
        for row in rows:
            for name in row.parents if row.kind == "vote" else ():
                needed[name] = max(needed.get(name, 0), row.samples // len(row.parents))
        return needed

    def chosen(self, only: tuple[str, ...]) -> tuple[Row, ...]:
        """The rows named, all where none is; UserError for a name that is none."""
        known = [row.name for row in self.rows]
        for name in only:
            if name not in known and name not in [parent.name for parent in self.parents]:
                raise UserError(f"--only {name}: the study has no such row{nearest(name, known)} (known: {', '.join(known)})")
        return tuple(row for row in self.rows if not only or row.name in only)


def load_study(path: str | Path) -> Study:
    """Read a study.

    Raises:
        RecipeError: the file, or a recipe it names, is missing or wrong; with file, line, key and the nearest right word.
    """
    path = Path(path)
    if not path.exists():
        close = nearest(path.name, [other.name for other in path.parent.glob("*.yml")] if path.parent.is_dir() else [])
        raise RecipeError(f"{path}: there is no such study{close}")
    return read_study(read_document(path))


def read_study(document: Document) -> Study:
    """The same from a document already parsed."""
    if not isinstance(document.data, dict):
        raise document.error("a study is a mapping with 'title', 'parents', 'benchmarks' and 'rows'")
    file = validate(document, StudyFile)
    parents = tuple(_parent(document, name, entry) for name, entry in file.parents.items())
    rows = tuple(_row(document, index, entry, file) for index, entry in enumerate(file.rows))
    _refuse_twice(document, parents, rows)
    paper = _paper(document, file)
    return Study(
        title=file.title,
        parents=parents,
        benchmarks=_benchmarks(document, file.benchmarks, "benchmarks"),
        retention=_benchmarks(document, file.retention, "retention"),
        development=_benchmarks(document, file.development, "development"),
        development_limit=file.development_limit,
        decode=file.decode,
        price=file.price,
        paper=paper,
        paper_source=file.paper.source if file.paper else "",
        notes=tuple(file.notes),
        rows=rows,
        document=document,
    )


def _parent(document: Document, name: str, entry: str | ParentEntry) -> Parent:
    if not _NAME.fullmatch(name):
        raise document.error(f"{short(name)} cannot name a folder; use letters, digits, '_', '-' and '.'", "parents", name)
    entry = ParentEntry(model=entry) if isinstance(entry, str) else entry
    # The same reading as a recipe's: a folder here, or beside the YAML, or a hub id.
    alone = _recipe_of(document, {"experts": [{"source_model": entry.model}], "weights": [1.0]}, ("parents", name), whole=True)
    return Parent(name, entry.label or name, alone.models[0])


def _row(document: Document, index: int, entry: RowEntry, file: StudyFile) -> Row:
    path: tuple[Key, ...] = ("rows", index)
    if not _NAME.fullmatch(entry.name):
        raise document.error(f"{short(entry.name)} cannot name a folder; use letters, digits, '_', '-' and '.'", *path, "name")
    given = [kind for kind in KINDS if getattr(entry, kind) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none of them"
        raise document.error(f"{entry.name}: exactly one of {', '.join(KINDS)} says what a row is; found {found}", *path)
    kind = given[0]
    for key, owner in _BELONGS.items():
        if key in entry.model_fields_set and owner != kind:
            raise document.error(f"{key!r} belongs to rows with {owner!r}, and this one has {kind!r}", *path, key)
    if entry.paper is not None and entry.paper not in (known := list(file.paper.rows) if file.paper else []):
        raise document.error(f"{entry.paper!r} is no row of 'paper'{nearest(entry.paper, known)}", *path, "paper")
    recipe, parents = None, tuple(entry.route or entry.vote or ())
    for place, name in enumerate(parents):
        if name not in file.parents:
            raise document.error(f"{name!r} is no parent{nearest(name, file.parents)}", *path, kind, place)
    if len(set(parents)) != len(parents):
        raise document.error("a parent is named twice", *path, kind)
    if kind in ("merge", "mixture"):
        recipe = _recipe(document, getattr(entry, kind), (*path, kind))
    if kind == "mixture":
        _check_mixture(document, entry, recipe, path)
    if kind == "merge":
        _check_merge(document, entry, file, path)
    samples = _samples(document, entry, parents, path) if kind == "vote" else 0
    return Row(entry.name, entry.label or entry.name, kind, entry, recipe, parents, samples, path)


def _check_mixture(document: Document, entry: RowEntry, recipe: Recipe | None, path: tuple[Key, ...]) -> None:
    if recipe is None or "experts" not in recipe.document.data:
        raise document.error("a mixture needs a recipe with 'experts' and 'weights'", *path, "mixture")
    for key in ("discount", "stride"):
        if getattr(entry, key) is not None and entry.gate != "bayes":
            raise document.error(f"{key!r} belongs to 'gate: bayes'", *path, key)


def _check_merge(document: Document, entry: RowEntry, file: StudyFile, path: tuple[Key, ...]) -> None:
    from modist.merge.compare import ALLOWABLE

    for place, word in enumerate(entry.allow):
        if word not in ALLOWABLE:
            raise document.error(
                f"unknown {word!r}{nearest(word, ALLOWABLE)} (known: {', '.join(ALLOWABLE)})", *path, "allow", place
            )
    if entry.tune is None:
        return
    if len(entry.tune) != 1 or not all(entry.tune.values()):
        raise document.error("give one parameter with a list of values, such as 'lambda: [0.2, 0.5, 1]'", *path, "tune")
    ((parameter, grid),) = entry.tune.items()
    if len(set(grid)) != len(grid):
        raise document.error("a value is given twice", *path, "tune", parameter)
    if not file.development:
        raise document.error("tuning needs 'development': data that is no benchmark of the study", *path, "tune")


def _samples(document: Document, entry: RowEntry, parents: tuple[str, ...], path: tuple[Key, ...]) -> int:
    samples = entry.samples if entry.samples is not None else 2 * len(parents)
    if samples % len(parents):
        raise document.error(f"{samples} samples cannot be split evenly among {len(parents)} parents", *path, "samples")
    return samples


def _recipe(document: Document, what: str | dict[str, Any], path: tuple[Key, ...]) -> Recipe:
    if isinstance(what, dict):
        return _recipe_of(document, what, path)
    found = beside(document, what)
    if not found.is_file():
        close = nearest(found.name, [other.name for other in found.parent.glob("*.yml")] if found.parent.is_dir() else [])
        raise document.error(f"there is no recipe {what!r}{close}", *path)
    return read_recipe(read_document(found))


def _recipe_of(document: Document, data: dict[str, Any], path: tuple[Key, ...], whole: bool = False) -> Recipe:
    """A recipe written inside the study; its errors name the study's own lines (`whole`: no place within the recipe)."""
    size = len(path)
    lines = {known[size:]: line for known, line in document.lines.items() if known[:size] == path}
    part = _Part(document.name, yaml.safe_dump(data, sort_keys=False), data, lines, document, path, whole)
    recipe = read_recipe(part)
    for reference in recipe.models:
        # It would be asked of the hub, and the folder that was meant never looked at.
        if not reference.is_local and (Path(document.name).parent / reference.source).is_dir():
            raise part.error(
                f"{reference.source!r} reads as a hub id; for the folder of this name write './{reference.source}'"
            )
    return recipe


@dataclass(frozen=True)
class _Part(Document):
    """A part of a study that is read as a document of its own."""

    study: Document | None = field(default=None, repr=False)
    prefix: tuple[Key, ...] = ()
    whole: bool = False

    def where(self, *path: Key) -> str:
        assert self.study is not None
        return self.study.where(*self.prefix) if self.whole else self.study.where(*self.prefix, *path)


def with_parameter(recipe: Recipe, parameter: str, value: float) -> Recipe:
    """The recipe with one top-level parameter set: a candidate of `tune`.

    Raises:
        RecipeError: the recipe has no place for parameters (Configuration 1 has none).
    """
    document = recipe.document
    if "merge_method" not in document.data:
        raise document.error("only a recipe with 'merge_method' has parameters to tune")
    data = {**document.data, "parameters": {**(document.data.get("parameters") or {}), parameter: value}}
    return read_recipe(replace(document, text=yaml.safe_dump(data, sort_keys=False), data=data))


def _benchmarks(document: Document, names: list[str], key: str) -> tuple[str, ...]:
    from modist.evaluation.benchmarks import find

    found = []
    wanted = "development" if key == "development" else "test"
    for index, name in enumerate(names):
        if name.lower().endswith(_SUFFIXES):
            path = beside(document, name)
            if not path.is_file():
                close = nearest(path.name, [other.name for other in path.parent.glob("*.yml")] if path.parent.is_dir() else [])
                raise document.error(f"there is no benchmark {name!r}{close}", key, index)
            name = str(path)
        try:
            split = find(name).split
        except RecipeError:
            raise
        except ModistError as error:
            raise document.error(str(error), key, index) from None
        if split != wanted:
            raise document.error(
                f"{name} is {split} data: what is tuned on never goes in a table, and the other way round", key, index
            )
        found.append(name)
    if len(set(found)) != len(found):
        raise document.error("a benchmark is named twice", key)
    return tuple(found)


def _paper(document: Document, file: StudyFile) -> dict[str, dict[str, float]]:
    if file.paper is None:
        return {}
    for name, values in file.paper.rows.items():
        if len(values) != len(file.paper.columns):
            raise document.error(
                f"{len(values)} numbers for {len(file.paper.columns)} columns; give one for each", "paper", "rows", name
            )
    return {name: dict(zip(file.paper.columns, values, strict=True)) for name, values in file.paper.rows.items()}


def _refuse_twice(document: Document, parents: tuple[Parent, ...], rows: tuple[Row, ...]) -> None:
    seen = {parent.name.lower() for parent in parents}
    for row in rows:
        # Folders of some systems do not tell capitals apart.
        if row.name.lower() in seen:
            raise document.error(f"{row.name!r} is named twice; names of rows and parents are folders", *row.path, "name")
        seen.add(row.name.lower())


def beside(document: Document, name: str) -> Path:
    """A relative path of the YAML: beside the YAML, or where the command runs if only that exists."""
    path = Path(name).expanduser()
    other = Path(document.name).parent / path
    return path if path.is_absolute() or (path.exists() and not other.exists()) else other
