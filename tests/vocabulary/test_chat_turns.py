"""Responses found in any template and aligned text to text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modist.errors import UserError
from modist.vocabulary import TokenTexts
from modist.vocabulary.chat_turns import ChatTokens, Message, align_responses, find_responses, tokenize_chat
from modist.vocabulary.positions import CROSSED, SAME
from tests.vocabulary.small_tokenizers import byte_level, metaspace

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 2 and Mistral: no turn marks, stripped contents, a space that may be part of the first token.
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Nothing ends a turn but a line break.
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@cache
def chatting(family: str, template: str) -> tuple[Any, TokenTexts]:
    transformers = pytest.importorskip("transformers")
    if family == "byte-level":
        made = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="<|im_end|>")
    else:
        made = transformers.PreTrainedTokenizerFast(
            tokenizer_object=metaspace(), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
        )
    made.chat_template = template
    return made, TokenTexts.of(made)


def chat(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]


def cut(family: str, template: str, messages: Sequence[Message]) -> ChatTokens:
    tokenizer, texts = chatting(family, template)
    return tokenize_chat(tokenizer, messages, texts)


CASES = [("byte-level", CHATML), ("metaspace", INST), ("metaspace", CHATML), ("byte-level", PLAIN)]


@pytest.mark.parametrize(("family", "template"), CASES)
def test_responses_are_where_their_text_is(family: str, template: str) -> None:
    messages = chat("the dog", "the dog and the ball", "assistant", "assistant", "é?", "naïve 你好 🙂")
    found = cut(family, template, messages)
    raw = found.text.encode()
    assert [response.message for response in found.responses] == [1, 3, 5]
    reached = 0
    for response in found.responses:
        content = messages[response.message]["content"].encode()
        own = response.spans[: len(response.spans) - response.ended]
        assert response.length == len(content) and own[0, 0] == 0 and own[-1, 1] == len(content)
        assert (own[1:, 0] == own[:-1, 1]).all() and response.positions[0] >= reached
        places = found.spans[response.positions[: len(own)]]
        assert places[0, 0] + len(response.before) + len(content) + len(response.after) == places[-1, 1]
        assert raw[places[0, 0] : places[-1, 1]] == response.before + content + response.after
        reached = int(response.positions[-1]) + 1
        if template != PLAIN and (family, template) != ("metaspace", CHATML):  # whose `<|im_end|>` is ten letters
            _, texts = chatting(family, template)
            ending = int(found.ids[response.positions[-1]])
            assert response.ended and response.spans[-1].tolist() == [len(content), len(content) + 1]
            assert ending in (*texts.roles.get("turn_end", ()), *texts.roles["eos"])


def test_a_turn_without_a_mark_has_no_end() -> None:
    found = cut("byte-level", PLAIN, chat("a", "b"))
    assert not found.responses[0].ended and found.responses[0].length == 1


WORDS = st.sampled_from(["the", " dog", "\n", "  ", "12", "é", "你", "🙂", "x=1", ".", "assistant", "[/INST]", "Xmodist1X"])


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=8).map("".join).filter(lambda text: bool(text.strip())))
def test_responses_of_two_templates_align_text_to_text(content: str) -> None:
    messages = chat("the dog?", content, "more", "yes " + content)
    one, two = cut("byte-level", CHATML, messages), cut("metaspace", INST, messages)
    for source, target in zip(one.responses, two.responses, strict=True):
        raw = messages[source.message]["content"].encode()
        found = align_responses(source, target)
        for j in np.flatnonzero(found.one_to_one).tolist():
            i = int(found.start[j])
            (a, b), (c, d) = source.spans[i].tolist(), target.spans[j].tolist()
            assert (a, b) == (c, d) and raw[a:b] == raw[c:d]
            if b <= len(raw):  # word for word, but for the space that Metaspace puts at a beginning
                _, texts = chatting("byte-level", CHATML)
                assert texts.texts[one.ids[source.positions[i]]] == raw[a:b]
        # What ends the answer in one template ends it in the other.
        assert found.one_to_one[-1] and int(found.start[-1]) == len(source.positions) - 1


def test_a_token_that_reaches_into_the_template_says_something_else() -> None:
    """` the` after `[/INST]` is not `the` after a line break, though both are the whole of `the`."""
    messages = chat("?", "the dog")
    one, two = cut("byte-level", CHATML, messages).responses[0], cut("metaspace", INST, messages).responses[0]
    assert (one.before, two.before) == (b"", b" ")
    there, back = align_responses(one, two), align_responses(two, one)
    for found in (there, back):
        assert not found.one_to_one[0] and not found.same_start[0] and found.kind[0] == CROSSED
        assert found.aligned.all() and found.kind[-1] == SAME
    assert align_responses(two, two).is_identity and align_responses(one, one).is_identity


def test_stripped_responses_are_found_at_their_place() -> None:
    messages = chat("?", "  the dog \n")
    (response,) = cut("metaspace", INST, messages).responses
    own = response.spans[:-1]
    assert own[0, 0] == 2 and own[-1, 1] == 9 and response.spans[-1].tolist() == [11, 12] and response.length == 11


def test_the_word_put_in_place_of_a_response_is_nowhere_else() -> None:
    messages = chat("say Xmodist1X, XXmodist1X", "Xmodist1X", "again", "the dog")
    found = cut("byte-level", CHATML, messages)
    own = [found.spans[response.positions[:-1]] for response in found.responses]
    raw = found.text.encode()
    assert [raw[spans[0, 0] : spans[-1, 1]].decode() for spans in own] == ["Xmodist1X", "the dog"]
    assert own[0][0, 0] > raw.index(b"assistant")


def test_an_empty_response_is_its_end_alone() -> None:
    (response,) = cut("byte-level", CHATML, chat("?", "")).responses
    assert response.length == 0 and response.spans.tolist() == [[0, 1]] and response.ended


def test_no_response_is_no_response() -> None:
    assert cut("byte-level", CHATML, chat("?")).responses == ()


def test_what_templates_do_to_responses_is_told() -> None:
    with pytest.raises(UserError, match="byte-level: its chat template changes the response in message 1"):
        find_responses(lambda ms: "".join(m["content"].replace("b", "cc") for m in ms), chat("a", "b"), "byte-level")
    with pytest.raises(UserError, match="leaves out the response in message 1"):
        find_responses(lambda ms: ms[-1]["content"], chat("a", "b", "c"))
    with pytest.raises(UserError, match="repeats the response in message 1"):
        find_responses(lambda ms: ms[-1]["content"] * 2, chat("a", "b"))
    with pytest.raises(UserError, match="message 1: the content of a response is None, not a text"):
        find_responses(str, [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}])
    tokenizer, texts = chatting("byte-level", "{{ raise_exception('Roles must alternate') }}")
    with pytest.raises(UserError, match=r"its chat template cannot render this chat: Roles must alternate"):
        tokenize_chat(tokenizer, chat("a", "b"), texts)
