"""Results put on a hub, against one on this machine."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modist.checkpoint.hub_push import check_destination
from modist.errors import CheckpointError, HubError, ModistError, UserError
from modist.merge import merge
from modist.merge.publish import push
from modist.merge.verify import verify
from tests.checkpoint.hub_server import HubServer
from tests.tiny_models import plain_trio, write_recipe

REPO = "ada/merged"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    import huggingface_hub.constants as constants

    for variable in ("HF_TOKEN", "HF_AUTH_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    everyone = {"hf_good", "hf_reader"}
    with HubServer(tokens=everyone, readers=everyone, writers={"hf_good"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    trio = plain_trio(root, layers=1)
    models = [{"model": trio.one, "parameters": {"weight": 1}}, {"model": trio.two, "parameters": {"weight": 1}}]
    merge(write_recipe(root / "r.yml", {"merge_method": "linear", "models": models}), root / "out", shard_bytes=9000)
    return root / "out"


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, tmp_path / "out"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def there(hub: HubServer, revision: str = "main") -> dict[str, bytes]:
    repo = hub.repos[REPO]
    return {name: data for name, data in repo.commits[repo.refs[revision]].items() if name != ".gitattributes"}


def test_a_result_arrives_whole_private_and_in_one_commit(hub: HubServer, folder: Path) -> None:
    done = push(folder, REPO)
    assert there(hub) == contents(folder) and hub.repos[REPO].private
    assert hub.asked["POST", "commit"] == 1 and hub.messages == [done.message]
    assert done.message.startswith("Merge by linear (modist ")
    assert done.created and done.commit == hub.repos[REPO].refs["main"] and done.url == f"{hub.url}/{REPO}/commit/{done.commit}"
    assert done.files == {name: len(data) for name, data in contents(folder).items()} and done.removed == ()
    assert len([name for name in done.files if name.endswith(".safetensors")]) > 1
    assert b"base_model:" in there(hub)["README.md"]
    assert done.warnings == (
        "the card's base_model names one, two, which are folders here and no model there; edit its README.md, or merge from"
        " hub ids",
    )


def test_what_was_sent_is_not_sent_twice_and_old_weights_go(hub: HubServer, folder: Path) -> None:
    push(folder, REPO, message="first")
    repo = hub.repos[REPO]
    old = {**repo.commits[repo.refs["main"]], "model-00009-of-00009.safetensors": b"old", "notes.md": b"kept",
           "pytorch_model.bin": b"old", "tokenizer.json": b"old"}  # fmt: skip
    repo.commits["f" * 40], repo.refs["main"] = old, "f" * 40
    sent = len(hub.large)
    done = push(folder, REPO, message="second")
    assert len(hub.large) == sent and hub.messages == ["first", "second"] and not done.created
    assert set(done.removed) == {"model-00009-of-00009.safetensors", "pytorch_model.bin", "tokenizer.json"}
    assert there(hub) == {**contents(folder), "notes.md": b"kept"}


def test_an_edited_card_goes_too(hub: HubServer, folder: Path) -> None:
    card = folder / "README.md"
    card.write_text(card.read_text().replace("- one", "- ada/one") + "\nIt tells stories.\n")
    done = push(folder, REPO)
    assert there(hub)["README.md"].endswith(b"stories.\n") and done.warnings[0].startswith("the card's base_model names two,")
    assert verify(folder).passed and "README.md was edited" in verify(folder).checks[0].detail
    card.unlink()
    with pytest.raises(CheckpointError, match=r"README\.md is missing"):
        push(folder, REPO)


def test_a_branch(hub: HubServer, folder: Path) -> None:
    push(folder, REPO, revision="trial")
    assert there(hub, "trial") == contents(folder) and there(hub) == {}
    push(folder, REPO, revision="trial", message="again")
    push(folder, REPO, revision="main")
    assert there(hub) == contents(folder)


def test_public_only_where_it_is_said(hub: HubServer, folder: Path) -> None:
    hub.add(REPO, {"README.md": b"# old"})
    with pytest.raises(UserError, match=r"ada/merged is public: what is pushed there, everyone sees; give --public"):
        push(folder, REPO)
    assert hub.messages == []
    push(folder, REPO, public=True)
    assert there(hub) == contents(folder)
    push(folder, "ada/other", public=True)
    assert not hub.repos["ada/other"].private


def test_a_dry_run_asks_no_hub(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    found = push(folder, REPO, dry_run=True, revision="trial", message="why")
    assert sum(hub.asked.values()) == 0 and hub.repos == {}
    assert found.total_bytes == sum(len(data) for data in contents(folder).values())
    assert (found.commit, found.url, found.created) == (None, None, None) and found.hub == hub.url
    assert found.as_dict()["total_bytes"] == found.total_bytes


def test_only_what_verifies_is_pushed(hub: HubServer, folder: Path, tmp_path: Path) -> None:
    weights = next(folder.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    for dry_run in (True, False):
        with pytest.raises(CheckpointError, match=r"does not verify, so it is not pushed: hashes: .* was changed"):
            push(folder, REPO, dry_run=dry_run)
    (folder / "modist_manifest.json").unlink()
    with pytest.raises(UserError, match="only results of modist can be verified"):
        push(folder, REPO)
    with pytest.raises(UserError, match="there is no such folder"):
        push(tmp_path / "nowhere", REPO)
    assert sum(hub.asked.values()) == 0


@pytest.mark.parametrize(
    "repo", ["merged", "ada/", "/merged", "a/b/c", "ada/m..d", "ada/x.git", "ada/ü", "../x", "ada/" + "x" * 99, ""]
)
def test_names_that_cannot_be(repo: str) -> None:
    with pytest.raises(UserError, match="is no repository of a hub; write OWNER/NAME"):
        check_destination(repo, None)


@pytest.mark.parametrize("revision", ["", "a b", "-x", "f" * 40])
def test_branches_that_cannot_be(revision: str) -> None:
    with pytest.raises(UserError, match=r"cannot be a branch|is a commit"):
        check_destination(REPO, revision)


def _refused(folder: Path) -> str:
    with pytest.raises(HubError) as error:
        push(folder, REPO)
    assert "\n" not in str(error.value) and str(error.value).startswith(REPO)
    return str(error.value)


def test_no_token_or_one_that_may_not(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    found = _refused(folder)
    assert "forbids it" in found and "the token in HF_TOKEN may lack the right to write, or is not of ada" in found
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    assert "does not accept the token in HF_TOKEN" in _refused(folder)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match="needs a token that may write: put one into HF_TOKEN"):
        push(folder, REPO)
    monkeypatch.setenv("HF_AUTH_TOKEN", "hf_good")
    push(folder, REPO)
    assert there(hub) == contents(folder)


@pytest.mark.parametrize(
    ("step", "status", "message"),
    [
        ("create", 403, "forbids it (the hub does not want to)"),
        ("create", 409, "reports a conflict (the hub does not want to): it was made or changed meanwhile; run again"),
        ("yaml", 400, 'Invalid metadata in README.md. - "base_model" must be a model'),
        ("preupload", 403, "forbids it"),
        ("lfs", 401, "does not accept the token in HF_TOKEN"),
        ("put", 403, "forbids it"),
        ("commit", 409, "reports a conflict"),
        ("commit", 412, "answers with status 412"),
        ("commit", 500, "answers with status 500 (the hub does not want to): try again later"),
        ("commit", 413, "finds it too large"),
        ("commit", 429, "too many requests"),
    ],
)
def test_what_the_hub_refuses_is_one_line_and_no_commit(
    step: str, status: int, message: str, hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.refusals[step] = status
    assert message in _refused(folder)
    assert hub.messages == [] and (REPO not in hub.repos or there(hub) == {})
    hub.refusals.clear()
    push(folder, REPO)
    assert there(hub) == contents(folder)


def test_no_connection_and_no_network(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    import huggingface_hub.constants as constants

    monkeypatch.setattr(time, "sleep", lambda _: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "nothing was committed: run again" in _refused(folder)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids asking the hub" in _refused(folder)


# -------------------------------------------------------------- the command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: Any) -> tuple[int, str, str]:
        import sys

        from modist.cli import main

        monkeypatch.setattr(sys, "argv", ["modist", *map(str, words)])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_the_command(hub: HubServer, folder: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = command("hub", "push", folder, REPO, "--dry-run")
    assert status == 0 and hub.repos == {}
    assert f"would push {len(contents(folder))} files" in out and f"to {hub.url}/{REPO}, private: 'Merge by linear" in out
    assert "README.md" in out and "warning: the card's base_model names one, two" in err
    status, out, _ = command("hub", "push", folder, REPO, "--json", "--message", "why")
    assert status == 0 and json.loads(out)["commit"] == hub.repos[REPO].refs["main"] and hub.messages == ["why"]
    status, out, _ = command("hub", "push", folder, "ada/two", "--public", "--revision", "trial")
    assert status == 0 and out.splitlines()[-1].startswith("made ada/two, public, and pushed")
    status, out, err = command("hub", "push", folder, "merged")
    assert status == 2 and out == "" and err.startswith("modist: error: 'merged' is no repository") and err.count("\n") == 1
    hub.refusals["commit"] = 403
    status, _, err = command("hub", "push", folder, REPO)
    assert status == 1 and err.count("\n") == 1 and "forbids it" in err
    assert issubclass(HubError, ModistError)
