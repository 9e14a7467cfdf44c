"""A bar with the time left, for waits that are worth one."""

from __future__ import annotations

import time
from threading import Lock
from typing import Any

# A wait that is shorter needs no bar.
_PATIENCE_S = 2.0


class WaitBar:
    """A bar on stderr, in a terminal, once the wait is worth one; told of progress from any thread.

    Args:
        label: what is going on (`reading`).
        amounts: whether what is counted are bytes, to be shown.
    """

    def __init__(self, label: str, *, amounts: bool = False) -> None:
        self._label, self._amounts = label, amounts
        self._bar: Any = None
        self._task: Any = None
        self._total = self._done = 0
        self._began = time.monotonic()
        self._lock = Lock()

    def __enter__(self) -> WaitBar:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, total: int) -> None:
        self._total, self._began = total, time.monotonic()

    def advance(self, count: int) -> None:
        with self._lock:
            self._move(self._done + count)

    def reach(self, done: int, total: int) -> None:
        """So much of so much is done."""
        with self._lock:
            self._total = total
            self._move(done)

    def _move(self, done: int) -> None:
        self._done = done
        if self._bar is None and time.monotonic() - self._began > _PATIENCE_S:
            self._start()
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        console = Console(stderr=True)
        amounts = (DownloadColumn(), TransferSpeedColumn()) if self._amounts else ()
        columns = (TextColumn(self._label), BarColumn(), *amounts, TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task(self._label, total=self._total)
        self._bar.start()
