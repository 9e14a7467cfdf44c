"""Tables of plain text cells, for a terminal, Markdown and LaTeX: wide ones are split into groups of columns, never cut."""

from __future__ import annotations

import io
import re
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# More columns of benchmarks than this make a page's table unreadable.
MOST = 5


@dataclass(frozen=True)
class Face:
    """A cell as people see it.

    Attributes:
        text: the number.
        mark: ▲, ▼ or nothing.
        test: the p-value, or "best"; goes beside the number.
        detail: the interval; goes below.
        aside: what somebody else measured.
        bold: only what can be believed.
        hint: the whole story in one sentence, for who points at it.
        value: to sort by; None sorts last.
    """

    text: str
    mark: str = ""
    test: str = ""
    detail: str = ""
    aside: str = ""
    bold: bool = False
    hint: str = ""
    value: float | None = None


@dataclass(frozen=True)
class Head:
    """A column's title, what stands below it, and the group it belongs to; only benchmarks count towards MOST."""

    text: str
    detail: str = ""
    group: str = ""
    hint: str = ""
    benchmark: bool = False
    left: bool = False


@dataclass(frozen=True)
class Line:
    """A row: its name, the kind of thing it is, its cells."""

    name: str
    kind: str
    faces: tuple[Face, ...]


@dataclass(frozen=True)
class Grid:
    """A table: `lines` of as many cells as there are `heads`, a last line about the columns, and notes below.

    Attributes:
        foot: named by `foot_name`; may be empty.
    """

    heads: tuple[Head, ...]
    lines: tuple[Line, ...]
    foot_name: str = ""
    foot: tuple[Face, ...] = ()
    notes: tuple[str, ...] = ()
    corner: str = "model"

    def columns(self, keep: Sequence[int]) -> Grid:
        """Only these columns."""
        return Grid(
            tuple(self.heads[at] for at in keep),
            tuple(Line(line.name, line.kind, tuple(line.faces[at] for at in keep)) for line in self.lines),
            self.foot_name,
            tuple(self.foot[at] for at in keep) if self.foot else (),
            self.notes,
            self.corner,
        )

    def ends(self, index: int) -> bool:
        """Whether a rule follows this line: the last parent's, and the last line's."""
        after = self.lines[index + 1].kind if index + 1 < len(self.lines) else None
        return after is None or (self.lines[index].kind == "parent" and after != "parent")


def plain(text: str) -> str:
    """One line without control characters: what a hostile name may hold must not reach a terminal."""
    spaced = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in spaced)


def groups(grid: Grid, room: int | None = None, width: Callable[[int], int] | None = None) -> list[Grid]:
    """The table as several, each of at most MOST benchmarks, or as wide as there is room for.

    Args:
        room: how wide one may be, without its first column.
        width: of a column; needed with `room`.  A column wider than the room stands alone.
    """
    parts: list[list[int]] = [[]]
    used = benchmarks = 0
    for at, head in enumerate(grid.heads):
        wide = width(at) if width else 0
        full = used + wide > room if room is not None else benchmarks + head.benchmark > MOST
        if parts[-1] and full:
            parts.append([])
            used = benchmarks = 0
        parts[-1].append(at)
        used, benchmarks = used + wide, benchmarks + head.benchmark
    return [grid.columns(part) for part in parts]


def _columns_of(text: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _above(face: Face) -> str:
    number = f"*{plain(face.text)}*" if face.bold else plain(face.text)
    return " ".join(part for part in (number, face.mark, face.test) if part)


def text(grid: Grid, width: int | None = None, colour: bool = False) -> str:
    """For a terminal, every line at most `width` columns wide where the longest name and one column fit in it.

    Args:
        width: of the terminal; None for this one's.
        colour: with escape sequences for bold and dim.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = width or shutil.get_terminal_size((100, 24)).columns
    names = [plain(line.name) for line in grid.lines]
    first = min(max(map(_columns_of, [*names, grid.corner, grid.foot_name])), max(12, width // 3))
    gap = 2

    def wide(at: int) -> int:
        head = grid.heads[at]
        faces = [line.faces[at] for line in grid.lines] + ([grid.foot[at]] if grid.foot else [])
        parts = [plain(head.text), head.detail] + [part for f in faces for part in (_above(f), f.detail, f.aside)]
        longest = max(map(_columns_of, parts))
        # A phrase may be folded; a number may not.
        return gap + (min(longest, 24) if head.left else longest)

    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        no_color=not colour,
        highlight=False,
        emoji=False,
    )
    for part in groups(grid, width - first - 2, wide):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0), show_footer=bool(grid.foot))
        foot = Text(grid.foot_name, style="dim") if grid.foot else ""
        table.add_column(Text(grid.corner), footer=foot, max_width=first, overflow="fold")
        for at, head in enumerate(part.heads):
            below = Text(_above(part.foot[at]), style="dim") if part.foot else ""
            title = Text(plain(head.text))
            if head.detail:
                title.append(f"\n{head.detail}", style="dim")
            table.add_column(title, footer=below, justify="left" if head.left else "right", overflow="fold")
        for index, line in enumerate(part.lines):
            cells = []
            for face in line.faces:
                # Without colours bold is not seen, so it is written.
                number = f"*{plain(face.text)}*" if face.bold and not colour else plain(face.text)
                cell = Text().append(number, style="bold" if face.bold else "")
                for extra in (face.mark, face.test):
                    cell.append(f" {extra}" if extra else "", style="dim" if extra == face.test else "")
                for extra in (face.detail, face.aside):
                    cell.append(f"\n{extra}" if extra else "", style="dim")
                cells.append(cell)
            table.add_row(Text(plain(line.name)), *cells, end_section=part.ends(index))
        console.print(table)
    for note in grid.notes:
        console.print(Text(plain(note), style="dim"))
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines()) + "\n"


_MARKDOWN = re.compile(r"[\\`*_\[\]|#~$]|<(?=[A-Za-z/!?])|&(?=[A-Za-z#])")


def markdown_escaped(text: str) -> str:
    """Text that Markdown, and HTML inside it, take as it stands."""
    return _MARKDOWN.sub(lambda found: {"<": "&lt;", "&": "&amp;"}.get(found[0], f"\\{found[0]}"), plain(text))


def markdown(grid: Grid) -> str:
    """Pipe tables; notes as a list."""
    blocks = []
    for part in groups(grid):
        heads = [markdown_escaped(head.text) + (f" ({head.detail})" if head.detail else "") for head in part.heads]
        lines = [_pipe([grid.corner, *heads]), "|---|" + "".join("---|" if head.left else "---:|" for head in part.heads)]
        for line in part.lines:
            lines.append(_pipe([markdown_escaped(line.name), *(_markdown_cell(face) for face in line.faces)]))
        if part.foot:
            lines.append(_pipe([f"*{markdown_escaped(grid.foot_name)}*", *(_markdown_cell(face) for face in part.foot)]))
        blocks.append("\n".join(lines))
    if grid.notes:
        blocks.append("\n".join(f"- {markdown_escaped(note)}" for note in grid.notes))
    return "\n\n".join(blocks) + "\n"


def _pipe(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(face: Face) -> str:
    number = f"**{markdown_escaped(face.text)}**" if face.bold else markdown_escaped(face.text)
    parts = [number, f"[{face.detail}]" if face.detail else "", face.mark, markdown_escaped(face.test)]
    return " ".join(part for part in [*parts, f"({face.aside})" if face.aside else ""] if part)


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    "▲": r"$\blacktriangle$",
    "▼": r"$\blacktriangledown$",
    "\N{REPLACEMENT CHARACTER}": "?",
}


def latex_escaped(text: str) -> str:
    """Text that LaTeX prints as it stands; letters beyond ASCII are left to its input encoding, UTF-8."""
    return "".join(_LATEX.get(letter, letter) for letter in plain(text))


def latex(grid: Grid) -> str:
    """A `tabular` for each group; needs booktabs, amssymb for the marks, and T1 fonts."""
    blocks = [r"% \usepackage{booktabs,amssymb} \usepackage[T1]{fontenc}"]
    for part in groups(grid):
        lines = [rf"\begin{{tabular}}{{l{''.join('l' if head.left else 'r' for head in part.heads)}}}", r"\toprule"]
        lines.append(_tex_row([latex_escaped(grid.corner), *(latex_escaped(head.text) for head in part.heads)]))
        if any(head.detail for head in part.heads):
            lines.append(_tex_row(["", *(rf"\small {latex_escaped(head.detail)}" for head in part.heads)]))
        lines.append(r"\midrule")
        for index, line in enumerate(part.lines):
            lines.append(_tex_row([latex_escaped(line.name), *(_tex_cell(face) for face in line.faces)]))
            if part.ends(index):
                lines.append(r"\midrule" if index + 1 < len(part.lines) or part.foot else r"\bottomrule")
        if part.foot:
            lines += [_tex_row([latex_escaped(grid.foot_name), *(_tex_cell(face) for face in part.foot)]), r"\bottomrule"]
        blocks.append("\n".join([*lines, r"\end{tabular}"]))
    blocks += [rf"% {latex_escaped(note)}" for note in grid.notes]
    return "\n\n".join(blocks) + "\n"


def _tex_row(cells: Sequence[str]) -> str:
    # A cell that begins with [ would be read as the argument of the line before.
    return " & ".join(cells) + r" \\"


def _tex_cell(face: Face) -> str:
    number = rf"\textbf{{{latex_escaped(face.text)}}}" if face.bold else latex_escaped(face.text)
    small = " ".join(latex_escaped(part) for part in (face.detail, face.test, face.aside) if part)
    return " ".join(part for part in (number, latex_escaped(face.mark), rf"{{\scriptsize {small}}}" if small else "") if part)
