"""Batches of one model, held against its plain forward, token by token without a cache or padding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modist.errors import CheckpointError, UserError
from modist.evaluation.generators import Ask, GenerationError, Sampling
from modist.evaluation.generators.ends import Ends
from modist.evaluation.generators.identity import fingerprint
from modist.evaluation.generators.stops import cut, reach
from modist.evaluation.generators.transformers import TransformersGenerator, best_batch
from tests.evaluation.generators.asking import GENERAL, MATH, chat, chats, word_tokenizer

GREEDY = Sampling()


@pytest.fixture(scope="module")
def general() -> Iterator[TransformersGenerator]:
    generator = TransformersGenerator(str(GENERAL), device="cpu")
    yield generator
    generator.close()


@pytest.fixture(scope="module")
def plain() -> tuple[Any, Any]:
    """The same model and tokenizer, loaded without modist."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(GENERAL, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(GENERAL)


@torch.inference_mode()
def by_hand(plain: tuple[Any, Any], text: str, limit: int) -> list[int]:
    """Greedy ids, `<|im_end|>` included."""
    model, tokenizer = plain
    ids = tokenizer(text)["input_ids"]
    new: list[int] = []
    while len(new) < limit and new[-1:] not in ([0], [2]):
        new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


def test_batches_are_greedy_to_the_token(general: TransformersGenerator, plain: tuple[Any, Any]) -> None:
    asks = [*chats(6), *chats(4, "math", limit=24)]
    replies = general.answer(asks, GREEDY)
    assert [reply.key for reply in replies] == [ask.key for ask in asks]
    for ask, reply in zip(asks, replies, strict=True):
        shown = f"<|im_start|>user\n{ask.prompt[-1]['content']}<|im_end|>\n<|im_start|>assistant\n"  # type: ignore[call-overload]
        expected = by_hand(plain, shown, ask.max_new_tokens)
        assert reply.prompt == shown and reply.prompt_tokens == len(plain[1](shown)["input_ids"]) == general.length(ask.prompt)
        assert reply.text == plain[1].decode(expected, skip_special_tokens=True) and reply.tokens == len(expected)
        assert reply.finish_reason == ("stop" if expected[-1] in (0, 2) else "length") and reply.error == ""
    assert {reply.finish_reason for reply in replies[:6]} == {"stop"}


def test_a_text_prompt_and_one_answer_alone_are_the_same(general: TransformersGenerator) -> None:
    ask = chats(1)[0]
    (reply,) = general.answer([ask], GREEDY)
    (by_text,) = general.answer([Ask("t", reply.prompt, 64)], GREEDY)
    assert (by_text.text, by_text.tokens, by_text.prompt) == (reply.text, reply.tokens, reply.prompt)
    assert general.answer([], GREEDY) == []


def test_each_row_has_its_own_limit(general: TransformersGenerator) -> None:
    question = chat("How many words do you see: school butter name clock music toy?")
    whole, two, one = general.answer([Ask("a", question, 64), Ask("b", question, 2), Ask("c", question, 1)], GREEDY)
    assert (two.tokens, two.finish_reason) == (2, "length") and (one.tokens, one.finish_reason) == (1, "length")
    assert whole.text.startswith(two.text) and two.text.startswith(one.text) and whole.tokens > 2
    (exact,) = general.answer([Ask("d", question, whole.tokens)], GREEDY)
    assert exact.finish_reason == "stop" and exact.tokens == whole.tokens


def test_stop_texts_cut_and_end_a_row_alone(general: TransformersGenerator, plain: tuple[Any, Any]) -> None:
    question = chat("Sort from A to Z: paper, camp, pencil.")
    (whole,) = general.answer([Ask("a", question, 64)], GREEDY)
    stop = whole.text[5:9]  # not at the limits of tokens
    free, cut_row, never = general.answer(
        [Ask("a", question, 64), Ask("b", question, 64, ("zzz", stop)), Ask("c", question, 64, ("zzz",))], GREEDY
    )
    assert free.text == never.text == whole.text
    assert cut_row.text == whole.text[: whole.text.index(stop)] and cut_row.finish_reason == "stop"
    # As many tokens as it takes to see the stop text, and no more.
    ids = by_hand(plain, whole.prompt, 64)
    counts = [count for count in range(1, 65) if stop in plain[1].decode(ids[:count])]
    assert cut_row.tokens == counts[0] < whole.tokens
    # The first in the text counts, not the first in the list.
    (both,) = general.answer([Ask("d", question, 64, (stop, whole.text[2:4]))], GREEDY)
    assert both.text == whole.text[:2]


def test_a_stop_text_that_is_a_special_token_ends_a_model_that_forgot_it(plain: tuple[Any, Any]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(GENERAL, dtype=torch.float32),
        AutoTokenizer.from_pretrained(GENERAL),
    )
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token = None
    generator = TransformersGenerator.of(model, tokenizer, "forgetful")
    question = chat("Capitalise cup.")
    stopped, free = generator.answer([Ask("a", question, 40, ("<|im_end|>",)), Ask("b", question, 40)], GREEDY)
    assert stopped.text == "The answer is Cup." and stopped.finish_reason == "stop"
    assert free.tokens == 40 and free.finish_reason == "length" and free.text.startswith(stopped.text)


def test_what_a_generation_config_recommends_is_left_out(tmp_path: Path, general: TransformersGenerator) -> None:
    folder = tmp_path / "model"
    shutil.copytree(GENERAL, folder)
    path = folder / "generation_config.json"
    more = {
        "repetition_penalty": 5.0,
        "do_sample": True,
        "temperature": 3.0,
        "top_k": 3,
        "max_new_tokens": 2,
        "min_new_tokens": 30,
    }
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    asks = chats(4)
    found = TransformersGenerator(str(folder), device="cpu").answer(asks, GREEDY)
    assert [one.text for one in found] == [one.text for one in general.answer(asks, GREEDY)]


def test_prompts_without_room_are_errors_of_their_own(general: TransformersGenerator) -> None:
    asks = chats(3)
    expected = general.answer(asks, GREEDY)
    wrong = [Ask("long", "word " * 400, 8), Ask("half", "x\ud800", 8)]
    replies = general.answer([asks[0], wrong[0], asks[1], wrong[1], asks[2]], GREEDY)
    assert [replies[place].text for place in (0, 2, 4)] == [one.text for one in expected]
    assert replies[1].finish_reason == replies[3].finish_reason == "error" and replies[1].tokens == 0
    assert f"the prompt has {general.length(wrong[0].prompt)} tokens, and the model's context of 256" in replies[1].error
    assert "no text a tokenizer can read" in replies[3].error
    assert [one.finish_reason for one in general.answer(wrong, GREEDY)] == ["error", "error"]


def test_an_answer_ends_where_the_context_does(general: TransformersGenerator) -> None:
    text = "a " * 600
    while general.length(text) > 253:
        text = text[:-2]
    (reply,) = general.answer([Ask("k", text, 64)], GREEDY)
    assert reply.prompt_tokens + reply.tokens <= 256
    assert reply.finish_reason == "stop" or reply.prompt_tokens + reply.tokens == 256


def test_drawn_answers_depend_on_their_own_ask(general: TransformersGenerator) -> None:
    asks, sampling = chats(5, seed=1), Sampling(1.5)
    together = general.answer(asks, sampling)
    alone = [general.answer([ask], sampling)[0] for ask in asks]
    assert [one.text for one in together] == [one.text for one in alone]
    other = general.answer(chats(5, seed=2), sampling)
    assert [one.text for one in together] != [one.text for one in other]
    same_question = [Ask(f"k{number}", asks[0].prompt, 16, seed=1) for number in range(6)]
    assert len({one.text for one in general.answer(same_question, Sampling(3.0))}) > 1
    cold = general.answer(asks, Sampling(0.001))
    assert [one.text for one in cold] == [one.text for one in general.answer(asks, GREEDY)]
    state = torch.get_rng_state()
    general.answer(asks, sampling)
    assert torch.equal(state, torch.get_rng_state())


def test_logits_that_are_no_numbers_are_said(plain: tuple[Any, Any]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(GENERAL, dtype=torch.float32)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[3] = torch.nan
    (reply,) = TransformersGenerator.of(model, plain[1], "broken").answer(chats(1, limit=4), GREEDY)
    assert reply.finish_reason == "error" and "not finite" in reply.error and reply.text == ""


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_no_memory_names_the_batch_size(
    general: TransformersGenerator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(**kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(general._model, "generate", fail)
    with pytest.raises(GenerationError, match=r"no memory for 2 answers .*--batch-size"):
        general.answer(chats(2), GREEDY)
    monkeypatch.setattr(general._model, "generate", lambda **kwargs: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        general.answer(chats(2), GREEDY)


class Letters:
    """Ids are letters; counts what is decoded."""

    def __init__(self) -> None:
        self.decoded = 0

    def text(self, ids: list[int]) -> str:
        self.decoded += len(ids)
        return "".join(map(chr, ids))


def test_stop_texts_take_linear_time() -> None:
    encoder, count = Letters(), 2000
    ends = Ends(encoder, 3, [count], [("END",)], [frozenset()])  # type: ignore[arg-type]
    ids = torch.tensor([[1, 1, 1] + [120] * count])
    for length in range(1, count + 1):
        ends(ids[:, : 3 + length], None)
    assert encoder.decoded <= count * reach(("END",)) and ends.counts == [count] and ends.stopped == [False]


def test_cut() -> None:
    assert cut("a b c", ("c", "b")) == ("a ", True) and cut("a", ()) == ("a", False) and cut("a", ("ab",)) == ("a", False)
    assert reach(("ab", "é" * 5)) == 14


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixture").mkdir()
    (tmp_path / "mixture" / "config.json").write_text('{"model_type": "modist_mixture"}')
    bare = tmp_path / "bare"
    shutil.copytree(GENERAL, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    for model, options, kind, words in (
        (str(tmp_path / "nowhere"), {}, UserError, "there is no such folder"),
        ("", {}, UserError, "not an empty string"),
        (f"{GENERAL}x+lora", {}, UserError, "adapters"),
        (str(tmp_path / "empty"), {}, CheckpointError, "no config.json"),
        (str(tmp_path / "mixture"), {}, UserError, "mixture generator"),
        (str(bare), {}, UserError, "no tokenizer"),
        (str(GENERAL), {"dtype": "float31"}, UserError, "did you mean 'float"),
        (str(GENERAL), {"device": "gpu"}, UserError, "there is no device 'gpu'"),
    ):
        with pytest.raises(kind, match=words):  # type: ignore[arg-type]
            TransformersGenerator(model, **options)


def test_describe_tells_models_apart(general: TransformersGenerator, tmp_path: Path) -> None:
    described = general.describe()
    assert described["kind"] == "transformers" and described["model"] == str(GENERAL.resolve())
    assert described["dtype"] == "float32" and described["device"] == "cpu" and json.dumps(described)
    assert general.name == "general" and general.batch_size == 100 and best_batch(10**9, "cpu") == 8
    assert TransformersGenerator(str(GENERAL), dtype="auto", name="G").describe()["dtype"] == "bfloat16"
    copy = tmp_path / "copy"
    shutil.copytree(GENERAL, copy)
    (copy / "README.md").write_text("other words")
    assert fingerprint(copy) == described["fingerprint"] != fingerprint(MATH)
    # Files of the same size, one small and one that is sampled.
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace("10000.0", "20000.0"))
    assert fingerprint(copy) != described["fingerprint"]
    (copy / "config.json").write_text(config)
    assert fingerprint(copy) == described["fingerprint"]
    weights = copy / "model.safetensors"
    weights.write_bytes(bytes(byte ^ 1 for byte in weights.read_bytes()))
    assert fingerprint(copy) != described["fingerprint"]


def test_closing_twice_and_a_model_handed_over(plain: tuple[Any, Any]) -> None:
    from transformers import AutoModelForCausalLM

    generator = TransformersGenerator.of(AutoModelForCausalLM.from_pretrained(GENERAL), plain[1], "mine")
    assert generator.describe()["model"] == "mine" and generator.notes == []
    generator.close()
    generator.close()


def test_a_model_of_another_family_reads_its_own_bos() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, eos_token_id=None
    )
    generator = TransformersGenerator.of(LlamaForCausalLM(config), word_tokenizer(), "words")
    one, two = generator.answer([Ask("a", "w0 w1", 3), Ask("b", "<s> w0 w1", 3)], GREEDY)
    assert one.prompt == two.prompt == "<s> w0 w1" and one.text == two.text and one.prompt_tokens == 3


def test_an_ask_that_cannot_be() -> None:
    with pytest.raises(UserError, match="max_new_tokens 0"):
        Ask("k", "q", 0)
    with pytest.raises(UserError, match="empty stop"):
        Ask("k", "q", 1, ("a", ""))
