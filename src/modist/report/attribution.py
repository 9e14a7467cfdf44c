"""Whose word each token is: a text coloured by responsibility, r_i = a_i p_i(x) / p(x), for a terminal and as a picture."""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modist.errors import UserError, nearest

FORMATS = ("png", "svg", "pdf")

# Tints of Okabe and Ito's colours, which any colour vision tells apart; black reads well on them and on their mixtures.
TINTS = ("#7DC0EE", "#F5A55B", "#6FCFA6", "#E7A9CC", "#F1E07A", "#C4C4C4")
# Below this share of its largest part a token is nobody's in particular.
MOSTLY = 2 / 3
NOBODY = "~"
_INK, _GREY = "#111111", "#555555"
_COLUMNS = 84
_POINTS = 11.0
_CHARACTER = 0.6021 * _POINTS / 72  # inches: DejaVu Sans Mono's advance
_LINE = 1.75 * _POINTS / 72
_MARGIN = 0.3


def pieces_of(tokenizer: Any, ids: Sequence[int], text: str | None = None) -> list[str]:
    """The text each token adds; joined they are what the tokenizer makes of all of them, special tokens left out.

    A character that several tokens spell belongs to the one that completes it.

    Args:
        text: what was kept of it, if an end was cut off (a stop string): nothing beyond its length is given.
    """
    pieces, begin, done = [], 0, 0
    room = len(text) if text is not None else None
    for stop in range(1, len(ids) + 1):
        # A few tokens before give each its context: some tokenizers drop the space of a first word.
        known = tokenizer.decode(ids[begin:done], skip_special_tokens=True) if done > begin else ""
        now = tokenizer.decode(ids[begin:stop], skip_special_tokens=True)
        piece = ""
        if len(now) > len(known) and (stop == len(ids) or not now.endswith("\N{REPLACEMENT CHARACTER}")):
            piece = now[len(known) :]
            begin, done = done, stop
        if room is not None:
            piece = piece[:room]
            room -= len(piece)
        pieces.append(piece)
    return pieces


def shade(responsibilities: Sequence[float]) -> str:
    """The experts' tints mixed in these shares, as #rrggbb."""
    channels = []
    for place in (1, 3, 5):
        tints = [int(TINTS[index % len(TINTS)][place : place + 2], 16) for index in range(len(responsibilities))]
        channels.append(sum(share * tint for share, tint in zip(responsibilities, tints, strict=True)))
    total = sum(responsibilities) or 1.0
    return "#" + "".join(f"{min(255, max(0, round(channel / total))):02x}" for channel in channels)


def letters(count: int) -> list[str]:
    """A short mark for each expert: A, B, ..."""
    return [chr(ord("A") + index) if index < 26 else f"E{index}" for index in range(count)]


def mean_shares(responsibilities: Sequence[Sequence[float]], count: int) -> list[float]:
    """Each expert's mean responsibility over the tokens."""
    return [sum(row[index] for row in responsibilities) / max(1, len(responsibilities)) for index in range(count)]


def marked(pieces: Sequence[str], responsibilities: Sequence[Sequence[float]]) -> str:
    """A text without colours: runs of tokens in brackets, before them the letter of whose they mostly are, `~` for nobody's."""
    marks = letters(max((len(row) for row in responsibilities), default=0))
    runs: list[tuple[str, str]] = []
    for piece, row in zip(pieces, responsibilities, strict=True):
        most = max(range(len(row)), key=lambda index: row[index])
        mark = marks[most] if row[most] >= MOSTLY else NOBODY
        if runs and (runs[-1][0] == mark or not piece):
            runs[-1] = (runs[-1][0], runs[-1][1] + piece)
        elif piece:
            runs.append((mark, piece))
    return "".join(f"{mark}[{text}]" for mark, text in runs)


def check_picture(path: Path, flag: str = "--picture") -> None:
    """Refuse what `draw_attribution` could not write, before anything is run.

    Raises:
        UserError: an unknown suffix, no such folder, or matplotlib is not installed.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise UserError(f"{flag} {path}: the suffix says the format, and must be one of {known}{nearest(suffix, FORMATS)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"{flag} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UserError(f"{flag} {path}: is a folder")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError(f"{flag} needs matplotlib: pip install 'modist[plot]'") from None


def draw_attribution(
    pieces: Sequence[str],
    responsibilities: Sequence[Sequence[float]],
    names: Sequence[str],
    path: Path,
    *,
    weights: Sequence[float] | None = None,
    prompt: str | None = None,
) -> None:
    """Draw one answer, each token on a ground mixed from its experts' tints, into a file that appears whole or not at all.

    Args:
        pieces: the text of each token, in order.
        responsibilities: for each token one share an expert; they sum to 1.
        names: the experts'.
        path: png, svg or pdf, by its suffix.
        weights: a_i, for the legend.
        prompt: what was asked, written above in grey.

    Raises:
        UserError: as `check_picture`, or the file cannot be written.
    """
    check_picture(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    asked, end = _laid([(prompt, None)]) if prompt else ([], -2)
    first = end + 2
    answer, last = _laid([(piece, shade(row)) for piece, row in zip(pieces, responsibilities, strict=True)])
    lines = first + last + 1
    legend = _legend(names, mean_shares(responsibilities, len(names)), weights)
    height = lines * _LINE + len(legend) * _LINE + 3 * _MARGIN
    width = _COLUMNS * _CHARACTER + 2 * _MARGIN
    figure: Any = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    for line, column, text, _ in asked:
        _write(axes, column, line, text, _GREY)
    for line, column, text, ground in answer:
        _ground(axes, column, line + first, _width(text), ground)
    for line, column, text, _ in answer:
        _write(axes, column, line + first, text, _INK)
    top = _MARGIN + lines * _LINE + _MARGIN
    for index, (text, tint) in enumerate(legend):
        _swatch(axes, _MARGIN, top + index * _LINE, tint)
        axes.text(
            _MARGIN + 3 * _CHARACTER,
            top + (index + 0.5) * _LINE,
            text,
            va="center",
            size=_POINTS - 1,
            color=_GREY,
            family="DejaVu Sans",
            parse_math=False,
        )
    _save(figure, path)


def _laid(parts: Sequence[tuple[str, Any]]) -> tuple[list[tuple[int, int, str, Any]], int]:
    """Where each piece goes, in lines of _COLUMNS: [(line, column, text, ground)], and the number of the last line.

    A word, which several tokens may spell, is broken only where it is longer than a line.
    """
    letters_ = [(letter, place) for place, (piece, _) in enumerate(parts) for letter in piece.expandtabs(4)]
    cells: list[tuple[int, int, str, int]] = []
    line = column = 0
    for index, (letter, place) in enumerate(letters_):
        if letter == "\n":
            cells.append((line, column, "↵", place))
            line, column = line + 1, 0
            continue
        shown = letter if letter.isprintable() else "·"
        wide = _width(shown)
        begins = not letter.isspace() and (index == 0 or letters_[index - 1][0].isspace())
        if column and column + (_word(letters_, index) if begins else wide) > _COLUMNS:
            line, column = line + 1, 0
            if letter == " ":
                continue
        if column + wide > _COLUMNS:
            line, column = line + 1, 0
        last = cells[-1] if cells else None
        if last and last[0] == line and last[3] == place:
            cells[-1] = (line, last[1], last[2] + shown, place)
        else:
            cells.append((line, column, shown, place))
        column += wide
    return [(row, start, text, parts[place][1]) for row, start, text, place in cells], line


def _word(letters_: Sequence[tuple[str, int]], begin: int) -> int:
    """Columns of the word that begins here, at most one more than a line has."""
    length = 0
    for letter, _ in letters_[begin : begin + _COLUMNS + 1]:
        if letter.isspace():
            break
        length += _width(letter)
    return length if length <= _COLUMNS else 1


def _width(text: str) -> int:
    """Columns a text takes: two for wide letters, none for what combines with the one before."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _write(axes: Any, column: int, line: int, text: str, colour: str) -> None:
    # Letter by letter: a font other than the one measured would drift from its ground.
    for letter in text:
        if letter != " ":
            axes.text(
                _MARGIN + (column + _width(letter) / 2) * _CHARACTER,
                _MARGIN + (line + 0.57) * _LINE,
                letter,
                ha="center",
                va="center_baseline" if letter == "↵" else "baseline",
                size=_POINTS if letter != "↵" else _POINTS - 3,
                color=colour if letter != "↵" else _GREY,
                family="DejaVu Sans Mono",
                parse_math=False,
            )
        column += _width(letter)


def _ground(axes: Any, column: int, line: int, columns: int, colour: str) -> None:
    from matplotlib.patches import Rectangle

    place = (_MARGIN + column * _CHARACTER, _MARGIN + (line + 0.02) * _LINE)
    axes.add_patch(Rectangle(place, columns * _CHARACTER, 0.84 * _LINE, facecolor=colour, edgecolor="white", linewidth=0.6))


def _legend(names: Sequence[str], shares: Sequence[float], weights: Sequence[float] | None) -> list[tuple[str, str]]:
    lines = []
    for index, (name, share) in enumerate(zip(names, shares, strict=True)):
        weight = f", weight {weights[index]:g}" if weights is not None else ""
        tint = shade([float(other == index) for other in range(len(names))])
        lines.append((f"{name}{weight}: {100 * share:.1f}% mean responsibility", tint))
    if len(names) > 1:
        lines.append(("all alike", shade([1 / len(names)] * len(names))))
    return lines


def _swatch(axes: Any, left: float, top: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, top + 0.12 * _LINE), 2 * _CHARACTER, 0.76 * _LINE, facecolor=colour, edgecolor="none"))


def _save(figure: Any, path: Path) -> None:
    suffix = path.suffix.lower().removeprefix(".")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    try:
        with warnings.catch_warnings():
            # A letter the font lacks is drawn as a box, which says enough.
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(part, format=suffix, metadata=dates.get(suffix))
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)
