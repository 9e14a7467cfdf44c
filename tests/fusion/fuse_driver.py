"""A fusion in a process of its own, to be killed: `python -m tests.fusion.fuse_driver RECIPE OUT DISTRIBUTIONS SEED [small]`.

Says `ready` once everything heavy is imported, so that a test can aim at the fusion and not at imports.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import Trainer  # noqa: F401

from modist.fusion import fuse, plan
from modist.fusion import trainer as trainer_module  # noqa: F401


def main() -> None:
    recipe, out, distributions, seed = sys.argv[1:5]
    torch.set_num_threads(1)
    plan.BATCH_TOKENS, plan.SHARD_POSITIONS = 256, 90
    print("ready", flush=True)
    fuse(recipe, Path(out), distributions=distributions, seed=int(seed), device="cpu", resume=True)
    print("done", flush=True)


if __name__ == "__main__":
    main()
