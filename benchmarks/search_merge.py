"""What one candidate of `modist search merge` costs beside merging to disk with mergekit, and what a second Ray worker brings.

    MODIST_MERGEKIT=/path/to/mergekit-yaml OMP_NUM_THREADS=1 python benchmarks/search_merge.py > found.json    # ten minutes
    OMP_NUM_THREADS=1 python benchmarks/search_merge.py --quick                                                # one round

Three parts, one JSON object; medians.

1. A candidate on the demo's experts: a new vector merged in memory, and the likelihood of 20,000 tokens of chats rendered as
   text.  Against it the same coefficients written as a recipe, merged to disk by mergekit 0.1.5 in a process of its own, the
   folder loaded and scored here with the same metric.  Once with a thread a core for both, as they come, and once with one.
   What both have to do once (imports, reading the data) is not counted; mergekit's own start is, since it starts for every
   candidate.
2. Peak memory of a process that merges candidates of two experts and a base of 125M parameters, above what it had with
   everything imported, held against the experts' size on disk and one merged copy.
3. Two Ray actors of one thread each against one: candidates per minute of the same vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import add
from pathlib import Path
from typing import Any

# Before anything that starts threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from modist.search.candidate import Workshop
from modist.search.metric import Sum, read_metrics
from modist.search.pool import score_one
from modist.search.settings import SearchSettings

HERE = Path(__file__).resolve()
EXPERTS = HERE.parents[1] / "examples" / "experts"
TARGET_RATIO, TARGET_WORKERS = 10.0, 1.5
TOKENS = 20_000
METHODS = {
    "linear": "merge_method: linear\nmodels:\n"
    "- {model: %(e)s/general, parameters: {weight: 0.5}}\n- {model: %(e)s/math, parameters: {weight: 0.5}}\n",
    "ties": "merge_method: ties\nbase_model: %(e)s/base\nparameters: {normalize: true}\nmodels:\n"
    "- {model: %(e)s/general, parameters: {weight: 0.5, density: 0.6}}\n"
    "- {model: %(e)s/math, parameters: {weight: 0.5, density: 0.6}}\n",
}
SETTINGS = SearchSettings(layer_blocks=1)


def write_data(file: Path) -> int:
    """Chats of both domains as texts, until they have TOKENS scored tokens; how many they have."""
    sys.path.insert(0, str(EXPERTS))
    import tasks

    from modist.mixture.load import load_tokenizer

    tokenizer = load_tokenizer(EXPERTS / "base")
    drawn = random.Random(5)
    rows, count = [], 0
    while count < TOKENS:
        problem = tasks.problem(("general", "math")[len(rows) % 2], drawn)
        turns = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": problem.reply}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        rows.append(json.dumps({"text": text}) + "\n")
        count += len(tokenizer(text)["input_ids"]) - 1
    file.write_text("".join(rows))
    return count


def metric_of(file: Path) -> Sum:
    # Drawn like the demo's test questions, of which some are among them; nothing is reported of how good anything is.
    return read_metrics([f"likelihood:{file}"], compare=False)


def workshop_of(recipe: Path, device: str = "cpu") -> Workshop:
    return Workshop(recipe, SETTINGS, device=device, threads=1)


def vectors(workshop: Workshop, count: int, seed: int = 0) -> list[np.ndarray]:
    """Anywhere between the bounds, so that every tensor that is searched changes from one to the next."""
    genome, drawn = workshop.genome, np.random.default_rng(seed)
    return [genome.vector(0.1 + 0.8 * drawn.random(len(genome))) for _ in range(count)]


@dataclass
class Took:
    """Seconds of a clock on the wall, and of all processors in this process and the children it waited for."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @contextmanager
    def measured(self) -> Iterator[None]:
        began = time.perf_counter(), _cpu()
        yield
        self.wall.append(time.perf_counter() - began[0])
        self.cpu.append(_cpu() - began[1])

    def __add__(self, other: Took) -> Took:
        return Took(list(map(add, self.wall, other.wall)), list(map(add, self.cpu, other.cpu)))

    def as_dict(self) -> dict[str, float]:
        return {"seconds": median(self.wall), "cpu_seconds": median(self.cpu)}


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def median(numbers: Sequence[float]) -> float:
    return round(statistics.median(numbers), 4)


def candidate(method: str, folder: Path, data: Path, rounds: int, mergekit: str | None, threads: int) -> dict[str, Any]:
    """Part 1 for one method."""
    import torch

    from modist.mixture.load import load_model, load_tokenizer

    torch.set_num_threads(threads)

    recipe = folder / f"{method}.yml"
    recipe.write_text(METHODS[method] % {"e": EXPERTS} + "dtype: bfloat16\n")
    workshop, metric = Workshop(recipe, SETTINGS, device="cpu", threads=threads), metric_of(data)
    tried = vectors(workshop, rounds + 1)
    score_one(workshop, metric, tried[0])
    merging, scoring, writing, loading, again = (Took() for _ in range(5))
    differences = []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    written, out = folder / "candidate.yml", folder / "candidate"
    # In turn, so that whatever else the machine does meets both.
    for vector in tried[1:]:
        with merging.measured():
            model = workshop.merge(vector)
        with scoring.measured():
            ours = metric(model, workshop.tokenizer)
        if mergekit is None:
            continue
        written.write_text(for_mergekit(workshop.genome.recipe(vector)))
        command = [mergekit, str(written), str(out), "--no-copy-tokenizer", "--quiet"]
        with writing.measured():
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            sys.exit(f"{method}: mergekit failed: {done.stderr[-1000:]}")
        # mergekit copies the tokenizer itself where it may; here it is spared that.
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(EXPERTS / "base" / file, out / file)
        with loading.measured():
            model, tokenizer = load_model("candidate", out, dtype="float32"), load_tokenizer(out)
        with again.measured():
            theirs = metric(model, tokenizer)
        differences.append(abs(ours - theirs))
        shutil.rmtree(out)
    whole = merging + scoring
    found: dict[str, Any] = {
        "genes": len(workshop.genome),
        "tensors_changed": workshop.touched,
        "in_memory": {**whole.as_dict(), "merge": merging.as_dict(), "likelihood": scoring.as_dict()},
    }
    if mergekit is None:
        return found
    slow = writing + loading + again
    found["through_mergekit"] = {
        **slow.as_dict(),
        "mergekit": writing.as_dict(),
        "load": loading.as_dict(),
        "likelihood": again.as_dict(),
    }
    found["largest_difference_nats"] = max(differences)
    found["ratio"] = round(median(slow.wall) / median(whole.wall), 2)
    found["cpu_ratio"] = round(median(slow.cpu) / median(whole.cpu), 2)
    found["reached"] = found["ratio"] >= TARGET_RATIO
    return found


def for_mergekit(recipe: str) -> str:
    """The same recipe with its base among the sources of every slice, where mergekit wants it."""
    import yaml

    data = yaml.safe_load(recipe)
    for slice_ in data.get("slices", ()):
        sources = slice_["sources"]
        if "base_model" in data and data["base_model"] not in (source["model"] for source in sources):
            sources.insert(0, {"model": data["base_model"], "layer_range": sources[0]["layer_range"]})
    return str(yaml.safe_dump(data, sort_keys=False))


def memory(folder: Path) -> dict[str, Any]:
    """Part 2, in a process of its own."""
    shapes = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
    shapes |= {"num_attention_heads": 12, "num_key_value_heads": 4}
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=512, **shapes)
    for seed, name in enumerate(("base", "general", "math")):
        torch.manual_seed(seed)
        Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / name)
    recipe = folder / "memory.yml"
    recipe.write_text(METHODS["ties"] % {"e": folder} + "dtype: bfloat16\n")
    said = subprocess.run([sys.executable, str(HERE), "--memory", str(recipe)], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(said.stdout)
    found["experts_bytes"] = sum(path.stat().st_size for path in folder.glob("*/model.safetensors"))
    found["allowed_bytes"] = found["experts_bytes"] + found["merged_copy_bytes"]
    found["reached"] = found["peak_bytes"] <= found["allowed_bytes"]
    return found


def measure_memory(recipe: Path) -> None:
    """The peak of merging three candidates above what the process had before, from Linux's high-water mark."""
    import torch

    from modist.mixture.load import load_model

    # What is imported on first use is imported.
    warm = workshop_of_demo(recipe.parent)
    warm.merge(warm.genome.start)
    load_model("warm", EXPERTS / "base", dtype="float32")
    del warm
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    workshop = Workshop(recipe, SETTINGS, device="cpu", dtype="bfloat16", threads=1)
    for vector in vectors(workshop, 3):
        workshop.merge(vector)
    copy = sum(tensor.numel() * tensor.element_size() for tensor in workshop.model.parameters())
    assert torch.get_num_threads() == 1
    print(json.dumps({"peak_bytes": resident("VmHWM") - before, "merged_copy_bytes": copy, "before_bytes": before}))


def workshop_of_demo(folder: Path) -> Workshop:
    recipe = folder / "warm.yml"
    recipe.write_text(METHODS["ties"] % {"e": EXPERTS} + "dtype: bfloat16\n")
    return workshop_of(recipe)


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def workers(folder: Path, data: Path, rounds: int, count: int) -> dict[str, Any]:
    """Part 3: one and two actors, in turn."""
    from modist.search.ray_pool import RayPool

    recipe = folder / "linear.yml"
    tried = vectors(workshop_of(recipe), count)
    rates: dict[int, list[float]] = {1: [], 2: []}
    scores: dict[int, list[float]] = {}
    for _ in range(rounds):
        for number in rates:
            make = partial(workshop_of, recipe)
            with RayPool(make, partial(metric_of, data), workers=number, threads=1) as pool:
                pool.scores(tried[: 2 * number])  # all are up, and have read the data
                took = Took()
                with took.measured():
                    scores[number] = pool.scores(tried)
            rates[number].append(60 * count / took.wall[0])
    ratio = median(rates[2]) / median(rates[1])
    return {
        "candidates": count,
        "candidates_per_minute": {str(number): median(each) for number, each in rates.items()},
        "all": {str(number): [round(one, 1) for one in each] for number, each in rates.items()},
        "same_scores": scores[1] == scores[2],
        "ratio": round(ratio, 3),
        "reached": ratio >= TARGET_WORKERS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of each")
    parser.add_argument("--only", choices=("candidate", "memory", "workers"), help="one part")
    parser.add_argument("--threads", type=int, help="of a candidate; as many as there are cores and one, where left out")
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    if asked.memory:
        measure_memory(asked.memory)
        return
    rounds = 1 if asked.quick else 5
    mergekit = os.environ.get("MODIST_MERGEKIT")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "fit.jsonl"
        found: dict[str, Any] = {
            "machine": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "rounds": rounds,
            "torch": str(torch.__version__),
            "tokens": write_data(data),
            "load_before": os.getloadavg()[0],
        }
        if asked.only in (None, "candidate"):
            found["candidate"] = {
                f"{threads} thread{'s' * (threads > 1)}": {
                    method: candidate(method, folder, data, rounds, mergekit, threads) for method in METHODS
                }
                for threads in sorted({asked.threads or os.cpu_count() or 1, asked.threads or 1}, reverse=True)
            }
            torch.set_num_threads(1)
            if mergekit is None:
                found["note"] = "MODIST_MERGEKIT names no mergekit-yaml, so there is nothing to compare with"
        if asked.only in (None, "memory"):
            found["memory"] = memory(folder)
        if asked.only in (None, "workers"):
            (folder / "linear.yml").write_text(METHODS["linear"] % {"e": EXPERTS} + "dtype: bfloat16\n")
            found["workers"] = workers(folder, data, rounds=1 if asked.quick else 3, count=6 if asked.quick else 24)
        found["load_after"] = os.getloadavg()[0]
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
