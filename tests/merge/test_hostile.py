"""Malformed inputs, through the command line: one line that says what is wrong, the right exit status, nothing written.

Status 2 is for what the user wrote (recipe, flags, a combination of models), 1 for what is damaged.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.checkpoint.lies import LIES, raw_file
from tests.tiny_models import (
    Tensor,
    llama_shapes,
    random_tensors,
    tuned,
    write_folder,
    write_safetensors,
)

Ran = subprocess.CompletedProcess[str]
USER, DAMAGE = 2, 1
MLP = "model.layers.0.mlp.up_proj.weight"
ATTENTION = "model.layers.0.self_attn.q_proj.weight"
EMBEDDING = "model.embed_tokens.weight"
INDEX = "model.safetensors.index.json"

LINEAR = """\
merge_method: linear
models:
  - model: ./one
    parameters: {weight: 0.5}
  - model: ./two
    parameters: {weight: 0.5}
"""
MOD = """\
base_model: ./one
experts:
  - source_model: ./one
  - source_model: ./two
weights: [0.6, 0.4]
"""
TUNED = """\
merge_method: METHOD
base_model: ./base
models:
  - {model: ./one, parameters: {weight: 0.5}}
  - {model: ./two, parameters: {weight: 0.5}}
parameters: {density: 0.5}
"""
SLERP = """\
merge_method: slerp
base_model: ./one
models: [{model: ./one}, {model: ./two}]
parameters: {t: 0.5}
"""
RECIPES = {
    "linear": LINEAR,
    "slerp": SLERP,
    "mod minmax": MOD,
    "mod quantile": MOD + "normalize: quantile\n",
    "mod random": MOD + "select: random\n",
    **{name: TUNED.replace("METHOD", name) for name in ("task_arithmetic", "ties", "dare_linear", "dare_ties")},
}


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of two layers, by numpy alone."""
    folder = tmp_path_factory.mktemp("pristine")
    tensors = random_tensors(llama_shapes(hidden=8, inner=12, layers=2, vocabulary=16), 1)
    write_folder(folder / "base", tensors)
    write_folder(folder / "one", tuned(tensors, 2, 0.1))
    write_folder(folder / "two", tuned(tensors, 3, 0.1))
    return folder


@pytest.fixture
def models(pristine: Path, tmp_path: Path) -> Path:
    """A copy to damage: `base`, `one`, `two` and the recipe `r.yml`, a linear merge of the last two."""
    here = tmp_path / "here"
    shutil.copytree(pristine, here)
    (here / "r.yml").write_text(LINEAR)
    return here


Command = Callable[..., Ran]


def refuses(command: Command, models: Path, status: int | tuple[int, ...], *flags: str, words: str = "") -> str:
    """Run the merge in `models`; gives the line it refused with."""
    before = {str(path) for path in models.parent.rglob("*")}
    ran = command(models / "r.yml", *flags)
    lines = ran.stderr.splitlines()
    errors = [line for line in lines if line.startswith("modist: error: ")]
    assert ran.returncode in ((status,) if isinstance(status, int) else status), ran.stderr
    assert len(errors) == 1 and errors[0] == lines[-1], ran.stderr
    assert "Traceback" not in ran.stderr and "please report" not in ran.stderr, ran.stderr
    assert len(errors[0]) < 3000
    assert words in errors[0]
    assert {str(path) for path in models.parent.rglob("*")} == before, "something was written"
    return errors[0]


# ---------------------------------------------------------------- safetensors files (118)


@pytest.mark.parametrize("lie", LIES)
def test_lying_headers(command: Command, models: Path, lie: str) -> None:
    raw_file(models / "two" / "model.safetensors", *LIES[lie])
    refuses(command, models, DAMAGE, words="two/model.safetensors: ")


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.001, 0.002, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999])
def test_truncated_files(command: Command, models: Path, share: float) -> None:
    path = models / "two" / "model.safetensors"
    os.truncate(path, int(share * path.stat().st_size))
    refuses(command, models, DAMAGE, words="two/model.safetensors: ")


@pytest.mark.parametrize("length", [0, 1, 7, 1 << 20, 100_000_001, 1 << 40, 1 << 63, (1 << 64) - 1])
def test_lying_lengths(command: Command, models: Path, length: int) -> None:
    path = models / "two" / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refuses(command, models, DAMAGE, words="two/model.safetensors: ")


def _edited_header(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    edit(header)
    raw_file(path, header, raw[8 + length :])


@pytest.mark.parametrize("number", range(20))
def test_one_number_of_a_true_header_changed(command: Command, models: Path, number: int) -> None:
    draw = random.Random(number)

    def edit(header: dict[str, Any]) -> None:
        entry = header[draw.choice([name for name in header if name != "__metadata__"])]
        numbers = entry[draw.choice(["shape", "data_offsets"])]
        place = draw.randrange(len(numbers))
        numbers[place] = draw.choice([-1, numbers[place] + draw.choice([1, 2, 8]), 1 << 40, None, 0.5, [1]])

    _edited_header(models / "two" / "model.safetensors", edit)
    refuses(command, models, DAMAGE, words="two/model.safetensors: ")


@pytest.mark.parametrize("number", range(25))
def test_bytes_of_a_true_header_changed(command: Command, models: Path, number: int) -> None:
    """May be harmless (in the metadata) or name another tensor; never a traceback, never half an output."""
    draw = random.Random(number)
    path = models / "two" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 3)):
        raw[draw.randrange(8, 2000)] = draw.randrange(256)
    path.write_bytes(raw)
    ran = command(models / "r.yml")
    if ran.returncode:
        (models.parent / "out").exists() and shutil.rmtree(models.parent / "out")
        refuses(command, models, (USER, DAMAGE))


# ---------------------------------------------------------------- index and folder (38)

SHARD = "x-00001-of-00001.safetensors"
INDEXES: dict[str, Any] = {
    "outside": {MLP: "../one/model.safetensors"},
    "absolute": {MLP: "/etc/passwd"},
    "absolute weights": {MLP: "/tmp/model.safetensors"},
    "below": {MLP: "sub/model.safetensors"},
    "dots": {MLP: ".."},
    "empty name": {MLP: ""},
    "a missing file": {MLP: "x-00009-of-00009.safetensors"},
    "another kind of file": {MLP: "config.json"},
    "itself": {MLP: INDEX},
    "null byte": {MLP: "x\0.safetensors"},
    "a very long name": {MLP: "x" * 400 + ".safetensors"},
    "a number": {MLP: 5},
    "a list": {MLP: [SHARD]},
    "null": {MLP: None},
    "a tensor not there": {"model.layers.9.weight": SHARD},
    "a tensor of many letters": {"x" * 10_000: SHARD},
}
WHOLE_INDEXES: dict[str, bytes] = {
    "no map": b"{}",
    "an empty map": b'{"weight_map": {}}',
    "a map of lists": b'{"weight_map": [["a", "b"]]}',
    "a list": b"[]",
    "nothing": b"",
    "not JSON": b"{'weight_map': 5}",
    "not text": b"\xff\xfe\xfd",
    "deep": b'{"weight_map":' * 50_000,
    "cut": b'{"weight_map": {"a":',
}


def _sharded(folder: Path) -> dict[str, str]:
    (folder / "model.safetensors").rename(folder / SHARD)
    return dict.fromkeys(llama_shapes(hidden=8, inner=12, layers=2, vocabulary=16), SHARD)


@pytest.mark.parametrize("kind", INDEXES)
def test_indexes_that_lead_astray(command: Command, models: Path, kind: str) -> None:
    placed = _sharded(models / "two") | INDEXES[kind]
    (models / "two" / INDEX).write_text(json.dumps({"weight_map": placed}))
    astray = kind in ("outside", "absolute", "absolute weights", "below", "dots", "empty name")
    refuses(command, models, DAMAGE, words="outside the folder" if astray else "")


@pytest.mark.parametrize("kind", WHOLE_INDEXES)
def test_indexes_that_are_none(command: Command, models: Path, kind: str) -> None:
    _sharded(models / "two")
    (models / "two" / INDEX).write_bytes(WHOLE_INDEXES[kind])
    refuses(command, models, DAMAGE, words=INDEX)


def test_an_index_that_lists_too_little(command: Command, models: Path) -> None:
    placed = _sharded(models / "two")
    placed.pop(MLP)
    (models / "two" / INDEX).write_text(json.dumps({"weight_map": placed}))
    refuses(command, models, DAMAGE, words="does not list")


def _no_weights(two: Path) -> None:
    (two / "model.safetensors").unlink()


def _two_files(two: Path) -> None:
    shutil.copy(two / "model.safetensors", two / "y.safetensors")
    (two / "model.safetensors").rename(two / "x.safetensors")


def _fifo(name: str) -> Callable[[Path], None]:
    def make(two: Path) -> None:
        (two / name).unlink()
        os.mkfifo(two / name)

    return make


def _folder(name: str) -> Callable[[Path], None]:
    def make(two: Path) -> None:
        (two / name).unlink()
        (two / name).mkdir()

    return make


def _adapter(two: Path) -> None:
    (two / "model.safetensors").rename(two / "adapter_model.safetensors")
    (two / "adapter_config.json").write_text("{}")


def _dangling(two: Path) -> None:
    (two / "model.safetensors").unlink()
    (two / "model.safetensors").symlink_to("nowhere")


def _emptied(two: Path) -> None:
    for path in two.iterdir():
        path.unlink()


def _file(two: Path) -> None:
    shutil.rmtree(two)
    two.write_text("x")


def _round_link(two: Path) -> None:
    shutil.rmtree(two)
    two.symlink_to(two)


FOLDERS: dict[str, tuple[int, Callable[[Path], None]]] = {
    "no weights": (USER, _no_weights),
    "two files and no index": (DAMAGE, _two_files),
    "weights are a pipe": (DAMAGE, _fifo("model.safetensors")),
    "weights are a folder": (DAMAGE, _folder("model.safetensors")),
    "weights are a dead link": (DAMAGE, _dangling),
    "config is a pipe": (DAMAGE, _fifo("config.json")),
    "config is a folder": (DAMAGE, _folder("config.json")),
    "an adapter": (USER, _adapter),
    "an empty folder": (DAMAGE, _emptied),
    "no folder": (USER, shutil.rmtree),
    "a file": (USER, _file),
    "a link to itself": (USER, _round_link),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_that_hold_no_model(command: Command, models: Path, kind: str) -> None:
    status, damage = FOLDERS[kind]
    damage(models / "two")
    refuses(command, models, status, words="two")


# ---------------------------------------------------------------- config.json (32)

CONFIGS: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"5",
    "text": b"hello",
    "YAML": b"model_type: llama\n",
    "cut": b'{"model_type": "lla',
    "not text": b"\xff\xfe\xfd\x00",
    "deep": b'{"a":' * 50_000,
    "deep lists": b"[" * 50_000,
    "a number of 5000 digits": b'{"vocab_size": ' + b"9" * 5000 + b"}",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("whose", ["one", "two"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_that_are_none(command: Command, models: Path, kind: str, whose: str) -> None:
    (models / whose / "config.json").write_bytes(CONFIGS[kind])
    refuses(command, models, DAMAGE, words=f"{whose}/config.json: ")


ODD: list[dict[str, Any]] = [
    {"architectures": 5}, {"architectures": []}, {"architectures": [None]}, {"architectures": {}}, {"text_config": []},
    {"text_config": {"rope_theta": None}}, {"rope_theta": [1]}, {"rope_theta": "x"}, {"rope_theta": 10**400},
    {"rope_theta": None}, {"rope_scaling": 5}, {"rope_scaling": {"type": []}}, {"rope_parameters": {"full": {}}},
    {"rope_theta": float("inf")}, {"rope_theta": float("nan")}, {"rope_parameters": {"rope_theta": 10**400}},
    {"rope_parameters": []}, {"max_position_embeddings": {}},
    {"max_position_embeddings": 10**400}, {"sliding_window": [1]}, {"tie_word_embeddings": "no"}, {"auto_map": 5},
    {"quantization_config": 5}, {"quantization_config": {"quant_method": [1]}}, {"dtype": {}}, {"model_type": None},
    {"torch_dtype": 5}, {"vocab_size": -1}, {"\ud800": "\ud800"}, {"x": float("nan")}, {"_name_or_path": {"a": 1}},
]  # fmt: skip


@pytest.mark.parametrize("whose", ["one", "two"])
@pytest.mark.parametrize("number", range(len(ODD)))
def test_configs_that_say_odd_things(command: Command, models: Path, number: int, whose: str) -> None:
    """Merged or refused, but never with a traceback or half an output."""
    path = models / whose / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | ODD[number]))
    ran = command(models / "r.yml")
    assert "please report" not in ran.stderr, ran.stderr
    if ran.returncode:
        refuses(command, models, (USER, DAMAGE))


# ---------------------------------------------------------------- values, dtypes, shapes (54)


def _rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    from tests.tiny_models import read_folder

    tensors = dict(read_folder(folder))
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors)


def _poison(folder: Path, name: str, pattern: int) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        bits = tensors[name].bits.copy()
        bits.reshape(-1)[5] = pattern
        tensors[name] = Tensor("BF16", bits)

    _rewrite(folder, change)


@pytest.mark.parametrize("pattern", [0x7FC0, 0xFFFF, 0x7F80, 0xFF80], ids=["nan", "minus nan", "inf", "minus inf"])
@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("whose", ["one", "two"])
def test_nan_and_infinite_values(command: Command, models: Path, method: str, pattern: int, whose: str) -> None:
    """Where the value reaches the result, or decides what does."""
    if (method, pattern, whose) == ("mod quantile", 0x7F80, "one"):
        pytest.skip("infinity has a rank, the last, which the second expert's element takes")
    if method in ("mod quantile", "mod random", "mod minmax") and whose == "two":
        # Elements are taken whole: take nearly all from the poisoned expert.
        text = RECIPES[method].replace("[0.6, 0.4]", "[0.0, 1.0]")
    else:
        text = RECIPES[method].replace("[0.6, 0.4]", "[1.0, 0.0]") if method == "mod random" else RECIPES[method]
    if method.startswith("dare"):
        text = text.replace("density: 0.5", "density: 0.999")
    (models / "r.yml").write_text(text)
    _poison(models / whose, MLP, pattern)
    line = refuses(command, models, DAMAGE, words=MLP)
    assert f"{whose}: " in line
    assert "--allow nonfinite" in line


def test_overflow_of_the_output(command: Command, models: Path) -> None:
    (models / "r.yml").write_text(LINEAR + "dtype: float16\n")
    _poison(models / "two", MLP, 0x7F00)
    refuses(command, models, DAMAGE, words="overflows F16")


def _shape(shape: tuple[int, ...]) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({MLP: Tensor("BF16", np.zeros(shape, np.uint16))})


def _typed(dtype: str, kind: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({MLP: Tensor(dtype, np.ones((12, 8), kind))})


SHAPES: dict[str, Callable[[dict[str, Tensor]], None]] = {
    "turned": _shape((8, 12)),
    "flat": _shape((96,)),
    "one more axis": _shape((1, 12, 8)),
    "a scalar": _shape(()),
    "empty": _shape((0, 8)),
    "larger": _shape((13, 8)),
    "integers": _typed("I64", "<i8"),
    "bytes": _typed("U8", "u1"),
    "booleans": _typed("BOOL", "u1"),
    "quantised": _typed("F8_E4M3", "u1"),
    "missing": lambda tensors: tensors.pop(MLP) and None,
    "all missing": lambda tensors: tensors.clear(),
    "one more": lambda tensors: tensors.update({"model.layers.7.weight": Tensor("BF16", np.ones(3, np.uint16))}),
    "renamed": lambda tensors: tensors.update({"x": tensors.pop(MLP)}),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_tensors_that_do_not_fit(command: Command, models: Path, kind: str) -> None:
    _rewrite(models / "two", SHAPES[kind])
    refuses(command, models, USER, words="two")


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("shape", [(0,), (0, 8), (), (1,)])
def test_empty_and_tiny_tensors_are_merged(command: Command, models: Path, method: str, shape: tuple[int, ...]) -> None:
    for folder in ("base", "one", "two"):
        _rewrite(models / folder, lambda tensors: tensors.update({MLP: Tensor("BF16", np.ones(shape, np.uint16))}))
    (models / "r.yml").write_text(RECIPES[method])
    ran = command(models / "r.yml")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("method", RECIPES)
@pytest.mark.parametrize("number", ["9" * 12, "9" * 400, "٣"])
def test_layers_with_odd_numbers(command: Command, models: Path, method: str, number: str) -> None:
    for folder in ("base", "one", "two"):
        _rewrite(
            models / folder,
            lambda tensors: tensors.update({f"model.layers.{number}.mlp.weight": Tensor("BF16", np.ones(3, np.uint16))}),
        )
    (models / "r.yml").write_text(RECIPES[method])
    ran = command(models / "r.yml")
    assert "please report" not in ran.stderr, ran.stderr
    if ran.returncode:
        refuses(command, models, (USER, DAMAGE))


# ---------------------------------------------------------------- pickles (6)


class Malicious:
    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self.mark, "w"))


@pytest.mark.parametrize("kind", ["code", "code in a zip", "garbage", "empty", "a list", "text"])
def test_pickles(command: Command, models: Path, kind: str) -> None:
    torch = pytest.importorskip("torch")
    two, mark = models / "two", models / "was-here"
    (two / "model.safetensors").unlink()
    path = two / "pytorch_model.bin"
    if kind == "code in a zip":
        torch.save({MLP: Malicious(str(mark))}, path)
    elif kind == "a list":
        torch.save([torch.ones(2)], path)
    else:
        contents = {"code": pickle.dumps(Malicious(str(mark))), "garbage": b"\x80\x02garbage", "empty": b"", "text": b"hi\n"}
        path.write_bytes(contents[kind])
    refuses(command, models, DAMAGE, words="pytorch_model.bin: ")
    assert not mark.exists()


# ---------------------------------------------------------------- what is carried along (11)


@pytest.mark.parametrize("name", ["tokenizer.json", "generation_config.json", "chat_template.jinja", "tokenizer.model"])
def test_carried_files_that_lead_outside(command: Command, models: Path, name: str) -> None:
    secret = models / "secret"
    secret.write_text("{}")
    (models / "one" / name).symlink_to(secret)
    refuses(command, models, DAMAGE, words=f"one/{name}: is a link to")


JSONS: dict[str, bytes] = {
    "deep": b'{"model":' * 50_000,
    "list": b"[]",
    "not text": b"\xff\xfe",
    "odd vocabulary": b'{"model": {"vocab": [[[]], 5]}, "added_tokens": [5]}',
    "odd tokens": b'{"model": {"vocab": {"a": {}}}, "added_tokens": [{"content": [], "id": {}}]}',
    "empty": b"",
}


@pytest.mark.parametrize("whose", ["one", "two"])
@pytest.mark.parametrize("kind", JSONS)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_tokenizers_that_cannot_be_read_are_carried_as_they_are(
    command: Command, models: Path, name: str, kind: str, whose: str
) -> None:
    (models / whose / name).write_bytes(JSONS[kind])
    ran = command(models / "r.yml")
    assert ran.returncode == 0, ran.stderr


CARDS: dict[str, str] = {
    "odd tags": "license: !!int ''",
    "time": "license: !!timestamp soon",
    "set": "license: !!set {a, b}",
    "recursion": "license: &a [*a]",
    "deep": "license: " + "[" * 50_000,
    "number": "license: 5",
    "unhashable key": "{[a]: b}: c",
    "bomb": "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
                      + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 6)] + ["license: *a5"]),
    "code": "license: !!python/object/apply:os.system ['true']",
}  # fmt: skip


@pytest.mark.parametrize("kind", CARDS)
def test_cards_that_cannot_be_read_state_no_licence(command: Command, models: Path, kind: str) -> None:
    (models / "two" / "README.md").write_text(f"---\n{CARDS[kind]}\n---\n")
    ran = command(models / "r.yml")
    assert ran.returncode == 0, ran.stderr
    assert len((models.parent / "out" / "README.md").read_text()) < 10_000


# ---------------------------------------------------------------- recipes (112)


@dataclass(frozen=True)
class Bad:
    text: str | bytes
    words: str = ""


def _values(template: str, values: Iterable[str]) -> list[Bad]:
    line = 1 + template[: template.index("VALUE")].count("\n")
    return [Bad(template.replace("VALUE", value), f"r.yml:{line}") for value in values]


WORDLESS = [
    b"", b"\n",
    b"# nothing\n", b"null\n", b"~\n", b"5\n", b"true\n", b"2001-01-01\n", b"just text\n", b"- a\n", b"[[[]]]\n", b"{}\n",
    b"a: b\n", b"\x00", b"\xff\xfe\x00\x01", bytes(range(256)), b"\x89PNG\r\n\x1a\n", b"a:\n\t- b\n", b"a: [\n", b"a: 'b\n",
    b"a: *b\n", b"a: &a [*a]\n", b"[" * 50_000, b"- " * 50_000, b"{a: " * 50_000, b"? [a]\n: 1\n", b"a: 1\na: 2\n", b"<<: 5\n",
    b"a: !!int ''\n", b"a: !!bool maybe\n", b"a: !!timestamp x\n", b"a: !!binary \xc3\xa9\n", b"a: !!python/name:os.system\n",
    b"!!python/object/apply:os.system ['true']\n", b"--- a\n--- b\n", b"a: 1" + b"0" * 5000 + b"\n", b"%YAML 9.9\n---\na: b\n",
    b"a: " + b"x" * (1 << 20), b"experts:\n", b"weights: [1]\n", b"merge_method: linear\n",
    b"slices: []\nmerge_method: linear\n",
]  # fmt: skip
NO_WEIGHT = ["[]", "[[0.5]]", "{}", "~", "2001-01-01", "heavy", "''", ".nan", ".inf", "-.inf", "1e400", "-1e400", "{value: x}",
             "[0.1, x]", "[0.1, .nan]", "{filter: mlp}", "{filter: 5, value: 1}", "{filter: nope, value: 1}", "[{value: 1}, 2]",
             "true", "1" + "0" * 400, "!!binary aGk=", "{value: {value: 1}}", "[[[1]]]", "nan", "0x"]  # fmt: skip
NO_WEIGHTS = ["[0.5, 0.6]", "[0.5]", "[1, 0, 0]", "[1.5, -0.5]", "[.nan, 1]", "[.inf, 0]", "[1e400, 0]", "[a, b]",
              "[true, false]",
              "{a: 1}", "0.5", "~", "[]", "[[1], 0]", "[~, 1]", "[2001-01-01, 1]", "'0.5, 0.5'", "[0.5, 0.499998]"]  # fmt: skip
BAD: list[Bad] = [
    *(Bad(text, "r.yml") for text in WORDLESS),
    *_values(LINEAR.replace("{weight: 0.5}", "{weight: VALUE}", 1), NO_WEIGHT),
    *_values(MOD.replace("[0.6, 0.4]", "VALUE"), NO_WEIGHTS),
    *_values(LINEAR.replace("linear", "VALUE"), ["5", "[]", "~", "lniear", "pasthrough", "''", "Linear"]),
    *_values(MOD + "normalize: VALUE\n", ["5", "min-max", "true", "[minmax]"]),
    *_values(MOD + "scope: VALUE\n", ["attention", "MLP", "{}"]),
    *_values(MOD + "select: VALUE\n", ["1", "draw"]),
    *_values(MOD + "model_kwargs: VALUE\n", ["5", "[5]", "cuda", "[[a]]"]),
    *_values(LINEAR + "dtype: VALUE\n", ["bf16", "int8", "5", "~x", "[bfloat16]", "torch.bfloat16"]),
    *_values(LINEAR + "base_model: VALUE\n", ["5", "''", "./three", "[./one]", "./one/config.json", "~nobody/x"]),
    *_values(LINEAR + "parameters: VALUE\n", ["5", "[]", "{wieght: 1}", "{5: 1}", "{normalize: 2}", "{normalize: maybe}"]),
    *_values(
        LINEAR.replace("./two", "VALUE"),
        [
            "./tow",
            "./one",
            "''",
            "5",
            "~",
            "[./two]",
            "./two+./lora",
            "'./two@'",
            '"\\0"',
            '"\\e[31m"',
            "x" * 5000,
            "./" + "x" * 300,
        ],
    ),
    *_values(SLERP.replace("t: 0.5", "t: VALUE"), ["-0.1", "1.1", "[0, 2]", "[{filter: mlp, value: 7}, {value: 0}]"]),
    Bad(SLERP.replace("base_model: ./one\n", ""), "slerp needs a base_model"),
    Bad(SLERP.replace("{model: ./one}, {model: ./two}", "{model: ./one}"), "merges 1 model"),
    Bad(SLERP.replace("{model: ./one}", "{model: ./one}, {model: ./base}"), "merges 1 model"),
    Bad(SLERP.replace("parameters: {t: 0.5}", ""), "'t'"),
    Bad(SLERP.replace("t: 0.5", "t: [{filter: mlp, value: 0.5}]"), "is missing"),
    Bad(LINEAR.replace("parameters: {weight: 0.5}", "", 1), "'weight'"),
    Bad(LINEAR.replace("0.5", "0.0"), "sum to 0"),
    Bad(LINEAR.replace("0.5", "-0.5", 1), "sum to 0"),
    Bad(MOD.replace("MOD", "") + "merge_method: mod\n", "unknown key"),
    Bad(RECIPES["ties"].replace("base_model: ./base\n", ""), "base_model"),
    Bad(RECIPES["ties"].replace("density: 0.5", "density: 1.5"), "density"),
    Bad(RECIPES["ties"].replace("density: 0.5", "densty: 0.5"), "did you mean 'density'"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_recipes_of_every_wrong_kind(command: Command, models: Path, number: int) -> None:
    bad = BAD[number]
    (models / "r.yml").write_bytes(bad.text if isinstance(bad.text, bytes) else bad.text.encode())
    refuses(command, models, USER, words=bad.words)


@pytest.mark.parametrize(
    "flags",
    [
        ["--memory", "lots"], ["--memory", "0"], ["--memory", "-1GiB"], ["--memory", "1KiB"], ["--shard-size", "0"],
        ["--shard-size", "x"], ["--allow", "everything"], ["--allow", "rop"], ["--memory", ""], ["--memory", "1e9999"],
        ["--memory", "9" * 400 + "G"],
    ],
    ids=lambda flags: " ".join(flags)[:30],
)  # fmt: skip
def test_flags_that_make_no_sense(command: Command, models: Path, flags: list[str]) -> None:
    refuses(command, models, USER, *flags, words=flags[0])


# ---------------------------------------------------------------- names that try to fool a terminal


def test_control_characters_never_reach_the_terminal(command: Command, models: Path) -> None:
    evil = "model.\x1b[31m\r\nmodist: ok\u2028.weight"
    _rewrite(models / "one", lambda tensors: tensors.update({evil: Tensor("BF16", np.ones(3, np.uint16))}))
    line = refuses(command, models, USER, words="\\x1b[31m")
    assert line.isprintable()


def test_a_good_merge_of_the_same_models_works(command: Command, models: Path) -> None:
    for method, text in RECIPES.items():
        (models / "r.yml").write_text(text)
        ran = command(models / "r.yml")
        assert ran.returncode == 0, (method, ran.stderr)


def test_how_many_malformed_inputs_there_are() -> None:
    assert len(LIES) + len(INDEXES) + len(WHOLE_INDEXES) + len(FOLDERS) + len(CONFIGS) + len(SHAPES) + len(BAD) >= 200
