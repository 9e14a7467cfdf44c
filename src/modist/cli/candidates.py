"""How far a search for merge coefficients is."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modist.search.evolve import Watch
    from modist.search.journal import Entry, Journal

# Without a terminal: a line each time so much of the search is done.
_STEP = 0.1


class Progress:
    """How far it is, the best so far and the time left: a bar in a terminal, else a line now and then; on stderr."""

    def __init__(self, budget: int, random: bool) -> None:
        """
        Args:
            budget: candidates of the search.
            random: whether as many are drawn at random; the start is scored once.
        """
        self._budget, self._total = budget, budget + (budget - 1 if random else 0)
        self._replayed: set[tuple[str, int]] = set()
        self._fresh = 0
        self._done = 0
        self._said = 0.0
        self._start: float | None = None
        self._began = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def begin(self, journal: Journal) -> Watch:
        """The search begins; what is to be told of every score."""
        # What is replayed takes no time, and tells nothing of what the rest will take.
        self._replayed = set(journal.scores)
        if self._bar is not None:
            self._bar.start()
        return self.told

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("searching", total=self._total, left="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def told(self, entry: Entry, done: int, best: Entry) -> None:
        """One more score."""
        if self._start is None:
            self._start, self._began = entry.score, time.monotonic()
        drawing = entry.stage == "random" or (entry.stage == "start" and self._done >= self._budget)
        self._done = done if not drawing else self._budget + max(0, done - 1)
        self._fresh += (entry.stage, entry.number) not in self._replayed
        what = "random search" if drawing else "searching"
        text = f"{what}: best {best.score:.4g} (start {self._start:.4g})"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=text, left=self._left())
        elif self._fresh and (self._done / self._total >= self._said + _STEP or self._done == self._total):
            self._said = self._done / self._total
            left = self._left()
            print(f"modist: {self._done} of {self._total} candidates, {text}{left and ', '}{left}", file=sys.stderr, flush=True)

    def _left(self) -> str:
        if self._fresh < 2 or self._done >= self._total:
            return ""
        seconds = (time.monotonic() - self._began) / (self._fresh - 1) * (self._total - self._done)
        if seconds < 90:
            return f"{seconds:.0f} s left"
        return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"
