"""SIGKILL at random moments of a whole fusion: extraction, alignment, training, the last rename."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modist.merge.verify import verify
from tests.fusion.rooms import make_rooms, write_recipe

ROOT = Path(__file__).parents[2]


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fusion.fuse_driver", str(recipe), str(out), str(out) + ".d", "5"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
    return process


def bytes_of(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(pattern))}


def killed(root: Path, times: int, seed: int) -> None:
    make_rooms(root)
    recipe = write_recipe(root, training={"epochs": 4, "save_every": 2})
    whole = start(recipe, root / "whole")
    began = time.monotonic()
    assert whole.wait(280) == 0
    seconds = time.monotonic() - began
    drawn = random.Random(seed)
    kills = 0
    for _ in range(times):
        process = start(recipe, root / "out")
        try:
            process.wait(drawn.uniform(0.02, 0.8) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        if (root / "out").exists():  # whole or absent, although the process was killed while it was leaving
            assert verify(root / "out").passed
            break
    else:
        process = start(recipe, root / "out")
        assert process.wait(280) == 0, process.stderr and process.stderr.read()
    assert kills
    # The same distributions byte for byte, and the same weights.
    assert bytes_of(root / "out.d", "*.safetensors") == bytes_of(root / "whole.d", "*.safetensors")
    assert (root / "out" / "model.safetensors").read_bytes() == (root / "whole" / "model.safetensors").read_bytes()
    assert verify(root / "out").passed and not (root / "out.partial").exists()


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [0, 1])
def test_ten_kills(tmp_path: Path, seed: int) -> None:
    killed(tmp_path, 10, seed)


@pytest.mark.timeout(900)
def test_one_kill(tmp_path: Path) -> None:
    killed(tmp_path, 1, 4)
