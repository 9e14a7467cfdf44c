"""A run in a process of its own, slow enough to be killed; run by test_kills.py.

The last argument is JSON: folder, and perhaps pause (seconds a batch) and real (true: the real graders).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(wanted: dict[str, Any]) -> None:
    from modist.evaluation import run
    from modist.evaluation.generators.generator import Sampling
    from tests.evaluation.fake_runs import FakeGenerator, FakeGraders, sums

    if not wanted.get("real"):
        run.Graders = FakeGraders  # type: ignore[assignment, misc]
    settings = run.Settings(samples=2, sampling=Sampling(1.0))
    print("begun", flush=True)
    generator = FakeGenerator(pause=wanted.get("pause", 0.0))
    run.evaluate(generator, [sums(60), sums(30, "few")], Path(wanted["folder"]), None, settings)
    print(f"batches {len(generator.asked)}", flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[-1]))
