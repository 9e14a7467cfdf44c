"""modist beside mergekit 0.1.5, tensor by tensor, both measured against the float64 reference.

Opt-in: `MODIST_MERGEKIT=/path/to/bin/mergekit-yaml pytest -m mergekit`.  mergekit needs an environment of its
own; one process of it makes all the merges of this file, for it starts in eight seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.merge.reference import MERGEKIT_CASES, NEAR, expected_tensors, measure
from tests.tiny_models import FAMILIES, Tensor, Trio, read_folder, spacing, write_recipe

MERGEKIT = os.environ.get("MODIST_MERGEKIT", "")

pytestmark = [
    pytest.mark.mergekit,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not Path(MERGEKIT).is_file(),
        reason="MODIST_MERGEKIT does not name mergekit-yaml of an installed mergekit 0.1.5",
    ),
]

# Runs in mergekit's own environment: merges what it is told on stdin, and says which ones failed and why.
DRIVER = """
import importlib.metadata, json, logging, sys
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
logging.disable(logging.WARNING)
options = MergeOptions(random_seed=1, device="cpu", copy_tokenizer=False, write_model_card=False, quiet=True)
failed = {}
for job in json.load(sys.stdin):
    try:
        with open(job["recipe"]) as file:
            recipe = MergeConfiguration.model_validate(yaml.safe_load(file))
        run_merge(recipe, job["out"], options)
    except Exception as error:
        failed[job["out"]] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps({"version": importlib.metadata.version("mergekit"), "failed": failed}))
"""

EXACT = {"dtype": "float32", "out_dtype": "bfloat16"}
# bfloat16 models as mergekit merges them by default, and its most exact way, in float32; then, for one
# family, float32 models, and a float16 result.
PRECISIONS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "fp32": EXACT,
    "wide": EXACT,
    "fp16": {"dtype": "float16"},
}

# mergekit writes float32 for these where all models are bfloat16, unless told otherwise; modist writes what is stored.
WIDENED = ("arcee_fusion", "ramplus_tl")


def jobs() -> list[tuple[str, str, str]]:
    """(family, case, precision) of every merge compared."""
    listed = [(family, case, how) for family in FAMILIES for case in MERGEKIT_CASES for how in ("bf16", "fp32")]
    listed += [("llama", case, "wide") for case in MERGEKIT_CASES]
    return listed + [("llama", case, "fp16") for case in ("linear", "slerp", "ties")]


@pytest.fixture(scope="session")
def parents(family_trio: Callable[..., Trio]) -> Callable[[str, str], Trio]:
    return lambda family, how: family_trio(family, "F32" if how == "wide" else "BF16")


def recipe_of(trio: Trio, case: str, how: str) -> dict[str, Any]:
    recipe = MERGEKIT_CASES[case](trio) | PRECISIONS[how]
    if recipe["merge_method"] in WIDENED and how == "bf16":
        recipe["out_dtype"] = "bfloat16"
    return recipe


@pytest.fixture(scope="session")
def mergekit(parents: Callable[[str, str], Trio], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`mergekit(family, case, precision)`: the folder mergekit made of it."""
    root = tmp_path_factory.mktemp("mergekit")
    asked = []
    for family, case, how in jobs():
        out = root / family / case / how
        recipe = write_recipe(out.with_suffix(".yml"), recipe_of(parents(family, how), case, how))
        asked.append({"recipe": str(recipe), "out": str(out)})
    # not resolved: the link's own place is what tells Python which environment it belongs to
    python = Path(MERGEKIT).parent / "python"
    done = subprocess.run(
        [str(python), "-c", DRIVER],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=540,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["version"] == "0.1.5", f"compared with mergekit {told['version']}, not 0.1.5"

    def give(family: str, case: str, how: str) -> Path:
        out = root / family / case / how
        assert str(out) not in told["failed"], told["failed"].get(str(out))
        return out

    return give


@pytest.mark.parametrize(("family", "case", "how"), jobs(), ids=lambda part: part)
def test_mergekit(
    family: str,
    case: str,
    how: str,
    parents: Callable[[str, str], Trio],
    mergekit: Callable[..., Path],
    merge: Callable[..., Path],
) -> None:
    trio = parents(family, how)
    recipe = recipe_of(trio, case, how)
    theirs, ours = read_folder(mergekit(family, case, how)), read_folder(merge(recipe))
    elements = near = differing = 0
    for name, expected in expected_tensors(recipe, trio.layers):
        assert ours[name].dtype == theirs[name].dtype == expected.dtype, name
        mine = measure(ours[name], expected)
        assert mine.units <= 1, f"{name}: {mine}"
        elements, near = elements + mine.count, near + mine.near
        # Of elements of equal magnitude mergekit keeps any, we the first: these have no common right answer.
        mine, other = (measure(made[name], expected, without=expected.tied) for made in (ours, theirs))
        grain = 4 * float(spacing(expected.largest, "F32").max())  # fp32 itself, where both are all but exact
        assert mine.maximum <= 1.01 * other.maximum + grain, f"{name}: {mine} against {other}"
        assert mine.mean <= 1.01 * other.mean + NEAR * grain, f"{name}: {mine} against {other}"
        if PRECISIONS[how] is EXACT:
            # Both compute in float32, so they may differ by one rounding of the output and no more.
            apart = expected.near | expected.tied
            step = np.maximum(spacing(expected.value, expected.dtype), 8 * spacing(expected.largest, "F32"))
            step = step + expected.loose * expected.largest
            gap = np.abs(ours[name].float64 - theirs[name].float64)
            assert (gap <= step)[~apart].all(), name
            differing += int((gap > 0)[~apart].sum())
    assert near <= elements / 1000, f"{near} of {elements} elements hang on rounding"
    assert differing <= elements / 200, f"{differing} of {elements} elements differ"


def test_the_comparison_can_fail(llama: Trio, merge: Callable[..., Path]) -> None:
    """A result with one wrong element is caught."""
    recipe = MERGEKIT_CASES["ties"](llama)
    written = read_folder(merge(recipe))
    name, expected = next(iter(expected_tensors(recipe, llama.layers)))
    bits = written[name].bits.copy()
    place = np.unravel_index(np.argmax(np.where(expected.near, 0, np.abs(expected.value))), bits.shape)
    bits[place] += 3
    assert measure(Tensor("BF16", bits), expected).units > 1
