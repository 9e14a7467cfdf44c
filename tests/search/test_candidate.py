"""A candidate in memory is, bit for bit, what `modist merge` writes for its recipe."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modist.errors import MergeError, UserError
from modist.merge import Plan, merge
from modist.merge.engine import Engine
from modist.search import candidate
from modist.search.candidate import Workshop
from modist.search.genome import Vector
from modist.search.settings import SearchSettings
from tests.tiny_models import Trio, encode, llama_shapes, make_trio, read_folder, tuned, write_folder, write_recipe

torch = pytest.importorskip("torch")
FAMILIES = {"qwen2-tied": "BF16", "llama": "F32", "gemma": "F16"}
GRAIN = SearchSettings(layer_blocks=2, modules=("attention", "mlp", "embeddings"), merge_seed=5)


@pytest.fixture(scope="module")
def trios(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trio]:
    made: dict[str, Trio] = {}

    def give(family: str) -> Trio:
        if family not in made:
            made[family] = make_trio(tmp_path_factory.mktemp(family), family, FAMILIES[family])
        return made[family]

    return give


def recipe(trio: Trio, method: str, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"weight": 0.5} | ({"density": 0.6} if method in ("ties", "dare_ties") else {})
    if method == "mod":
        return {"experts": [{"source_model": f} for f in (trio.one, trio.two)], "weights": [0.5, 0.5], **more}
    if method == "slerp":
        models: list[Any] = [{"model": trio.base}, {"model": trio.two}]
        return {"merge_method": "slerp", "base_model": trio.base, "models": models, "parameters": {"t": 0.5}, **more}
    models = [{"model": folder, "parameters": settings} for folder in (trio.one, trio.two)]
    base = {} if method == "linear" else {"base_model": trio.base}
    return {"merge_method": method, **base, "models": models, **more}


def written(workshop: Workshop, vector: Vector, folder: Path) -> dict[str, Any]:
    """What `modist merge` makes of the vector's recipe."""
    folder.mkdir()
    text = workshop.genome.recipe(vector)
    (folder / "recipe.yml").write_text(text)
    merge(folder / "recipe.yml", folder / "out", seed=workshop.genome.settings.merge_seed, allow=workshop.genome.allow)
    return read_folder(folder / "out")


def bits(tensor: Any) -> bytes:
    return bytes(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())


def same(workshop: Workshop, stored: dict[str, Any], widened: bool) -> None:
    state = workshop.model.state_dict()
    for name, tensor in stored.items():
        wanted = tensor.float64.astype(np.float32).tobytes() if widened else tensor.bits.tobytes()
        assert bits(state[name]) == wanted, name


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize(
    ("family", "method", "more"),
    [
        ("qwen2-tied", "linear", {}),
        ("qwen2-tied", "ties", {}),
        ("qwen2-tied", "dare_ties", {}),
        ("qwen2-tied", "mod", {}),
        ("llama", "task_arithmetic", {"dtype": "bfloat16"}),
        ("llama", "slerp", {}),
        ("llama", "mod", {"select": "random", "scope": "all"}),
        ("llama", "mod", {"normalize": "quantile"}),
        ("gemma", "ties", {"dtype": "float32"}),
        ("gemma", "linear", {}),
    ],
)
def test_the_same_bits_as_merged_to_disk(
    trios: Callable[[str], Trio], tmp_path: Path, family: str, method: str, more: dict[str, Any], dtype: str
) -> None:
    path = write_recipe(tmp_path / "recipe.yml", recipe(trios(family), method, **more))
    workshop = Workshop(path, GRAIN, device="cpu", dtype=dtype, threads=2)
    vectors = [workshop.genome.vector(unit) for unit in np.random.default_rng(1).random((2, len(workshop.genome)))]
    # Forth and back: what the one leaves must not be seen in the other.
    for turn, vector in enumerate([vectors[0], vectors[1], vectors[0]]):
        assert workshop.merge(vector) is workshop.model
        same(workshop, written(workshop, vector, tmp_path / f"{turn}"), dtype == "float32")


def test_with_scaled_deltas(trios: Callable[[str], Trio], tmp_path: Path) -> None:
    from tests.merge.test_scaling import statistics

    trio = trios("llama")
    shapes = {name: tensor.bits.shape for name, tensor in read_folder(trio.base).items() if "layers" in name}
    drawn = np.random.default_rng(0)
    values = {name: drawn.random(shape[1]) for name, shape in shapes.items() if len(shape) == 2}
    scaling = {"kind": "aim", "statistics": statistics(tmp_path / "s.safetensors", "aim", values, trio.base)}
    path = write_recipe(tmp_path / "r.yml", recipe(trio, "task_arithmetic", scaling=scaling))
    workshop = Workshop(path, GRAIN, device="cpu", dtype="auto")
    vector = workshop.genome.vector(drawn.random(len(workshop.genome)))
    workshop.merge(vector)
    same(workshop, written(workshop, vector, tmp_path / "w"), widened=False)


def test_the_recipe_itself_where_it_is_no_candidate(trios: Callable[[str], Trio], tmp_path: Path) -> None:
    made = recipe(trios("llama"), "slerp", parameters={"t": [{"filter": "mlp", "value": 0.25}, {"value": 0.75}]})
    path = write_recipe(tmp_path / "r.yml", made)
    workshop = Workshop(path, device="cpu")
    assert workshop.genome.warnings
    merge(path, tmp_path / "out")
    workshop.merge_recipe()
    same(workshop, read_folder(tmp_path / "out"), widened=False)
    workshop.merge(workshop.genome.start)
    assert workshop.touched == len(workshop.genome.plan.tensors)


def test_workers_elsewhere_have_the_same_genome(
    trios: Callable[[str], Trio], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pickle
    from functools import partial

    from modist.search.candidate import open_workshop
    from modist.search.genes import open_genome
    from modist.search.written import recipe_text

    trio = trios("llama")
    made = recipe(trio, "ties", parameters={"lambda": [{"filter": "mlp", "value": 0.5}, {"value": [0.8, 1.2]}]})
    made["models"][0] = {"model": "one", "parameters": {"weight": [0.2, 0.4], "density": 0.5}}
    monkeypatch.chdir(trio.base.parent)
    here = open_genome(write_recipe(tmp_path / "r.yml", made), GRAIN)
    sent = pickle.dumps(partial(open_workshop, recipe_text(here.plan), here.settings, "auto", 1, (), False))
    monkeypatch.chdir(tmp_path)
    there = pickle.loads(sent)("cpu")
    assert there.genome.identity == here.identity
    vector = here.vector(np.random.default_rng(3).random(len(here)))
    there.merge(vector)
    same(there, written(there, vector, tmp_path / "w"), widened=False)


def test_the_live_model_says_what_the_written_one_says(trios: Callable[[str], Trio], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    workshop = Workshop(write_recipe(tmp_path / "r.yml", recipe(trios("qwen2-tied"), "ties")), GRAIN, device="cpu")
    vector = workshop.genome.vector(np.random.default_rng(2).random(len(workshop.genome)))
    written(workshop, vector, tmp_path / "w")
    ids = torch.arange(30)[None]
    with torch.inference_mode():
        alive = workshop.merge(vector)(ids).logits
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "w" / "out", dtype=torch.float32)(ids).logits
    assert alive.dtype == torch.float32 and torch.equal(alive, loaded)


def test_only_what_changed_is_merged(trios: Callable[[str], Trio], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = Workshop(write_recipe(tmp_path / "r.yml", recipe(trios("qwen2-tied"), "task_arithmetic")), GRAIN, device="cpu")
    genome, asked = workshop.genome, set[str]()
    real = Engine._merge

    def watched(self: Engine, plan: Plan, planned: Any, *rest: Any) -> Any:
        asked.add(planned.name)
        return real(self, plan, planned, *rest)

    monkeypatch.setattr(Engine, "_merge", watched)
    workshop.merge(genome.start)
    assert asked == {planned.name for planned in genome.plan.tensors} and workshop.touched == len(asked)
    for place, gene in enumerate(genome.genes):
        asked.clear()
        vector = genome.start
        vector[: place + 1] = 0.25
        workshop.merge(vector)
        assert asked == set(gene.tensors), gene.label
    asked.clear()
    workshop.merge(vector)
    assert not asked and workshop.touched == 0


def test_after_a_failure_everything_is_merged_again(
    trios: Callable[[str], Trio], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workshop = Workshop(write_recipe(tmp_path / "r.yml", recipe(trios("llama"), "linear")), GRAIN, device="cpu", threads=1)
    genome = workshop.genome
    one, two = genome.vector(np.full(len(genome), 0.2)), genome.vector(np.full(len(genome), 0.8))
    workshop.merge(one)
    real, left = Engine._merge, [5]

    def dying(self: Engine, *rest: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise MergeError("the disk went away")
        return real(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "_merge", dying)
        with pytest.raises(MergeError, match="went away"):
            workshop.merge(two)
    workshop.merge(two)
    same(workshop, written(workshop, two, tmp_path / "w"), widened=False)


def test_values_that_overflow_name_their_tensor(tmp_path: Path) -> None:
    from tests.tiny_models import random_tensors

    large = random_tensors(llama_shapes(32, 48, 1), 1, "F16")
    name = "model.layers.0.mlp.up_proj.weight"
    large[name] = encode(np.full((48, 32), 60000.0), "F16")
    folders = [write_folder(tmp_path / f"m{n}", tuned(large, n, 0.0)) for n in range(2)]
    made = {
        "merge_method": "linear",
        "models": [{"model": folder, "parameters": {"weight": 0.5}} for folder in folders],
        "parameters": {"normalize": False},
    }
    workshop = Workshop(write_recipe(tmp_path / "r.yml", made), device="cpu")
    workshop.merge(workshop.genome.start)
    with pytest.raises(MergeError, match=f"tensor '{name}' overflows F16"):
        workshop.merge(np.array([1.0, 1.0]))


def test_a_head_of_its_own_where_the_donor_ties_it(tmp_path: Path, trios: Callable[[str], Trio]) -> None:
    trio = trios("qwen2-tied")
    tensors = read_folder(trio.one)
    head = {"lm_head.weight": tuned({"x": tensors["model.embed_tokens.weight"]}, 9, 0.3)["x"]}
    import json

    config = json.loads((trio.one / "config.json").read_text()) | {"tie_word_embeddings": False}
    untied = write_folder(tmp_path / "untied", {**tensors, **head}, config)
    made = {
        "merge_method": "task_arithmetic",
        "base_model": trio.base,
        "models": [{"model": untied, "parameters": {"weight": 0.5}}],
    }
    workshop = Workshop(
        write_recipe(tmp_path / "r.yml", made),
        SearchSettings(modules=("embeddings",)),
        device="cpu",
        dtype="auto",
        allow=["tying"],
    )
    assert [gene.label for gene in workshop.genome.genes][-1] == "weight of untied, head"
    vector = workshop.genome.vector([0.25, 0.5, 0.75])
    model = workshop.merge(vector)
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    same(workshop, written(workshop, vector, tmp_path / "w"), widened=False)


def test_models_whose_tensors_are_not_the_checkpoint_s(
    trios: Callable[[str], Trio], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_recipe(tmp_path / "r.yml", recipe(trios("llama"), "linear"))
    workshop = Workshop(path, device="cpu")
    state = dict(workshop.model.state_dict(keep_vars=True))
    fused = {name.replace("mlp.up_proj", "mlp.up_and_gate"): tensor for name, tensor in state.items()}
    flat = {name: tensor.flatten() if "up_proj" in name else tensor for name, tensor in state.items()}
    for held, said in (
        (fused, "keeps the tensor 'model.layers.0.mlp.up_proj.weight' under another name"),
        (flat, "transformers holds 'model.layers.0.mlp.up_proj.weight' as"),
    ):
        stub = SimpleNamespace(state_dict=lambda held=held, **more: held)
        monkeypatch.setattr(candidate, "live_model", lambda *given, stub=stub: (stub, None))
        with pytest.raises(UserError, match=re.escape(said)):
            Workshop(path, device="cpu")


def test_bad_devices_and_dtypes(trios: Callable[[str], Trio], tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yml", recipe(trios("llama"), "linear"))
    with pytest.raises(UserError, match=r"there is no dtype 'float23'"):
        Workshop(path, device="cpu", dtype="float23")
    with pytest.raises(UserError, match="is too little"):
        Workshop(path, device="cpu", memory=1 << 20)


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
@pytest.mark.parametrize("transposed", [False, True])
def test_blocks_reach_memory_of_any_form(held: Any, transposed: bool) -> None:
    """Memory that numpy cannot write into (a device's, a transposed tensor's) is filled once all blocks are there."""
    from modist.checkpoint.header import StoredTensor

    place = torch.zeros(5, 7, dtype=held).t() if transposed else torch.zeros(7, 5, dtype=held)
    kind = "I64" if held == torch.int64 else "BF16"
    target = StoredTensor("a", kind, (7, 5), Path(), 0, 0)
    numbers = np.arange(35) - 17.0
    stored = numbers.astype(np.int64) if kind == "I64" else encode(numbers, "BF16").bits
    sink = candidate._Sink({"a": place})
    for turn in (1, 2):
        for start in (20, 0, 10, 30):
            sink.write(target, start, stored[start : start + 10] * (turn if kind == "I64" else 1))
        sink.finish("a")
        scale = turn if kind == "I64" else 1
        assert place.to(torch.float64).numpy().tolist() == (scale * numbers.reshape(7, 5)).tolist()


def test_files_can_be_let_go(trios: Callable[[str], Trio], tmp_path: Path) -> None:
    workshop = Workshop(write_recipe(tmp_path / "r.yml", recipe(trios("llama"), "linear")), device="cpu")
    workshop.merge(workshop.genome.start)
    workshop.close()
    workshop.close()
    workshop.merge(workshop.genome.vector([0.1]))
    assert threading.active_count() < 20


MEASURE = """
import sys
from pathlib import Path
import numpy as np, torch
from transformers import AutoModelForCausalLM
from modist.search.candidate import Workshop
torch.set_num_threads(1)
def memory(which):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(which))
AutoModelForCausalLM.from_pretrained(sys.argv[2], dtype=torch.float32)  # what loading anything at all takes
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
workshop = Workshop(sys.argv[1], device="cpu", dtype="auto", threads=1, memory=64 << 20)
for number in np.random.default_rng(0).random(4):
    workshop.merge(workshop.genome.vector([number] * len(workshop.genome)))
print(memory("VmHWM") - before)
"""


@pytest.mark.full
def test_memory_is_one_merged_copy(tmp_path: Path, trios: Callable[[str], Trio]) -> None:
    """Beside the model: blocks.  The experts are not held."""
    from tests.tiny_models import random_tensors

    tensors = random_tensors(llama_shapes(hidden=1024, inner=4096, layers=6, vocabulary=8000), 0)
    size = sum(tensor.bits.nbytes for tensor in tensors.values())
    folders = [write_folder(tmp_path / f"m{n}", tuned(tensors, n, 0.01)) for n in range(3)]
    made = {
        "merge_method": "ties",
        "base_model": folders[0],
        "models": [{"model": folder, "parameters": {"weight": 0.5, "density": 0.5}} for folder in folders[1:]],
    }
    path = write_recipe(tmp_path / "r.yml", made)
    line = [sys.executable, "-c", MEASURE, str(path), str(trios("llama").base)]
    found = int(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    print(f"model {size >> 20} MiB, peak above imports {found >> 20} MiB")
    assert 0.9 * size < found < size + (90 << 20)
