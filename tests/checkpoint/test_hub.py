"""Models by hub id, against a hub on this machine (tests/checkpoint/hub_server.py)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from modist.checkpoint.hub import HubListing, describe, fetch, headers
from modist.errors import HubError, ModistError, UserError
from modist.recipe.reference import ModelReference
from tests.checkpoint.hub_server import HubServer, commit_of

_TENSORS = {"model.a": np.arange(6, dtype=np.float32).reshape(2, 3), "model.b": np.ones(4, np.float16)}
_WANTED: dict[str, bytes] = {
    "config.json": b'{"model_type": "qwen2"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer.model": b"pieces",
    "chat_template.jinja": b"{{ messages }}",
    "merges.txt": b"a b",
    "README.md": b"# tiny",
    "LICENSE": b"Apache",
    "model.safetensors": save(_TENSORS),
}
_UNWANTED: dict[str, bytes] = {
    ".gitattributes": b"*.bin filter=lfs",
    "modeling_tiny.py": b"raise SystemExit('ran')",
    "pytorch_model.bin": b"a pickle",
    "training_args.bin": b"another",
    "consolidated.safetensors": b"the same again",
    "onnx/config.json": b"{}",
    "onnx/model.safetensors": b"the same again",
}
_TINY = "org/tiny"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    import huggingface_hub.constants as constants

    for variable in ("HF_TOKEN", "HF_AUTH_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HubServer(tokens={"hf_good", "hf_other"}, readers={"hf_good"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.add(_TINY, _WANTED | _UNWANTED)
        yield server


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub waits a second before each new try, and reads by chunks of 10 MB."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)


def _reference(revision: str | None = None, name: str = _TINY) -> ModelReference:
    return ModelReference(name, revision)


def _held(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _one_line(error: pytest.ExceptionInfo[ModistError]) -> str:
    """The message, which must be one line, and nothing of huggingface_hub's behind it."""
    message = str(error.value)
    assert "\n" not in message
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None
    return message


# -- what is fetched ----------------------------------------------------------------------------------------


def test_fetch_brings_what_a_merge_needs_and_nothing_else(hub: HubServer, cache: Path) -> None:
    found = fetch(_reference(), cache=cache)
    assert _held(found.folder) == _WANTED
    assert found.commit == commit_of(_WANTED | _UNWANTED)
    assert hub.gets() == sorted(_WANTED)


def test_a_second_fetch_downloads_nothing(hub: HubServer, cache: Path) -> None:
    first = fetch(_reference(), cache=cache)
    hub.asked.clear()
    assert fetch(_reference(), cache=cache) == first
    assert hub.gets() == []


def test_pickles_only_where_there_are_no_safetensors(hub: HubServer, cache: Path) -> None:
    files = {"config.json": b"{}", "pytorch_model.bin": b"a pickle", "training_args.bin": b"another"}
    hub.add("org/old", files)
    found = fetch(_reference(name="org/old"), cache=cache)
    assert set(_held(found.folder)) == {"config.json", "pytorch_model.bin"}


def test_code_only_where_allowed(hub: HubServer, cache: Path) -> None:
    found = fetch(_reference(), allow_code=True, cache=cache)
    assert set(_held(found.folder)) == set(_WANTED) | {"modeling_tiny.py"}


def test_a_repository_without_weights_is_refused_before_any_download(hub: HubServer, cache: Path) -> None:
    hub.add("org/empty", {"config.json": b"{}", "onnx/model.safetensors": b"x"})
    with pytest.raises(HubError) as error:
        fetch(_reference(name="org/empty"), cache=cache)
    assert "neither *.safetensors nor pytorch_model*.bin" in _one_line(error)
    assert hub.gets() == []


# -- revisions ----------------------------------------------------------------------------------------------


@pytest.fixture
def two_commits(hub: HubServer) -> dict[str, str]:
    """main and the branch `next` hold different weights; the tag v1.0 is main's."""
    newer = _WANTED | {"model.safetensors": save({"model.a": np.zeros(3, np.float32)})}
    repo = hub.repos[_TINY]
    commits = {"main": repo.refs["main"], "next": commit_of(newer), "v1.0": repo.refs["main"]}
    repo.commits[commits["next"]] = newer
    repo.refs["feature/next"] = repo.refs["next"] = commits["next"]
    repo.tags["v1.0"] = commits["main"]
    return commits


def test_branches_tags_and_commits(hub: HubServer, cache: Path, two_commits: dict[str, str]) -> None:
    newer = hub.repos[_TINY].commits[two_commits["next"]]["model.safetensors"]
    for revision in ("next", "feature/next", two_commits["next"]):
        found = fetch(_reference(revision), cache=cache)
        assert found.commit == two_commits["next"], revision
        assert (found.folder / "model.safetensors").read_bytes() == newer
    for named in ("v1.0", "main", None):
        assert fetch(_reference(named), cache=cache).commit == two_commits["main"], named


def test_a_commit_whole_in_the_cache_asks_the_hub_nothing(hub: HubServer, cache: Path) -> None:
    commit = fetch(_reference(), cache=cache).commit
    hub.asked.clear()
    assert fetch(_reference(commit), cache=cache).commit == commit
    assert not hub.asked


def test_an_unknown_revision_names_the_nearest(hub: HubServer, cache: Path, two_commits: dict[str, str]) -> None:
    with pytest.raises(UserError) as error:
        fetch(_reference("v1.1"), cache=cache)
    assert _one_line(error) == "org/tiny has no revision 'v1.1'; did you mean 'v1.0'?"


@pytest.mark.parametrize("revision", ["../../evil", "/etc", "a/../b", "a\nb", "refs//x"])
def test_a_revision_that_would_leave_the_cache(hub: HubServer, cache: Path, revision: str) -> None:
    with pytest.raises(UserError) as error:
        fetch(_reference(revision), cache=cache)
    assert "cannot be a revision" in _one_line(error)
    assert not hub.asked


# -- who may read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "sent"),
    [
        ({"HF_TOKEN": "hf_good"}, "hf_good"),
        ({"HF_AUTH_TOKEN": "hf_good"}, "hf_good"),
        ({"HF_TOKEN": "hf_good", "HF_AUTH_TOKEN": "hf_other"}, "hf_good"),
        ({"HF_TOKEN": "", "HF_AUTH_TOKEN": " hf_good\n"}, "hf_good"),
    ],
)
def test_a_private_model_with_a_token_of_either_variable(
    hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch, held: dict[str, str], sent: str
) -> None:
    hub.repos[_TINY].private = True
    for variable, value in held.items():
        monkeypatch.setenv(variable, value)
    assert _held(fetch(_reference(), cache=cache).folder) == _WANTED
    assert set(hub.authorizations) == {f"Bearer {sent}"}


def test_no_token_is_sent_where_none_is_set(hub: HubServer, cache: Path) -> None:
    fetch(_reference(), cache=cache)
    assert set(hub.authorizations) == {""}


@pytest.mark.parametrize("variable", ["HF_TOKEN", "HF_AUTH_TOKEN"])
def test_a_token_the_hub_refuses(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "hf_stale")
    with pytest.raises(HubError) as error:
        fetch(_reference(), cache=cache)
    message = _one_line(error)
    assert f"does not accept the token in {variable}" in message
    assert "hf_stale" not in message


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_a_gated_model_says_where_to_accept_its_licence(
    hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    hub.add("org/gated", _WANTED, gated=True)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError) as error:
        fetch(_reference(name="org/gated"), cache=cache)
    message = _one_line(error)
    assert f"org/gated is gated: accept its licence at {hub.url}/org/gated" in message
    assert ("the one in HF_TOKEN may not" if token else "into HF_TOKEN") in message


def test_a_gated_model_opens_to_a_reader(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/gated", _WANTED, gated=True)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert _held(fetch(_reference(name="org/gated"), cache=cache).folder) == _WANTED


@pytest.mark.parametrize("token", [None, "hf_other"])
def test_an_unknown_model(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError) as error:
        fetch(_reference(name="org/tony"), cache=cache)
    message = _one_line(error)
    assert f"{hub.url} has no model 'org/tony'" in message
    assert "HF_TOKEN" in message
    assert not cache.exists()


def test_what_cannot_be_an_id(hub: HubServer, cache: Path) -> None:
    with pytest.raises(UserError, match="cannot be a hub id"):
        fetch(_reference(name="org/ti--ny"), cache=cache)
    with pytest.raises(UserError, match="not a hub id"):
        fetch(_reference(name="./org/tiny"), cache=cache)


@pytest.mark.parametrize(("status", "words"), [(500, "status 500: try again later"), (403, "forbids it")])
def test_a_hub_that_is_unwell(hub: HubServer, cache: Path, status: int, words: str) -> None:
    hub.status = status
    with pytest.raises(HubError) as error:
        fetch(_reference(), cache=cache)
    assert words in _one_line(error)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(("status", "words"), [(500, "status 500: try again later"), (403, "forbids it")])
def test_a_hub_that_lists_files_and_does_not_give_them(hub: HubServer, cache: Path, status: int, words: str) -> None:
    hub.file_status = status
    with pytest.raises(HubError) as error:
        fetch(_reference(), cache=cache)
    assert words in _one_line(error)


# -- connections that break ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_waiting")
def test_a_broken_download_goes_on_where_it_broke(hub: HubServer, cache: Path) -> None:
    weights = np.random.default_rng(0).bytes(100_000)
    hub.add("org/large", {"config.json": b"{}", "model.safetensors": weights})
    hub.breaks["model.safetensors"] = [40_960, 20_480]
    found = fetch(_reference(name="org/large"), cache=cache)
    assert (found.folder / "model.safetensors").read_bytes() == weights
    assert [range for _, range in hub.ranges] == ["bytes=40960-", "bytes=61440-"]
    assert hub.sent["model.safetensors"] == len(weights)


@pytest.mark.usefixtures("no_waiting")
def test_running_again_after_a_lasting_break_fetches_only_the_rest(hub: HubServer, cache: Path) -> None:
    hub.add("org/large", {"config.json": b"{}", "README.md": b"r", "model.safetensors": bytes(50_000)})
    reference = _reference(name="org/large")
    hub.breaks["model.safetensors"] = [0] * 100
    with pytest.raises(HubError) as error:
        fetch(reference, cache=cache)
    message = _one_line(error)
    assert "run again to go on: finished files are kept" in message
    assert not list(cache.rglob("model.safetensors"))
    hub.breaks.clear()
    hub.asked.clear()
    finished = {path.name for path in cache.rglob("*") if path.is_symlink()}
    found = fetch(reference, cache=cache)
    assert (found.folder / "model.safetensors").read_bytes() == bytes(50_000)
    assert finished == {"config.json", "README.md"}
    assert hub.gets() == ["model.safetensors"]


def test_no_connection_and_no_cache(hub: HubServer, cache: Path) -> None:
    hub.stop()
    with pytest.raises(HubError) as error:
        fetch(_reference(), cache=cache)
    assert f"the connection to {hub.url} failed" in _one_line(error)


def test_no_connection_but_a_whole_copy(hub: HubServer, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = fetch(_reference(), cache=cache)
    hub.stop()
    assert fetch(_reference(), cache=cache) == first
    assert f"using commit {first.commit[:12]} from the cache" in caplog.text


# -- offline ------------------------------------------------------------------------------------------------


def test_offline_with_a_copy(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetch(_reference(), cache=cache)
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch(_reference(), cache=cache) == first
    listing = describe(_reference(), cache=cache)
    assert (listing.folder, listing.commit, listing.download_bytes) == (first.folder, first.commit, 0)
    assert {file.name: file.size for file in listing.files} == {n: len(data) for n, data in _WANTED.items()}
    assert not hub.asked


def test_offline_without_a_copy(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for ask in (fetch, describe):
        with pytest.raises(HubError) as error:
            ask(_reference(), cache=cache)
        assert f"not whole in the cache {cache}: unset HF_HUB_OFFLINE" in _one_line(error)
    assert not hub.asked


@pytest.mark.parametrize("lost", ["model-00002-of-00002.safetensors", "config.json"])
def test_offline_with_part_of_a_copy(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """Even where nothing but the folder is left: another tool may have made it, without a listing."""
    shards = {f"model-0000{i}-of-00002.safetensors": save({f"t{i}": np.ones(2, np.float32)}) for i in (1, 2)}
    index = json.dumps({"weight_map": {f"t{i}": name for i, name in enumerate(shards, 1)}}).encode()
    hub.add("org/large", {"config.json": b"{}", "model.safetensors.index.json": index, **shards})
    found = fetch(_reference(name="org/large"), cache=cache)
    moved = cache.parent / "elsewhere"
    shutil.copytree(cache, moved, symlinks=True)
    shutil.rmtree(moved / "models--org--large" / "trees")
    (moved / found.folder.relative_to(cache) / lost).unlink()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError) as error:
        fetch(_reference(name="org/large"), cache=moved)
    assert f"(no {lost})" in _one_line(error)


# -- what must not happen -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json",
        "../../../../evil.safetensors",
        "/evil.json",
        "sub/../../evil.json",
        "..\\evil.json",
        "C:evil.json",
        "//host/evil.json",
        "evil\n.json",
    ],
)
def test_a_listing_that_would_write_elsewhere_is_refused(hub: HubServer, cache: Path, name: str) -> None:
    hub.add("org/evil", {**_WANTED, name: b"evil"})
    for ask in (fetch, describe):
        with pytest.raises(HubError) as error:
            ask(_reference(name="org/evil"), cache=cache)
        assert "which would lie outside its folder" in _one_line(error)
    assert hub.gets() == []
    assert not [path for path in cache.parent.rglob("*") if path.is_file()]


def test_a_commit_that_would_write_elsewhere_is_refused(hub: HubServer, cache: Path) -> None:
    hub.repos["org/evil"] = hub.repos[_TINY]
    hub.repos["org/evil"].commits["../../../evil"] = _WANTED
    hub.repos["org/evil"].refs["main"] = "../../../evil"
    with pytest.raises(HubError) as error:
        fetch(_reference(name="org/evil"), cache=cache)
    assert "does not answer as a hub does" in _one_line(error)
    assert not [path for path in cache.parent.rglob("*") if path.is_file()]


def test_too_little_room_is_said_before_the_download(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 0, 10))
    with pytest.raises(HubError) as error:
        fetch(_reference(), cache=cache)
    assert "set HF_HOME to another disk" in _one_line(error)
    assert hub.gets() == []


def test_a_disk_that_fills_up(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.file_download as file_download

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(HubError) as error:
        fetch(_reference(), cache=cache)
    assert f"the disk of {cache} is full" in _one_line(error)


# -- before a download --------------------------------------------------------------------------------------


def test_describe_downloads_and_writes_nothing(hub: HubServer, cache: Path) -> None:
    listing = describe(_reference(), cache=cache)
    assert listing.commit == commit_of(_WANTED | _UNWANTED)
    assert {file.name: file.size for file in listing.files} == {n: len(data) for n, data in _WANTED.items()}
    assert listing.total_bytes == listing.download_bytes == sum(map(len, _WANTED.values()))
    assert listing.folder is None
    assert hub.gets() == []
    assert not cache.exists()


def test_describe_knows_what_is_cached(hub: HubServer, cache: Path) -> None:
    found = fetch(_reference(), cache=cache)
    assert describe(_reference(), cache=cache).folder == found.folder
    repo = hub.repos[_TINY]
    changed = _WANTED | {"config.json": b'{"model_type": "llama"}'}
    repo.refs["main"] = commit_of(changed)
    repo.commits[repo.refs["main"]] = changed
    listing = describe(_reference(), cache=cache)
    assert listing.folder is None
    assert [file.name for file in listing.files if not file.cached] == ["config.json"]
    assert listing.download_bytes == len(changed["config.json"])


def test_headers_are_read_without_the_weights(hub: HubServer) -> None:
    weights = save({"big": np.zeros(300_000, np.float32), "small": np.zeros((2, 5), np.float16)})
    hub.add("org/large", {"config.json": b"{}", "model.safetensors": weights})
    found = headers(_reference(name="org/large"))["model.safetensors"]
    assert {name: (header.dtype, header.shape, header.offsets) for name, header in found.items()} == {
        "big": ("F32", (300_000,), (0, 1_200_000)),
        "small": ("F16", (2, 5), (1_200_000, 1_200_020)),
    }
    assert hub.sent["model.safetensors"] < 110_000


def test_headers_of_a_file_that_is_none(hub: HubServer) -> None:
    hub.add("org/bad", {"config.json": b"{}", "model.safetensors": (20).to_bytes(8, "little") + b"{not json" * 9})
    with pytest.raises(HubError) as error:
        headers(_reference(name="org/bad"))
    assert "header" in _one_line(error)


# -- in a process of its own --------------------------------------------------------------------------------


def _run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING_FACE"))}
    return subprocess.run([sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, timeout=60)


_FETCH = f"""
from modist.checkpoint.hub import fetch
from modist.recipe.reference import ModelReference
print(fetch(ModelReference({_TINY!r})).folder)
"""


def test_endpoint_token_and_offline_from_the_environment(hub: HubServer, tmp_path: Path) -> None:
    hub.repos[_TINY].private = True
    home = str(tmp_path / "home")
    first = _run(_FETCH, HF_ENDPOINT=hub.url + "/", HF_HOME=home, HF_AUTH_TOKEN="hf_good")
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert folder.is_relative_to(home)
    assert _held(folder) == _WANTED
    assert first.stderr == ""  # no progress bars where nobody looks
    hub.asked.clear()
    second = _run(_FETCH, HF_ENDPOINT=hub.url, HF_HOME=home, HF_HUB_OFFLINE="1")
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert not hub.asked


def test_huggingface_hub_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, modist.checkpoint.hub; print([m for m in sys.modules if m.startswith('huggingface')])"
    assert _run(code).stdout.strip() == "[]"


def test_a_listing_counts_its_bytes() -> None:
    from modist.checkpoint.hub import HubFile

    listing = HubListing("a/b", "0" * 40, (HubFile("x", 3, True), HubFile("y", 4, False)), None)
    assert (listing.total_bytes, listing.download_bytes) == (7, 4)
