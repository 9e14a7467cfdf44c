"""Endpoints: good ones, and those that hang, lie, break off and trickle."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any

import pytest

from modist.errors import UserError
from modist.evaluation.generators import Ask, GenerationError, Reply, Sampling
from modist.evaluation.generators import openai as module
from modist.evaluation.generators.openai import OpenAIGenerator
from tests.evaluation.generators.endpoint import Answered, Asked, Endpoint, good

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@contextmanager
def opened(respond: Callable[[Asked], Answered], **options: Any) -> Iterator[tuple[OpenAIGenerator, Endpoint]]:
    with Endpoint(respond) as endpoint:
        generator = OpenAIGenerator("tiny", base_url=endpoint.url, **{"timeout": 20.0, **options})
        try:
            yield generator, endpoint
        finally:
            generator.close()


def asks(count: int, **more: Any) -> list[Ask]:
    return [Ask(f"k{number}", f"question {number}", 16, **more) for number in range(count)]


def one(generator: OpenAIGenerator, **more: Any) -> Reply:
    (reply,) = generator.answer([Ask("k", "question", 16, **more)], Sampling())
    return reply


def test_texts_and_messages_go_to_their_routes() -> None:
    with opened(lambda asked: good(asked, f"to {asked.question}")) as (generator, endpoint):
        chat = Ask("c", [{"role": "system", "content": "s"}, {"role": "user", "content": "hé"}], 7, seed=3)
        replies = generator.answer([Ask("t", "text", 16, ("a", "b")), chat], Sampling())
    assert [(reply.key, reply.text, reply.finish_reason) for reply in replies] == [
        ("t", "to text", "stop"),
        ("c", "to hé", "stop"),
    ]
    assert replies[0].prompt == "text" and json.loads(replies[1].prompt) == chat.prompt
    assert (replies[0].tokens, replies[0].prompt_tokens) == (3, 5) and replies[0].seconds > 0
    by_path = {asked.path: asked for asked in endpoint.asked}
    text, talk = by_path["/v1/completions"].body, by_path["/v1/chat/completions"].body
    assert text == {"model": "tiny", "prompt": "text", "temperature": 0.0, "seed": 0, "max_tokens": 16, "stop": ["a", "b"]}
    assert talk["max_tokens"] == 7 and talk["seed"] == 3 and talk["messages"] == chat.prompt and "stop" not in talk
    assert endpoint.asked[0].headers["authorization"] == "Bearer none"
    assert generator.notes == [] and generator.length(chat.prompt) == 3 and generator.length("text") == 4


def test_replies_keep_the_order_of_their_asks_and_few_are_in_flight() -> None:
    def respond(asked: Asked) -> Answered:
        time.sleep(0.05 if asked.number % 3 == 0 else 0.01)
        return good(asked, asked.question.upper())

    with opened(respond, concurrency=3) as (generator, endpoint):
        replies = generator.answer(asks(12), Sampling())
        assert [reply.text for reply in replies] == [f"QUESTION {number}" for number in range(12)]
        assert [reply.key for reply in replies] == [f"k{number}" for number in range(12)]
        assert endpoint.most == 3 and generator.batch_size == 12
        # A second batch goes over the same connections.
        assert generator.answer(asks(2), Sampling())[1].text == "QUESTION 1"


def test_sampling_is_sent_and_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with opened(lambda asked: good(asked, "x")) as (generator, endpoint):
        generator.answer([Ask("k", "q", 16, seed=5)], Sampling(0.7, 0.9, 40))
        described = json.dumps(generator.describe())
    body = endpoint.asked[0].body
    assert (body["temperature"], body["top_p"], body["top_k"], body["seed"]) == (0.7, 0.9, 40, 5)
    assert endpoint.asked[0].headers["authorization"] == "Bearer sk-secret"
    assert "secret" not in described and endpoint.url in described


def test_stop_texts_are_cut_here_too_and_four_are_sent() -> None:
    with opened(lambda asked: good(asked, "one two three END four", "length")) as (generator, endpoint):
        reply = one(generator, stop=("a1", "a2", "a3", "a4", "END", "four"))
    assert reply.text == "one two three " and reply.finish_reason == "stop"
    assert endpoint.asked[0].body["stop"] == ["a1", "a2", "a3", "a4"]


def test_a_flaky_endpoint_is_asked_again_when_it_says() -> None:
    times: list[float] = []

    def respond(asked: Asked) -> Answered:
        times.append(time.perf_counter())
        if asked.number < 2:
            return Answered(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.3"})
        return Answered(503, b"busy") if asked.number == 2 else good(asked, "at last")

    with opened(respond) as (generator, endpoint):
        assert one(generator).text == "at last"
    assert len(endpoint.asked) == 4 and min(times[1] - times[0], times[2] - times[1]) >= 0.29


def test_retry_after_in_seconds_and_as_a_date() -> None:
    assert module._asked_pause({"retry-after": "3"}) == 3
    assert 50 < module._asked_pause({"retry-after": formatdate(time.time() + 60, usegmt=True)}) <= 60
    assert [module._asked_pause({"retry-after": word}) for word in ("", "soon", "-5", "inf", "nan-ish")] == [0] * 5


def test_tries_are_bounded_and_told() -> None:
    with opened(lambda asked: Answered(500, {"error": {"message": "broken"}}), tries=3) as (generator, endpoint):
        reply = one(generator)
    assert reply.finish_reason == "error" and reply.text == "" and len(endpoint.asked) == 3
    assert "500" in reply.error and "broken" in reply.error and "(3 tries)" in reply.error


def test_one_hanging_request_among_others_becomes_an_error() -> None:
    def respond(asked: Asked) -> Answered:
        return Answered(hang=True) if asked.question == "question 1" else good(asked, "fine")

    with opened(respond, timeout=0.5) as (generator, _):
        replies = generator.answer(asks(3), Sampling())
    assert [reply.finish_reason for reply in replies] == ["stop", "error", "stop"]
    assert replies[1].error == "no answer within 0.5 s" and replies[1].seconds < 2.5


def test_an_endpoint_that_only_hangs_stops_the_run() -> None:
    began = time.perf_counter()
    with (
        opened(lambda asked: Answered(hang=True), timeout=0.4) as (generator, endpoint),
        pytest.raises(GenerationError, match=r"127\.0\.0\.1:\d+/v1 does not answer: no answer within 0\.4 s"),
    ):
        generator.answer(asks(4), Sampling())
    assert time.perf_counter() - began < 5 and len(endpoint.asked) == 4


def test_a_trickle_ends_at_the_time_limit() -> None:
    def respond(asked: Asked) -> Answered:
        found = good(asked, "x" * 500)
        return Answered(body=found.body, pause=0.02) if asked.number == 0 else found

    with opened(respond, timeout=0.6, concurrency=1) as (generator, _):
        slow, quick = generator.answer(asks(2), Sampling())
    assert slow.error == "no answer within 0.6 s" and slow.seconds < 2.5 and quick.finish_reason == "stop"


def test_nobody_at_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    generator = OpenAIGenerator("tiny", base_url=url, tries=2)
    with pytest.raises(GenerationError, match=r"does not answer: no connection .*\(2 tries\)"):
        generator.answer(asks(2), Sampling())
    generator.close()
    generator.close()


LIES: dict[str, tuple[Callable[[Asked], Answered], str]] = {
    "html": (lambda asked: Answered(body=b"<html>Gateway</html>"), "is no JSON but '<html>Gateway</html>'"),
    "nothing": (lambda asked: Answered(body=b""), "is no JSON but nothing"),
    "a list": (lambda asked: Answered(body=[1]), "is a JSON list"),
    "an error object": (lambda asked: Answered(body={"error": {"message": "model overloaded"}}), "error: model overloaded"),
    "no choices": (lambda asked: Answered(body={"id": "x"}), "has no choices"),
    "empty choices": (lambda asked: good(asked, "x", choices=[]), "has no choices"),
    "two choices": (lambda asked: good(asked, "x", choices=[{"text": "a"}, {"text": "b"}]), "2 choices"),
    "a choice of text": (lambda asked: good(asked, "x", choices=["a"]), "choice is no object"),
    "no text": (lambda asked: good(asked, "x", choices=[{"finish_reason": "stop"}]), "has no text"),
    "a number as text": (lambda asked: good(asked, "x", choices=[{"text": 5}]), "has no text"),
    "a filter": (lambda asked: good(asked, "x", "content_filter"), "withheld"),
    "a body cut off": (lambda asked: Answered(body=b'{"choices": [', claims=500), "the connection broke"),
    "deep JSON": (lambda asked: Answered(body=b"[" * 200_000), "is no JSON"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_become_errors_that_say_so(lie: str) -> None:
    respond, words = LIES[lie]
    with opened(lambda asked: respond(asked) if asked.question == "question 1" else good(asked, "fine")) as (generator, _):
        replies = generator.answer(asks(3), Sampling())
    assert [reply.finish_reason for reply in replies] == ["stop", "error", "stop"]
    assert words in replies[1].error and "\n" not in replies[1].error and replies[1].text == ""


def test_a_lie_once_is_forgiven() -> None:
    with opened(lambda asked: Answered(body=b"<html>") if asked.number == 0 else good(asked, "fine")) as (generator, _):
        assert one(generator).text == "fine"


def test_an_endless_reply_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 1 << 20)
    with opened(lambda asked: Answered(body=b" " * (2 << 20))) as (generator, _):
        assert "more than 1 MiB" in one(generator).error


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        [],
        {"completion_tokens": -1},
        {"completion_tokens": 999},
        {"completion_tokens": True},
        {"completion_tokens": 0},
    ],
)
def test_usage_that_cannot_be_is_not_believed(usage: Any) -> None:
    with opened(lambda asked: good(asked, "text", usage=usage)) as (generator, _):
        replies = generator.answer(asks(2), Sampling())
    assert [reply.tokens for reply in replies] == [0, 0] and replies[0].text == "text"
    assert len(generator.notes) == 1 and "counted as 0" in generator.notes[0]


@pytest.mark.parametrize(
    ("said", "tokens", "told"),
    [("stop", 3, "stop"), ("length", 16, "length"), (None, 3, "stop"), ("abort", 3, "stop"), ("eos", 16, "length")],
)
def test_reasons_of_the_end(said: str | None, tokens: int, told: str) -> None:
    with opened(lambda asked: good(asked, "text", said, usage={"completion_tokens": tokens})) as (generator, _):
        assert one(generator).finish_reason == told


def test_an_empty_answer_is_an_answer() -> None:
    hidden = {"message": {"role": "assistant", "content": None}, "finish_reason": "length"}
    with opened(lambda asked: good(asked, "", choices=[hidden] if "messages" in asked.body else [{"text": ""}])) as (
        generator,
        _,
    ):
        replies = generator.answer([Ask("a", "text", 16), Ask("b", [{"role": "user", "content": "hi"}], 16)], Sampling())
    assert [(reply.text, reply.finish_reason, reply.error) for reply in replies] == [("", "stop", ""), ("", "length", "")]


def test_half_characters_do_not_reach_a_file() -> None:
    body = json.dumps({"choices": [{"text": "a\ud800b", "finish_reason": "stop"}]}).encode()
    with opened(lambda asked: Answered(body=body)) as (generator, _):
        assert one(generator).text == "a?b"


@pytest.mark.parametrize(
    ("status", "words"), [(401, "refuses the key"), (403, "refuses the key"), (404, "knows no model 'tiny'")]
)
def test_what_cannot_mend_stops_at_once(status: int, words: str) -> None:
    error = {"error": {"message": "no: sk-secret"}}
    with (
        opened(lambda asked: Answered(status, error), api_key="sk-secret", concurrency=2) as (generator, endpoint),
        pytest.raises(UserError, match=words) as raised,
    ):
        generator.answer(asks(20), Sampling())
    assert len(endpoint.asked) <= 4 and "secret" not in str(raised.value) and "\n" not in str(raised.value)


def test_an_empty_account_stops_at_once() -> None:
    error = {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}
    with (
        opened(lambda asked: Answered(429, error)) as (generator, endpoint),
        pytest.raises(GenerationError, match="quota is used up"),
    ):
        one(generator)
    assert len(endpoint.asked) == 1


def test_a_bad_request_is_not_repeated() -> None:
    error = {"error": {"message": "maximum context length is 256"}}
    with opened(lambda asked: Answered(400, error)) as (generator, endpoint):
        assert "maximum context length" in one(generator).error
    assert len(endpoint.asked) == 1


def test_models_that_want_the_newer_word_for_the_limit() -> None:
    def respond(asked: Asked) -> Answered:
        if "max_tokens" in asked.body:
            return Answered(400, {"error": {"message": "use 'max_completion_tokens' instead"}})
        return good(asked, "fine")

    chat = [{"role": "user", "content": "hi"}]
    with opened(respond, concurrency=1) as (generator, endpoint):
        replies = generator.answer([Ask("a", chat, 9), Ask("b", chat, 9)], Sampling())
    assert [reply.text for reply in replies] == ["fine", "fine"] and len(endpoint.asked) == 3
    assert endpoint.asked[1].body["max_completion_tokens"] == 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "localhost:8000"}, "base_url 'localhost:8000' is no address"),
        ({"base_url": "http://h:99999/v1"}, "is no address"),
        ({"concurrency": 0}, "concurrency 0"),
        ({"tries": 0}, "tries 0"),
        ({"timeout": 0}, "timeout 0"),
        ({"timeout": float("nan")}, "timeout nan"),
        ({"api_key": "a\nb"}, "no header"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        OpenAIGenerator("tiny", **options)


def test_an_address_keeps_its_password_to_itself() -> None:
    described = OpenAIGenerator("tiny", base_url="https://me:pass@example.org/v1?key=x").describe()
    assert described == {"kind": "openai", "model": "tiny", "base_url": "https://example.org/v1"}
