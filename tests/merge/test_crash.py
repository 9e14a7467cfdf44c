"""SIGKILL at any moment: the output is whole or absent, and a resumed run writes the same bytes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modist.errors import MergeError, UserError
from modist.merge import MergeReport, Watch, run
from modist.merge import merge as merge_models
from modist.merge.verify import verify
from tests.adapters import every, make_lora
from tests.merge.test_tokenizers import WORDS
from tests.merge.test_tokenizers import model as vocabulary_model
from tests.tiny_models import llama_shapes, plain_trio, random_tensors, write_folder, write_recipe
from tests.vocabulary.tiny_tokenizers import words

DRIVER = Path(__file__).with_name("crash_driver.py")
BLOCK = 4096
METHODS = ("mod", "stack", "ties", "adapted", "dare_ties", "union")


@dataclass(frozen=True)
class Case:
    """A recipe, and the bytes that an uninterrupted merge by it gives."""

    recipe: Path
    digests: dict[str, str]
    tensors: int


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of all that is not the manifest or the card, which name the folder."""
    skipped = ("modist_manifest.json", "README.md")
    files = (path for path in sorted(out.iterdir()) if path.name not in skipped)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def quiet_merge(recipe: Path, out: Path, **options: Any) -> tuple[MergeReport, Counter[str]]:
    """Merge here, in small blocks; gives the report and how often each phase was entered."""
    phases: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Engine", functools.partial(run.Engine, block=BLOCK))
        report = merge_models(recipe, out, threads=2, watch=Watch(phase=lambda name: phases.update([name])), **options)
    return report, phases


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("crash")
    trio = plain_trio(folder, seed=3, shards=2, hidden=96, inner=192, vocabulary=256)
    modules = [*every("self_attn.q_proj"), *every("mlp.down_proj")]
    lora, other = (make_lora(folder / f"lora{seed}", trio.base, modules, seed=seed, rank=5 - seed).folder for seed in (0, 1))
    vocabularies = [
        vocabulary_model(folder / name, words(WORDS[::step], ["<x>", f"<{name}>"]), step + 5, padding=3, hidden=96, inner=192)
        for name, step in (("forth", 1), ("back", -1))
    ]
    tuned = [
        {"model": trio.one, "parameters": {"weight": 0.6, "density": 0.5}},
        {"model": trio.two, "parameters": {"weight": 0.4, "density": 0.7}},
    ]
    recipes: dict[str, dict[str, Any]] = {
        "mod": {
            "experts": [{"source_model": trio.one}, {"source_model": trio.two}],
            "weights": [0.6, 0.4],
            "scope": "all",
        },
        "ties": {"merge_method": "ties", "base_model": trio.base, "models": tuned},
        "dare_ties": {"merge_method": "dare_ties", "base_model": trio.base, "models": tuned},
        # The middle layers of two models of three, merged at depths of their own, twice.
        "stack": {
            "merge_method": "della",
            "base_model": trio.base,
            "slices": [
                {
                    "sources": [
                        {"model": trio.base, "layer_range": [1, 4]},
                        {"model": trio.one, "layer_range": [first, first + 3], "parameters": {"weight": 0.6, "density": 0.5}},
                        {"model": trio.two, "layer_range": [1, 4], "parameters": {"weight": 0.4, "density": 0.7}},
                    ]
                }
                for first in (0, 1)
            ],
        },
        "adapted": {"merge_method": "linear", "models": [
            {"model": f"{trio.base}+{lora}", "parameters": {"weight": 0.6}},
            {"model": f"{trio.one}+{other}", "parameters": {"weight": 0.4}},
        ]},
        "union": {"merge_method": "linear", "tokenizer": {"source": "union", "pad_to_multiple_of": 8}, "models": [
            {"model": path, "parameters": {"weight": 0.5}} for path in vocabularies
        ]},
    }  # fmt: skip
    found = {}
    for name, recipe in recipes.items():
        path = write_recipe(folder / f"{name}.yml", recipe)
        merge_models(path, folder / name, threads=1)
        plan = run.prepare(path).plan
        found[name] = Case(path, digests(folder / name), len(plan.tensors))
    path = write_recipe(folder / "adapters.yml", {"merge_method": "linear", "models": [
        {"model": lora, "parameters": {"weight": 0.6}}, {"model": other, "parameters": {"weight": 0.4}}]})  # fmt: skip
    merge_models(path, folder / "adapters")
    found["adapters"] = Case(path, digests(folder / "adapters"), 0)
    return found


def start(case: Case, out: Path, **options: Any) -> subprocess.Popen[bytes]:
    wanted = {"recipe": str(case.recipe), "out": str(out), **options}
    return subprocess.Popen([sys.executable, str(DRIVER), json.dumps(wanted)], stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes], *statuses: int) -> int:
    _, errors = process.communicate(timeout=120)
    assert process.returncode in statuses, errors.decode()
    return process.returncode


def whole_or_absent(out: Path, old: dict[str, str] | None = None) -> str:
    """What OUT is after a kill: `absent`, the `old` output, or the `new`; anything else fails."""
    if not out.exists():
        return "absent"
    report = verify(out)
    assert report.passed, report
    return "old" if old is not None and digests(out) == old else "new"


def resumed(case: Case, out: Path) -> tuple[MergeReport, Counter[str]]:
    """Resume here and check the result."""
    report, phases = quiet_merge(case.recipe, out, resume=True)
    assert digests(out) == case.digests
    assert verify(out, case.recipe).passed
    assert not out.with_name(out.name + ".partial").exists()
    return report, phases


# ---------------------------------------------------------------- chosen moments

MOMENTS = [
    *[("ties", *moment) for moment in (("survey", 30), ("blend", 12), ("advance", 40), ("fsync", 0), ("verify", 0))],
    *[("ties", moment, 0) for moment in ("rename", "replaced")],
    *[("mod", *moment) for moment in (("survey", 14), ("blend", 9), ("fsync", 0))],
    *[("dare_ties", *moment) for moment in (("survey", 20), ("advance", 33), ("rename", 0))],
    *[("stack", *moment) for moment in (("survey", 40), ("blend", 25), ("verify", 0))],
    *[("adapted", *moment) for moment in (("advance", 30), ("rename", 0))],
    *[("union", *moment) for moment in (("advance", 12), ("rename", 0))],
]


@pytest.mark.parametrize(("method", "moment", "after"), MOMENTS, ids=lambda value: str(value))
def test_killed_at_a_chosen_moment(cases: dict[str, Case], tmp_path: Path, method: str, moment: str, after: int) -> None:
    case, out = cases[method], tmp_path / "out"
    ended(start(case, out, die=moment, after=after), -signal.SIGKILL)
    assert whole_or_absent(out) == ("new" if moment == "replaced" else "absent")
    report, phases = resumed(case, out)
    if moment == "replaced":
        assert report.already
        return
    assert report.resumed > 0, "the journal was of no use"
    assert phases["blend"] == case.tensors - report.resumed, "a finished tensor was computed again"
    if moment in ("fsync", "verify", "rename"):
        assert report.resumed == case.tensors
        assert phases["survey"] == phases["blend"] == 0


@pytest.mark.parametrize("moment", ["advance", "fsync", "rename", "between"])
def test_a_merge_of_adapters_killed(cases: dict[str, Case], tmp_path: Path, moment: str) -> None:
    """It keeps no journal: the older result stays, and the next run writes the whole."""
    case, out = cases["adapters"], tmp_path / "out"
    parts = [{"model": case.recipe.parent / f"lora{number}", "parameters": {"weight": 0.5}} for number in (0, 1)]
    halves = write_recipe(tmp_path / "r.yml", {"merge_method": "linear", "models": parts})
    merge_models(halves, out)
    old = digests(out)
    ended(start(case, out, die=moment, after=3 if moment == "advance" else 0), -signal.SIGKILL)
    assert whole_or_absent(out, old) == ("absent" if moment == "between" else "old")
    merge_models(case.recipe, out, resume=True)
    assert digests(out) == case.digests and verify(out).passed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "r.yml"]


def test_killed_before_anything_is_finished(cases: dict[str, Case], tmp_path: Path) -> None:
    case, out = cases["ties"], tmp_path / "out"
    ended(start(case, out, die="survey"), -signal.SIGKILL)
    assert whole_or_absent(out) == "absent"
    report, _ = resumed(case, out)
    assert report.resumed == 0


def test_killed_again_and_again(cases: dict[str, Case], tmp_path: Path) -> None:
    case, out = cases["dare_ties"], tmp_path / "out"
    for after in (6, 5, 4):
        ended(start(case, out, die="blend", after=after, resume=True), -signal.SIGKILL)
        assert whole_or_absent(out) == "absent"
    report, _ = resumed(case, out)
    assert report.resumed >= 9


@pytest.mark.parametrize("moment", ["advance", "rename", "between", "replaced"])
@pytest.mark.parametrize("resume", [True, False], ids=["resume", "afresh"])
def test_killed_over_an_older_output(cases: dict[str, Case], tmp_path: Path, moment: str, resume: bool) -> None:
    case, out = cases["mod"], tmp_path / "out"
    merge_models(cases["ties"].recipe, out)
    old = digests(out)
    ended(start(case, out, die=moment, after=5 if moment == "advance" else 0), -signal.SIGKILL)
    found = whole_or_absent(out, old)
    # Where the system cannot swap folders there is a moment with neither; the older output then lies beside.
    assert found == {"between": "absent", "replaced": "new"}.get(moment, "old")
    if resume:
        resumed(case, out)
    else:
        with pytest.raises(UserError, match="--allow"):
            merge_models(case.recipe, out, allow=["no such thing"])
        assert whole_or_absent(out, old) == found
        quiet_merge(case.recipe, out)
        assert digests(out) == case.digests
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_older_output_moved_aside_comes_back_even_if_the_next_run_fails(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, out = cases["mod"], tmp_path / "out"
    merge_models(cases["ties"].recipe, out)
    old = digests(out)
    ended(start(case, out, die="between"), -signal.SIGKILL)

    def fails(*_: object, **__: object) -> None:
        raise MergeError("the disk is full")

    monkeypatch.setattr(run, "ShardFiles", fails)
    with pytest.raises(MergeError):
        merge_models(case.recipe, out)
    assert whole_or_absent(out, old) == "old"


# ---------------------------------------------------------------- random moments


def killed_at_random(case: Case, out: Path, draw: random.Random, old: dict[str, str] | None) -> str:
    """Kill the driver some time after OUT.partial appears; says what OUT is then."""
    process = start(case, out, pause=0.004)
    partial = out.with_name(out.name + ".partial")
    while not partial.exists() and process.poll() is None:
        time.sleep(0.0005)
    # About half a second passes between the folder's appearance and its end.
    time.sleep(draw.random() ** 2 * 0.6)
    process.kill()
    ended(process, -signal.SIGKILL, 0)
    return whole_or_absent(out, old)


def many(cases: dict[str, Case], tmp_path: Path, times: int) -> Iterator[tuple[str, int]]:
    draw = random.Random(20241106)
    merge_models(cases["ties"].recipe, tmp_path / "old")
    for number in range(times):
        case, out = cases[METHODS[number % len(METHODS)]], tmp_path / f"out{number}"
        old = None
        if number % 2:
            shutil.copytree(tmp_path / "old", out)
            old = digests(out)
        found = killed_at_random(case, out, draw, old)
        assert found in ("new", "old" if old else "absent")
        report, _ = resumed(case, out)
        yield found, report.resumed
        shutil.rmtree(out)


def test_killed_at_six_random_moments(cases: dict[str, Case], tmp_path: Path) -> None:
    assert len(list(many(cases, tmp_path, 6))) == 6


@pytest.mark.full
def test_killed_at_ninety_random_moments(cases: dict[str, Case], tmp_path: Path) -> None:
    seen = list(many(cases, tmp_path, 90))
    going_on = [count for found, count in seen if found != "new" and count]
    assert len(going_on) >= 27, "the moments were not spread over the merge"


# ---------------------------------------------------------------- --resume


def test_resume_on_a_finished_output_changes_nothing(
    cases: dict[str, Case], tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    case = cases["dare_ties"]
    first = command(case.recipe, "--json")
    assert first.returncode == 0, first.stderr
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "out").iterdir()}
    again = command(case.recipe, "--resume", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["already"]
    assert json.loads(again.stdout)["parents"] == json.loads(first.stdout)["parents"]
    assert before == {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in (tmp_path / "out").iterdir()}


def test_resume_where_nothing_is_there_starts_afresh(cases: dict[str, Case], tmp_path: Path) -> None:
    report, phases = resumed(cases["mod"], tmp_path / "out")
    assert report.resumed == 0 and not report.already
    assert phases["blend"] == cases["mod"].tensors


def test_resume_of_another_merge_is_refused(
    cases: dict[str, Case], tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    case, out = cases["dare_ties"], tmp_path / "out"
    ended(start(case, out, die="blend", after=9), -signal.SIGKILL)
    for recipe, *flags in ([case.recipe, "--seed", "1"], [cases["ties"].recipe], [case.recipe, "--shard-size", "1MB"]):
        done = command(recipe, "--resume", *flags)
        assert done.returncode == 2
        assert "modist: error:" in done.stderr and "without --resume" in done.stderr
    assert not out.exists()
    report, _ = resumed(case, out)
    assert report.resumed > 0


def test_resume_after_an_input_changed_is_refused(cases: dict[str, Case], tmp_path: Path) -> None:
    trio = plain_trio(tmp_path / "models", hidden=32)
    recipe = write_recipe(tmp_path / "r.yml", {"merge_method": "linear", "models": [
        {"model": trio.one, "parameters": {"weight": 1}}, {"model": trio.two, "parameters": {"weight": 1}}]})  # fmt: skip
    case = Case(recipe, {}, 0)
    ended(start(case, tmp_path / "out", die="blend", after=9), -signal.SIGKILL)
    os.utime(trio.one / "model.safetensors", ns=(1, 1))
    with pytest.raises(UserError, match="another recipe, seed or input"):
        merge_models(recipe, tmp_path / "out", resume=True)


def test_resume_with_hashed_inputs_is_the_same_merge(cases: dict[str, Case], tmp_path: Path) -> None:
    case, out = cases["mod"], tmp_path / "out"
    ended(start(case, out, die="blend", after=9), -signal.SIGKILL)
    report, _ = quiet_merge(case.recipe, out, resume=True, hash_inputs=True)
    assert report.resumed > 0
    assert digests(out) == case.digests


def test_resume_where_the_data_was_deleted_is_no_silent_success(cases: dict[str, Case], tmp_path: Path) -> None:
    case, out = cases["mod"], tmp_path / "out"
    ended(start(case, out, die="blend", after=9), -signal.SIGKILL)
    for path in (tmp_path / "out.partial" / "model").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(MergeError, match="without --resume"):
        quiet_merge(case.recipe, out, resume=True)
    quiet_merge(case.recipe, out)
    assert digests(out) == case.digests


def test_nonfinite_values_that_were_allowed_are_remembered(tmp_path: Path) -> None:
    """A resumed run knows of them too, so that its result is still verified."""
    tensors = random_tensors(llama_shapes(), 4)
    for tensor in tensors.values():
        tensor.bits.reshape(-1)[3] = 0x7F80
    folder = write_folder(tmp_path / "m", tensors)
    recipe = write_recipe(tmp_path / "r.yml", {"merge_method": "linear", "models": [
        {"model": folder, "parameters": {"weight": 1}}]})  # fmt: skip
    case, out = Case(recipe, {}, len(tensors)), tmp_path / "out"
    ended(start(case, out, die="blend", after=20, allow=["nonfinite"]), -signal.SIGKILL)
    report, _ = quiet_merge(recipe, out, resume=True, allow=["nonfinite"])
    assert report.resumed > 0
    assert verify(out).passed


def test_two_at_once_into_one_output(cases: dict[str, Case], tmp_path: Path) -> None:
    case, out = cases["ties"], tmp_path / "out"
    slow = start(case, out, pause=0.01)
    while not (tmp_path / "out.partial" / "journal.jsonl").exists():
        time.sleep(0.001)
    for resume in (True, False):
        with pytest.raises(UserError, match="another process"):
            merge_models(case.recipe, out, resume=resume)
    ended(slow, 0)
    assert digests(out) == case.digests


# ---------------------------------------------------------------- what a power cut would find


def test_all_is_on_disk_before_the_rename_and_the_rename_after_it(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file and its folder are synced before the one rename, the folder of OUT after it; nothing is written between."""
    from modist.checkpoint import staging

    out, events = tmp_path / "out", []
    fsync, rename = os.fsync, Path.rename

    def note_sync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def note_rename(self: Path, target: Path) -> Path:
        if self.name == "model":
            events.append(("rename", {path.name: path.stat().st_mtime_ns for path in self.iterdir()}))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    monkeypatch.setattr(staging, "swap_folders", lambda one, two: False)
    quiet_merge(cases["mod"].recipe, out)
    (moment,) = [number for number, (kind, _) in enumerate(events) if kind == "rename"]
    before = {path.name for kind, path in events[:moment] if kind == "sync"}
    assert before >= {path.name for path in out.iterdir()} | {"model", "journal.jsonl"}
    assert {path for kind, path in events[moment:] if kind == "sync"} == {tmp_path}
    assert events[moment][1] == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_the_journal_says_synced_only_after_the_data_is(
    cases: dict[str, Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modist.checkpoint.shards import ShardFiles
    from modist.checkpoint.staging import Staging

    order: list[str] = []
    sync, synced = ShardFiles.sync, Staging.synced
    monkeypatch.setattr(ShardFiles, "sync", lambda self: (sync(self), order.append("data"))[0])
    monkeypatch.setattr(Staging, "synced", lambda self, count: (order.append("journal"), synced(self, count))[1])
    monkeypatch.setattr("modist.merge.hashing.SYNC_EVERY_S", 0.0)
    quiet_merge(cases["mod"].recipe, tmp_path / "out")
    assert order.count("data") >= 2
    held = 0
    for step in order:
        held += 1 if step == "data" else -1
        assert held >= 0


def test_ctrl_c_stops_and_can_be_resumed(cases: dict[str, Case], tmp_path: Path) -> None:
    case, out = cases["ties"], tmp_path / "out"
    process = start(case, out, pause=0.1)  # the rest takes seconds, however late the signal
    journal = tmp_path / "out.partial" / "journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    ended(process, -signal.SIGINT, 1, 130)
    assert not out.exists()
    report, _ = resumed(case, out)
    assert report.resumed >= 4
