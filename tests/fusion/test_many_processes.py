"""Two processes of a launcher, and tasks of a Ray cluster, make what one process makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modist.errors import UserError
from modist.fusion import extract, fuse
from modist.merge.verify import verify
from tests.fusion.rooms import make_rooms, write_recipe
from tests.tiny_models import read_folder

ROOT = Path(__file__).parents[2]


@pytest.mark.full
def test_accelerate_launch(tmp_path: Path) -> None:
    make_rooms(tmp_path)
    recipe = write_recipe(tmp_path, training={"max_steps": 3, "batch_size": 2, "global_batch": 8})
    fuse(recipe, tmp_path / "one", seed=1, device="cpu")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "modist", "fuse", str(recipe), str(tmp_path / "two")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MODIST_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [*command, "--seed", "1", "--device", "cpu", "--json"], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert verify(tmp_path / "two").passed
    assert json.loads(done.stdout.strip().splitlines()[-1])["trained"]["pivot"]["steps"] == 3
    # Distributions are the same bytes; training sums the same gradients in another order, over the same chats.
    for one in sorted((tmp_path / "one.distributions").rglob("*.safetensors")):
        two = tmp_path / "two.distributions" / one.relative_to(tmp_path / "one.distributions")
        assert one.read_bytes() == two.read_bytes()
    alone, together, pivot = (read_folder(tmp_path / name) for name in ("one", "two", "pivot"))
    for name, tensor in alone.items():
        moved = np.abs(tensor.float64 - pivot[name].float64).mean()
        # Where a gradient is nearly 0 its rounding decides Adam's first steps.
        assert np.abs(tensor.float64 - together[name].float64).mean() <= 0.05 * moved + 1e-9, name


@pytest.mark.full
def test_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from modist.fusion.by_ray import extract_by_ray

    make_rooms(tmp_path)
    extract(tmp_path / "recipe.yml", tmp_path / "here", device="cpu")
    told = extract_by_ray(tmp_path / "recipe.yml", tmp_path / "ray", parts=2, device="cpu")
    assert [one.expert for one in told] == ["pivot", "expert"] and all(not one.lacking for one in told)
    for one in sorted((tmp_path / "here").rglob("*.safetensors")):
        assert one.read_bytes() == (tmp_path / "ray" / one.relative_to(tmp_path / "here")).read_bytes()
    (tmp_path / "expert" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        extract_by_ray(tmp_path / "recipe.yml", tmp_path / "bad", device="cpu")
