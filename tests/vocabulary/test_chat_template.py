"""Chat templates: the named ones render as published, others are parsed and never run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modist.errors import UserError
from modist.vocabulary.chat_template import NAMES, check_template, control_tokens, folder_template, most_common, named_template

TALK = [("system", "Be brief."), ("user", "Hi "), ("assistant", "Hello"), ("user", "Bye")]

# From the pages that publish the formats: prompts as a person would type them there.
PUBLISHED = {
    "chatml": (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    ),
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral": "<s>[INST] Be brief.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]",
    "alpaca": (
        "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>\n\n### Instruction:\nBye\n\n### Response:\n"
    ),
    "exaone": "[|system|]Be brief.[|endofturn|]\n[|user|]Hi \n[|assistant|]Hello[|endofturn|]\n[|user|]Bye\n[|assistant|]",
}  # fmt: skip


def render(text: str, talk: list[tuple[str, str]], prompt: bool = True) -> str:
    """As transformers renders it."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    messages = [{"role": role, "content": content} for role, content in talk]
    rendered, _ = utils.render_jinja_template(
        [messages], chat_template=text, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>"
    )
    return str(rendered[0])


@pytest.mark.parametrize("name", NAMES)
def test_named_templates_render_as_published(name: str) -> None:
    text = named_template(name)
    check_template(text)
    assert render(text, TALK) == PUBLISHED[name]
    # Without an invitation to speak, what ends the last message and nothing more.
    whole = render(text, TALK, prompt=False)
    assert PUBLISHED[name].startswith(whole) and whole != ""


def test_exaone_begins_with_an_empty_system_message() -> None:
    assert render(named_template("exaone"), [("user", "Hi")]).startswith("[|system|][|endofturn|]\n[|user|]Hi")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chatlm", "'chatlm' is no template; did you mean 'chatml'? (known: auto, alpaca, chatml, exaone,"),
        ("ChatML", "did you mean 'chatml'?"),
        ("Auto", "did you mean 'auto'?"),
        ("x", "'x' is no template (known"),
        ("You are a helpful assistant and answer all questions.", "has no {{ ... }}"),
        ("{% for message in messages %}", "does not parse: Unexpected end of template"),
        ("{{ messages | shout }}", "No filter named 'shout'"),
        ("line\n{{ messages[ }}", "(line 2 of it)"),
        ("{{" + "(" * 20_000, "does not parse"),
        ("{% include 'x' %}{% frobnicate %}", "unknown tag 'frobnicate'"),
    ],
)  # fmt: skip
def test_what_is_no_template(text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_template(text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_transformers_takes_is_taken() -> None:
    check_template(
        "{% for m in x %}{% generation %}{{ m | tojson }}{% endgeneration %}{% break %}{% endfor %}{{ strftime_now() }}"
    )


def test_nothing_is_run() -> None:
    check_template(
        "{{ raise_exception('ran') }}{% for a in range(9999) %}{% for b in range(9999) %}{{ 1 / 0 }}{% endfor %}{% endfor %}"
    )


def test_the_most_common_and_the_first_of_equals() -> None:
    assert most_common(["a ", None, "b", "a", ""]) == "a"
    assert most_common(["b", "a", None]) == "b" and most_common(["c", "a", "a\n", "c"]) == "c"
    assert most_common([None, "  "]) is None


def test_templates_of_folders(tmp_path: Path) -> None:
    def config(value: Any) -> None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))

    assert folder_template(tmp_path) is None
    config("one")
    assert folder_template(tmp_path) == "one"
    config([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}])
    assert folder_template(tmp_path) == "d"
    config([{"name": "tool_use", "template": "t"}])
    assert folder_template(tmp_path) == "t"
    (tmp_path / "chat_template.jinja").write_text("two")
    assert folder_template(tmp_path) == "two"
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    assert folder_template(tmp_path) is None


def test_control_tokens() -> None:
    assert control_tokens(named_template("chatml")) == ["<|im_start|>", "<|im_end|>"]
    assert control_tokens(named_template("mistral")) == ["[INST]", "[/INST]"]
    assert control_tokens(named_template("alpaca")) == []
