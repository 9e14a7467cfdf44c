"""Slices and adapters beside mergekit 0.1.5, on six families; opt-in, as test_parity_mergekit.py says.

mergekit writes the weights of a stack and then fails on the config of every family with `layer_types`: what it wrote is
compared all the same.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.adapters import every, make_lora
from tests.merge.test_parity_mergekit import DRIVER, MERGEKIT
from tests.merge.test_stack_loads import CONFIGS
from tests.tiny_models import Tensor, read_folder, read_safetensors, spacing, tuned, write_folder, write_recipe

pytestmark = [
    pytest.mark.mergekit,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not Path(MERGEKIT).is_file(),
        reason="MODIST_MERGEKIT does not name mergekit-yaml of an installed mergekit 0.1.5",
    ),
]

Folders = Mapping[str, Path]


def source(model: Path, first: int, stop: int, **parameters: Any) -> dict[str, Any]:
    return {"model": str(model), "layer_range": [first, stop]} | ({"parameters": parameters} if parameters else {})


def slices(method: str, *parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"merge_method": method, "slices": [{"sources": sources} for sources in parts], **more}


def _levels(at: Folders) -> dict[str, Any]:
    """Settings at every level, with filters and gradients."""
    recipe = slices(
        "linear",
        [source(at["one"], 0, 2, weight=[1.0, 0.2]), source(at["two"], 2, 4)],
        [source(at["one"], 1, 4), source(at["two"], 1, 4, weight=[{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.4}])],
    )
    recipe["slices"][1]["parameters"] = {"weight": [{"filter": "self_attn", "value": 0.7}]}
    return {**recipe, "parameters": {"weight": 0.5}}


CASES: dict[str, Callable[[Folders], dict[str, Any]]] = {
    "stack": lambda at: slices("passthrough", [source(at["one"], 0, 3)], [source(at["two"], 1, 4)]),
    "pruned": lambda at: slices("passthrough", [source(at["one"], 0, 1)], [source(at["one"], 2, 4)]),
    "scaled": lambda at: slices(
        "passthrough",
        [source(at["one"], 0, 3)],
        [
            source(
                at["two"],
                1,
                4,
                scale=[{"filter": "o_proj", "value": 0.0}, {"filter": "down_proj", "value": 0.3}, {"value": 1.0}],
            )
        ],
    ),
    "linear at every level": _levels,
    "slerp across depths": lambda at: slices(
        "slerp",
        [source(at["base"], 0, 3), source(at["two"], 1, 4)],
        [source(at["base"], 3, 4), source(at["one"], 3, 4)],
        base_model=str(at["base"]),
        parameters={
            "t": [{"filter": "self_attn", "value": [0, 0.5, 0.3]}, {"filter": "mlp", "value": [1, 0.2]}, {"value": 0.5}]
        },
    ),
    "ties across depths": lambda at: slices(
        "ties",
        [source(at["base"], 0, 2), source(at["one"], 0, 2), source(at["two"], 2, 4)],
        [source(at["base"], 2, 4), source(at["one"], 2, 4), source(at["two"], 0, 2)],
        base_model=str(at["base"]),
        parameters={"weight": [0.3, 0.8], "density": 0.5},
    ),
    "task arithmetic on a base of each slice's layers": lambda at: slices(
        "task_arithmetic",
        [source(at["base"], 1, 3), source(at["two"], 1, 3, weight=0.6)],
        [source(at["base"], 0, 1), source(at["one"], 3, 4, weight=[{"filter": "layers.2.", "value": 0.9}, {"value": 0.1}])],
        base_model=str(at["base"]),
    ),
    "adapters": lambda at: {
        "merge_method": "task_arithmetic",
        "base_model": str(at["base"]),
        "models": [
            {"model": f"{at['base']}+{at['lora a']}", "parameters": {"weight": 0.7}},
            {"model": f"{at['base']}+{at['lora b']}", "parameters": {"weight": 0.4}},
        ],
    },
    "layers of an adapted model": lambda at: slices(
        "passthrough", [{**source(at["base"], 0, 2), "model": f"{at['base']}+{at['lora a']}"}], [source(at["two"], 1, 4)]
    ),
}
EXACT = ("stack", "pruned")
# Its adapters are merged in float32, on disk, before anything else; ours are not.
DTYPE = {"dtype": "float32", "out_dtype": "float32"}


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Folders]:
    made: dict[str, Folders] = {}

    def give(family: str) -> Folders:
        if family not in made:
            import torch
            import transformers

            root = tmp_path_factory.mktemp(family)
            torch.manual_seed(list(CONFIGS).index(family))
            transformers.AutoModelForCausalLM.from_config(CONFIGS[family]()).save_pretrained(root / "base")
            tensors = read_folder(root / "base")
            config = json.loads((root / "base" / "config.json").read_text())
            write_folder(root / "one", tuned(tensors, 1, 0.01), config)
            write_folder(root / "two", tuned(tensors, 2, 0.2), config)
            modules = every("self_attn.q_proj") + every("mlp.down_proj")
            make_lora(root / "lora a", root / "base", modules, seed=1, base_model_name_or_path=str(root / "base"))
            make_lora(
                root / "lora b", root / "base", modules[2:], seed=2, rank=3, use_rslora=True,
                base_model_name_or_path=str(root / "base"),
            )  # fmt: skip
            made[family] = {name: root / name for name in ("base", "one", "two", "lora a", "lora b")}
        return made[family]

    return give


@pytest.fixture(scope="module")
def mergekit(parents: Callable[[str], Folders], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    root = tmp_path_factory.mktemp("mergekit")
    asked = []
    for family in CONFIGS:
        for case, make in CASES.items():
            out = root / family / case
            asked.append({"recipe": str(write_recipe(out.with_suffix(".yml"), make(parents(family)) | DTYPE)), "out": str(out)})
    driver = DRIVER.replace("MergeOptions(", f"MergeOptions(lora_merge_cache={str(root / 'loras')!r}, ")
    done = subprocess.run(
        [str(Path(MERGEKIT).parent / "python"), "-c", driver],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=540,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    failed = json.loads(done.stdout.strip().splitlines()[-1])["failed"]
    for out, reason in failed.items():
        # Defect 3 of mergekit 0.1.5: only the number of layers is patched.
        assert "layer_types" in reason, f"{out}: {reason}"

    return lambda family, case: root / family / case


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in read_safetensors(path).items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", CONFIGS)
def test_mergekit(
    family: str, case: str, parents: Callable[[str], Folders], mergekit: Callable[[str, str], Path], merge: Callable[..., Path]
) -> None:
    theirs, ours = weights(mergekit(family, case)), weights(merge(CASES[case](parents(family)) | DTYPE))
    assert ours.keys() == theirs.keys()
    differing = elements = 0
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype == "F32", name
        if case in EXACT:
            np.testing.assert_array_equal(tensor.bits, theirs[name].bits)
        gap = np.abs(tensor.float64 - theirs[name].float64)
        step = 16 * spacing(np.abs(theirs[name].float64).max() + 1e-30, "F32")
        differing, elements = differing + int((gap > step).sum()), elements + gap.size
    # What TIES trims and elects may hang on the last bit.
    assert differing <= (elements / 1000 if "ties" in case else 0), f"{differing} of {elements} elements differ"
