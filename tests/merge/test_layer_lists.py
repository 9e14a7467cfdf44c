"""What a config says layer by layer, after layers were stacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modist.checkpoint import Checkpoint
from modist.errors import UserError
from modist.merge.layer_lists import layer_types, mixed_layers, restack
from tests.tiny_models import encode, write_folder


def model(folder: Path, layers: int = 4, **config: Any) -> Checkpoint:
    tensors = {f"model.layers.{n}.a": encode(np.zeros(1), "F32") for n in range(layers)}
    return Checkpoint.open(write_folder(folder, tensors, {"num_hidden_layers": layers, **config}))


def stacked(checkpoint: Checkpoint, layers: list[int]) -> dict[str, Any]:
    config = dict(checkpoint.config)
    restack(config, checkpoint, [(checkpoint, layer) for layer in layers])
    return config


def test_every_list_of_one_entry_a_layer_follows(tmp_path: Path) -> None:
    heads, blocks = [8, 4, 2, 1], [{"ffn": n} for n in range(4)]
    found = stacked(model(tmp_path, num_key_value_heads=heads, block_configs=blocks, n_layer=4), [3, 0, 0, 1, 2])
    assert found["num_key_value_heads"] == [1, 8, 8, 4, 2]
    assert found["block_configs"] == [{"ffn": n} for n in (3, 0, 0, 1, 2)]
    assert (found["num_hidden_layers"], found["n_layer"]) == (5, 5)


def test_lists_that_are_not_of_layers_stay(tmp_path: Path) -> None:
    same = {"eos_token_id": [1, 2, 3, 4], "architectures": ["A", "B", "C", "D"], "other": [1, 2, 3]}
    found = stacked(model(tmp_path, **same), [0, 1])
    assert {key: found[key] for key in same} == same


def test_lists_of_layers_numbers_are_counted_anew(tmp_path: Path) -> None:
    assert stacked(model(tmp_path, mlp_only_layers=[0, 2]), [2, 3, 0, 1, 2])["mlp_only_layers"] == [0, 2, 4]


def test_the_language_models_part_of_a_config_is_the_one(tmp_path: Path) -> None:
    text = {"num_hidden_layers": 4, "layer_types": list("abcd")}
    found = stacked(model(tmp_path, text_config=text, vision_config={"layer_types": list("wxyz")}), [1, 3])
    assert found["text_config"] == {"num_hidden_layers": 2, "layer_types": ["b", "d"]}
    assert found["vision_config"] == {"layer_types": list("wxyz")}


def test_layers_of_two_models_bring_their_own_entries(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one", layer_types=list("abcd")), model(tmp_path / "two", 3, layer_types=list("xyz"))
    config = dict(one.config)
    restack(config, one, [(one, 3), (two, 2), (two, 0)])
    assert config["layer_types"] == ["d", "z", "x"]


def test_a_model_without_the_list_cannot_give_an_entry(tmp_path: Path) -> None:
    one, two = model(tmp_path / "one", num_key_value_heads=[1, 2, 3, 4]), model(tmp_path / "two")
    with pytest.raises(UserError, match="two: its config has no 'num_key_value_heads' for layer 1"):
        restack(dict(one.config), one, [(one, 0), (two, 1)])


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"model_type": "llama"}, None),
        ({"model_type": "gemma2"}, "sfsf"),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 3}, "ssfs"),
        ({"model_type": "cohere2"}, "sssf"),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "fsss"),
        ({"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1}, None),
        ({"model_type": "gemma2", "layer_types": ["full_attention"] * 4}, "ffff"),
    ],
)
def test_natures_as_transformers_reads_them(tmp_path: Path, config: dict[str, Any], kinds: str | None) -> None:
    words = {"s": "sliding_attention", "f": "full_attention"}
    assert layer_types(model(tmp_path, **config)) == (None if kinds is None else [words[kind] for kind in kinds])


@pytest.mark.parametrize(
    ("config", "layers", "wanted"),
    [
        ({"use_sliding_window": False, "max_window_layers": 4}, [0, 1, 2, 3, 2, 3], 6),
        ({"use_sliding_window": False, "max_window_layers": 2}, [0, 1], 2),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}, [0, 1, 1, 1, 2], 4),
        ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 4}, [0, 1], 2),
    ],
)
def test_the_window_begins_where_it_did(tmp_path: Path, config: dict[str, Any], layers: list[int], wanted: int) -> None:
    assert stacked(model(tmp_path, **config), layers)["max_window_layers"] == wanted


@pytest.mark.parametrize(
    ("config", "good", "bad", "place"),
    [
        ({"decoder_sparse_step": 2}, [0, 1, 2, 3, 2, 3], [0, 2], "layer 2 cannot stand as layer 1"),
        ({"first_k_dense_replace": 1}, [0, 2, 1], [0, 0], "layer 0 cannot stand as layer 1"),
        ({"num_kv_shared_layers": 0}, [3, 0], None, ""),
    ],
)
def test_what_is_laid_down_by_number_is_kept(
    tmp_path: Path, config: dict[str, Any], good: list[int], bad: list[int] | None, place: str
) -> None:
    assert stacked(model(tmp_path, **config), good)["num_hidden_layers"] == len(good)
    if bad is not None:
        with pytest.raises(UserError, match=place):
            stacked(model(tmp_path, **config), bad)


def test_layers_that_share_their_keys_cannot_be_moved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_kv_shared_layers: 2"):
        stacked(model(tmp_path, num_kv_shared_layers=2), [0, 1])


def test_a_config_that_does_not_count_its_layers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not give 4 as its number of layers"):
        stacked(model(tmp_path, num_hidden_layers=5), [0])


def test_merging_layers_of_two_natures_is_remarked_on(tmp_path: Path) -> None:
    one = model(tmp_path, model_type="gemma2")
    assert mixed_layers([((one, one), (0, 2), 2)]) == []
    (remark,) = mixed_layers([((one, one), (0, 1), 2)])
    assert "layer 0 of" in remark and "full_attention and one sliding_attention" in remark
