"""Any OpenAI-compatible endpoint: a server of one's own, a cluster, a provider.

A text goes to `/completions`, messages to `/chat/completions`.  What cannot be had after some tries becomes an error reply
and the run goes on; a key that is refused, a model the endpoint does not know, or an endpoint that is gone stops it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from modist.errors import UserError
from modist.evaluation.generators.generator import Ask, GenerationError, Prompt, Reply, Sampling
from modist.evaluation.generators.stops import cut
from modist.evaluation.generators.transformers import require
from modist.evaluation.generators.wire import LONGEST, WireError, WireReply, read_reply

_STOPS = 4
_CONNECT = 15.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_AGAIN = (408, 409, 425, 429)
_LIES = 3


@dataclass(frozen=True)
class _Failure:
    """Why an ask has no answer, and whether the endpoint kept silent (gone: no connection; late: no reply in time)."""

    reason: str
    silence: str = ""


class OpenAIGenerator:
    """A model behind an endpoint."""

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        concurrency: int = 8,
        timeout: float = 600.0,
        tries: int = 6,
        name: str | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            model: As the endpoint knows it.
            base_url: Such as `http://localhost:8000/v1`; OPENAI_BASE_URL by default, then OpenAI's own.
            api_key: OPENAI_API_KEY by default, then "none".
            concurrency: Requests in flight at most (1 or more).
            timeout: Seconds for one answer, all tries and pauses between them included.
            tries: Requests for one answer at most.
            name: For tables; the model's by default.

        Raises:
            UserError: an address that is none, numbers out of range, no openai package.
        """
        require("openai", "openai")
        if not model.strip():
            raise UserError("the openai generator needs a model's name, as the endpoint knows it")
        for what, value, least in (("concurrency", concurrency, 1), ("tries", tries, 1)):
            if value < least:
                raise UserError(f"{what} {value}: must be at least {least}")
        if not 0 < timeout < float("inf"):
            raise UserError(f"timeout {timeout}: must be a number of seconds, more than 0")
        url = base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        self._url = _address(url)
        self._key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        if not self._key.isascii() or not self._key.isprintable():
            raise UserError("the API key holds characters that no header can carry")
        self._model, self._concurrency, self._timeout, self._tries = model, concurrency, timeout, tries
        self.name = name or model
        self.batch_size = 4 * concurrency
        self.notes: list[str] = []
        self._answered = False
        # OpenAI's newer models refuse the older word, other servers do not know the newer one.
        self._limit_word = "max_tokens"
        self._runner: asyncio.Runner | None = None
        self._client: Any = None

    def describe(self) -> dict[str, Any]:
        """Model and address, without what is secret."""
        return {"kind": "openai", "model": self._model, "base_url": _public(self._url)}

    def length(self, prompt: Prompt) -> int:
        """Characters: the tokenizer is elsewhere."""
        return len(prompt) if isinstance(prompt, str) else sum(len(message.get("content", "")) for message in prompt)

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
        """Answers a batch, several requests at a time; see `Generator.answer`."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(self._answer_all(asks, sampling))

    async def _answer_all(self, asks: Sequence[Ask], sampling: Sampling) -> list[Reply]:
        import openai

        if self._client is None:
            self._client = openai.AsyncOpenAI(base_url=self._url, api_key=self._key, max_retries=0)
        places = asyncio.Semaphore(self._concurrency)
        tasks = [asyncio.create_task(self._answer_one(ask, sampling, places)) for ask in asks]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._answered |= any(not isinstance(one, _Failure) for one, _ in found)
        self._stop_if_silent([one for one, _ in found])
        return [self._reply(ask, one, seconds) for ask, (one, seconds) in zip(asks, found, strict=True)]

    def _stop_if_silent(self, found: Sequence[WireReply | _Failure]) -> None:
        """A batch to which nobody answered is left to be done again; one late answer of many is not worth a stop."""
        silent = [one for one in found if isinstance(one, _Failure) and one.silence]
        if not silent or len(silent) < len(found):
            return
        if all(one.silence == "gone" for one in silent) or (len(silent) > 1 and not self._answered):
            raise GenerationError(f"the endpoint {_public(self._url)} does not answer: {silent[0].reason}")

    async def _answer_one(self, ask: Ask, sampling: Sampling, places: asyncio.Semaphore) -> tuple[WireReply | _Failure, float]:
        async with places:
            began = time.perf_counter()
            last: list[_Failure] = []
            try:
                async with asyncio.timeout(self._timeout):
                    found = await self._try(ask, sampling, last)
            except TimeoutError:
                before = f"; before that: {last[-1].reason}" if last else ""
                found = _Failure(f"no answer within {self._timeout:g} s{before}", last[-1].silence if last else "late")
            return found, time.perf_counter() - began

    async def _try(self, ask: Ask, sampling: Sampling, last: list[_Failure]) -> WireReply | _Failure:
        import openai

        number = lies = 0
        for number in range(self._tries):
            pause = _pause(number)
            chat, word = not isinstance(ask.prompt, str), self._limit_word
            try:
                return read_reply(await self._send(ask, sampling), chat, ask.max_new_tokens)
            except WireError as error:
                last.append(_Failure(self._line(error)))
                lies += 1
                if lies == _LIES:
                    break
            except openai.APIStatusError as error:
                code = error.status_code
                said = self._line(error)
                self._stop_if_hopeless(error, said)
                if code == 400 and chat and word == "max_tokens" and "max_completion_tokens" in said:
                    self._limit_word = "max_completion_tokens"
                    last.append(_Failure(f"the endpoint says {said}"))
                    continue
                last.append(_Failure(f"the endpoint says {said}"))
                if code not in _AGAIN and code < 500:
                    return last[-1]
                pause = max(pause, _asked_pause(error.response.headers))
            except openai.APITimeoutError:
                last.append(_Failure("no connection in time", "gone"))
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                last.append(_Failure(f"no connection ({self._line(cause)})", "gone"))
            except (TimeoutError, asyncio.CancelledError):
                raise
            except openai.OpenAIError as error:
                return _Failure(self._line(error))
            except Exception as error:
                # A body that ends too early is the HTTP library's to complain of, and there are several.
                last.append(_Failure(f"the connection broke ({self._line(error)})"))
            if number + 1 < self._tries:
                await asyncio.sleep(pause)
        tried = f" ({number + 1} tries)" if number else ""
        return _Failure(last[-1].reason + tried, last[-1].silence)

    async def _send(self, ask: Ask, sampling: Sampling) -> bytes:
        import openai

        body: dict[str, Any] = {
            "model": self._model,
            "temperature": sampling.temperature or 0.0,
            "seed": ask.seed,
            "max_tokens" if isinstance(ask.prompt, str) else self._limit_word: ask.max_new_tokens,
            # Time is kept over all tries by who calls this; httpx alone would let a trickle go on for ever.
            "timeout": openai.Timeout(None, connect=_CONNECT),
        }
        if sampling.temperature is not None:
            body["top_p"] = sampling.top_p
        if sampling.top_k:
            body["extra_body"] = {"top_k": sampling.top_k}
        if ask.stop:
            body["stop"] = list(ask.stop[:_STOPS])
        if isinstance(ask.prompt, str):
            request = self._client.completions.with_streaming_response.create(prompt=ask.prompt, **body)
        else:
            request = self._client.chat.completions.with_streaming_response.create(messages=ask.prompt, **body)
        found = bytearray()
        async with request as response:
            async for piece in response.iter_bytes():
                found += piece
                if len(found) > LONGEST:
                    raise WireError(f"the reply has more than {LONGEST >> 20} MiB")
        return bytes(found)

    def _stop_if_hopeless(self, error: Any, said: str) -> None:
        where = _public(self._url)
        if error.status_code in (401, 403):
            raise UserError(f"the endpoint {where} refuses the key ({error.status_code}): set OPENAI_API_KEY")
        if error.status_code == 404:
            raise UserError(f"the endpoint {where} knows no model {self._model!r}, or its address should end in /v1: {said}")
        if error.code == "insufficient_quota":
            raise GenerationError(f"the endpoint {where} says the account's quota is used up: {said}")

    def _reply(self, ask: Ask, found: WireReply | _Failure, seconds: float) -> Reply:
        prompt = ask.prompt if isinstance(ask.prompt, str) else json.dumps(ask.prompt, ensure_ascii=False)
        if isinstance(found, _Failure):
            return Reply.failed(ask.key, found.reason, prompt, 0, seconds)
        if found.tokens is None:
            self._note("the endpoint does not say how many tokens its answers have, or says what cannot be: counted as 0")
        text, was_cut = cut(found.text, ask.stop)
        reason = "stop" if was_cut else found.finish_reason
        return Reply(ask.key, text, prompt, found.tokens or 0, found.prompt_tokens or 0, cast(Any, reason), seconds)

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)

    def _line(self, error: BaseException) -> str:
        """An error on one line, at most 300 characters, without the key."""
        text = " ".join(str(error).split()) or type(error).__name__
        if len(self._key) > 4:
            text = text.replace(self._key, "***")
        return text if len(text) <= 300 else f"{text[:296]} ..."

    def close(self) -> None:
        """Closes connections."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        client, self._client = self._client, None
        if client is not None:
            runner.run(client.close())
        runner.close()


def _address(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine:
        raise UserError(f"base_url {url!r} is no address such as 'http://localhost:8000/v1'")
    return url.strip().rstrip("/")


def _public(url: str) -> str:
    """An address without name, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _pause(number: int) -> float:
    """Seconds before the next try, doubling, drawn so that many do not come back at once."""
    return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**number) * random.uniform(0.75, 1.25))


def _asked_pause(headers: Any) -> float:
    """Seconds the endpoint asks to wait, by Retry-After as a number or a date; 0 where it asks for nothing."""
    value = headers.get("retry-after")
    if not value:
        return 0.0
    try:
        return max(0.0, float(value)) if float(value) < float("inf") else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
