"""What an OpenAI-compatible endpoint's reply says, once it has been looked at: endpoints lie."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

LONGEST = 1 << 24
"""Bytes of a reply at most; an endpoint that sends more is not answering the question."""


class WireError(Exception):
    """A reply that holds no answer; the text says why, in one line."""


@dataclass(frozen=True)
class WireReply:
    """A reply's answer.

    Args:
        text: As sent; stop texts are not yet cut.
        finish_reason: "stop" or "length".
        tokens: Of the answer, or None where the reply does not say or cannot be right.
        prompt_tokens: Likewise.
    """

    text: str
    finish_reason: str
    tokens: int | None
    prompt_tokens: int | None


def read_reply(body: bytes, chat: bool, max_new_tokens: int) -> WireReply:
    """Read a reply with status 200.

    Args:
        body: Its bytes.
        chat: Whether messages were sent, so that a message must come back.
        max_new_tokens: What was asked for.

    Raises:
        WireError: it holds no answer.
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise WireError(f"the reply is no JSON but {_start(body)}") from None
    if not isinstance(data, dict):
        raise WireError(f"the reply is a JSON {type(data).__name__}, not an object")
    if data.get("error"):
        raise WireError(f"the reply is an error: {_message(data['error'])}")
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        raise WireError("the reply has no choices")
    if len(choices) != 1:
        raise WireError(f"the reply has {len(choices)} choices where one was asked for")
    (choice,) = choices
    if not isinstance(choice, dict):
        raise WireError("the reply's choice is no object")
    tokens, prompt_tokens = _usage(data.get("usage"), max_new_tokens)
    reason = choice.get("finish_reason")
    if reason == "content_filter":
        raise WireError("the endpoint withheld the answer (content_filter)")
    text = _text(choice, chat)
    if text is None:
        if reason != "length":
            raise WireError(f"the reply's choice has no {'message content' if chat else 'text'}")
        text = ""  # every token went into thoughts that are not shown
    if tokens == 0 and text:
        tokens = None
    if reason not in ("stop", "length"):
        # vLLM's "abort", a missing one, words of others: the count of tokens is all there is to tell by.
        reason = "length" if tokens is not None and tokens >= max_new_tokens else "stop"
    return WireReply(text, reason, tokens, prompt_tokens)


def _text(choice: dict[str, Any], chat: bool) -> str | None:
    if not chat:
        found = choice.get("text")
    else:
        message = choice.get("message")
        found = message.get("content") if isinstance(message, dict) else None
    # Half of a character can stand in JSON, and in no file.
    return found.encode("utf-8", "replace").decode() if isinstance(found, str) else None


def _usage(usage: Any, max_new_tokens: int) -> tuple[int | None, int | None]:
    if not isinstance(usage, dict):
        return None, None
    tokens, prompt_tokens = (_count(usage.get(key)) for key in ("completion_tokens", "prompt_tokens"))
    # One more is granted to those who count the token that ended the answer.
    return tokens if tokens is not None and tokens <= max_new_tokens + 1 else None, prompt_tokens


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _message(error: Any) -> str:
    found = error.get("message") if isinstance(error, dict) else error
    return " ".join(str(found).split())[:200]


def _start(body: bytes) -> str:
    text = " ".join(body[:200].decode("utf-8", "replace").split())[:60]
    return repr(text) if text else "nothing"
