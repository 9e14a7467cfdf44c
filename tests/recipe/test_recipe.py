"""Recipes: what they mean, and what is said, with line and key, of what they cannot mean."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modist.errors import RecipeError
from modist.recipe import ModelReference, Recipe, load_recipe, parse_recipe
from modist.recipe.json_schema import json_schema

MOD = """\
base_model: org/a
experts:
  - source_model: org/a
  - source_model: org/b
weights: [0.9, 0.1]
"""
LINEAR = """\
merge_method: linear
models:
  - model: org/a
    parameters: {weight: 0.5}
  - model: org/b
    parameters: {weight: 0.5}
"""


def refused(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yml")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("r.yml")
    return message


# ---------------------------------------------------------------- Configuration 1


def test_model_kwargs_as_a_mapping_or_a_list_of_them() -> None:
    one = parse_recipe(MOD + "model_kwargs: {device_map: cuda, trust_remote_code: true}\n")
    two = parse_recipe(MOD + "model_kwargs:\n  - device_map: cuda\n  - trust_remote_code: true\n")
    assert one.model_kwargs == two.model_kwargs == {"device_map": "cuda", "trust_remote_code": True}


def test_the_options_of_mod() -> None:
    recipe = parse_recipe(MOD + "normalize: quantile\nselect: random\nscope: all\nout_dtype: float32\n")
    assert {key: setting.at("x", 0) for key, setting in recipe.parameters.items()} == {
        "normalize": "quantile",
        "select": "random",
        "scope": "all",
    }
    assert recipe.dtype == "float32"


def test_without_a_base_the_first_expert_gives_config_and_tokenizer() -> None:
    assert str(parse_recipe(MOD.replace("base_model: org/a\n", "")).donor) == "org/a"
    other = parse_recipe(MOD.replace("base_model: org/a", "base_model: org/c"))
    assert [str(model) for model in other.models] == ["org/a", "org/b", "org/c"]


def test_weights_written_as_yaml_1_1_misreads_them() -> None:
    recipe = parse_recipe(MOD.replace("[0.9, 0.1]", "[9e-1, 1e-1]"))
    assert [source.parameters["weight"].at("x", 0) for source in recipe.slices[0].sources] == [0.9, 0.1]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ("[0.9, 0.2]", "r.yml:5: weights: the weights [0.9, 0.2] sum to 1.1; they must sum to 1"),
        ("[0.9]", "r.yml:5: weights: 1 weights for 2 experts"),
        ("[0.5, 0.3, 0.2]", "r.yml:5: weights: 3 weights for 2 experts"),
        ("[1.1, -0.1]", "r.yml:5: weights[0]: 1.1: "),
        ("[-0.1, 1.1]", "r.yml:5: weights[0]: -0.1: "),
        ("[.nan, 1]", "r.yml:5: weights[0]: nan: "),
        ("[.inf, 0]", "r.yml:5: weights[0]: inf: "),
        ("[1e400, 0]", "r.yml:5: weights[0]: inf: "),
        ("[nan, 1]", "r.yml:5: weights[0]: nan: "),
        ("[true, false]", "r.yml:5: weights[0]: True: "),
        ("[most, rest]", "r.yml:5: weights[0]: 'most': "),
        ("[2001-01-01, 1]", "r.yml:5: weights[0]: date: "),
        ("[[0.9], 0.1]", "r.yml:5: weights[0]: list: "),
        ("[null, 1]", "r.yml:5: weights[0]: None: "),
        ("[]", "r.yml:5: weights: list: "),
        ("0.9", "r.yml:5: weights: 0.9: "),
        ("{a: 0.9, b: 0.1}", "r.yml:5: weights: dict: "),
        ("", "r.yml:5: weights: None: "),
    ],
)
def test_weights_that_are_none(weights: str, words: str) -> None:
    assert words in refused(MOD.replace("[0.9, 0.1]", weights))


# ---------------------------------------------------------------- mergekit's dialect


def test_precedence_is_source_then_slice_then_recipe() -> None:
    recipe = parse_recipe(
        """\
merge_method: linear
parameters: {weight: 1, normalize: true, density: 3}
slices:
  - parameters: {weight: 2, normalize: false}
    sources:
      - {model: org/a, layer_range: [0, 2], parameters: {weight: 3}}
      - {model: org/b, layer_range: [0, 2]}
  - sources:
      - {model: org/a, layer_range: [2, 4]}
      - {model: org/b, layer_range: [2, 4]}
"""
    )
    first, second = recipe.slices

    def order(part, source, name):  # type: ignore[no-untyped-def]
        found = (settings.get(name) for settings in recipe.settings(part, source))
        return [setting.at("x", 0) for setting in found if setting]

    assert order(first, first.sources[0], "weight") == [3, 2, 1]
    assert order(first, first.sources[1], "weight") == [2, 1]
    assert order(second, second.sources[0], "weight") == [1]
    assert order(first, None, "normalize") == [False, True]
    assert [part.sources[1].layers for part in recipe.slices] == [(0, 2), (2, 4)]


def test_out_dtype_goes_before_dtype() -> None:
    assert parse_recipe(LINEAR + "dtype: float16\n").dtype == "float16"
    assert parse_recipe(LINEAR + "dtype: float16\nout_dtype: float32\n").dtype == "float32"
    assert parse_recipe(LINEAR).dtype is None


def test_a_base_named_by_every_slice() -> None:
    text = """\
merge_method: slerp
slices:
  - base_model: org/a
    sources: &both
      - {model: org/a, layer_range: [0, 2]}
      - {model: org/b, layer_range: [0, 2]}
parameters: {t: 0.5}
"""
    assert str(parse_recipe(text).base) == "org/a"
    both = parse_recipe(text + "base_model: org/b\n")
    assert (str(both.base), str(both.slices[0].base)) == ("org/b", "org/a")


def test_anchors_and_merge_keys_are_plain_yaml() -> None:
    recipe = parse_recipe(
        """\
merge_method: linear
models:
  - &first {model: org/a, parameters: &half {weight: 0.5}}
  - {<<: *first, model: org/b}
  - {model: org/c, parameters: *half}
"""
    )
    assert [source.parameters["weight"].at("x", 0) for source in recipe.slices[0].sources] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LINEAR + "merge_methods: x\n", "r.yml:7: merge_methods: unknown key 'merge_methods'; did you mean 'merge_method'?"),
        (LINEAR.replace("parameters:", "paramters:", 1), "r.yml:4: models[0].paramters: unknown key 'paramters'"),
        (LINEAR.replace("parameters:", "paramters:", 1), "did you mean 'parameters'?"),
        (MOD.replace("source_model: org/b", "source: org/b"), "experts[1]"),
        (MOD.replace("source_model: org/b", "sourcemodel: org/b"), "r.yml:4: experts[1]"),
        (MOD + "normalise: minmax\n", "unknown key 'normalise'; did you mean 'normalize'?"),
        (MOD + "normalize: quantil\n", "r.yml:6: normalize: 'quantil': should be"),
        (MOD + "normalize: quantil\n", "did you mean 'quantile'?"),
        (MOD.replace("experts", "expert"), "did you mean 'experts'?"),
        (MOD.replace("weights: [0.9, 0.1]\n", ""), "'weights' is missing"),
        (MOD.replace("base_model: org/a", "base_model: [org/a]"), "r.yml:1: base_model: list"),
        (MOD.replace("base_model: org/a", "base_model: ''"), "r.yml:1: base_model: a model is a folder or a hub id"),
        (MOD.replace("base_model: org/a", "base_model: 5"), "r.yml:1: base_model: 5"),
        (MOD.replace("source_model: org/b", "source_model: org/a"), "r.yml:4: experts[1].source_model: 'org/a' is listed"),
        (LINEAR.replace("org/b", "org/a"), "r.yml:5: models[1]: 'org/a' is listed twice"),
        (LINEAR + "dtype: bf16\n", "did you mean 'bfloat16'?"),
        (LINEAR + "dtype: int8\n", "r.yml:7: dtype: 'int8'"),
        (LINEAR.replace("models:", "models: []\nx:"), "r.yml:2: models"),
        (LINEAR + "slices: []\n", "r.yml:7: slices"),
        (LINEAR + "modules: {}\n", "exactly one of"),
        ("merge_method: linear\n", "found none of them"),
        ("merge_method: linear\nmodels:\n", "found none of them"),
        ("merge_method: linear\nmodels: org/a\n", "r.yml:2: models: 'org/a'"),
        (LINEAR + "tokenizer: union\n", "r.yml:7: tokenizer: 'union': "),
        (LINEAR + "tokenizer_source: unoin\n", "did you mean 'union'"),
        (LINEAR.replace("org/b", "org/b+./lora"), "models[1].model: there is no folder './lora' ('org/b+./lora' names it)"),
        (LINEAR.replace("org/b", "org/b+"), "does not read as 'source[@revision][+adapter[@revision]]'"),
        (LINEAR.replace("org/b", "org/b@"), "does not read as"),
        (LINEAR.replace("org/b", "./nowhere"), "r.yml:5: models[1].model: there is no folder './nowhere'"),
        (LINEAR.replace("org/b", "~nobody-of-this-name/x"), "there is no folder"),
        (LINEAR.replace("org/b", "x" * 300 + "/y/z"), "there is no folder"),
        (LINEAR.replace("org/b", '"a\\0b"'), "is no name of a folder"),
        (LINEAR.replace("org/b", '"a\\nb"'), "is no name of a folder"),
        (LINEAR.replace("org/b", "x" * 5000), "is no name of a folder"),
        (LINEAR.replace("{weight: 0.5}", "[weight]", 1), "r.yml:4: models[0].parameters"),
        (LINEAR.replace("{weight: 0.5}", "{weight: 2001-01-01}", 1), "found date"),
        (LINEAR.replace("{weight: 0.5}", "{weight: }", 1), "found nothing"),
        (LINEAR.replace("{weight: 0.5}", "{weight: []}", 1), "empty gradient"),
        (LINEAR.replace("{weight: 0.5}", "{weight: [[1]]}", 1), "models[0].parameters.weight[0]: expected a number"),
        (LINEAR.replace("{weight: 0.5}", "{weight: {value: 1, fliter: x}}", 1), "unknown key 'fliter'"),
        (LINEAR.replace("{weight: 0.5}", "{weight: {filter: x}}", 1), "needs a 'value'"),
        (LINEAR.replace("{weight: 0.5}", "{weight: {filter: 5, value: 1}}", 1), "not 5"),
        (LINEAR.replace("{weight: 0.5}", "{weight: {filter: '', value: 1}}", 1), "not ''"),
        (LINEAR.replace("{weight: 0.5}", "{weight: [{value: 1}, 2]}", 1), "weight[1]: 2 stands among"),
        (LINEAR.replace("{weight: 0.5}", "{weight: 1" + "0" * 400 + "}", 1), "integer larger"),
        (LINEAR.replace("{weight: 0.5}", "{weight: 1" + "0" * 5000 + "}", 1), "not a value YAML can hold"),
        (LINEAR.replace("{weight: 0.5}", "{5: 1}", 1), "r.yml:4: models[0].parameters"),
    ],
)
def test_what_is_wrong_is_named_with_line_and_key(text: str, words: str) -> None:
    assert words in refused(text)


def test_of_several_problems_the_first_in_reading_order() -> None:
    assert "r.yml:3: models[0].x" in refused("merge_method: linear\nmodels:\n  - x: 1\n  - y: 1\nz: 2\n")


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([[0, 2], [1, 4]], "[1, 4] is 3 layers, [0, 2] above is 2: the sources of a slice have equally many, such as [1, 3]"),
        ([[4, 8], [0, 2]], "such as [0, 4]"),
        ([[2, 2], [2, 2]], "no range of layers"),
        ([[-1, 2], [-1, 2]], "no range of layers"),
        ([[3, 1], [3, 1]], "no range of layers"),
        ([[0], [0]], "layer_range"),
        ([[0, 2, 4], [0, 2, 4]], "layer_range"),
        ([["0", 2], ["0", 2]], "layer_range[0]"),
        ([[0.5, 2], [0.5, 2]], "layer_range[0]"),
        ([[True, 2], [True, 2]], "layer_range[0]"),
        ([None, None], "layer_range"),
        (["0-2", "0-2"], "layer_range"),
    ],
)
def test_slices_that_are_none(ranges: list[object], words: str) -> None:
    sources = [{"model": f"org/{name}", "layer_range": found} for name, found in zip("ab", ranges, strict=True)]
    message = refused(json.dumps({"merge_method": "slerp", "slices": [{"sources": sources}]}))
    assert words in message


PART = "  - sources:\n    - {{model: org/a, layer_range: [{0}, {1}]}}\n    - {{model: org/{2}, layer_range: [{3}, {4}]}}\n"


def test_slices_of_other_models_and_other_layers_are_read() -> None:
    recipe = parse_recipe("merge_method: linear\nslices:\n" + PART.format(0, 2, "b", 0, 2) + PART.format(5, 8, "c", 1, 4))
    assert [[(str(s.model), s.layers) for s in part.sources] for part in recipe.slices] == [
        [("org/a", (0, 2)), ("org/b", (0, 2))],
        [("org/a", (5, 8)), ("org/c", (1, 4))],
    ]
    assert [part.length for part in recipe.slices] == [2, 3]
    assert [str(model) for model in recipe.models] == ["org/a", "org/b", "org/c"]
    assert str(recipe.donor) == "org/a"


def test_a_model_may_stand_twice_in_a_slice_with_other_layers() -> None:
    text = "merge_method: linear\nslices:\n" + PART.format(0, 2, "a", 1, 3)
    assert len(parse_recipe(text).slices[0].sources) == 2
    assert "listed twice" in refused(text.replace("[1, 3]", "[0, 2]"))


def test_each_slice_has_its_own_base_or_the_recipes() -> None:
    slices = "merge_method: ties\nslices:\n" + PART.format(0, 2, "b", 0, 2) + PART.format(2, 4, "b", 2, 4)
    own = slices.replace("  - sources", "  - base_model: org/x\n    sources", 1)
    assert [str(part.base) for part in parse_recipe(own).slices] == ["org/x", "org/x"]
    both = parse_recipe(own + "base_model: org/y\n")
    assert [str(part.base) for part in both.slices] == ["org/x", "org/y"]
    assert [str(model) for model in both.models] == ["org/a", "org/b", "org/y", "org/x"]
    assert str(both.donor) == "org/y"


def test_residual_weights_are_refused() -> None:
    text = "merge_method: linear\nslices:\n" + PART.format(0, 2, "b", 0, 2)
    assert "residual_weight" in refused(text.replace("  - sources", "  - residual_weight: 1.0\n    sources", 1))


# ---------------------------------------------------------------- files and references


def test_a_folder_beside_the_recipe_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "one").mkdir(parents=True)
    (tmp_path / "models" / "two").mkdir()
    path = tmp_path / "r.yml"
    path.write_text(LINEAR.replace("org/a", "./models/one").replace("org/b", "./models/twoo"))
    monkeypatch.chdir("/")
    with pytest.raises(RecipeError, match=r"r\.yml:5: models\[1\]\.model: there is no folder '\./models/twoo'"):
        load_recipe(path)
    path.write_text(LINEAR.replace("org/a", "./models/one").replace("org/b", "./models/two"))
    assert [model.folder.name for model in load_recipe(path).models] == ["one", "two"]
    monkeypatch.chdir(tmp_path)
    path.write_text(LINEAR.replace("org/a", "./models/one").replace("org/b", "./models/twoo"))
    with pytest.raises(RecipeError, match="did you mean 'two'"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\n# nothing\n", "empty"),
        (b"---\n---\na: 1\n", "not YAML"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"a: \x07", "not YAML"),
        (b"a:\n\t- b\n", "r.yml:2: not YAML"),
        (b"a: [1, 2\n", "not YAML"),
        (b"a: 'b\n", "not YAML"),
        (b"a: *nowhere\n", "r.yml:1: not YAML"),
        (b"a: 1\nb: 2\na: 3\n", "r.yml:3: 'a' is given twice"),
        (b"a: {x: 1, x: 2}\n", "'x' is given twice"),
        (b"? [a]\n: 1\n", "a key must be a word"),
        (b"? {a: b}\n: 1\n", "a key must be a word"),
        (b"- a\n- b\n", "a recipe is a mapping"),
        (b"just text\n", "a recipe is a mapping"),
        (b"5\n", "a recipe is a mapping"),
        (b"null\n", "a recipe is a mapping"),
        (b"a: !!python/object/apply:os.system ['true']\n", "not YAML"),
        (b"a: !!int ''\n", "not a value YAML can hold"),
        (b"a: !!bool maybe\n", "not a value YAML can hold"),
        (b"a: !!timestamp soon\n", "not a value YAML can hold"),
        (b"a: !!float much\n", "not a value YAML can hold"),
        (b"a: 2001-99-99\n", "not a value YAML can hold"),
        (b"a: &a [*a]\n", "nested too deeply"),
        (b"[" * 50_000, "nested too deeply"),
        (b"{a: " * 50_000, "nested too deeply"),
        (b"<<: 5\n", "not YAML"),
        (b"a: " + b"x" * (1 << 20), "larger than 1 MiB"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "r.yml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "once its aliases are followed" in refused("\n".join(lines))


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no such recipe"):
        load_recipe(tmp_path / "none.yml")
    with pytest.raises(RecipeError, match="this is a folder"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("text", "parts", "local"),
    [
        ("Qwen/Qwen2.5-1.5B-Instruct", ("Qwen/Qwen2.5-1.5B-Instruct", None, None), False),
        ("gpt2", ("gpt2", None, None), False),
        ("org/name@main", ("org/name", "main", None), False),
        ("org/name@refs/pr/3", ("org/name", "refs/pr/3", None), False),
        ("org/name@rev+org/lora", ("org/name", "rev", "org/lora"), False),
        ("org/name+org/lora@v2", ("org/name", None, "org/lora@v2"), False),
        ("org/name@v1+org/lora@v2", ("org/name", "v1", "org/lora@v2"), False),
        ("./folder", ("./folder", None, None), True),
        ("/a/b", ("/a/b", None, None), True),
        ("a/b/c", ("a/b/c", None, None), True),
        ("../x", ("../x", None, None), True),
        (" org/name ", ("org/name", None, None), False),
    ],
)
def test_references(text: str, parts: tuple[str | None, ...], local: bool) -> None:
    found = ModelReference.parse(text)
    assert (found.source, found.revision, found.adapter) == parts
    assert found.is_local is local
    assert str(found) == text.strip()
    assert ModelReference.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "@rev",
        "org/name@",
        "org/name+",
        "+lora",
        "org/name+lora@",
        "org/name+@v1",
        "a\0b",
        "a\x1bb",
        "x" * 5000,
        "\ud800",
    ],
)
def test_references_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        ModelReference.parse(text)


def test_an_existing_folder_is_taken_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a@b+c").mkdir()
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path)
    found = ModelReference.parse("a@b+c")
    assert found.is_local and found.revision is None and found.name == "a@b+c"
    assert ModelReference.parse("plain").is_local


# ---------------------------------------------------------------- settings


def setting(value: str):  # type: ignore[no-untyped-def]
    recipe = parse_recipe(LINEAR + f"parameters: {{t: {value}}}\n")
    return recipe.parameters["t"]


def test_a_gradient_runs_over_depth() -> None:
    found = setting("[0, 1, 0.5]")
    expected = [(0, 0), (0.25, 0.5), (0.5, 1), (0.75, 0.75), (1, 0.5)]
    assert [found.at("x", depth) for depth, _ in expected] == [value for _, value in expected]
    assert setting("[0.3]").at("x", 0.7) == 0.3


def test_filters_are_substrings_and_the_first_that_matches_decides() -> None:
    found = setting("[{filter: self_attn, value: 1}, {filter: attn, value: [2, 4]}, {filter: '*', value: 3}, {value: 9}]")
    assert found.at("model.layers.0.self_attn.q_proj.weight", 0.5) == 1
    assert found.at("model.layers.0.attn.weight", 0.5) == 3
    assert found.at("lm_head.weight", 0) == 3
    assert [case.filter for case in found.filters()] == ["self_attn", "attn"]
    assert sorted(value for value, _ in found.scalars()) == [1, 2, 3, 4, 9]
    assert setting("{filter: mlp, value: 1}").at("lm_head.weight", 0) is None


def test_words_are_kept_and_numbers_in_words_are_numbers() -> None:
    assert setting("1e-5").at("x", 0) == 1e-5
    assert setting("minmax").at("x", 0) == "minmax"
    assert setting("true").at("x", 0) is True
    assert setting("[true, false]").at("x", 0.4) is True


# ---------------------------------------------------------------- schema


def test_the_schema_covers_both_dialects() -> None:
    schema = json_schema()
    json.dumps(schema)
    text = json.dumps(schema["anyOf"])
    for key in ("experts", "weights", "merge_method", "slices", "base_model"):
        assert f'"{key}"' in text
    names = set(_references(schema))
    assert names <= {f"#/$defs/{name}" for name in schema["$defs"]}


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []


# ---------------------------------------------------------------- anything at all

_PIECES = [
    "merge_method", "models", "experts", "weights", "slices", "sources", "parameters", "weight", "filter", "value",
    "layer_range", "base_model", "source_model", "model", "linear", "mod", "org/a", "./x", "0.5", "1e400", ".nan", "~",
    "true", "2001-01-01", "!!int", "!!set", "!!binary", "!!omap", "!!timestamp", "&a", "*a", "<<", "=", "? ", "- ", ": ",
    ", ", "[", "]", "{", "}", "\n", "\n  ", "\n    ", "'", '"', "|", ">", "%", "#", "---", "...", "\t", "\\", "\0", "é", "💥",
]  # fmt: skip


def reads_or_refuses(text: str) -> None:
    try:
        assert isinstance(parse_recipe(text, "r.yml"), Recipe)
    except RecipeError as error:
        assert str(error).startswith("r.yml:")


_SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@_SETTINGS
@given(st.text(max_size=80))
def test_any_text_is_a_recipe_or_a_recipe_error(text: str) -> None:
    reads_or_refuses(text)


@_SETTINGS
@given(st.lists(st.sampled_from(_PIECES), max_size=40).map("".join))
def test_any_scraps_of_yaml_are_a_recipe_or_a_recipe_error(text: str) -> None:
    reads_or_refuses(text)


_LEAVES = st.sampled_from([None, True, 0, 1, -1, 0.5, 10**400, float("nan"), float("inf"), "", "x", "org/a", "[0, 1]"])
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_PIECES[:16]), inner, max_size=4),
    max_leaves=12,
)


@_SETTINGS
@given(st.dictionaries(st.sampled_from(_PIECES[:14]), _TREES, max_size=6))
def test_any_tree_of_known_keys_is_a_recipe_or_a_recipe_error(tree: dict[str, object]) -> None:
    reads_or_refuses(json.dumps(tree))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("text", [MOD, LINEAR], ids=["mod", "linear"])
def test_damaged_recipes(text: str, seed: int) -> None:
    """Letters deleted, doubled and exchanged: the file's name, never another exception."""
    draw = random.Random(seed)
    letters = list(text)
    for _ in range(draw.randint(1, 6)):
        place = draw.randrange(len(letters))
        letters[place] = draw.choice(["", letters[place] * 2, draw.choice(text), draw.choice(_PIECES)])
    reads_or_refuses("".join(letters))
