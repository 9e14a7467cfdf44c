"""Downloads against a server of this machine: what comes is checked, whole or absent."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from modist.errors import UserError
from modist.evaluation import download as module
from modist.evaluation.benchmarks import known
from modist.evaluation.download import SOURCES, Fetch, Pinned, Unverified, digest, download

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@dataclass
class Host:
    """Files by path, and how each is to be misgiven.

    Attributes:
        files: what lies where.
        breaks: of a path, after how many bytes each answer in turn breaks off.
        statuses: of a path, the status of each answer in turn.
        asked: how often each path was asked for.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)


@contextmanager
def serve(host: Host) -> Iterator[Host]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            host.asked[path] += 1
            if host.statuses.get(path):
                self.send_error(host.statuses[path].pop(0))
                return
            if path not in host.files:
                self.send_error(404)
                return
            body = host.files[path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: host.breaks[path].pop(0)] if host.breaks.get(path) else body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


ROW = b'{"question": "q", "answer": 1.0}\n'
BODIES = {"amc23": ROW * 40, "aime24": ROW.replace(b"1.0", b'"025"') * 30}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(module, "_PAUSE_S", 0.001)
    for name, body in BODIES.items():
        monkeypatch.setitem(SOURCES, name, Pinned(f"o/r/{name}.jsonl", len(body), hashlib.sha256(body).hexdigest()))
    with serve(Host(files={f"o/r/{name}.jsonl": body for name, body in BODIES.items()})) as running:
        yield running


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def outcomes(found: list[Fetch]) -> dict[str, str]:
    return {fetch.name: fetch.outcome for fetch in found}


def test_what_is_pinned_is_the_issue_s() -> None:
    assert set(SOURCES) == set(known())
    pinned = {name: source for name, source in SOURCES.items() if isinstance(source, Pinned)}
    assert list(pinned) == list(known())[:12]
    for name, source in pinned.items():
        assert source.path == (
            "ZubinGou/math-evaluation-harness/db77bc6bb2a17c90ed2d63e88ebd8c40a82858c5/data/math/test.jsonl"
            if name == "math"
            else f"QwenLM/Qwen2.5-Math/a45202bd16f1ec06f433442dc1152d0074773465/evaluation/data/{name}/test.jsonl"
        )


@pytest.mark.skipif(not DATA.is_dir(), reason="the benchmarks' rows are not beside the repository (../shared/data)")
@pytest.mark.parametrize("name", list(SOURCES))
def test_the_pinned_sums_are_those_of_the_files(name: str) -> None:
    source, file = SOURCES[name], known()[name].where(DATA)
    assert file is not None
    assert digest(file) == source.sha256
    assert not isinstance(source, Pinned) or file.stat().st_size == source.size
    assert outcomes(download([name], DATA, "http://127.0.0.1:9")) == {name: "here"}


def test_it_comes_whole_and_is_not_fetched_twice(host: Host, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    found = download(["amc23", "aime24"], tmp_path / "new", host.url, lambda *told: seen.append(told))
    assert outcomes(found) == {"amc23": "fetched", "aime24": "fetched"}
    assert left(tmp_path) == ["new/aime24/test.jsonl", "new/amc23/test.jsonl"]
    assert (tmp_path / "new" / "amc23" / "test.jsonl").read_bytes() == BODIES["amc23"]
    assert seen[-1] == ("aime24", len(BODIES["aime24"]), len(BODIES["aime24"]))
    assert len(known()["amc23"].items(tmp_path / "new")) == 40
    again = download(["amc23", "aime24", "amc23"], tmp_path / "new", f"{host.url}/")
    assert outcomes(again) == {"amc23": "here", "aime24": "here"}
    assert set(host.asked.values()) == {1}


def test_a_file_in_the_other_layout_counts(host: Host, tmp_path: Path) -> None:
    (tmp_path / "math" / "amc23").mkdir(parents=True)
    (tmp_path / "math" / "amc23" / "test.jsonl").write_bytes(BODIES["amc23"])
    assert outcomes(download(["amc23"], tmp_path, host.url)) == {"amc23": "here"}
    assert not host.asked


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (BODIES["amc23"].replace(b"1.0", b"2.0"), "it is deleted|what came is deleted"),
        (BODIES["amc23"] + b"\n", "longer than the 1,320 bytes it must have; what came is deleted"),
    ],
)
def test_what_is_wrong_is_deleted_and_the_next_still_comes(host: Host, tmp_path: Path, body: bytes, message: str) -> None:
    host.files["o/r/amc23.jsonl"] = body
    found = download(["amc23", "aime24"], tmp_path, host.url)
    assert outcomes(found) == {"amc23": "failed", "aime24": "fetched"}
    assert any(part in found[0].message for part in message.split("|"))
    assert host.url in found[0].message
    assert left(tmp_path) == ["aime24/test.jsonl"]
    assert not (tmp_path / "amc23").exists()
    host.files["o/r/amc23.jsonl"] = BODIES["amc23"]
    assert outcomes(download(["amc23"], tmp_path, host.url)) == {"amc23": "fetched"}


def test_a_broken_connection_and_a_busy_host_are_tried_again(host: Host, tmp_path: Path) -> None:
    host.breaks["o/r/amc23.jsonl"] = [0, 100]
    host.statuses["o/r/aime24.jsonl"] = [503, 429, 500]
    assert outcomes(download(["amc23", "aime24"], tmp_path, host.url)) == {"amc23": "fetched", "aime24": "fetched"}
    assert host.asked == {"o/r/amc23.jsonl": 3, "o/r/aime24.jsonl": 4}


def test_but_not_for_ever(host: Host, tmp_path: Path) -> None:
    host.breaks["o/r/amc23.jsonl"] = [10] * 9
    del host.files["o/r/aime24.jsonl"]
    found = download(["amc23", "aime24"], tmp_path, host.url)
    assert outcomes(found) == {"amc23": "failed", "aime24": "failed"}
    assert "broke off after 10 of 1,320 bytes (4 attempts)" in found[0].message
    assert "answers 404" in found[1].message
    assert host.asked == {"o/r/amc23.jsonl": 4, "o/r/aime24.jsonl": 1}
    assert left(tmp_path) == []


def test_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.001)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        (fetch,) = download(["amc23"], tmp_path, f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert fetch.outcome == "failed"
    assert "cannot be read" in fetch.message
    monkeypatch.setattr(module.urllib.request, "urlopen", _no_name)
    (fetch,) = download(["amc23"], tmp_path)
    assert "no host of that name can be reached" in fetch.message
    assert fetch.message.startswith("https://raw.githubusercontent.com/QwenLM/")


def _no_name(*_: Any, **__: Any) -> None:
    raise module.urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))


def test_a_file_that_differs_is_left_alone(host: Host, tmp_path: Path) -> None:
    (tmp_path / "amc23").mkdir()
    (tmp_path / "amc23" / "test.jsonl").write_text("mine")
    (fetch,) = download(["amc23"], tmp_path, host.url)
    assert (fetch.outcome, fetch.good) == ("different", False)
    assert "move it away" in fetch.message
    assert (tmp_path / "amc23" / "test.jsonl").read_text() == "mine"
    assert not host.asked


def test_what_nobody_verified_is_not_fetched(host: Host, tmp_path: Path) -> None:
    found = download(["bbh", "humaneval", "mbpp", "gsm8k-train"], tmp_path, host.url)
    assert set(outcomes(found).values()) == {"unverified"}
    for fetch in found:
        source = SOURCES[fetch.name]
        assert isinstance(source, Unverified)
        assert all(part in fetch.message for part in (source.origin, source.sha256, str(tmp_path / source.place)))
        # Put there, it is found there.
        assert tmp_path / source.place in [tmp_path / name for name in known()[fetch.name].files]
    assert not host.asked
    assert left(tmp_path) == []


def test_what_a_killed_download_left_is_swept(host: Host, tmp_path: Path) -> None:
    (tmp_path / "amc23").mkdir()
    dead, alive = tmp_path / "amc23" / ".test.jsonl.4194305.part", tmp_path / "amc23" / f".test.jsonl.{os.getppid()}.part"
    dead.write_text("x")
    alive.write_text("x")
    assert outcomes(download(["amc23"], tmp_path, host.url)) == {"amc23": "fetched"}
    assert left(tmp_path) == [str(alive.relative_to(tmp_path)), "amc23/test.jsonl"]


def test_an_interrupt_leaves_nothing(host: Host, tmp_path: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(["amc23"], tmp_path, host.url, interrupt)
    assert left(tmp_path) == []


def test_a_folder_that_cannot_be_written(host: Host, tmp_path: Path) -> None:
    (tmp_path / "amc23").write_text("a file where a folder must be")
    (fetch,) = download(["amc23"], tmp_path, host.url)
    assert fetch.outcome == "failed"
    assert str(tmp_path / "amc23") in fetch.message


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'amc23'"):
        download(["amc24"], tmp_path)
    (tmp_path / "f").write_text("")
    with pytest.raises(UserError, match="this is a file; --data names a folder"):
        download(["amc23"], tmp_path / "f")
    with pytest.raises(UserError, match="begins with http"):
        download(["amc23"], tmp_path, "file:///etc")
    own = Path(__file__).resolve().parents[2] / "examples" / "experts" / "questions" / "math.yml"
    with pytest.raises(UserError, match="a benchmark of your own; there is nothing to download"):
        download([str(own)], tmp_path)
