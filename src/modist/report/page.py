"""One HTML page that needs nothing else: table, pictures, what they mean, how they were made.

Names, answers and notes come from models and strangers, so every text is escaped, and the page's own policy lets no script
but its own run: one that got in would be dead.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Protocol

from modist.errors import UserError
from modist.report.page_parts import SCRIPT, STYLE
from modist.report.tables import Face, Grid, Head, plain

_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
# More disagreements than this a benchmark are in the run's files, not on a page.
_LISTED = 200
_LONGEST = 300


@dataclass(frozen=True)
class Picture:
    """A picture's file (png or svg), its title, what it shows and what to be careful about."""

    path: Path
    title: str
    caption: str = ""


class _Tabular(Protocol):
    def grid(self) -> Grid: ...


def write_page(
    path: Path,
    table: Grid | _Tabular,
    pictures: Sequence[Picture] = (),
    notes: Sequence[str] = (),
    *,
    title: str = "Evaluation",
    lead: str = "",
    findings: Sequence[str] = (),
    more: Sequence[tuple[str, Grid | _Tabular]] = (),
    settings: Mapping[str, object] | None = None,
    commands: Sequence[str] = (),
    disagreements: Mapping[str, Sequence[Mapping[str, str]]] | None = None,
) -> Path:
    """Write the page; it appears whole or not at all.

    Args:
        path: of the file; its folder must be there.
        table: the main one, a `Grid` or what gives one (`modist.evaluation.table.Table`).
        pictures: read now and put inside.
        notes: what is to be known beside the table's own notes, a paragraph each.
        title, lead: of the page; what it is about in a sentence.
        findings: what came out, a sentence each, above the table.
        more: further tables under their own titles, such as the other grader's.
        settings: how it was run: versions, seeds, sampling; name -> value.
        commands: what to type to do it again.
        disagreements: by benchmark, rows of name -> text that the graders judge differently; all rows of one have the same
            names.

    Raises:
        UserError: a picture cannot be read or is no png or svg, or the page cannot be written.
    """
    found = [_picture(picture) for picture in pictures]
    sections: list[tuple[str, str, str]] = [("table", "Results", _list(findings, "findings") + _table(_grid(table)))]
    sections += [(f"table-{number}", name, _table(_grid(one))) for number, (name, one) in enumerate(more, start=2)]
    if found:
        sections.append(("pictures", "Pictures", "".join(found)))
    meaning = [note for one in (table, *(other for _, other in more)) for note in _grid(one).notes]
    meaning = list(dict.fromkeys([*notes, *meaning]))
    if meaning:
        sections.append(("meaning", "What it means", "".join(f"<p>{_text(note)}</p>" for note in meaning)))
    if settings or commands:
        sections.append(("run", "How it was run", _settings(settings or {}) + _commands(commands)))
    if disagreements is not None:
        sections.append(("graders", "Where the graders disagree", _disagreements(disagreements)))
    links = "".join(f'<a href="#{name}">{_text(head)}</a>' for name, head, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{_text(head)}</h2>{inner}</section>' for name, head, inner in sections)
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f"<header><h1>{_text(title)}</h1>{f'<p>{_text(lead)}</p>' if lead else ''}<nav>{links}</nav></header>\n"
        f"<main>{body}</main>\n<footer>Made by modist. This page needs no network.</footer>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
    _write(path, page)
    return path


def _policy() -> str:
    hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in (STYLE, SCRIPT)]
    return f"default-src 'none'; img-src data:; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"


def _write(path: Path, page: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # Half a character of an answer cut in two has no UTF-8 of its own.
        part.write_bytes(page.encode("utf-8", "replace"))
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)


def _text(text: object) -> str:
    return escape(plain(str(text)), quote=True)


def _grid(table: Grid | _Tabular) -> Grid:
    return table if isinstance(table, Grid) else table.grid()


def _list(sentences: Sequence[str], kind: str) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{_text(one)}</li>" for one in sentences)}</ul>' if sentences else ""


def _table(grid: Grid) -> str:
    head = "".join(_head(one, first) for one, first in zip(grid.heads, _firsts(grid.heads), strict=True))
    bodies: list[list[str]] = [[]]
    for index, line in enumerate(grid.lines):
        cells = "".join(
            _cell(face, one, first) for face, one, first in zip(line.faces, grid.heads, _firsts(grid.heads), strict=True)
        )
        bodies[-1].append(f'<tr class="{_text(line.kind)}"><th scope="row">{_text(line.name)}</th>{cells}</tr>')
        if grid.ends(index):
            bodies.append([])
    foot = ""
    if grid.foot and grid.foot_name:
        cells = "".join(_cell(f, one, new) for f, one, new in zip(grid.foot, grid.heads, _firsts(grid.heads), strict=True))
        foot = f'<tfoot><tr><th scope="row">{_text(grid.foot_name)}</th>{cells}</tr></tfoot>'
    body = "".join(f"<tbody>{''.join(rows)}</tbody>" for rows in bodies if rows)
    corner = f'<th scope="col"><button type="button">{_text(grid.corner)}</button></th>'
    return f'<div class="wide" tabindex="0"><table><thead><tr>{corner}{head}</tr></thead>{body}{foot}</table></div>'


def _firsts(heads: Sequence[Head]) -> list[bool]:
    """Whether each column begins a group."""
    return [at > 0 and head.group != heads[at - 1].group for at, head in enumerate(heads)]


def _class(*names: str) -> str:
    used = " ".join(name for name in names if name)
    return f' class="{used}"' if used else ""


def _head(head: Head, first: bool) -> str:
    small = f"<small>{_text(head.detail)}</small>" if head.detail else ""
    hint = f' title="{_text(head.hint)}"' if head.hint else ""
    classes = _class("left" if head.left else "", "first" if first else "")
    return f'<th scope="col"{classes}{hint}><button type="button">{_text(head.text)}{small}</button></th>'


_TONES = {"▲": "above", "▼": "below"}


def _cell(face: Face, head: Head, first: bool) -> str:
    tone = _TONES.get(face.mark, "best" if face.test == "best" else "")
    classes = _class("left" if head.left else "", "first" if first else "", tone)
    value = f' data-v="{face.value!r}"' if face.value is not None else ""
    hint = f' title="{_text(face.hint)}"' if face.hint else ""
    number = f"<b>{_text(face.text)}</b>" if face.bold else _text(face.text)
    # The mark's place is kept where there is none, so that the numbers stay in line.
    mark = f"<i>{_text(face.mark)}</i>" if head.benchmark or face.mark or face.detail else ""
    small = "".join(f"<small>{_text(part)}</small>" for part in (face.detail, face.test, face.aside) if part)
    return f"<td{classes}{value}{hint}>{number}{mark}{small}</td>"


def _picture(picture: Picture) -> str:
    kind = _TYPES.get(picture.path.suffix.lower())
    if kind is None:
        raise UserError(f"{picture.path}: a page takes png and svg pictures")
    try:
        data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    except OSError as error:
        raise UserError(f"{picture.path}: cannot be read ({error.strerror})") from None
    caption = f"<strong>{_text(picture.title)}</strong> {_text(picture.caption)}"
    return (
        f'<figure><img alt="{_text(picture.title)}" src="data:{kind};base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _settings(settings: Mapping[str, object]) -> str:
    if not settings:
        return ""
    return f"<dl>{''.join(f'<dt>{_text(name)}</dt><dd>{_text(value)}</dd>' for name, value in settings.items())}</dl>"


def _commands(commands: Sequence[str]) -> str:
    lines = "\n".join(_text(line) for line in commands)
    return f"<pre>{lines}</pre>" if lines else ""


def _disagreements(found: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    if not any(found.values()):
        return "<p>Nowhere: every answer is judged alike by both.</p>"
    parts = []
    for benchmark, rows in found.items():
        if not rows:
            continue
        names = list(rows[0])
        head = "".join(f'<th scope="col" class="left">{_text(name)}</th>' for name in names)
        lines = "".join(f"<tr>{''.join(_said(row.get(name, '')) for name in names)}</tr>" for row in rows[:_LISTED])
        left = f"<p>{len(rows) - _LISTED:,} more are in the runs' files.</p>" if len(rows) > _LISTED else ""
        table = f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
        parts.append(f"<details><summary>{_text(benchmark)}: {len(rows):,}</summary>{table}{left}</details>")
    return "".join(parts)


def _said(text: str) -> str:
    short = text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return f'<td class="left said">{_text(short)}</td>'
