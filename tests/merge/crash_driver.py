"""A merge in a process of its own that kills itself at a chosen moment; run by test_crash.py.

The last argument is JSON: recipe, out, and perhaps seed, resume, allow, block (elements), pause (seconds after each block),
die (survey, blend, advance, fsync, verify, rename, between, replaced) and after (how many times that may happen first).
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def main(wanted: dict[str, Any]) -> None:
    from modist.checkpoint import staging
    from modist.merge import Watch, merge, run

    run.Engine = functools.partial(run.Engine, block=wanted.get("block", 4096))  # type: ignore[misc, assignment]
    moment, left, lock = wanted.get("die"), wanted.get("after", 0), threading.Lock()

    def seen(what: str) -> None:
        nonlocal left
        if what == moment:
            with lock:
                left -= 1
                if left < 0:
                    die()

    def advance(count: int) -> None:
        seen("advance")
        time.sleep(wanted.get("pause", 0))

    if moment == "replaced":
        staging.Staging.discard = die  # type: ignore[method-assign]
    if moment == "between":
        staging.swap_folders = lambda one, two: False
        rename = Path.rename
        Path.rename = lambda self, to: die() if self.name == "model" else rename(self, to)  # type: ignore
    merge(
        wanted["recipe"],
        wanted["out"],
        seed=wanted.get("seed", 0),
        resume=wanted.get("resume", False),
        allow=wanted.get("allow", ()),
        threads=2,
        watch=Watch(phase=seen, advance=advance),
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[-1]))
