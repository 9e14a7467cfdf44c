"""The same bytes for any number of threads, any block size and any memory budget."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from modist.errors import UserError
from modist.merge import merge as merge_models
from modist.merge import run
from tests.tiny_models import Trio, plain_trio, read_folder, write_recipe

Bytes = dict[str, bytes]


@pytest.fixture(scope="module", params=["BF16", "F32"])
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """Tensors of up to 41,000 elements, whose sizes are no multiples of a block."""
    return plain_trio(
        tmp_path_factory.mktemp("threads"), request.param, seed=11, hidden=136, inner=303, vocabulary=257, layers=2
    )


def recipes(trio: Trio) -> dict[str, dict[str, Any]]:
    def entry(model: Path, **parameters: Any) -> dict[str, Any]:
        return {"model": model, "parameters": parameters}

    pair = [entry(trio.one, weight=0.7, density=0.6), entry(trio.two, weight=0.4, density=0.45)]
    tuned = {"base_model": trio.base, "models": pair}
    plain = {"base_model": trio.base, "models": [{"model": trio.one}, {"model": trio.two}]}
    weighed = {"base_model": trio.base, "models": [entry(trio.one, weight=0.7), entry(trio.two, weight=0.4)]}
    experts = {"experts": [{"source_model": trio.one}, {"source_model": trio.two}], "weights": [0.55, 0.45], "scope": "all"}
    return {
        "linear": {"merge_method": "linear", "models": [entry(trio.one, weight=0.7), entry(trio.two, weight=0.4)]},
        "slerp": {
            "merge_method": "slerp",
            "base_model": trio.base,
            "models": [{"model": trio.base}, {"model": trio.two}],
            "parameters": {"t": [0.2, 0.8]},
        },
        "task_arithmetic": {"merge_method": "task_arithmetic", **tuned},
        "ties": {"merge_method": "ties", **tuned},
        "dare_linear": {"merge_method": "dare_linear", **tuned},
        "dare_ties": {"merge_method": "dare_ties", **tuned},
        "breadcrumbs": {"merge_method": "breadcrumbs", **tuned},
        "della": {"merge_method": "della", **tuned},
        "sce": {"merge_method": "sce", **plain, "parameters": {"select_topk": 0.5}},
        "ramplus_tl": {"merge_method": "ramplus_tl", **plain},
        "model_stock": {"merge_method": "model_stock", **plain},
        "model_stock rows": {"merge_method": "model_stock", **plain, "parameters": {"filter_wise": True}},
        "nuslerp rows": {"merge_method": "nuslerp", **weighed, "parameters": {"nuslerp_flatten": False}},
        "nuslerp columns": {
            "merge_method": "nuslerp",
            **weighed,
            "parameters": {"nuslerp_flatten": False, "nuslerp_row_wise": True},
        },
        "multislerp": {"merge_method": "multislerp", **weighed},
        "karcher": {"merge_method": "karcher", "models": plain["models"]},
        "widen": {"merge_method": "widen", **plain},
        "localize_and_stitch": {"merge_method": "localize_and_stitch", **plain},
        "arcee_fusion": {"merge_method": "arcee_fusion", "base_model": trio.base, "models": plain["models"][:1]},
        "nearswap": {
            "merge_method": "nearswap",
            "base_model": trio.base,
            "models": plain["models"][1:],
            "parameters": {"t": 0.1},
        },
        "mod minmax": experts,
        "mod quantile": experts | {"normalize": "quantile"},
        "mod random": experts | {"select": "random"},
    }


METHODS = list(recipes(Trio(Path(), Path(), Path())))
FIRST = ("linear", "slerp", "ties", "dare_ties", "della", "widen", "mod minmax", "mod quantile", "mod random")


def merged(recipe: Path, out: Path, threads: int, block: int | None = None, **options: Any) -> Bytes:
    with pytest.MonkeyPatch.context() as patch:
        if block:
            patch.setattr(run, "Engine", functools.partial(run.Engine, block=block))
        merge_models(recipe, out, threads=threads, seed=5, **options)
    return {name: tensor.bits.tobytes() for name, tensor in read_folder(out).items()}


@pytest.mark.parametrize("method", METHODS)
def test_same_bytes_for_any_threads_and_blocks(trio: Trio, tmp_path: Path, method: str) -> None:
    recipe = write_recipe(tmp_path / "r.yml", recipes(trio)[method])
    expected = merged(recipe, tmp_path / "out", 1)
    ways = [(2, None), (7, None), (1, 4096), (7, 4096), (2, 4096), (7, 8192), (2, 3 * 4096)]
    for threads, block in ways if method in FIRST else ways[:4]:
        found = merged(recipe, tmp_path / "out", threads, block)
        assert found == expected, (threads, block)


@pytest.mark.parametrize(
    "method", ["ties", "dare_linear", "dare_ties", "breadcrumbs", "della", "mod minmax", "mod quantile", "mod random"]
)
def test_masks_do_not_depend_on_blocks_of_odd_sizes(trio: Trio, tmp_path: Path, method: str) -> None:
    """Blocks that are no multiple of the grain of sums may change the last bit of a norm, never who survives."""
    recipe = recipes(trio)[method]
    if method in ("dare_linear", "dare_ties", "della"):
        recipe = recipe | {"parameters": {"rescale": False}}
    path = write_recipe(tmp_path / "r.yml", recipe)
    expected = merged(path, tmp_path / "out", 1)
    assert merged(path, tmp_path / "out", 3, 1000) == expected
    assert merged(path, tmp_path / "out", 3, 777) == expected


def test_shards_change_files_and_no_tensor(trio: Trio, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yml", recipes(trio)["dare_ties"])
    expected = merged(recipe, tmp_path / "out", 2)
    assert merged(recipe, tmp_path / "out", 2, shard_bytes=100_000) == expected
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 3


def test_another_seed_gives_other_bytes_and_the_same_seed_the_same(trio: Trio, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "r.yml", recipes(trio)["mod random"])
    seen = []
    for seed in (0, 1, 0):
        merge_models(recipe, tmp_path / "out", seed=seed)
        seen.append({name: tensor.bits.tobytes() for name, tensor in read_folder(tmp_path / "out").items()})
    assert seen[0] == seen[2] != seen[1]


def test_a_small_budget_gives_the_same_bytes(trio: Trio, tmp_path: Path) -> None:
    for method in ("ties", "mod quantile"):
        recipe = write_recipe(tmp_path / "r.yml", recipes(trio)[method])
        expected = merged(recipe, tmp_path / "out", 2)
        assert merged(recipe, tmp_path / "out", 2, 4096, memory=700_000) == expected


def test_too_small_a_budget_says_what_is_needed_and_that_is_enough(trio: Trio, tmp_path: Path) -> None:
    import re

    recipe = write_recipe(tmp_path / "r.yml", recipes(trio)["ties"])
    with pytest.raises(UserError, match=r"--memory 1 MiB is too little: one worker needs \d+ MiB") as caught:
        merge_models(recipe, tmp_path / "out", memory=1 << 20)
    assert not (tmp_path / "out.partial").exists()
    needed = re.search(r"needs (\d+) MiB", str(caught.value))
    assert needed
    merge_models(recipe, tmp_path / "out", memory=int(needed[1]) << 20)


@pytest.mark.parametrize("method", METHODS)
def test_one_thread_that_fails_stops_all(trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """A read error in any thread ends the merge with that error, and soon."""
    from modist.checkpoint import Checkpoint
    from modist.errors import CheckpointError

    recipe = write_recipe(tmp_path / "r.yml", recipes(trio)[method])
    read, left = Checkpoint.read, [25]

    def fails(self: Checkpoint, *arguments: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise CheckpointError("the disk came loose")
        return read(self, *arguments, **more)

    monkeypatch.setattr(Checkpoint, "read", fails)
    with pytest.raises(CheckpointError, match="came loose"):
        merged(recipe, tmp_path / "out", 7, 4096)
    assert not (tmp_path / "out").exists()
