"""What a mixture's config.json keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from modist.errors import CheckpointError
from modist.mixture import MixtureConfig, assemble
from modist.vocabulary import CommonVocabulary
from tests.mixture.tiny_experts import tiny


def config_of(**more: Any) -> MixtureConfig:
    experts = assemble([tiny(1), tiny(2, "qwen2-tied", vocab=170)], [0.75, 0.25], names=["a", "b"])
    config = MixtureConfig.of(experts)
    for key, value in more.items():
        setattr(config, key, value)
    return config


def test_it_comes_back_as_it_went(tmp_path: Path) -> None:
    config = config_of()
    config.save_pretrained(tmp_path)
    for back in (MixtureConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(back) is MixtureConfig
        assert back.weights == [0.75, 0.25] and back.names == ["a", "b"] and back.law == "arithmetic"
        assert back.vocab_size == 170 and back.stop_ids == (2,) and back.max_position_embeddings == 128
        assert back.expert_0.model_type == "llama" and back.expert_1.model_type == "qwen2"
        assert back.expert_1.tie_word_embeddings and not back.tie_word_embeddings
        assert back.sub_configs == {"expert_0": type(back.expert_0), "expert_1": type(back.expert_1)}
        common = back.vocabulary()
        assert common.outputs == (160, 170) and int(common.shared.sum()) == 160
        back.check()


def test_the_vocabulary_is_kept_id_by_id() -> None:
    tokens = {f"w{number}": number for number in range(60)}
    odd = {(f"o{number}" if number in (7, 8, 30) else f"w{number}"): number for number in range(60)}
    common = CommonVocabulary.of([tokens, odd], [60, 64], ["a", "b"])
    config = config_of()
    from modist.mixture.config import _runs

    config.outputs = list(common.outputs)
    config.unreadable = [_runs((~row).tolist()) for row in common.readable]
    config.unshared = _runs((~common.shared).tolist())
    assert config.unreadable == [[[60, 64]], [[7, 9], [30, 31]]]
    back = config.vocabulary()
    assert torch.equal(back.readable, common.readable) and torch.equal(back.shared, common.shared)


def test_settings_pushed_into_the_copy_do_not_reach_the_living() -> None:
    model = tiny(1)
    config = MixtureConfig.of(assemble([model, tiny(2)], [0.5, 0.5]))
    config._attn_implementation = "eager"
    assert config.expert_0._attn_implementation == "eager"
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, "names no weights"),
        ({"weights": [0.5, 0.6]}, "sum to 1.1"),
        ({"weights": [0.5, 0.25, 0.25]}, "3 weights for 2 experts"),
        ({"law": "median"}, "no law 'median'"),
        ({"outputs": None}, "weights for 0 experts"),
    ],
)
def test_a_damaged_config_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    config_of(**change).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        MixtureConfig.from_pretrained(tmp_path).check()


def test_an_expert_of_an_unknown_kind_is_named(tmp_path: Path) -> None:
    config_of().save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    data["expert_1"]["model_type"] = "novel"
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"expert_1.*'novel'"):
        MixtureConfig.from_pretrained(tmp_path)
