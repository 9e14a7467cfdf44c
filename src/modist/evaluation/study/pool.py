"""Pieces of work in processes of their own, a few at a time."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from typing import TypeVar

from modist.errors import ModistError
from modist.evaluation.benchmark import EvaluationError

T = TypeVar("T")
_WATCH_S = 0.5


class Crew:
    """Processes that are started with the first piece and stay for the next ones.  A context manager."""

    def __init__(self, workers: int, threads: int | None) -> None:
        """`workers` spawned processes with `threads` of torch's each (None leaves them); 0 does everything in this process."""
        self._workers, self._threads = workers, threads
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._pool is None:
            return
        if kind is not None and not issubclass(kind, ModistError):
            # Not to wait for hours of work in flight: what a process was about is asked again by the next run.
            for child in active_children():
                child.terminate()
        self._pool.shutdown(cancel_futures=True)

    def do(self, work: Mapping[str, Callable[[], T]], told: Callable[[str, int, int], object]) -> dict[str, T]:
        """Do every piece, the given order first come; what one finds is kept although another fails.

        Args:
            work: by name.  A piece must be picklable where there are processes, and may have a `done()` that says whether
                calling it will only return what an earlier run found.
            told: the name of a piece just done, how many are, of how many.

        Returns:
            What each returned, by name.

        Raises:
            ModistError: the first that a piece raised, once all others are done; EvaluationError where a process died.
        """
        found: dict[str, T] = {}
        failed: list[tuple[str, ModistError]] = []
        for number, (name, result) in enumerate(self._results(work), start=1):
            try:
                found[name] = result()
            except BrokenProcessPool:
                raise EvaluationError(
                    f"{name}: its process died (out of memory?); the same command goes on from there"
                ) from None
            except ModistError as error:
                failed.append((name, error))
            told(name, number, len(work))
        if failed:
            name, first = failed[0]
            more = f" (and {len(failed) - 1} more failed)" if len(failed) > 1 else ""
            raise type(first)(f"{name}: {first}{more}")
        return found

    def _results(self, work: Mapping[str, Callable[[], T]]) -> Iterator[tuple[str, Callable[[], T]]]:
        """Each piece's name and what gives its result, as they are done."""
        # What an earlier run finished needs no process.
        here = [name for name, piece in work.items() if self._workers == 0 or _is_done(piece)]
        for name in here:
            yield name, work[name]
        if len(here) == len(work):
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._workers, get_context("spawn"), _begin, (os.getpid(), self._threads))
        futures = {self._pool.submit(piece): name for name, piece in work.items() if name not in here}
        for future in as_completed(futures):
            yield futures[future], future.result


def _is_done(piece: object) -> bool:
    done = getattr(piece, "done", None)
    return done is not None and bool(done())


def _begin(parent: int, threads: int | None) -> None:
    """Before a process's first piece: its share of the cores, and an end with its parent's."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # Read when torch and transformers are imported, which they are not yet.
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ.update(quiet | ({"OMP_NUM_THREADS": str(threads)} if threads is not None else {}))


def _end_with(parent: int) -> None:
    """A killed study leaves no process that goes on for hours and holds its folders."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)
