"""A local OpenAI-compatible endpoint that answers as a test says: well, late, wrongly or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One request: its path, headers (names in lower case) and JSON body, and how many came before it."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    number: int

    @property
    def question(self) -> str:
        """The prompt, or the last message."""
        return str(self.body.get("prompt") or self.body["messages"][-1]["content"])


@dataclass(frozen=True)
class Answered:
    """What goes back.

    Args:
        status: HTTP's.
        body: Bytes, or what becomes JSON.
        headers: More of them.
        claims: Content-Length where it lies, else None.
        pause: Seconds before each byte of the body.
        hang: Say nothing until the endpoint closes.
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    claims: int | None = None
    pause: float = 0.0
    hang: bool = False


def good(asked: Asked, text: str, reason: str | None = "stop", **more: Any) -> Answered:
    """A proper reply in the form of the route that was asked."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
    choice |= {"text": text} if "prompt" in asked.body else {"message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return Answered(body={"id": "x", "object": "y", "choices": [choice], "usage": usage} | more)


class Endpoint:
    """The server; a context manager.  `asked` holds all requests, `most` how many were in work at once."""

    def __init__(self, respond: Callable[[Asked], Answered]) -> None:
        self.asked: list[Asked] = []
        self.most = 0
        self._closing = threading.Event()
        lock = threading.Lock()
        working = 0
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                nonlocal working
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    working += 1
                    endpoint.most = max(endpoint.most, working)
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    asked = Asked(self.path, headers, body, len(endpoint.asked))
                    endpoint.asked.append(asked)
                answered = respond(asked)
                # Before the reply is out: who has it may ask again at once.
                with lock:
                    working -= 1
                with suppress(BrokenPipeError, ConnectionResetError):
                    self._send(answered)

            def _send(self, answered: Answered) -> None:
                if answered.hang:
                    endpoint._closing.wait(60)
                    self.close_connection = True
                    return
                body = answered.body if isinstance(answered.body, bytes) else json.dumps(answered.body).encode()
                self.send_response(answered.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body) if answered.claims is None else answered.claims))
                for name, value in answered.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if answered.pause:
                    for byte in body:
                        if endpoint._closing.wait(answered.pause):
                            break
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                else:
                    self.wfile.write(body)
                if answered.claims is not None:
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
