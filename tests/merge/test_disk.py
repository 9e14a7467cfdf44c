"""Disks that are full or read-only, and outputs that stand in the way of something."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modist.errors import MergeError, UserError
from modist.merge import merge as merge_models
from modist.merge import run
from modist.merge.verify import verify
from tests.tiny_models import Trio, plain_trio, read_folder, write_folder, write_recipe

Command = Callable[..., subprocess.CompletedProcess[str]]


def linear(trio: Trio, **more: Any) -> dict[str, Any]:
    models = [{"model": model, "parameters": {"weight": 0.5}} for model in (trio.one, trio.two)]
    return {"merge_method": "linear", "models": models, **more}


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Trio:
    """Three models of 0.6 MB."""
    return plain_trio(tmp_path_factory.mktemp("disk"), hidden=96, inner=192, vocabulary=256)


@pytest.fixture
def recipe(trio: Trio, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "r.yml", linear(trio))


def mounted(place: Path, options: str) -> None:
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this system mounts no tmpfs: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB."""
    place = tmp_path / "disk"
    mounted(place, "size=3m")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def one_error(ran: subprocess.CompletedProcess[str], status: int) -> str:
    errors = [line for line in ran.stderr.splitlines() if line.startswith("modist: error: ")]
    assert ran.returncode == status and len(errors) == 1 and "Traceback" not in ran.stderr, ran.stderr
    assert "please report" not in ran.stderr
    return errors[0]


# ---------------------------------------------------------------- full, read-only


def test_too_small_a_disk_is_seen_before_anything_is_written(command: Command, recipe: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(2_700_000))
    line = one_error(command(recipe, name="disk/out"), 1)
    assert "the disk is full" in line and "bytes" in line
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


def test_a_disk_too_small_although_it_seemed_large_enough(
    command: Command, recipe: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process fills it after the look: space for the files cannot be set aside."""
    (small_disk / "ballast").write_bytes(bytes(2_700_000))
    monkeypatch.setattr(run, "_check_space", lambda *_: None)
    line = one_error(command(recipe, name="disk/out"), 1)
    assert "the disk is full" in line
    assert [path.name for path in small_disk.iterdir()] == ["ballast"]


@pytest.mark.parametrize("when", ["blend", "fsync", "verify"])
def test_a_disk_that_fills_up_midway(
    trio: Trio, recipe: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """What was finished stays, the error says so in words, and once there is room the same bytes come."""
    merge_models(recipe, recipe.parent / "whole")
    ballast, left = small_disk / "ballast", [9]
    # As on a disk that cannot set space aside beforehand.
    monkeypatch.setattr("modist.checkpoint.shards._allocate", lambda descriptor, size: os.ftruncate(descriptor, size))

    def fill(phase: str) -> None:
        if phase == when:
            left[0] -= 1
        if phase == when and (left[0] == 0 or when != "blend"):
            with ballast.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    pass

    out = small_disk / "out"
    with pytest.raises(MergeError, match="the disk is full"):
        merge_models(recipe, out, threads=1, watch=run.Watch(phase=fill))
    assert not out.exists()
    with pytest.raises(MergeError, match="the disk is full"):
        merge_models(recipe, out, threads=1, resume=True)
    assert not out.exists()
    ballast.unlink()
    report = merge_models(recipe, out, resume=True)
    assert report.resumed > 0
    assert (out / "model.safetensors").read_bytes() == (recipe.parent / "whole" / "model.safetensors").read_bytes()
    assert verify(out).passed


def test_a_full_disk_over_an_older_output_leaves_it(command: Command, trio: Trio, recipe: Path, small_disk: Path) -> None:
    assert command(recipe, name="disk/out").returncode == 0
    before = (small_disk / "out" / "model.safetensors").read_bytes()
    with (small_disk / "ballast").open("wb", buffering=0) as file:
        for _ in range(400):
            file.write(bytes(4096))
    one_error(command(linear(trio, dtype="float32"), name="disk/out"), 1)
    assert (small_disk / "out" / "model.safetensors").read_bytes() == before
    assert verify(small_disk / "out").passed
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "out", "out.yml"]


def test_a_read_only_mount(command: Command, recipe: Path, small_disk: Path) -> None:
    assert command(recipe, name="disk/old").returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        assert "read-only" in one_error(command(recipe, name="disk/out"), 1)
        assert "read-only" in one_error(command(recipe, name="disk/old"), 1)
        again = command(recipe, "--resume", name="disk/old")
        assert again.returncode == 0, "its own finished output needs no writing"
        assert verify(small_disk / "old").passed
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert [path.name for path in small_disk.iterdir()] == ["old"]


def test_inputs_on_a_read_only_mount(command: Command, trio: Trio, small_disk: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(getattr(trio, name), small_disk / name)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    try:
        assert command(linear(Trio(trio.base, small_disk / "one", small_disk / "two"))).returncode == 0
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)


def test_a_folder_without_permission(command: Command, recipe: Path, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (tmp_path / "shut").mkdir(mode=0o500)
    assert "permission" in one_error(command(recipe, name="shut/out"), 1)


# ---------------------------------------------------------------- outputs in the way


def test_the_output_is_an_input(command: Command, trio: Trio, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(getattr(trio, name), tmp_path / name)
    mine = linear(Trio(trio.base, tmp_path / "one", tmp_path / "two"))
    (tmp_path / "link").symlink_to(tmp_path / "one")
    before = {path: path.read_bytes() for name in ("one", "two") for path in (tmp_path / name).iterdir()}
    recipe = write_recipe(tmp_path / "r.yml", mine)
    for name, words in (
        ("one", "this is the input one"),
        ("./two/.", "this is the input two"),
        ("link", "this is the input one"),
        ("one/out", "lies inside the input one"),
        ("link/deep/out", "lies inside the input one"),
        (".", "lies inside it"),
        ("..", "lies inside it"),
    ):
        assert words in one_error(command(recipe, name=name), 2), name
        assert words in one_error(command(recipe, "--resume", name=name), 2), name
    assert before == {path: path.read_bytes() for name in ("one", "two") for path in (tmp_path / name).iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "one", "r.yml", "two"]


def test_an_input_where_the_output_is_built(command: Command, trio: Trio, tmp_path: Path) -> None:
    shutil.copytree(trio.one, tmp_path / "out.partial")
    before = sorted(path.name for path in (tmp_path / "out.partial").iterdir())
    one_error(command(linear(Trio(trio.base, tmp_path / "out.partial", trio.two))), 2)
    shutil.rmtree(tmp_path / "out.partial")
    shutil.copytree(trio.one, tmp_path / "out.partial")
    assert "not made by modist" in one_error(command(linear(trio)), 2)
    assert sorted(path.name for path in (tmp_path / "out.partial").iterdir()) == before


def test_the_output_is_a_link(command: Command, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "disk2").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk2")
    for _ in range(2):
        assert command(recipe).returncode == 0
        assert (tmp_path / "out").is_symlink()
        assert verify(tmp_path / "disk2").passed
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    assert "link to nowhere" in one_error(command(recipe, name="lost"), 2)
    (tmp_path / "round").symlink_to(tmp_path / "round")
    one_error(command(recipe, name="round"), 2)


def test_the_output_holds_what_modist_did_not_write(command: Command, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("x")
    assert "not written by modist" in one_error(command(recipe), 2)
    (out / "thesis.tex").unlink()
    assert command(recipe).returncode == 0
    (out / "thesis.tex").write_text("x")
    assert "'thesis.tex'" in one_error(command(recipe), 2)
    assert (out / "thesis.tex").read_text() == "x"
    assert verify(out).passed


def test_the_output_is_a_file(command: Command, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    assert "is a file" in one_error(command(recipe), 2)
    one_error(command(recipe, name="out/deeper"), 1)
    assert (tmp_path / "out").read_text() == "x"


def test_missing_parents_are_made(command: Command, recipe: Path, tmp_path: Path) -> None:
    assert command(recipe, name="a/b/c").returncode == 0
    assert verify(tmp_path / "a" / "b" / "c").passed


@pytest.mark.parametrize("name", ["x" * 255, "x" * 260, "a/" * 3000 + "x"])
def test_names_that_are_too_long(command: Command, recipe: Path, name: str) -> None:
    one_error(command(recipe, name=name), 2)


def test_a_run_over_an_older_output_gives_the_new_one(command: Command, trio: Trio, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge_models(write_recipe(tmp_path / "old.yml", linear(trio, dtype="float32")), out, shard_bytes=400_000)
    assert len(list(out.glob("*.safetensors"))) > 1
    merge_models(recipe, out)
    assert [path.name for path in out.glob("*.safetensors*")] == ["model.safetensors"]
    assert verify(out, recipe).passed
    assert {tensor.dtype for tensor in read_folder(out).values()} == {"BF16"}
    assert not (tmp_path / "out.partial").exists()


def test_an_older_output_stays_where_the_new_merge_is_refused(trio: Trio, recipe: Path, tmp_path: Path) -> None:
    merge_models(recipe, tmp_path / "out")
    tensors = {name: tensor for name, tensor in read_folder(trio.two).items() if "norm" not in name}
    other = write_folder(tmp_path / "other", tensors)
    with pytest.raises(UserError):
        merge_models(write_recipe(tmp_path / "bad.yml", linear(Trio(trio.base, trio.one, other))), tmp_path / "out")
    assert verify(tmp_path / "out", recipe).passed
    assert not (tmp_path / "out.partial").exists()
