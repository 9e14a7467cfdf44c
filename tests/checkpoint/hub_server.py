"""A small hub on this machine: as much of the Hugging Face hub's protocol as a download and an upload need.

It keeps models with commits, branches and tags; knows public, private and gated ones; answers HEAD, GET and
ranges; can break a connection within a file; and counts what it was asked.  Repositories and branches can be
made, large files sent by LFS, and commits of added and deleted files made of them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repo:
    """One model: its commits, and the names that stand for them."""

    commits: dict[str, Files]
    refs: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        if revision in self.commits:
            return revision
        return self.refs.get(revision) or self.tags.get(revision)


@dataclass
class HubServer:
    """The hub.  Use as a context manager; its address is `url`.

    Attributes:
        repos: the models by id.
        tokens: every token that exists.
        readers: those that may read private and gated models.
        breaks: {file: [bytes, ...]}: each GET takes one number and breaks off after so many bytes.
        asked: how often each (method, kind) came; kind is a file's name, or "info", "tree", "refs".
        sent: bytes of body sent for each file.
        ranges: (file, Range header) as they came.
        authorizations: every Authorization header that came with a question about a model ("" for none).
        status: answer everything with this status, where set.
        file_status: answer every question for a file with this status, where set.
        writers: tokens that may make repositories and commit to them.
        refusals: {step: status}: `create`, `yaml`, `preupload`, `lfs`, `put`, `commit` answered so.
        messages: of the commits made, in order.
        large: what was sent by LFS, by SHA-256.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    asked: Counter[tuple[str, str]] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    ranges: list[tuple[str, str]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    status: int | None = None
    file_status: int | None = None
    writers: set[str] = field(default_factory=set)
    refusals: dict[str, int] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    _open: list[socket.socket] = field(default_factory=list, repr=False)

    def add(self, name: str, files: Files, *, private: bool = False, gated: bool = False) -> Repo:
        """A model with one commit on `main`."""
        commit = commit_of(files)
        self.repos[name] = Repo({commit: files}, {"main": commit}, private=private, gated=gated)
        return self.repos[name]

    def gets(self) -> list[str]:
        """The files that were asked for with GET, each as often as it was."""
        return sorted(
            kind for method, kind in self.asked.elements() if method == "GET" and kind not in ("info", "tree", "refs")
        )

    def __enter__(self) -> HubServer:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Go away: connections are refused from now on."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._open:  # those kept alive would be answered still
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def commit_of(files: Files) -> str:
    """A commit id, 40 hexadecimal digits, from what the commit holds."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


_API = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)(?:/(?P<what>revision|tree|refs)(?:/(?P<revision>[^/]+))?)?")
_UPLOAD = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)/(?P<step>preupload|commit|branch)/(?P<revision>[^/]+)")
_BATCH = re.compile(r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
_RESOLVE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def setup(self) -> None:
        super().setup()
        self.hub._open.append(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        data = self._body()
        if status := self.hub.refusals.get("put"):
            return self._refuse(status, "", "storage is unwell")
        oid = urlsplit(self.path).path.rsplit("/", 1)[-1]
        assert hashlib.sha256(data).hexdigest() == oid, "what was sent is not what was announced"
        self.hub.large[oid] = data
        return self._send_json({})

    def do_POST(self) -> None:
        path, data = urlsplit(self.path).path, self._body()
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        upload, batch = _UPLOAD.fullmatch(path), _BATCH.fullmatch(path)
        steps = {"/api/repos/create": "create", "/api/validate-yaml": "yaml"}
        step = upload["step"] if upload else "lfs" if batch else steps.get(path, "")
        self.hub.asked["POST", step] += 1
        if status := self.hub.status or self.hub.refusals.get(step):
            if step == "yaml" and status == 400:
                return self._send_json({"errors": [{"message": '"base_model" must be a model'}], "warnings": []}, status)
            return self._refuse(status, "", "the hub does not want to")
        if token not in self.hub.tokens:
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if step == "yaml":
            return self._send_json({"errors": [], "warnings": []})
        if token not in self.hub.writers:
            return self._refuse(403, "", "You don't have the rights to write here")
        if step == "create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repos:
                return self._send_json({"url": f"{self.hub.url}/{name}", "error": "exists"}, 409)
            self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs"}, private=asked.get("visibility") == "private")
            return self._send_json({"url": f"{self.hub.url}/{name}"})
        found = upload or batch
        repo = self.hub.repos.get(found["name"]) if found else None
        if repo is None:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        if upload:
            return self._upload(upload["name"], repo, upload["step"], unquote(upload["revision"]), data)
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | ({} if one["oid"] in self.hub.large else {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"}}})
            for one in json.loads(data)["objects"]
        ]
        return self._send_json({"transfer": "basic", "objects": objects})

    def _upload(self, name: str, repo: Repo, step: str, revision: str, data: bytes) -> None:
        if step == "branch":
            if revision in repo.refs:
                return self._send_json({"error": "exists"}, 409)
            repo.refs[revision] = repo.refs["main"]
            return self._send_json({})
        if step == "preupload":
            listed = [one["path"] for one in json.loads(data)["files"]]
            files = [
                {"path": name, "uploadMode": "lfs" if _is_large(name) else "regular", "shouldIgnore": False} for name in listed
            ]
            return self._send_json({"files": files})
        files = dict(repo.commits[repo.refs[revision]])
        for line in data.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            else:
                small = entry["key"] == "file"
                files[value["path"]] = base64.b64decode(value["content"]) if small else self.hub.large[value["oid"]]
        commit = commit_of(files)
        repo.commits[commit], repo.refs[revision] = files, commit
        return self._send_json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        authorization = self.headers.get("Authorization", "")
        if _API.fullmatch(path) or _RESOLVE.fullmatch(path):
            self.hub.authorizations.append(authorization)
        token = authorization.removeprefix("Bearer ")
        if self.hub.status:
            return self._refuse(self.hub.status, "", "the hub is unwell")
        if token and token not in self.hub.tokens:
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if found := _API.fullmatch(path):
            what = found["what"] or "revision"
            self.hub.asked[self.command, {"revision": "info"}.get(what, what)] += 1
        elif found := _RESOLVE.fullmatch(path):
            what = "file"
            self.hub.asked[self.command, unquote(found["file"])] += 1
        else:
            return self._refuse(404, "", "no such page")
        repo = self.hub.repos.get(found["name"])
        if repo is None or (repo.private and token not in self.hub.readers):
            # as the hub does: an id that is not there looks like one that may not be seen
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if what == "refs":
            return self._send_json(_refs(repo))
        revision = unquote(found["revision"] or "main")
        commit = repo.commit(revision)
        if commit is None:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repo.commits[commit]
        if what == "revision":
            return self._send_json(_info(found["name"], commit, files) | {"private": repo.private})
        if what == "tree":
            return self._send_json([_entry(name, data) for name, data in files.items()])
        if repo.gated and token not in self.hub.readers:
            return self._refuse(403 if token else 401, "GatedRepo", "Access to this model is restricted")
        if self.hub.file_status:
            return self._refuse(self.hub.file_status, "", "no files today")
        name = unquote(found["file"])
        if name not in files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        return self._send_file(name, files[name], commit)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_json(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_file(self, name: str, data: bytes, commit: str) -> None:
        start, stop = 0, len(data)
        wanted = self.headers.get("Range")
        if wanted and (bounds := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)):
            self.hub.ranges.append((name, wanted))
            start, stop = int(bounds[1]), min(stop, int(bounds[2] or stop) + 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{_etag(name, data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = data[start:stop]
        if self.hub.breaks.get(name):
            body = body[: self.hub.breaks[name].pop(0)]
            self.close_connection = True
        self.wfile.write(body)
        self.hub.sent[name] += len(body)


def _is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".model"))


def _etag(name: str, data: bytes) -> str:
    """A large file's SHA-256, a small one's git blob id."""
    if _is_large(name):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _etag(name, data)}
    if _is_large(name):
        entry["oid"] = hashlib.sha1(data).hexdigest()
        entry["lfs"] = {"oid": _etag(name, data), "size": len(data), "pointerSize": 134}
    return entry


def _info(name: str, commit: str, files: Files) -> dict[str, Any]:
    siblings = [{"rfilename": file} for file in files]
    return {"_id": "0", "id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings}


def _refs(repo: Repo) -> dict[str, Any]:
    def listed(names: dict[str, str], kind: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit} for name, commit in names.items()]

    return {"branches": listed(repo.refs, "heads"), "tags": listed(repo.tags, "tags"), "converts": []}
