"""One model answered in this process and served: the same rows."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from modist.evaluation.generators import Ask, Sampling, open_generator
from tests.evaluation.generators.asking import GENERAL, chats
from tests.evaluation.generators.endpoint import Answered, Asked, Endpoint, good

pytest.importorskip("openai")


class Served:
    """`general` behind an endpoint, by transformers alone: one request at a time, its own stop texts."""

    def __init__(self) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._model = AutoModelForCausalLM.from_pretrained(GENERAL, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(GENERAL)
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Answered:
        body = asked.body
        with self._lock, torch.inference_mode():
            if "prompt" in body:
                ids = self._tokenizer(body["prompt"], return_tensors="pt")["input_ids"]
            else:
                given = self._tokenizer.apply_chat_template(
                    body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
                )
                ids = given["input_ids"]
            more: dict[str, Any] = {"stop_strings": body["stop"], "tokenizer": self._tokenizer} if "stop" in body else {}
            output = self._model.generate(ids, max_new_tokens=body["max_tokens"], do_sample=False, **more)
        new = output[0, ids.shape[1] :].tolist()
        text = self._tokenizer.decode(new, skip_special_tokens=True)
        stops = [stop for stop in body.get("stop", []) if stop in text]
        reason = "stop" if stops or new[-1] in (0, 2) else "length"
        for stop in stops:
            text = text[: text.index(stop)] if stop in text else text
        return good(asked, text, reason, usage={"prompt_tokens": ids.shape[1], "completion_tokens": len(new)})


def test_an_endpoint_and_this_process_give_the_same_rows() -> None:
    here = open_generator("transformers", str(GENERAL), device="cpu")
    asks = chats(10)
    texts = here.answer(asks[:3], Sampling())
    asks += [Ask(f"text-{number}", reply.prompt, 4) for number, reply in enumerate(texts)]
    asks += [Ask(f"stop-{number}", reply.prompt, 64, ("answer", "zzz")) for number, reply in enumerate(texts)]
    with Endpoint(Served()) as endpoint:
        there = open_generator("openai", "general", base_url=endpoint.url, concurrency=4, timeout=60.0)
        served = there.answer(asks, Sampling())
        there.close()
    for one, other in zip(here.answer(asks, Sampling()), served, strict=True):
        told = (one.key, one.text, one.tokens, one.prompt_tokens, one.finish_reason, one.error)
        assert told == (other.key, other.text, other.tokens, other.prompt_tokens, other.finish_reason, other.error)
    assert {one.finish_reason for one in served} == {"stop", "length"} and served[-1].text == "The "
