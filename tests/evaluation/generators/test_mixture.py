"""A recipe's mixture: the eager law whichever way it is decoded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from modist.errors import RecipeError, UserError
from modist.evaluation.generators import Ask, GenerationError, Sampling
from modist.evaluation.generators.mixture import MixtureGenerator
from modist.evaluation.generators.transformers import TransformersGenerator
from tests.evaluation.generators.asking import GENERAL, MATH, chats
from tests.mixture.tiny_experts import greedy_by_hand

GREEDY = Sampling()


def recipe(folder: Path, weights: Sequence[float] = (0.5, 0.5), more: str = "", name: str = "half.yml") -> str:
    path = folder / name
    path.write_text(
        f"experts:\n  - source_model: {GENERAL}\n  - source_model: {MATH}\nweights: {list(weights)}\n{more}", encoding="utf-8"
    )
    return str(path)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MixtureGenerator]:
    generator = MixtureGenerator(recipe(tmp_path_factory.mktemp("half")), device="cpu")
    yield generator
    generator.close()


def rows(replies: Sequence[Any]) -> list[tuple[Any, ...]]:
    return [(one.key, one.text, one.tokens, one.prompt_tokens, one.finish_reason, one.prompt, one.error) for one in replies]


def test_batches_lazy_rows_and_the_law_by_hand_agree(half: MixtureGenerator, tmp_path: Path) -> None:
    asks = [*chats(3, limit=16), *chats(3, "math", limit=16)]
    batch = half.answer(asks, GREEDY)
    lazy = MixtureGenerator(recipe(tmp_path), eager=False, device="cpu")
    assert rows(batch) == rows(lazy.answer(asks, GREEDY)) == rows([half.answer([ask], GREEDY)[0] for ask in asks])
    experts = half._living
    for reply in (batch[0], batch[-1]):
        ids = experts.tokenizer(reply.prompt)["input_ids"]
        expected = greedy_by_hand(experts.models, experts.weights, ids, 16, {0, 2})
        assert reply.tokens == len(expected) and reply.prompt_tokens == len(ids)
        assert reply.text == experts.tokenizer.decode(expected, skip_special_tokens=True)


def test_all_weight_on_one_expert_is_that_expert(tmp_path: Path) -> None:
    asks = chats(5)
    mixed = MixtureGenerator(recipe(tmp_path, (1.0, 0.0)), device="cpu").answer(asks, GREEDY)
    assert rows(mixed) == rows(TransformersGenerator(str(GENERAL), device="cpu").answer(asks, GREEDY))


def test_each_ask_has_its_own_limit_and_stop_texts(half: MixtureGenerator) -> None:
    prompt = chats(1)[0].prompt
    (whole,) = half.answer([Ask("a", prompt, 30)], GREEDY)
    two, stopped, same = half.answer(
        [Ask("b", prompt, 2), Ask("c", prompt, 30, (whole.text[4:7],)), Ask("d", prompt, 30)], GREEDY
    )
    assert (two.tokens, two.finish_reason) == (2, "length") and whole.text.startswith(two.text)
    assert stopped.text == whole.text[:4] and stopped.finish_reason == "stop" and stopped.tokens < whole.tokens
    assert same.text == whole.text


def test_a_stop_text_that_is_a_special_token(half: MixtureGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = chats(1)[0].prompt
    (whole,) = half.answer([Ask("a", prompt, 30)], GREEDY)
    monkeypatch.setitem(half._living.__dict__, "stop_ids", frozenset())
    free, stopped = half.answer([Ask("b", prompt, 30), Ask("c", prompt, 30, ("<|im_end|>",))], GREEDY)
    assert free.tokens == 30 and (stopped.text, stopped.tokens, stopped.finish_reason) == (whole.text, whole.tokens, "stop")


def test_prompts_without_room_are_errors_of_their_own(half: MixtureGenerator) -> None:
    asks = chats(2)
    replies = half.answer([asks[0], Ask("long", "word " * 400, 8), Ask("half", "\ud800", 8), asks[1]], GREEDY)
    assert rows([replies[0], replies[3]]) == rows(half.answer(asks, GREEDY))
    assert "context of 256" in replies[1].error and "no text" in replies[2].error
    assert replies[1].finish_reason == replies[2].finish_reason == "error"


def test_drawn_answers_come_again_with_their_batch(half: MixtureGenerator) -> None:
    asks, sampling = chats(3, limit=12, seed=1), Sampling(1.0, 0.95)
    first = half.answer(asks, sampling)
    assert rows(first) == rows(half.answer(asks, sampling))
    assert rows(first) != rows(half.answer(chats(3, limit=12, seed=2), sampling))
    eager = MixtureGenerator.__new__(MixtureGenerator)
    eager.__dict__.update(half.__dict__ | {"_eager": True})
    assert rows(first) == rows(eager.answer(asks, sampling))


def test_laws_and_gates_are_passed_on(tmp_path: Path, half: MixtureGenerator) -> None:
    asks = [*chats(4, limit=20), *chats(4, "math", limit=20)]
    plain = [one.text for one in half.answer(asks, GREEDY)]
    product = MixtureGenerator(recipe(tmp_path), law="logits", device="cpu")
    bayes = MixtureGenerator(recipe(tmp_path), gate="bayes", gate_prompt=True, device="cpu")
    told = [[one.text for one in made.answer(asks, GREEDY)] for made in (product, bayes)]
    assert plain != told[0] and plain != told[1] and told[0] != told[1]
    assert product.describe()["eager"] is True and bayes.describe()["gate"]["prompt"] is True


def test_describe(half: MixtureGenerator) -> None:
    described = half.describe()
    assert described["experts"] == [str(GENERAL.resolve()), str(MATH.resolve())] and described["weights"] == [0.5, 0.5]
    assert described["dtype"] == ["float32", "float32"] and len(set(described["fingerprints"])) == 2
    assert json.dumps(described) and half.name == "half" and half.batch_size == 100 and half.notes == []
    assert half.length(chats(1)[0].prompt) == half.answer(chats(1), GREEDY)[0].prompt_tokens


def test_a_saved_mixture_and_its_law(tmp_path: Path) -> None:
    from modist.mixture import MixtureForCausalLM, load_experts
    from modist.recipe import load_recipe

    experts = load_experts(load_recipe(recipe(tmp_path)), device="cpu")
    MixtureForCausalLM.from_experts(experts, law="logits").save_pretrained(tmp_path / "saved")
    assert MixtureGenerator(str(tmp_path / "saved"), device="cpu").describe()["law"] == "logits"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gate": "bays"}, "gate 'bays': known are static, bayes; did you mean 'bayes'"),
        ({"law": "sum"}, "law 'sum'"),
        ({"warp": "expert"}, "did you mean 'experts'"),
        ({"stride": 2}, "belong to the gate 'bayes'"),
        ({"law": "logits", "eager": False}, "no lazy form"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        MixtureGenerator("anything.yml", **options)


def test_what_is_no_mixture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such recipe"):
        MixtureGenerator(str(tmp_path / "nothing.yml"))
    with pytest.raises(UserError, match="transformers generator"):
        MixtureGenerator(str(GENERAL))
    path = tmp_path / "linear.yml"
    path.write_text(f"merge_method: linear\nmodels:\n  - model: {GENERAL}\n    parameters: {{weight: 1}}\n")
    with pytest.raises(RecipeError, match="'experts' and 'weights'"):
        MixtureGenerator(str(path))


def test_no_memory_names_the_batch_size(half: MixtureGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(half._living.models[1], "forward", fail)
    with pytest.raises(GenerationError, match=r"no memory for 2 answers .*--batch-size"):
        half.answer(chats(2), GREEDY)


def test_closed(tmp_path: Path) -> None:
    generator = MixtureGenerator(recipe(tmp_path), device="cpu")
    generator.close()
    generator.close()
    with pytest.raises(GenerationError, match="closed"):
        generator.answer(chats(1), GREEDY)
