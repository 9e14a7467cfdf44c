"""How fast `modist merge` is, and how much memory it takes, beside mergekit 0.1.5.

    python benchmarks/merge.py --work /a/disk/with/room --shape 0.5B --shape 1.5B

makes a base and two fine-tunes of Qwen2.5's shape in bfloat16 (random, seeded), installs mergekit in an
environment of its own, and times whole processes in turn: the floor (read every input, write one output),
modist, mergekit. Inputs lie in the page cache; what the run before wrote is deleted, and the disk idle.
modist syncs its output to disk before it says it is done and mergekit does not; the seconds that takes are
shown beside the total. 1.5B is measured for memory only.

mergekit takes minutes for some methods, so `--shape 0.5B-short` has 0.5B's widths, a sixth of its layers and a smaller
vocabulary, and `--mergekit-runs 1` runs it once for modist's three times; both are said in the report. `--only della,sce`
measures some methods, and rows of several such runs are put in one table by `--join`.

This process stays small on purpose (only its children import numpy): Linux counts a parent's memory at the
moment of the fork into its child's peak.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

MERGEKIT = "0.1.5"
HERE = Path(__file__).resolve()
CHUNK = 8 << 20
GIB = 1 << 30
MEMORY_LIMIT = GIB


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2 model with tied embeddings."""

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    memory_only: bool = False

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        kv = self.hidden // self.heads * self.kv_heads
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            here = f"model.layers.{layer}."
            yield here + "input_layernorm.weight", (self.hidden,)
            yield here + "mlp.down_proj.weight", (self.hidden, self.inner)
            yield here + "mlp.gate_proj.weight", (self.inner, self.hidden)
            yield here + "mlp.up_proj.weight", (self.inner, self.hidden)
            yield here + "post_attention_layernorm.weight", (self.hidden,)
            for name, rows in (("q", self.hidden), ("k", kv), ("v", kv)):
                yield here + f"self_attn.{name}_proj.bias", (rows,)
                yield here + f"self_attn.{name}_proj.weight", (rows, self.hidden)
            yield here + "self_attn.o_proj.weight", (self.hidden, self.hidden)
        yield "model.norm.weight", (self.hidden,)

    @property
    def elements(self) -> int:
        return sum(math.prod(size) for _, size in self.tensors())

    def config(self) -> dict[str, Any]:
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "hidden_act": "silu",
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "torch_dtype": "bfloat16",
        }


SHAPES = {
    "tiny": Shape(2048, 128, 4, 4, 2, 320),
    "0.5B": Shape(151936, 896, 24, 14, 2, 4864),
    "0.5B-short": Shape(32000, 896, 4, 14, 2, 4864),
    "1.5B": Shape(151936, 1536, 28, 12, 2, 8960, memory_only=True),
}


@dataclass(frozen=True)
class Method:
    """One row: the models read, what it must reach against mergekit, and the recipe mergekit runs for it.

    Attributes:
        inputs: of base, one, two and the base's adapters; the base first where the method needs one.
        least, aim: how many times as fast as mergekit; `against` names another recipe of mergekit's, or `-` for none.
        each, shared: parameters of every model but the base, and of all.
    """

    inputs: tuple[str, ...]
    least: float
    aim: float
    against: str = ""
    each: str = ""
    shared: str = ""


PAIR, ALL = ("one", "two"), ("base", "one", "two")
HALVES, SPARSE = "weight: 0.5", "weight: 0.5, density: 0.5"
METHODS = {
    "linear": Method(PAIR, 3, 6, each=HALVES),
    "task_arithmetic": Method(ALL, 3, 6, each=HALVES),
    "mod": Method(PAIR, 3, 6, against="linear"),
    "slerp": Method(("base", "one"), 4, 8, shared="t: 0.3"),
    "dare_linear": Method(ALL, 4, 8, each=SPARSE),
    "dare_ties": Method(ALL, 4, 8, each=SPARSE),
    "ties": Method(ALL, 10, 20, each=SPARSE),
    "breadcrumbs": Method(ALL, 10, 20, each=SPARSE),
    "breadcrumbs_ties": Method(ALL, 10, 20, each=SPARSE),
    "della": Method(ALL, 10, 20, each=SPARSE),
    "della_linear": Method(ALL, 10, 20, each=SPARSE),
    "sce": Method(ALL, 10, 20, shared="select_topk: 0.5"),
    "nuslerp": Method(PAIR, 2, 4, each=HALVES),
    "multislerp": Method(PAIR, 2, 4, each=HALVES),
    "karcher": Method(PAIR, 2, 4),
    "model_stock": Method(ALL, 2, 4),
    "ram": Method(ALL, 2, 4),
    "ramplus_tl": Method(ALL, 2, 4),
    "arcee_fusion": Method(("base", "one"), 2, 4),
    "nearswap": Method(("base", "one"), 2, 4, shared="t: 0.001"),
    "passthrough": Method(("one",), 2, 4),
    "stack": Method(PAIR, 2, 4),
    "adapters": Method(("base", "lora-one", "lora-two"), 2, 4, each=HALVES),
    "widen": Method(ALL, 0, 0, against="-"),
    "localize_and_stitch": Method(ALL, 0, 0, against="-"),
}
ENGINE_OVER_FLOOR = {"linear": 2.5}
RANK = 16


def recipe(method: str, models: Path, layers: int) -> str:
    """YAML that both programs read (for `mod`: the paper's Configuration 1)."""
    wanted = METHODS[method]
    if method == "stack":
        # As many layers as before: mergekit 0.1.5 cannot write the config of a taller Qwen2 with transformers 5.
        ranges = zip(wanted.inputs, ((0, layers // 2), (layers // 2, layers)), strict=True)
        slices = "".join(f"- sources:\n  - {{model: {models / name}, layer_range: [{a}, {b}]}}\n" for name, (a, b) in ranges)
        return f"merge_method: passthrough\nslices:\n{slices}dtype: bfloat16\n"
    if method == "adapters":
        pair = "".join(
            f"- model: {models / 'base'}+{models / name}\n  parameters: {{{wanted.each}}}\n" for name in wanted.inputs[1:]
        )
        return f"merge_method: linear\nmodels:\n{pair}dtype: bfloat16\n"
    if method == "mod":
        experts = "".join(f"- source_model: {models / name}\n" for name in wanted.inputs)
        return f"base_model: {models / 'one'}\nexperts:\n{experts}weights: [0.9, 0.1]\n"
    entries = ""
    for name in wanted.inputs:
        given = f"  parameters: {{{wanted.each}}}\n" if wanted.each and name != "base" else ""
        entries += f"- model: {models / name}\n{given}"
    base = f"base_model: {models / 'base'}\n" if "base" in wanted.inputs else ""
    shared = f"parameters: {{{wanted.shared}}}\n" if wanted.shared else ""
    # mergekit writes some methods as float32 unless `out_dtype` says otherwise.
    return f"merge_method: {method}\n{base}models:\n{entries}{shared}dtype: bfloat16\nout_dtype: bfloat16\n"


# -------------------------------------------------------------- what children do


def make_models(shape: Shape, root: Path, seed: int) -> None:
    """base, one, two: a fine-tune is the base with every element moved by a tenth of the weights' size."""
    import numpy as np

    def bfloat16(values: Any) -> Any:
        bits = values.view(np.uint32)
        return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)

    def draws(stream: int, tensor: int, chunk: int, count: int) -> Any:
        generator = np.random.Generator(np.random.SFC64([seed, stream, tensor, chunk]))
        return generator.standard_normal(count, dtype=np.float32)

    tensors = list(shape.tensors())
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, size in tensors:
        nbytes = 2 * int(np.prod(size))
        header[name] = {"dtype": "BF16", "shape": list(size), "data_offsets": [offset, offset + nbytes]}  # type: ignore[dict-item]
        offset += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    for stream, model in enumerate(("base", "one", "two")):
        folder = root / model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(shape.config(), indent=2))
        with (folder / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for number, (name, size) in enumerate(tensors):
                elements, step = int(np.prod(size)), 1 << 22
                for chunk, start in enumerate(range(0, elements, step)):
                    count = min(step, elements - start)
                    values = 0.02 * draws(0, number, chunk, count)
                    if name.endswith("norm.weight"):
                        values += 1
                    stored = bfloat16(values.astype(np.float32))
                    if stream:
                        known = (stored.astype(np.uint32) << 16).view(np.float32)
                        moved = known + np.float32(0.002) * draws(stream, number, chunk, count)
                        stored = bfloat16(moved.astype(np.float32))
                    file.write(stored.tobytes())
            file.flush()
            os.fsync(file.fileno())


def make_adapters(shape: Shape, root: Path, seed: int) -> None:
    """lora-one and lora-two: PEFT adapters of the base, of rank 16 on every linear layer."""
    import numpy as np

    linear = [(name.removesuffix(".weight"), size) for name, size in shape.tensors() if "_proj.weight" in name]
    for stream, model in enumerate(("lora-one", "lora-two")):
        generator = np.random.Generator(np.random.SFC64([seed, stream, 7]))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        data, offset = [], 0
        for name, (rows, columns) in linear:
            for factor, size in (("A", (RANK, columns)), ("B", (rows, RANK))):
                values = np.float32(0.02) * generator.standard_normal(size, dtype=np.float32)
                data.append(values.tobytes())
                place = [offset, offset + len(data[-1])]
                header[f"base_model.model.{name}.lora_{factor}.weight"] = {"dtype": "F32", "shape": size, "data_offsets": place}
                offset += len(data[-1])
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        folder = root / model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(root / "base"),
            "r": RANK,
            "lora_alpha": 2 * RANK,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": False,
            "target_modules": sorted({name.rsplit(".", 1)[1] for name, _ in linear}),
        }
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def copy(inputs: Sequence[Path], output: Path) -> dict[str, float]:
    """The floor: read every byte of every input through one buffer, write as many as one of them has."""
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    start = time.perf_counter()
    with output.open("wb", buffering=0) as out:
        for number, path in enumerate(inputs):
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    if number == 0:
                        out.write(view[:count])
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        os.fsync(out.fileno())
    return {"seconds": seconds, "fsync": time.perf_counter() - start}


# -------------------------------------------------------------- processes, timed


@dataclass(frozen=True)
class Process:
    """A process from its start to its end: wall seconds, CPU seconds, peak resident bytes, what it printed."""

    seconds: float
    cpu: float
    peak: int
    stdout: str


def run(command: Sequence[str | Path]) -> Process:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            told = err.read().decode(errors="replace").strip().splitlines()[-15:]
            sys.exit(f"{' '.join(map(str, command))}: left with {process.returncode}\n" + "\n".join(told))
        cpu = usage.ru_utime + usage.ru_stime
        return Process(seconds, cpu, usage.ru_maxrss * 1024, out.read().decode(errors="replace"))


def settle(inputs: Sequence[Path], *outputs: Path) -> None:
    """Old outputs gone and nothing waiting for the disk; inputs in the page cache."""
    for output in outputs:
        shutil.rmtree(output, ignore_errors=True)
        output.unlink(missing_ok=True)
        shutil.rmtree(output.with_name(output.name + ".partial"), ignore_errors=True)
    os.sync()
    buffer = bytearray(CHUNK)
    for path in inputs:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


# -------------------------------------------------------------- one method


@dataclass
class Row:
    """What one method took: every run, in seconds and bytes."""

    method: str
    shape: str
    modist: list[float] = field(default_factory=list)
    fsync: list[float] = field(default_factory=list)
    engine: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)
    mergekit: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    floor_fsync: list[float] = field(default_factory=list)
    modist_peak: list[int] = field(default_factory=list)
    mergekit_peak: list[int] = field(default_factory=list)
    modist_cpu: list[float] = field(default_factory=list)
    mergekit_cpu: list[float] = field(default_factory=list)

    def times(self) -> float | None:
        """How many times faster, whole process against whole process."""
        return statistics.median(self.mergekit) / statistics.median(self.modist) if self.mergekit else None

    def times_without_fsync(self) -> float | None:
        if not self.mergekit:
            return None
        unsynced = statistics.median(m - f for m, f in zip(self.modist, self.fsync, strict=True))
        return statistics.median(self.mergekit) / unsynced

    def times_less_cpu(self) -> float | None:
        """How many times fewer CPU seconds: what other work on the machine changes least."""
        return statistics.median(self.mergekit_cpu) / statistics.median(self.modist_cpu) if self.mergekit_cpu else None

    def engine_over_floor(self) -> float | None:
        return statistics.median(self.engine) / statistics.median(self.floor) if self.floor else None


def measure(
    method: str, shape: str, models: Path, work: Path, runs: tuple[int, int], mergekit: Path | None, floor: bool
) -> Row:
    """One method's processes in turn; `runs` of the floor and of modist, and of mergekit."""
    row = Row(method, shape)
    wanted = METHODS[method]
    inputs = [path for name in wanted.inputs for path in (models / name).glob("*.safetensors")]
    ours, theirs = work / f"{method}.yml", work / f"{method}-mergekit.yml"
    ours.write_text(recipe(method, models, SHAPES[shape].layers))
    if wanted.against == "-":
        mergekit = None
    else:
        theirs.write_text(recipe(wanted.against or method, models, SHAPES[shape].layers))
    out, plain = work / "out", work / "floor.bin"
    for number in range(runs[0]):
        if floor:
            settle(inputs, out, plain)
            told = json.loads(run([sys.executable, HERE, "--copy", plain, *inputs]).stdout)
            row.floor.append(told["seconds"])
            row.floor_fsync.append(told["fsync"])

        settle(inputs, out, plain)
        done = run([sys.executable, "-m", "modist", "merge", ours, out, "--json"])
        told = json.loads(done.stdout)["seconds"]
        row.modist.append(done.seconds)
        row.engine.append(told["engine"])
        row.phases.append(told)
        row.fsync.append(told["fsync"])
        row.modist_peak.append(done.peak)
        row.modist_cpu.append(done.cpu)
        written = weight_bytes(out)

        if mergekit and number < runs[1]:
            cache = work / "lora-cache"
            settle(inputs, out, plain, cache)
            done = run([mergekit, theirs, out, "--no-copy-tokenizer", "--random-seed", "1", "--lora-merge-cache", cache])
            row.mergekit.append(done.seconds)
            row.mergekit_peak.append(done.peak)
            row.mergekit_cpu.append(done.cpu)
            if abs(weight_bytes(out) - written) > written / 100:
                sys.exit(f"{method}: modist wrote {written} bytes of weights, mergekit {weight_bytes(out)}")
    settle([], out, plain, work / "lora-cache")
    return row


# -------------------------------------------------------------- the report


def machine() -> dict[str, Any]:
    """What was measured on; no name of it."""
    model = platform.processor() or platform.machine()
    cpuinfo, meminfo = Path("/proc/cpuinfo"), Path("/proc/meminfo")
    if cpuinfo.exists():
        named = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = named[0] if named else model
    memory = None
    if meminfo.exists():
        memory = round(int(meminfo.read_text().split()[1]) / (1 << 20), 1)
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": memory,
        "system": platform.system(),
    }


def versions(mergekit_python: Path | None) -> dict[str, str]:
    ask = (
        "import json, sys; from importlib.metadata import version;"
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    found: dict[str, str] = {"python": platform.python_version()}
    found["modist"] = run([sys.executable, "-c", "import modist; print(modist.__version__)"]).stdout.strip()
    found |= json.loads(run([sys.executable, "-c", ask, "numpy"]).stdout)
    if mergekit_python:
        theirs = json.loads(run([mergekit_python, "-c", ask, "mergekit", "torch", "transformers"]).stdout)
        if theirs["mergekit"] != MERGEKIT:
            sys.exit(f"the peer is mergekit {MERGEKIT}, this is {theirs['mergekit']}")
        found |= theirs
    return found


def spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):.2f}"
    return f"{middle} ({min(values):.2f}-{max(values):.2f})" if len(values) > 1 else middle


def speed_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    head = [
        "recipe",
        "modist s",
        "of it fsync",
        "mergekit s",
        "times faster",
        "without fsync",
        "must (aim)",
        "CPU s",
        "mergekit CPU s",
        "times less CPU",
        "engine s",
        "floor s",
        "engine / floor",
    ]
    lines = []
    for row in rows:
        wanted, times, engine = METHODS[row.method], row.times(), row.engine_over_floor()
        verdict = "" if times is None else (" yes" if times >= wanted.least else " NO")
        limit = ENGINE_OVER_FLOOR.get(row.method)
        within = "" if engine is None or limit is None else (" yes" if engine <= limit else f" NO (> {limit})")
        lines.append(
            [
                row.method + (f" (mergekit: {wanted.against})" if wanted.against not in ("", "-") else ""),
                spread(row.modist),
                spread(row.fsync),
                spread(row.mergekit),
                "-" if times is None else f"{times:.1f}x{verdict}",
                "-" if times is None else f"{row.times_without_fsync():.1f}x",
                f"{wanted.least:g}x ({wanted.aim:g}x)" if wanted.least else "-",
                spread(row.modist_cpu),
                spread(row.mergekit_cpu),
                "-" if (less := row.times_less_cpu()) is None else f"{less:.1f}x",
                spread(row.engine),
                spread(row.floor),
                "-" if engine is None else f"{engine:.2f}{within}",
            ]
        )
    return head, lines


def memory_table(rows: Sequence[Row], baseline: int) -> tuple[list[str], list[list[str]]]:
    shapes = list(dict.fromkeys(row.shape for row in rows))
    head = [
        "recipe",
        *(f"modist {shape}, MiB above imports" for shape in shapes),
        "at most 1024",
        "mergekit peak, MiB",
    ]
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        mine = {row.shape: row for row in rows if row.method == method}
        above = {shape: (max(row.modist_peak) - baseline) / (1 << 20) for shape, row in mine.items()}
        peers = [f"{shape}: {max(row.mergekit_peak) / (1 << 20):.0f}" for shape, row in mine.items() if row.mergekit_peak]
        lines.append(
            [
                method,
                *(f"{above[shape]:.0f}" if shape in above else "-" for shape in shapes),
                "yes" if max(above.values()) * (1 << 20) <= MEMORY_LIMIT else "NO",
                ", ".join(peers) or "-",
            ]
        )
    return head, lines


def show(title: str, table: tuple[list[str], list[list[str]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    head, lines = table
    drawn = Table(title=title, title_justify="left")
    for number, name in enumerate(head):
        drawn.add_column(name, justify="right" if number else "left", overflow="fold")
    for line in lines:
        drawn.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 220).print(drawn)


def markdown(table: tuple[list[str], list[list[str]]]) -> str:
    head, lines = table
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def page(facts: dict[str, Any], tables: dict[str, tuple[list[str], list[list[str]]]]) -> str:
    """The report as Markdown."""
    here, used = facts["machine"], facts["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in used.items())
    parts = [
        "# Merging: modist beside mergekit",
        f"{facts['date']}. {here['cpu']}, {here['cores']} cores, {here['memory_gib']} GiB. {packages}.",
        f"Median of {facts['runs']} runs (least-most) of whole processes in turn"
        f"{'' if facts['mergekit_runs'] == facts['runs'] else ', of mergekit ' + str(facts['mergekit_runs'])}; "
        f"{facts['shapes']}; inputs in the page cache, "
        "the disk idle at the start. modist syncs its output before it ends (`of it fsync`), mergekit "
        "does not. `engine` is modist without start-up, hashing and fsync; `floor` reads every input and "
        "writes one output, unsynced. Two fine-tunes of a base, bfloat16, densities 0.5.",
    ]
    for title, table in tables.items():
        parts += [f"## {title}", markdown(table)]
    parts.append(
        f"Peak memory is a process's largest resident set; modist's less the {facts['baseline_mib']:.0f} MiB "
        "of the interpreter with its imports, mergekit's with the inputs it maps."
    )
    return "\n\n".join(parts) + "\n"


# -------------------------------------------------------------- from the command line


def mergekit_environment(work: Path, given: Path | None, torch: str) -> Path:
    """The Python of an environment with mergekit, made if need be."""
    if given:
        return given
    folder = work / "mergekit-environment"
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing mergekit {MERGEKIT} in an environment of its own", file=sys.stderr)
        venv.create(folder, with_pip=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "-qq", "install", torch, f"mergekit=={MERGEKIT}"]
        subprocess.run([str(part) for part in pip], check=True)
    return python


def models_of(shape: str, work: Path, seed: int) -> Path:
    """The folder with base, one and two; made once."""
    root = work / f"models-{shape}"
    mark = root / "made.json"
    made = {"shape": asdict(SHAPES[shape]), "seed": seed, "version": 2}
    if not mark.exists() or json.loads(mark.read_text()) != made:
        print(f"making three models of the {shape} shape", file=sys.stderr)
        run([sys.executable, HERE, "--make", shape, root, str(seed)])
        mark.write_text(json.dumps(made))
    return root


def benchmark(options: argparse.Namespace, work: Path) -> None:
    shapes = options.shape or ["0.5B"]
    python = None
    if not options.skip_mergekit and not all(SHAPES[shape].memory_only for shape in shapes):
        python = mergekit_environment(work, options.mergekit_python, options.torch)
    mergekit = python.parent / "mergekit-yaml" if python else None
    used = versions(python)
    imports = "import modist.cli, modist.merge.engine"
    baseline = max(run([sys.executable, "-c", imports]).peak for _ in range(3))
    rows: list[Row] = []
    runs = (options.runs, options.mergekit_runs or options.runs)
    for shape in shapes:
        only = SHAPES[shape].memory_only
        models = models_of(shape, work, options.seed)
        for method in options.only or METHODS:
            print(f"{shape}: {method}", file=sys.stderr)
            peer = None if only else mergekit
            rows.append(measure(method, shape, models, work, (1, 1) if only else runs, peer, not only))
    facts = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": used,
        "runs": runs[0],
        "mergekit_runs": runs[1],
        "seed": options.seed,
        "page_cache": "warm",
        "baseline_mib": baseline / (1 << 20),
    }
    results = options.results or (work if shapes == ["tiny"] else HERE.parent / "results")
    name = "merge-" + "-".join(shapes) + ("-" + "-".join(options.only) if options.only else "")
    report(facts, rows, results, options.name or name)


def report(facts: dict[str, Any], rows: Sequence[Row], results: Path, name: str) -> None:
    """Print the tables and write them, with every run, as Markdown and JSON."""
    shapes = list(dict.fromkeys(row.shape for row in rows))
    tables = {}
    for shape in shapes:
        if not SHAPES[shape].memory_only:
            tables[f"Speed, {shape}"] = speed_table([row for row in rows if row.shape == shape])
    tables["Memory"] = memory_table(rows, round(facts["baseline_mib"] * (1 << 20)))
    facts["shapes"] = ", ".join(
        f"{shape}: {SHAPES[shape].layers} layers of {SHAPES[shape].hidden}, {SHAPES[shape].elements / 1e6:.0f}M elements"
        for shape in shapes
    )
    facts["rows"] = [
        asdict(row)
        | {
            "times_faster": row.times(),
            "times_faster_without_fsync": row.times_without_fsync(),
            "times_less_cpu": row.times_less_cpu(),
            "engine_over_floor": row.engine_over_floor(),
        }
        for row in rows
    ]
    for title, table in tables.items():
        show(title, table)
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    (results / f"{name}.md").write_text(page(facts, tables))
    print(f"written: {name}.md and .json", file=sys.stderr)


def join(files: Sequence[Path], only: Sequence[str], results: Path, name: str) -> None:
    """One report of the rows of several, of some methods or all; a method measured twice counts as it was last."""
    told = [json.loads(path.read_text()) for path in files]
    known = {field.name for field in fields(Row)}
    rows = {}
    for facts in told:
        for row in facts["rows"]:
            if row["method"] in (only or METHODS):
                rows[row["shape"], row["method"]] = Row(**{key: value for key, value in row.items() if key in known})
    order = {method: number for number, method in enumerate(METHODS)}
    timed = [row for row in rows.values() if not SHAPES[row.shape].memory_only]
    facts = dict(told[-1])
    facts["versions"] = {key: value for part in told for key, value in part["versions"].items()}
    facts["runs"] = _span(len(row.modist) for row in timed)
    facts["mergekit_runs"] = _span(len(row.mergekit) for row in timed if row.mergekit)
    report(facts, sorted(rows.values(), key=lambda row: order[row.method]), results, name)


def _span(counts: Iterable[int]) -> str:
    found = sorted(set(counts))
    return "-".join(str(count) for count in (found[0], found[-1])[: len(found)])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How fast modist merges, beside mergekit.")
    parser.add_argument("--work", type=Path, help="folder for models and outputs, kept (default: a temporary one)")
    parser.add_argument("--shape", action="append", choices=SHAPES, help="repeatable; default 0.5B; 1.5B: memory only")
    parser.add_argument("--runs", type=int, default=3, help="of each process (default 3)")
    parser.add_argument("--mergekit-runs", type=int, help="of mergekit's, where fewer will do (default: as --runs)")
    parser.add_argument("--name", help="of the report, in place of merge-SHAPES-METHODS")
    parser.add_argument("--join", type=Path, nargs="+", metavar="JSON", help="measure nothing: one report of these")
    parser.add_argument("--only", type=lambda text: text.split(","), help="methods, separated by commas")
    parser.add_argument("--skip-mergekit", action="store_true")
    parser.add_argument("--mergekit-python", type=Path, help=f"Python of an environment with mergekit {MERGEKIT}")
    parser.add_argument("--torch", default="torch", help="what pip installs for mergekit, such as torch==2.13.0+cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the models")
    parser.add_argument("--results", type=Path, help="folder for the report (default: benchmarks/results)")
    options = parser.parse_args()
    for method in options.only or ():
        if method not in METHODS:
            parser.error(f"{method!r} is none of {', '.join(METHODS)}")
    return options


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        make_models(SHAPES[sys.argv[2]], Path(sys.argv[3]), int(sys.argv[4]))
        make_adapters(SHAPES[sys.argv[2]], Path(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--copy"]:
        print(json.dumps(copy([Path(name) for name in sys.argv[3:]], Path(sys.argv[2]))))
    else:
        options = arguments()
        if options.join:
            join(options.join, options.only or (), options.results or HERE.parent / "results", options.name or "merge-joined")
        elif options.work:
            options.work.mkdir(parents=True, exist_ok=True)
            benchmark(options, options.work.resolve())
        else:
            with tempfile.TemporaryDirectory(prefix="modist-benchmark-") as folder:
                benchmark(options, Path(folder))


if __name__ == "__main__":
    main()
