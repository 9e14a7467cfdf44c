"""A grading process: takes questions from a socket, says each answer as soon as it has it.

It is started by name (`python -m modist.evaluation.answers.worker FD`), so that it loads neither the caller's main module nor
its threads, and it ends when the caller does.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from multiprocessing.connection import Connection

# A formula that needs more is a MemoryError here, and no trouble to the rest of the machine.
_MEMORY_BYTES = 4 << 30
_WATCH_S = 2.0


def main(descriptor: int, seconds: float) -> None:
    """Serve until the other end closes."""
    channel = Connection(descriptor)
    _limit(resource.RLIMIT_AS, _MEMORY_BYTES)
    _limit(resource.RLIMIT_CORE, 0)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    from modist.evaluation.answers import judge

    _warm(judge)
    channel.send("ready")
    while True:
        try:
            tasks = channel.recv()
        except (EOFError, OSError):
            return
        for questions in tasks:
            _spare(seconds)
            for place, question in enumerate(questions):
                channel.send((place + 1 == len(questions), *_answer(judge, question)))


def _answer(judge: object, question: tuple[str, str, str]) -> tuple[bool, str]:
    try:
        return bool(judge.settle(question)), ""  # type: ignore[attr-defined]
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return False, f"{type(error).__name__} in the {question[0]} grader"


def _warm(judge: object) -> None:
    """Load what the first formula needs, outside every answer's time."""
    for grader in ("default", "compatible"):
        _answer(judge, (grader, r"\frac{x}{2}+\sqrt{3}", r"\frac{\sqrt{12}+x}{2}"))


def _limit(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, hard))


def _spare(seconds: float) -> None:
    """Processor time for one more answer: the kernel ends this process if nobody is left to do so."""
    used = time.process_time()
    _limit(resource.RLIMIT_CPU, int(used + 2 * seconds) + 10)


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
