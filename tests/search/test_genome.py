"""Which coefficients become genes, what a vector means, and that its recipe means the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from modist.errors import UserError
from modist.merge import make_plan
from modist.recipe import parse_recipe
from modist.search.genes import open_genome
from modist.search.genome import Genome
from modist.search.groups import module_of
from modist.search.settings import SearchSettings, read_bounds, read_layer_blocks, read_start, read_words
from tests.tiny_models import Trio, llama_shapes, plain_trio, random_tensors, tuned, write_folder, write_recipe

ALL = ("attention", "mlp", "norms", "embeddings")


@pytest.fixture(scope="session")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    return plain_trio(tmp_path_factory.mktemp("trio"), hidden=8, inner=12, vocabulary=16)


def recipe(trio: Trio, method: str, **more: Any) -> dict[str, Any]:
    """Two fine-tunes and a base, merged so."""
    settings: dict[str, Any] = {
        "linear": {"weight": 0.5},
        "task_arithmetic": {"weight": 0.4},
        "ties": {"weight": 0.5, "density": 0.6},
        "dare_ties": {"weight": 0.5, "density": 0.6},
        "dare_linear": {"weight": 0.5, "density": 0.6},
        "slerp": {},
        "mod": {"weight": 0.5},
    }[method]
    models = [{"model": folder, "parameters": settings} for folder in (trio.one, trio.two)]
    base: dict[str, Any] = {"base_model": trio.base} if method not in ("linear", "mod") else {}
    shared: dict[str, Any] = {}
    if method == "slerp":
        models, base, shared = [{"model": trio.one}, {"model": trio.two}], {"base_model": trio.one}, {"t": 0.25}
    return {"merge_method": method, **base, "models": models, "parameters": shared | more.pop("parameters", {}), **more}


def genome(tmp_path: Path, made: dict[str, Any], **settings: Any) -> Genome:
    allow = settings.pop("allow", ())
    return open_genome(write_recipe(tmp_path / "recipe.yml", made), SearchSettings(**settings), allow=allow)


def plan_of_text(found: Genome, text: str) -> Any:
    read = parse_recipe(text)
    known = {str(checkpoint.folder.resolve()): checkpoint for checkpoint in (*found.plan.inputs, found.plan.donor)}
    return make_plan(read, {str(model): known[str(model)] for model in read.models}, seed=found.settings.merge_seed)


# ---------------------------------------------------------------- groups


def test_one_gene_a_model_where_nothing_is_split(trio: Trio, tmp_path: Path) -> None:
    found = genome(tmp_path, recipe(trio, "task_arithmetic"))
    assert [gene.label for gene in found.genes] == ["weight of one", "weight of two"]
    merged = {planned.name for planned in found.plan.tensors}
    assert all(set(gene.tensors) == merged for gene in found.genes)
    assert found.start.tolist() == [0.4, 0.4] and found.low.tolist() == [0, 0] and found.high.tolist() == [1, 1]


@pytest.mark.parametrize(("blocks", "count"), [(1, 4), (2, 2), (3, 2), (4, 1), (9, 1), (None, 1)])
def test_blocks_are_consecutive_and_cover_every_tensor_once(trio: Trio, tmp_path: Path, blocks: int | None, count: int) -> None:
    found = genome(tmp_path, recipe(trio, "slerp"), layer_blocks=blocks)
    assert len(found) == count
    named = [name for gene in found.genes for name in gene.tensors]
    assert sorted(named) == sorted(planned.name for planned in found.plan.tensors)
    for number, gene in enumerate(found.genes):
        layers = {int(name.split(".")[2]) for name in gene.tensors if ".layers." in name}
        assert layers == set(range(number * (blocks or 9), min(4, (number + 1) * (blocks or 9))))
    # Outside layers: as recipes have it, with the first and the last slice.
    assert "model.embed_tokens.weight" in found.genes[0].tensors
    assert {"model.norm.weight", "lm_head.weight"} <= set(found.genes[-1].tensors)


def test_the_fine_grain(trio: Trio, tmp_path: Path) -> None:
    found = genome(tmp_path, recipe(trio, "slerp"), layer_blocks=2, modules=ALL)
    assert [gene.label for gene in found.genes] == [
        "t, embeddings",
        "t, attention, layers 0-1",
        "t, mlp, layers 0-1",
        "t, norms, layers 0-1",
        "t, attention, layers 2-3",
        "t, mlp, layers 2-3",
        "t, norms, layers 2-3",
        "t, final norm",
        "t, head",
    ]
    named = [name for gene in found.genes for name in gene.tensors]
    assert sorted(named) == sorted(planned.name for planned in found.plan.tensors)


def test_what_no_module_holds_is_one_more_set(trio: Trio, tmp_path: Path) -> None:
    found = genome(tmp_path, recipe(trio, "slerp"), layer_blocks=2, modules=("attention", "mlp"))
    rest = [gene for gene in found.genes if "rest" in gene.label]
    assert [gene.label for gene in rest] == ["t, rest, layers 0-1", "t, rest, layers 2-3"]
    assert "model.embed_tokens.weight" in rest[0].tensors and "lm_head.weight" in rest[1].tensors


def test_kinds_of_modules() -> None:
    assert [
        module_of(name)
        for name in (
            "model.layers.0.post_attention_layernorm.weight",
            "model.layers.0.self_attn.q_norm.weight",
            "transformer.h.0.ln_1.weight",
            "model.layers.0.self_attn.q_proj.bias",
            "transformer.h.3.attn.c_attn.weight",
            "model.layers.7.mlp.gate_proj.weight",
            "model.layers.7.block_sparse_moe.gate.weight",
            "lm_head.weight",
            "transformer.wpe.weight",
            "model.layers.0.mamba.A_log",
        )
    ] == ["norms", "norms", "norms", "attention", "attention", "mlp", "mlp", "embeddings", "embeddings", "rest"]


def test_a_tied_head_has_no_gene_of_its_own(tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in llama_shapes(8, 12, 2, 16).items() if name != "lm_head.weight"}
    tensors = random_tensors(shapes, 1)
    folders = []
    for number in range(2):
        own = tuned(tensors, number, 0.1)
        # Stored all the same, as some checkpoints do.
        folders.append(
            write_folder(
                tmp_path / f"m{number}",
                {**own, "lm_head.weight": own["model.embed_tokens.weight"]},
                {**_config(own), "tie_word_embeddings": True},
            )
        )
    made = {"merge_method": "linear", "models": [{"model": f, "parameters": {"weight": 0.5}} for f in folders]}
    found = genome(tmp_path, made, modules=("embeddings",))
    assert [(gene.label, gene.tensors) for gene in found.genes if "embed" in gene.label] == [
        ("weight of m0, embeddings", ("model.embed_tokens.weight",))
    ]
    assert not any("lm_head.weight" in gene.tensors or "head" in gene.label for gene in found.genes)


def _config(tensors: Any) -> dict[str, Any]:
    from tests.tiny_models import llama_config

    return llama_config(tensors)


def test_embeddings_with_other_rows_keep_the_recipes_weight(trio: Trio, tmp_path: Path) -> None:
    """UMM's Llama 2 models: the experts' vocabulary has grown, and the recipe leaves embeddings and head as the base's."""
    shapes = llama_shapes(8, 12, vocabulary=17)
    grown = [
        write_folder(tmp_path / name, random_tensors(shapes, seed, scale=0.5), _config(random_tensors(shapes, seed)))
        for seed, name in enumerate(("code", "maths"))
    ]
    weight = [{"filter": "embed_tokens", "value": 0}, {"filter": "lm_head", "value": 0}, {"value": 0.5}]
    models = [{"model": folder, "parameters": {"weight": weight, "density": 0.5}} for folder in grown]
    made = {"merge_method": "ties", "base_model": trio.base, "models": models, "parameters": {"normalize": False}}
    for modules in ((), ALL):
        found = genome(tmp_path, made, modules=modules, layer_blocks=2, allow=("vocabulary",))
        assert {gene.start for gene in found.genes if gene.parameter == "weight"} == {0.5}
        searched = {name for gene in found.genes for name in gene.tensors}
        assert searched == {p.name for p in found.plan.tensors} - {"model.embed_tokens.weight", "lm_head.weight"}
        each = found.decode(found.high).each
        assert [settings.get("weight") for settings in each["lm_head.weight"]] == [0, 0, None]
        assert [settings.get("weight") for settings in each["model.norm.weight"]] == [1, 1, None]
        said = "lm_head.weight keeps the recipe's own coefficients and is not searched: code has [17, 8], the merge [16, 8]"
        assert said in found.warnings


# ---------------------------------------------------------------- what is worth searching


def test_a_lone_weight_that_normalize_cancels_is_left_out_and_said(trio: Trio, tmp_path: Path) -> None:
    made = recipe(trio, "ties")
    made["models"] = made["models"][:1]
    found = genome(tmp_path, made)
    assert [gene.label for gene in found.genes] == ["density of one"]
    (said,) = found.warnings
    assert (
        said.startswith("weight of one: normalize: true divides a lone weight by itself")
        and "--genes weight,density,lambda" in said
    )
    with_lambda = genome(tmp_path, made, genes=("weight", "density", "lambda"))
    assert [gene.parameter for gene in with_lambda.genes] == ["density", "lambda"] and with_lambda.genes[1].high == 2
    made["parameters"] = {"normalize": False}
    assert [gene.parameter for gene in genome(tmp_path, made).genes] == ["weight", "density"]


def test_nothing_but_a_cancelled_weight_is_an_error(trio: Trio, tmp_path: Path) -> None:
    made = recipe(trio, "task_arithmetic", parameters={"normalize": True})
    made["models"] = made["models"][:1]
    with pytest.raises(UserError, match="nothing to search: weight of one: normalize: true divides a lone weight by itself"):
        genome(tmp_path, made)


def test_parameters_without_effect(trio: Trio, tmp_path: Path) -> None:
    made = recipe(trio, "task_arithmetic")
    # The method takes it as mergekit does, and does nothing with it.
    assert {gene.parameter for gene in genome(tmp_path, made).genes} == {"weight"}
    asked = genome(tmp_path, made, genes=("weight", "density"))
    assert {gene.parameter for gene in asked.genes} == {"weight"}
    assert asked.warnings == ("density of one: changes no tensor with task_arithmetic as it is set here, and is not searched",)
    with pytest.raises(UserError, match="nothing to search: density of one"):
        genome(tmp_path, made, genes=("density",))


def test_weights_of_which_only_ratios_count_have_one_gene_less(trio: Trio, tmp_path: Path) -> None:
    for method, settings in (("linear", {}), ("ties", {"genes": ("weight",)})):
        found = genome(tmp_path, recipe(trio, method), **settings)
        assert [(gene.label, gene.start, gene.share) for gene in found.genes] == [("weight of one", 0.5, True)], method
        each = found.decode([0.3]).each["model.norm.weight"]
        assert [settings["weight"] for settings in each if settings] == [0.3, 0.7]
    free = genome(tmp_path, recipe(trio, "linear", parameters={"normalize": False}))
    assert [gene.share for gene in free.genes] == [False, False]
    # Bounds of the user's are of weights as they stand.
    bounded = genome(tmp_path, recipe(trio, "linear"), bounds={"weight": (0, 3)})
    assert [(gene.high, gene.share) for gene in bounded.genes] == [(3, False), (3, False)]


def test_mod_has_shares_that_sum_to_one_and_only_in_its_scope(trio: Trio, tmp_path: Path) -> None:
    made = {
        "experts": [{"source_model": folder} for folder in trio.folders],
        "weights": [0.5, 0.2, 0.3],
        "base_model": trio.base,
    }
    found = genome(tmp_path, made, modules=("attention", "mlp"))
    assert [gene.label for gene in found.genes] == ["share of weight of base, mlp", "share of weight of one, mlp"]
    assert np.allclose(found.start, [0.5, 0.4])
    assert all("mlp" in name for name in found.genes[0].tensors)
    for vector in np.random.default_rng(0).random((50, 2)):
        weights = [each["weight"] for each in found.decode(vector).each["model.layers.0.mlp.up_proj.weight"]]
        assert abs(sum(map(float, weights)) - 1) < 1e-12 and min(map(float, weights)) >= 0
    for corner in ([0.0, 0.0], [1.0, 0.5], [0.0, 1.0]):
        found.plan_of(found.decode(corner))
    wide = genome(tmp_path, made | {"scope": "all", "normalize": "quantile"}, modules=("attention", "mlp"))
    assert len(wide) == 6
    for flag, given in (("bounds", {"weight": (0.2, 0.8)}), ("start", {"weight": 0.2})):
        with pytest.raises(UserError, match=f"--{flag} weight: the weights of 3 models sum to 1"):
            genome(tmp_path, made, **{flag: given})
    two = {**made, "experts": made["experts"][:2], "weights": [0.7, 0.3]}
    (gene,) = genome(tmp_path, two, bounds={"weight": (0.2, 0.8)}, start={"weight": 0.4}).genes
    assert (gene.low, gene.high, gene.start) == (0.2, 0.8, 0.4)


def test_a_method_of_another_package_needs_no_table(trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modist.merge import Method, Parameter
    from modist.merge import method as registry

    def merge(tensor: Any) -> Any:
        # A gain that acts on MLPs alone, and a dial that does nothing.
        gain = np.float32(tensor.number("gain") if "mlp" in tensor.name else 1)
        return lambda block: block[0] * gain

    def brittle(tensor: Any) -> Any:
        assert tensor.size > 4096, "made for large tensors"

    own = Method("mine", "", "", merge, (Parameter("gain", "", 1.0), Parameter("dial", "", 0.5, low=0, high=1)))
    fussy = Method("fussy", "", "", brittle, (Parameter("dial", "", 0.5, low=0, high=1),))
    monkeypatch.setattr(registry, "methods", lambda: {"mine": own, "fussy": fussy})
    made = {"merge_method": "mine", "models": [{"model": trio.one}]}
    with pytest.raises(UserError, match=r"gain may be any number: say with --bounds gain=LOW:HIGH where to search"):
        genome(tmp_path, made)
    found = genome(tmp_path, made, bounds={"gain": (-1, 1)})
    assert [gene.label for gene in found.genes] == ["gain"] and all("mlp" in name for name in found.genes[0].tensors)
    assert "dial" not in {gene.parameter for gene in found.genes}
    # What a trial cannot tell is searched.
    assert [gene.parameter for gene in genome(tmp_path, {**made, "merge_method": "fussy"}).genes] == ["dial"]


def test_a_start_that_varies_begins_at_the_mean_and_says_so(trio: Trio, tmp_path: Path) -> None:
    made = recipe(trio, "slerp", parameters={"t": [{"filter": "mlp", "value": 0.4}, {"value": [0.1, 0.3]}]})
    found = genome(tmp_path, made)
    assert 0.1 < found.genes[0].start < 0.4
    assert "the recipe's t goes from 0.1 to 0.4" in found.warnings[0]
    split = genome(tmp_path, made, layer_blocks=1, modules=("mlp",))
    assert not split.warnings or all("mlp" not in text.split("goes")[0] for text in split.warnings)


# ---------------------------------------------------------------- vectors and recipes

METHODS = ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "slerp", "mod")
GRAINS: list[dict[str, Any]] = [
    {},
    {"layer_blocks": 1},
    {"layer_blocks": 3, "modules": ("mlp",)},
    {"layer_blocks": 2, "modules": ALL},
    {"modules": ("norms", "embeddings")},
]


@pytest.mark.parametrize("grain", range(len(GRAINS)))
@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_gives_every_tensor_its_coefficients(trio: Trio, tmp_path: Path, method: str, grain: int) -> None:
    found = genome(tmp_path, recipe(trio, method, dtype="float32"), **GRAINS[grain])
    assert len(found)
    for vector in np.random.default_rng(grain).random((2, len(found))):
        wanted = found.decode(found.vector(vector))
        again = plan_of_text(found, found.recipe(found.vector(vector)))
        assert again.method.name == method
        for planned in again.tensors:
            assert planned.tensor.values == wanted.values[planned.name]
            assert tuple(planned.tensor.each) == wanted.each[planned.name]
            assert planned.dtype == "F32"


def test_settings_that_are_not_searched_stay_as_they_are(trio: Trio, tmp_path: Path) -> None:
    made = recipe(
        trio,
        "dare_ties",
        parameters={"normalize": [{"filter": "self_attn", "value": True}, {"value": False}], "lambda": [0.5, 1.5]},
    )
    made["models"][1]["parameters"] = {"weight": 0.2, "density": [{"filter": "layers.2.mlp", "value": 0.1}, {"value": 0.9}]}
    found = genome(tmp_path, made, genes=("weight",), bounds={"weight": (-1, 1)})
    again = plan_of_text(found, found.recipe([0.3, -0.25]))
    for before, after in zip(found.plan.tensors, again.tensors, strict=True):
        assert dict(after.tensor.values) == dict(before.tensor.values)
        assert after.tensor.each[1] == {"weight": -0.25, "density": before.tensor.each[1]["density"]}
    assert next(planned.tensor.values["lambda"] for planned in again.tensors if planned.layer == 1) == pytest.approx(
        0.8333333333
    )


def test_a_base_that_only_lends_its_config_is_kept(trio: Trio, tmp_path: Path) -> None:
    made = {"experts": [{"source_model": f} for f in (trio.one, trio.two)], "weights": [0.9, 0.1], "base_model": trio.base}
    found = genome(tmp_path, made)
    assert plan_of_text(found, found.recipe([0.25])).donor.folder == trio.base


def test_changed_names_the_tensors_whose_coefficients_moved(trio: Trio, tmp_path: Path) -> None:
    found = genome(tmp_path, recipe(trio, "task_arithmetic"), layer_blocks=2, modules=("attention",))
    one = found.start
    old = found.decode(one)
    assert found.changed(None, old) == {planned.name for planned in found.plan.tensors}
    assert found.changed(old, found.decode(one)) == set()
    for place, gene in enumerate(found.genes):
        two = one.copy()
        two[place] += 1e-9
        assert found.changed(old, found.decode(two)) == set(gene.tensors), gene.label


def test_vectors_lie_inside_their_bounds(trio: Trio, tmp_path: Path) -> None:
    found = genome(tmp_path, recipe(trio, "task_arithmetic"), bounds={"weight": (0.1, 0.7)})
    assert found.vector([0.0, 1.0]).tolist() == [0.1, 0.7]
    assert found.vector([-1e-12, 1 + 1e-12]).tolist() == [0.1, 0.7]
    assert np.allclose(found.vector(found.unit(found.start)), found.start, rtol=0, atol=1e-15)
    for wrong in ([0.5], [0.5, 0.5, 0.5], [0.5, float("nan")]):
        with pytest.raises(ValueError, match="a vector has 2 finite numbers"):
            found.decode(wrong)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"genes": ("wieght",)}, r"--genes wieght: is no parameter of task_arithmetic; did you mean 'weight'\?"),
        ({"genes": ("normalize",)}, "--genes normalize: is no number, so it cannot be searched"),
        ({"genes": ()}, "--genes names no parameter"),
        ({"bounds": {"weight": (0.5, 1.0)}}, r"the recipe's weight of one is 0.4, outside the bounds, 0.5 to 1; give --bounds"),
        ({"start": {"weight": 1.5}}, "--start weight=1.5: lies outside the bounds, 0 to 1"),
        ({"bounds": {"weight": (1.0, 0.0)}}, "--bounds weight=1:0: the lower bound must be below the upper one"),
        ({"bounds": {"weight": (0.0, float("inf"))}}, "both finite"),
        ({"bounds": {"densty": (0.0, 1.0)}}, r"--bounds densty: is not searched; did you mean 'density'\?"),
        ({"genes": ("weight",), "start": {"lambda": 1.0}}, r"--start lambda: is not searched \(searched: weight\)"),
        ({"genes": ("density",), "bounds": {"density": (0.0, 2.0)}}, r"--bounds density=0:2: 2.0 is outside \[0, 1\]"),
        ({"layer_blocks": 0}, "--layer-blocks 0: a block has 1 layer or more"),
        ({"modules": ("atention",)}, r"--modules atention: unknown; did you mean 'attention'\?"),
        ({"population": 1}, "--population 1: a generation needs at least 2"),
        ({"budget": 0}, "--budget 0: a search needs at least 1 candidate"),
        ({"sigma": 0.0}, "--sigma 0: the first step is a fraction of the range"),
        ({"finalists": 0}, "--finalists 0"),
        ({"seed": -1}, "--seed -1: a seed is 0 or more"),
    ],
)
def test_bad_settings(trio: Trio, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        genome(tmp_path, recipe(trio, "task_arithmetic"), **settings)


def test_words_of_the_command_line() -> None:
    assert read_layer_blocks("all") is None and read_layer_blocks("4") == 4
    assert read_words("a, b,,a") == ("a", "b") and read_words(None) is None
    assert read_bounds(["weight=-1:2"]) == {"weight": (-1.0, 2.0)} and read_start(["t=.5"]) == {"t": 0.5}
    for call, wrong in ((read_layer_blocks, "some"), (read_bounds, ["weight"]), (read_bounds, ["w=1"]), (read_start, ["t=x"])):
        with pytest.raises(UserError, match="write"):
            call(wrong)  # type: ignore[operator]


def test_parents_that_only_the_search_would_use_are_compared(trio: Trio, tmp_path: Path) -> None:
    """A model of weight 0 is not looked at by a merge, and a search may well give it a weight."""
    from tests.tiny_models import llama_config, read_folder

    tensors = read_folder(trio.two)
    other = write_folder(tmp_path / "rope", tensors, llama_config(tensors, rope_theta=1e6))
    lacking = write_folder(tmp_path / "short", {n: t for n, t in tensors.items() if n != "model.norm.weight"})
    for folder, said in ((other, "these parents do not fit.*rope"), (lacking, "has no tensor 'model.norm.weight'")):
        made = recipe(trio, "task_arithmetic")
        made["models"][1] = {"model": folder, "parameters": {"weight": 0.0}}
        with pytest.raises(UserError, match=said):
            genome(tmp_path, made)
    made["models"][1]["model"] = other
    assert len(genome(tmp_path, made, allow=("rope",))) == 2


@pytest.mark.parametrize("kind", ["aim", "fisher"])
def test_scaling_is_kept(trio: Trio, tmp_path: Path, kind: str) -> None:
    from tests.merge.test_scaling import statistics

    name = "model.layers.1.mlp.up_proj.weight"
    values = {name: np.linspace(0, 1, 8) if kind == "aim" else np.array(0.5)}
    made = recipe(trio, "ties") | {"scaling": {"kind": kind, "statistics": statistics(tmp_path / "s", kind, values, trio.base)}}
    found = genome(tmp_path, made, layer_blocks=2)
    again = plan_of_text(found, found.recipe(found.start))
    assert again.scaling is not None and again.scaling.record == found.plan.scaling.record  # type: ignore[union-attr]
    assert found.identity != genome(tmp_path, recipe(trio, "ties"), layer_blocks=2).identity


def test_trials_do_without_the_scale(trio: Trio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial sees a small tensor; the scale is made for the whole one, and fisher's reads all of the models first."""
    from modist.merge import scaling
    from tests.merge.test_scaling import statistics

    name = "model.layers.0.mlp.up_proj.weight"
    path = statistics(tmp_path / "s", "fisher", {name: np.array(0.5)}, trio.base)
    made = recipe(trio, "ties") | {"scaling": {"kind": "fisher", "statistics": path}}
    made["models"] = made["models"][:1]
    read: list[str] = []
    monkeypatch.setattr(scaling, "_squares", lambda entry, *rest: read.append(entry.name) or 1.0)
    assert [gene.parameter for gene in genome(tmp_path, made).genes] == ["density"] and not read


def test_recipes_can_be_read_by_people(trio: Trio, tmp_path: Path) -> None:
    found = genome(tmp_path, recipe(trio, "slerp"), layer_blocks=2, modules=("mlp", "embeddings"))
    assert [gene.label for gene in found.genes] == [
        "t, embeddings",
        "t, mlp, layers 0-1",
        "t, rest, layers 0-1",
        "t, mlp, layers 2-3",
        "t, rest, layers 2-3",
        "t, head",
    ]
    text = yaml.safe_load(found.recipe([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    one, two = trio.one.resolve(), trio.two.resolve()
    assert text == {
        "merge_method": "slerp",
        "base_model": str(one),
        "slices": [
            {
                "sources": [{"model": str(one), "layer_range": [0, 2]}, {"model": str(two), "layer_range": [0, 2]}],
                "parameters": {
                    "t": [
                        {"filter": "mlp", "value": 0.2},
                        {"filter": "embed_tokens", "value": 0.1},
                        {"value": 0.3},
                    ]
                },
            },
            {
                "sources": [{"model": str(one), "layer_range": [2, 4]}, {"model": str(two), "layer_range": [2, 4]}],
                "parameters": {"t": [{"filter": "mlp", "value": 0.4}, {"filter": "lm_head", "value": 0.6}, {"value": 0.5}]},
            },
        ],
    }


def test_a_search_is_known_by_what_its_vectors_mean(trio: Trio, tmp_path: Path) -> None:
    plain = genome(tmp_path, recipe(trio, "ties")).identity
    assert genome(tmp_path, recipe(trio, "ties")).identity == plain
    others = [
        genome(tmp_path, recipe(trio, "ties"), layer_blocks=2),
        genome(tmp_path, recipe(trio, "ties"), bounds={"density": (0.1, 1.0)}),
        genome(tmp_path, recipe(trio, "ties", parameters={"lambda": 0.9})),
        genome(tmp_path, recipe(trio, "ties", dtype="float32")),
    ]
    assert all(other.identity != plain for other in others)
