"""A crew of threads that shares work at two grains: whole tensors, and the blocks of a tensor.

Each thread takes a tensor and walks over its blocks.  A thread that finds no tensor left helps with the blocks of a tensor
that another has open, so the last and largest tensor never keeps the others waiting.  Results do not depend on who did what:
`each` returns them in the order of the blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

R = TypeVar("R")


class Stopped(Exception):
    """Another thread failed, or the user pressed Ctrl-C; this one only leaves."""


class _Pass:
    """One walk over the blocks of one tensor; threads claim block numbers until none is left."""

    def __init__(self, count: int, work: Callable[[int], Any]) -> None:
        self.work = work
        self.results: list[Any] = [None] * count
        self.next = 0
        self.unfinished = count


class Crew:
    """Runs jobs on `threads` threads; `each` may be called from inside a job, and only there."""

    def __init__(self, threads: int) -> None:
        self.threads = max(1, threads)
        self._changed = threading.Condition()
        self._open: list[_Pass] = []
        self._jobs: list[Callable[[], None]] = []
        self._busy = 0
        self._failure: BaseException | None = None

    def run(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Do all jobs; the first exception stops the rest at their next block and is raised here."""
        self._jobs = list(reversed(jobs))
        self._failure = None
        threads = [threading.Thread(target=self._member, daemon=True) for _ in range(self.threads)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
        except BaseException as error:
            self._fail(error)
            for thread in threads:
                thread.join()
            raise
        if self._failure is not None:
            raise self._failure

    def each(self, count: int, work: Callable[[int], R]) -> list[R]:
        """`[work(0), ..., work(count - 1)]`, computed by this thread and whoever is idle."""
        job = _Pass(count, work)
        if count > 1:
            with self._changed:
                self._open.append(job)
                self._changed.notify_all()
        while self._take_block(job):
            pass
        with self._changed:
            while job.unfinished and self._failure is None:
                self._changed.wait()
            if job in self._open:
                self._open.remove(job)
            if self._failure is not None:
                raise Stopped
        return job.results

    def _take_block(self, job: _Pass) -> bool:
        with self._changed:
            if self._failure is not None:
                raise Stopped
            number = job.next
            if number >= len(job.results):
                return False
            job.next += 1
            if job.next == len(job.results) and job in self._open:
                self._open.remove(job)
        job.results[number] = job.work(number)
        with self._changed:
            job.unfinished -= 1
            if not job.unfinished:
                self._changed.notify_all()
        return True

    def _member(self) -> None:
        # NaN and infinity are looked for in what is written; numpy's own warnings would only repeat it, on stderr.
        with np.errstate(all="ignore"):
            self._work()

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    while not self._jobs and not self._open and self._busy and self._failure is None:
                        self._changed.wait()
                    if self._failure is not None or not (self._jobs or self._open):
                        return
                    job = self._jobs.pop() if self._jobs else None
                    helped = self._open[0] if job is None else None
                    if job is not None:
                        self._busy += 1
                if helped is not None:
                    self._take_block(helped)
                elif job is not None:
                    try:
                        job()
                    finally:
                        with self._changed:
                            self._busy -= 1
                            self._changed.notify_all()
        except Stopped:
            pass
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._changed.notify_all()
