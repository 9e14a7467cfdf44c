"""Prompts as ids: one BOS, no EOS, the model's own template and nothing besides."""

from __future__ import annotations

import pytest

from modist.errors import UserError
from modist.evaluation.generators.encoding import Encoder, PromptError
from tests.evaluation.generators.asking import chat, word_tokenizer


def test_a_text_gets_one_bos() -> None:
    encoder = Encoder(word_tokenizer(), "tiny")
    assert encoder.encode("w0 w1") == encoder.encode("<s> w0 w1") == [0, 3, 4]
    assert encoder.encode("<s> <s> w0") == [0, 0, 3]  # one of them is the text's own
    assert encoder.length("w0 w1") == 3 and encoder.shown([0, 3]) == "<s> w0" and encoder.text([0, 3, 1]) == "w0"


def test_an_eos_the_tokenizer_adds_is_taken_away() -> None:
    encoder = Encoder(word_tokenizer(end=True), "tiny")
    assert encoder.encode("w0") == [0, 3] and encoder.encode("w0 </s>")[-1] == 1


def test_messages_go_through_the_template_alone() -> None:
    assert Encoder(word_tokenizer(), "tiny").encode(chat("w4")) == [0, 7, 12]


def test_no_template_and_one_that_refuses() -> None:
    with pytest.raises(UserError, match="tiny: has no chat template") as raised:
        Encoder(word_tokenizer(template=False), "tiny").encode(chat("w4"))
    assert not isinstance(raised.value, PromptError)
    with pytest.raises(UserError, match="tiny: its chat template refuses the prompt: no system role"):
        Encoder(word_tokenizer(), "tiny").encode([{"role": "system", "content": "x"}])


def test_prompts_that_cannot_be_read() -> None:
    encoder = Encoder(word_tokenizer(), "tiny")
    with pytest.raises(PromptError, match="no text a tokenizer can read"):
        encoder.encode("w0 \ud800")
    assert encoder.length("w0 \ud800") == 0
    plain = word_tokenizer()
    plain.backend_tokenizer.post_processor = None
    with pytest.raises(PromptError, match="empty"):
        Encoder(plain, "tiny").encode("")


def test_stop_texts_that_are_tokens() -> None:
    encoder = Encoder(word_tokenizer(), "tiny")
    assert encoder.end_ids(("</s>", "w0", "nothing")) == {1}
