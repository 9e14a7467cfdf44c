"""vLLM's engine, played by a module of ours: what is asked of it, and what is made of its replies."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from modist.errors import UserError
from modist.evaluation.generators import Ask, Sampling, open_generator
from tests.evaluation.generators.asking import GENERAL, chat, word_tokenizer


class Engine:
    made: dict[str, Any] = {}  # noqa: RUF012
    asked: list[Any] = []  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        Engine.made = options
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=8))

    def get_tokenizer(self) -> Any:
        return word_tokenizer()

    def generate(self, prompts: Any, params: Any, use_tqdm: bool = True) -> Any:
        Engine.asked = list(zip(prompts, params, strict=True))
        reasons = ["stop", "length", "length"]
        texts = ["w1", "w2 w3", "w4 STOP w5"]
        return [
            SimpleNamespace(outputs=[SimpleNamespace(text=text, token_ids=[1] * (place + 1), finish_reason=reason)])
            for place, (text, reason, _) in enumerate(zip(texts, reasons, prompts, strict=False))
        ]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__version__ = Engine, lambda **given: given, "0.99"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"needs vllm, which is not here .*pip install 'modist\[vllm\]'"):
        open_generator("vllm", str(GENERAL))


def test_what_is_asked_and_told(vllm: None) -> None:
    generator = open_generator("vllm", str(GENERAL), dtype="bfloat16", tensor_parallel_size=2)
    assert Engine.made["model"] == str(GENERAL.resolve()) and Engine.made["tensor_parallel_size"] == 2
    assert Engine.made["trust_remote_code"] is False and Engine.made["dtype"] == "bfloat16"
    asks = [
        Ask("a", "w0", 5),
        Ask("long", "w1 " * 9, 5),
        Ask("b", chat("w3"), 2, ("</s>", "STOP")),
        Ask("half", "\ud800", 5),
        Ask("c", "w4", 9, ("STOP",)),
    ]
    replies = generator.answer(asks, Sampling())
    assert [one.finish_reason for one in replies] == ["stop", "error", "length", "error", "stop"]
    assert [one.text for one in replies] == ["w1", "", "w2 w3", "", "w4 "] and [one.tokens for one in replies] == [
        1,
        0,
        2,
        0,
        3,
    ]
    assert "10 tokens" in replies[1].error and [one.key for one in replies] == ["a", "long", "b", "half", "c"]
    assert [prompt["prompt_token_ids"] for prompt, _ in Engine.asked] == [[0, 3], [0, 6, 12], [0, 7]]
    assert Engine.asked[1][1] == {"temperature": 0.0, "max_tokens": 2, "stop": ["</s>", "STOP"], "stop_token_ids": [1]}
    assert generator.describe()["vllm"] == "0.99" and generator.name == "general" and generator.length("w0") == 2
    generator.close()


def test_sampling_has_a_seed_for_each_ask(vllm: None) -> None:
    generator = open_generator("vllm", str(GENERAL), name="x")
    generator.answer([Ask("a", "w0", 5, seed=1), Ask("b", "w0", 5, seed=1)], Sampling(0.5, 0.9, 3))
    (_, one), (_, two) = Engine.asked
    assert (one["temperature"], one["top_p"], one["top_k"]) == (0.5, 0.9, 3) and one["seed"] != two["seed"]
