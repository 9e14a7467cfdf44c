"""Waits shown on stderr: a bar with the time left, in a terminal, once the wait is worth one; nothing anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# A wait that is shorter needs no bar.
PATIENCE_S = 2.0


@contextmanager
def counting(what: str, total: float | None = None, *, printing: bool = False) -> Iterator[Callable[..., None]]:
    """A bar of things that are counted; yields `advance(done, total)`, whose total may be left out where it is known here.

    Args:
        what: is being done: `scoring`.
        total: how many there are.
        printing: whether stdout gets lines meanwhile; no bar is drawn where both are one terminal.
    """
    began, bar = time.monotonic(), None

    def advance(done: float, of: float | None = None) -> None:
        nonlocal bar
        if bar is None and _worth_it(began) and not (printing and sys.stdout.isatty()):
            from rich.progress import MofNCompleteColumn

            bar = _bar(MofNCompleteColumn(), redirect_stdout=not printing)
            bar.add_task(what, total=total if of is None else of)
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done, total=of)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """A bar of work that has parts, one after the other; yields `advance(what, share)`, share from 0 to 1."""
    began, current, bar = time.monotonic(), "", None

    def advance(what: str, share: float) -> None:
        nonlocal bar, current
        if bar is None:
            if not _worth_it(began):
                return
            from rich.progress import TaskProgressColumn

            bar = _bar(TaskProgressColumn())
            bar.start()
        if what != current:
            for task in bar.task_ids:
                bar.remove_task(task)
            bar.add_task(what, total=1.0)
            current = what
        bar.update(bar.task_ids[-1], completed=share)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def _worth_it(began: float) -> bool:
    return sys.stderr.isatty() and time.monotonic() - began > PATIENCE_S


def _bar(amount: Any, redirect_stdout: bool = True) -> Any:
    """What is done, the bar, how much of it, the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=redirect_stdout)
