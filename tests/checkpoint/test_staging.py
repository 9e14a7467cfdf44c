"""The folder in which an output grows: its journal, its lock, its one rename."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modist.checkpoint import staging as module
from modist.checkpoint.staging import MANIFEST, Staging, boot_id, check_output, swap_folders
from modist.errors import MergeError, UserError

CAN_SWAP = sys.platform == "linux"


def begun(out: Path, fingerprint: str = "f", resume: bool = False) -> Staging:
    staging = Staging(out)
    staging.begin(fingerprint, resume)
    return staging


def killed(out: Path, *tensors: str, fingerprint: str = "f", synced: int | None = None) -> Path:
    """What a process leaves that is killed after finishing some tensors; gives its journal."""
    staging = begun(out, fingerprint)
    for name in tensors:
        staging.finish(name, {"n": 1.0})
    if synced is not None:
        staging.synced(synced)
    staging.close()
    return staging.root / "journal.jsonl"


def fill(folder: Path, text: str = "new", fingerprint: str = "f") -> None:
    """A finished output: one file and the manifest that lists it."""
    folder.mkdir(exist_ok=True)
    (folder / "x").write_text(text)
    (folder / MANIFEST).write_text(json.dumps({"files": {"x": {}}, "fingerprint": fingerprint}))


# ---------------------------------------------------------------- journal


def test_a_killed_run_is_continued(tmp_path: Path) -> None:
    killed(tmp_path / "out", "a", "b")
    staging = Staging(tmp_path / "out")
    assert staging.begin("f", resume=True)
    assert staging.finished == {"a": {"n": 1.0}, "b": {"n": 1.0}}
    assert staging.recorded == 2
    staging.finish("c", {})
    staging.close()
    again = begun(tmp_path / "out", resume=True)
    assert list(again.finished) == ["a", "b", "c"]
    again.close()


def test_without_resume_all_starts_over(tmp_path: Path) -> None:
    journal = killed(tmp_path / "out", "a")
    (journal.parent / "model" / "x").write_text("old")
    staging = Staging(tmp_path / "out")
    assert not staging.begin("f", resume=False)
    assert staging.finished == {}
    assert list(staging.model.iterdir()) == []
    staging.close()


def test_resume_where_nothing_is_there_starts_afresh(tmp_path: Path) -> None:
    staging = Staging(tmp_path / "deep" / "out")
    assert not staging.begin("f", resume=True)
    assert staging.model.is_dir()
    staging.close()


def test_another_merge_is_not_continued_and_not_harmed(tmp_path: Path) -> None:
    journal = killed(tmp_path / "out", "a")
    before = journal.read_bytes()
    staging = Staging(tmp_path / "out")
    with pytest.raises(UserError, match="another recipe"):
        staging.begin("g", resume=True)
    staging.close()
    assert journal.read_bytes() == before


@pytest.mark.parametrize("torn", range(1, 30, 4))
def test_a_torn_last_line_counts_for_nothing(tmp_path: Path, torn: int) -> None:
    journal = killed(tmp_path / "out", "a", "b")
    journal.write_bytes(journal.read_bytes()[:-torn])
    staging = begun(tmp_path / "out", resume=True)
    assert list(staging.finished) == ["a"]
    staging.close()


@pytest.mark.parametrize("garbage", [b"\0" * 40 + b"\n", b"[]\n", b"nonsense\n", b'{"tensor": 5}\n', b"\xff\n"])
def test_nothing_after_garbage_is_believed(tmp_path: Path, garbage: bytes) -> None:
    journal = killed(tmp_path / "out", "a")
    with journal.open("ab") as file:
        file.write(garbage + (b"" if b"tensor" in garbage else b'{"tensor": "b", "note": {}}\n'))
    staging = begun(tmp_path / "out", resume=True)
    assert list(staging.finished) == ["a"]
    staging.close()


@pytest.mark.parametrize(("synced", "believed"), [(None, []), (0, []), (1, ["a"]), (2, ["a", "b"])])
def test_after_a_reboot_only_what_was_synced_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced: int | None, believed: list[str]
) -> None:
    killed(tmp_path / "out", "a", "b", synced=synced)
    monkeypatch.setattr(module, "boot_id", lambda: "another boot")
    staging = begun(tmp_path / "out", resume=True)
    assert list(staging.finished) == believed
    staging.close()


def test_a_system_without_boot_ids_believes_only_what_was_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BOOT_ID", tmp_path / "none")
    assert boot_id() == "unknown"
    killed(tmp_path / "out", "a", "b", synced=1)
    staging = begun(tmp_path / "out", resume=True)
    assert list(staging.finished) == ["a"]
    staging.close()


def test_a_resume_that_fails_keeps_what_was_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full: the old journal must survive the attempt to write a new one."""
    journal = killed(tmp_path / "out", "a")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    staging = Staging(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(MergeError, match="full"):
            staging.begin("f", resume=True)
        staging.abandon_if_empty()
    assert journal.exists()
    again = begun(tmp_path / "out", resume=True)
    assert list(again.finished) == ["a"]
    again.close()


def test_nothing_is_left_where_nothing_was_finished(tmp_path: Path) -> None:
    staging = begun(tmp_path / "out")
    staging.abandon_if_empty()
    assert list(tmp_path.iterdir()) == []
    staging = begun(tmp_path / "out")
    staging.finish("a", {})
    staging.abandon_if_empty()
    assert (tmp_path / "out.partial").is_dir()


# ---------------------------------------------------------------- lock


def test_a_second_process_is_refused_and_does_no_harm(tmp_path: Path) -> None:
    staging = begun(tmp_path / "out")
    staging.finish("a", {})
    code = (
        "import sys; from pathlib import Path; from modist.checkpoint.staging import Staging\n"
        "from modist.errors import UserError\n"
        "staging = Staging(Path(sys.argv[1]))\n"
        "try: staging.begin('f', sys.argv[2] == 'resume')\n"
        "except UserError as error: print(error); staging.abandon_if_empty(); staging.sweep(); sys.exit(7)\n"
    )
    for how in ("resume", "afresh"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "out"), how], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 7, done.stderr
        assert "another process" in done.stdout
    staging.finish("b", {})
    staging.close()
    again = begun(tmp_path / "out", resume=True)
    assert list(again.finished) == ["a", "b"]
    again.close()


def test_sweeping_removes_what_is_left_and_nothing_else(tmp_path: Path) -> None:
    killed(tmp_path / "out", "a")
    Staging(tmp_path / "out").sweep()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").write_text("x")
    Staging(tmp_path / "out").sweep()
    assert (tmp_path / "out.partial" / "mine").exists()


# ---------------------------------------------------------------- commit


def test_commit_makes_the_output_appear(tmp_path: Path) -> None:
    staging = begun(tmp_path / "out")
    fill(staging.model)
    staging.commit()
    assert (tmp_path / "out" / "x").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_commit_takes_the_place_of_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    staging = begun(tmp_path / "out")
    fill(staging.model)
    staging.commit()
    assert (tmp_path / "out" / "x").read_text() == "new"


@pytest.fixture(params=[pytest.param(True, marks=pytest.mark.skipif(not CAN_SWAP, reason="needs renameat2")), False])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With folders swapped in one step, and as on systems that cannot."""
    if not request.param:
        monkeypatch.setattr(module, "swap_folders", lambda one, two: False)
    return bool(request.param)


def test_commit_replaces_an_older_output(tmp_path: Path, swap: bool) -> None:
    fill(tmp_path / "out", "old")
    staging = begun(tmp_path / "out")
    fill(staging.model)
    staging.commit()
    assert (tmp_path / "out" / "x").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["before", "between", "after"])
@pytest.mark.parametrize("resume", [True, False])
def test_killed_while_replacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool, moment: str, resume: bool) -> None:
    """At each step of the commit either the old output or the new one can be had, whole; the next run brings it back."""
    out = tmp_path / "out"
    fill(out, "old", "another")
    staging = begun(out)
    staging.finish("a", {})
    fill(staging.model)

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "before":
            patch.setattr(module, "_sync_folder", die)
        elif moment == "after":
            patch.setattr(shutil, "rmtree", die)
        elif swap:
            pytest.skip("a swap has no between")
        else:
            rename = Path.rename
            patch.setattr(Path, "rename", lambda self, target: die() if self == staging.model else rename(self, target))
        with pytest.raises(Killed):
            staging.commit()
    staging.close()  # as the death of a process does
    if moment != "between":
        assert (out / "x").read_text() == ("new" if moment == "after" else "old")
    again = Staging(out)
    going_on = again.begin("f", resume=resume)
    assert (out / "x").read_text() == ("new" if moment == "after" else "old"), "a whole output is there again"
    assert going_on == (resume and moment != "after")
    if going_on:
        assert list(again.finished) == ["a"]
        again.commit()
        assert (out / "x").read_text() == "new"
    else:
        again.discard()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_swapped_older_output_is_never_taken_for_the_new_one(tmp_path: Path) -> None:
    """Killed after the swap, and then the new output is deleted by hand: the journal must not speak for the old data."""
    out = tmp_path / "out"
    journal = killed(out, "a")
    fill(journal.parent / "model", "old", "another")
    staging = Staging(out)
    assert not staging.begin("f", resume=True)
    assert list(staging.model.iterdir()) == []
    staging.close()


@pytest.mark.skipif(not CAN_SWAP, reason="needs renameat2")
def test_swapping_is_one_step(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert swap_folders(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists() and (tmp_path / "b" / "a").exists()
    with pytest.raises(OSError):
        swap_folders(tmp_path / "a", tmp_path / "none")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    staging = begun(tmp_path / "out")
    fill(staging.model)
    staging.commit()
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "x").read_text() == "new"


# ---------------------------------------------------------------- what stands in the way


def test_a_folder_called_partial_that_is_someone_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "thesis").write_text("x")
    staging = Staging(tmp_path / "out")
    with pytest.raises(UserError, match="not made by modist"):
        staging.begin("f", resume=False)
    staging.abandon_if_empty()
    assert (tmp_path / "out.partial" / "thesis").exists()


def test_a_file_or_link_called_partial_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.partial").write_text("x")
    with pytest.raises(UserError, match="in the way"):
        Staging(tmp_path / "out").begin("f", resume=False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "two.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="in the way"):
        Staging(tmp_path / "two").begin("f", resume=False)


def test_outputs_that_clash_with_an_input(tmp_path: Path) -> None:
    parent = tmp_path / "a" / "parent"
    parent.mkdir(parents=True)
    (tmp_path / "link").symlink_to(parent)
    inputs = {"p": parent}
    for out, words in (
        (parent, "this is the input p"),
        (tmp_path / "link", "this is the input p"),
        (tmp_path / "a" / "." / "parent", "this is the input p"),
        (tmp_path / "a" / "parent" / ".." / "parent", "this is the input p"),
        (parent / "out", "lies inside the input p"),
        (tmp_path / "link" / "out", "lies inside the input p"),
        (tmp_path / "a", "lies inside it"),
        (Path("/"), "root"),
    ):
        with pytest.raises(UserError, match=words):
            check_output(out, inputs)
    check_output(tmp_path / "out", inputs)


@pytest.mark.parametrize("inside", ["", "model"])
def test_an_input_where_the_output_would_be_built(tmp_path: Path, inside: str) -> None:
    parent = tmp_path / "out.partial" / inside
    parent.mkdir(parents=True)
    with pytest.raises(UserError, match="would be built in"):
        check_output(tmp_path / "out", {"p": parent})


def test_outputs_that_are_not_modists(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        check_output(tmp_path / "file", {})
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="link to nowhere"):
        check_output(tmp_path / "lost", {})
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(UserError):
        check_output(tmp_path / "round", {})
    with pytest.raises(UserError):
        check_output(tmp_path / ("x" * 300), {})
    full = tmp_path / "full"
    full.mkdir()
    check_output(full, {})
    (full / "thesis").write_text("x")
    with pytest.raises(UserError, match="not written by modist"):
        check_output(full, {})
    for manifest in ("[]", "{}", "nonsense", '{"files": 5}', '{"files": null}', '{"a":' * 100_000):
        (full / MANIFEST).write_text(manifest)
        with pytest.raises(UserError, match="not written by modist"):
            check_output(full, {})
    fill(full)
    with pytest.raises(UserError, match="'thesis'"):
        check_output(full, {})
    (full / "thesis").unlink()
    check_output(full, {})
    (full / "sub").mkdir()
    (full / "sub" / "mine").write_text("x")
    with pytest.raises(UserError, match="sub/mine"):
        check_output(full, {})
