"""What fusing costs: extraction beside the forward passes alone, a training step beside a plain CLM step, a target's memory.

    python benchmarks/fuse.py              # three to four minutes on two cores; 6 GB of memory
    python benchmarks/fuse.py --quick      # a trial of seconds; nothing is written
    python benchmarks/fuse.py --device cuda --dtype bfloat16

Random, seeded models of Qwen2.5-0.5B's width and vocabulary (151,936): all 24 layers for extraction, 4 for training, where the
head's share, in which fusing differs from CLM, is then larger than in any whole model.  What is compared takes turns, round
after round, and medians are told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from modist.fusion.chat import Reading
from modist.fusion.dataset import IGNORED, collate
from modist.fusion.extraction import batch_distributions
from modist.fusion.loss import fusion_loss, plain_fusion_loss
from modist.fusion.plan import DistributionPlan
from modist.fusion.positions import picked_positions
from modist.fusion.store import Store
from modist.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY, K = 151_936, 10
TARGETS = {"extraction": 1.3, "step": 1.2, "memory": 1 / 1000, "loss": 1e-6}


def model_of(layers: int, quick: bool, device: str, dtype: torch.dtype) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=2048 if quick else VOCABULARY,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=2 if quick else layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
    )
    return Qwen2ForCausalLM(config).to(device, dtype).eval()


def chats(count: int, prompt: int, response: int, vocabulary: int) -> list[Reading]:
    """Random tokens; lengths vary by a tenth."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(count):
        first, more = (int(n * generator.uniform(0.9, 1.1)) for n in (prompt, response))
        ids = generator.integers(3, vocabulary, first + more).astype(np.int32)
        found.append(Reading(ids, first, np.zeros((more, 2), dtype=np.int32), True))
    return sorted(found, key=lambda reading: len(reading.ids))


def turns(rounds: int, one: Callable[[], Any], two: Callable[[], Any], wait: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of two things that take turns, and the median of their ratio."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for place, work in enumerate((one, two)):
            wait()
            began = time.perf_counter()
            work()
            wait()
            if number:  # the first round warms up
                seconds[place].append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(*seconds, strict=True)]
    return {
        "seconds": statistics.median(seconds[0]),
        "alone_seconds": statistics.median(seconds[1]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


def extraction(options: argparse.Namespace, wait: Callable[[], Any]) -> dict[str, Any]:
    """Everything from tokens to a hashed shard on disk, beside the same forwards whose logits are thrown away."""
    model = model_of(24, options.quick, options.device, options.dtype)
    readings = chats(8 if not options.quick else 4, options.prompt, options.response, model.config.vocab_size)
    batches = [list(range(at, at + 2)) for at in range(0, len(readings), 2)]
    plan = {"top_k": K, "shards": [{"batches": batches}]}
    planned = DistributionPlan(plan, tuple(readings), 0)
    positions = sum(reading.count for reading in readings)
    with tempfile.TemporaryDirectory() as folder, picked_positions(model) as picked:
        made = iter(range(1000))
        size = 0

        def whole() -> None:
            nonlocal size
            with Store(Path(folder) / f"{next(made)}", plan) as store:
                parts = [batch_distributions(picked, model, "it", batch, planned, None) for batch in batches]  # type: ignore[arg-type]
                store.add(0, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
                size = store.nbytes

        def alone() -> None:
            for batch in batches:
                rows = [readings[row] for row in batch]
                width = max(len(row.ids) for row in rows)
                ids = np.zeros((len(rows), width), dtype=np.int64)
                for place, row in enumerate(rows):
                    ids[place, : len(row.ids)] = row.ids
                wanted = np.concatenate([p * width + np.arange(r.first - 1, len(r.ids) - 1) for p, r in enumerate(rows)])
                with torch.inference_mode():
                    given = torch.from_numpy(ids).to(model.device)
                    picked.logits(model, torch.from_numpy(wanted).to(model.device), input_ids=given)

        found = turns(options.rounds, whole, alone, wait)
    return {**found, "positions": positions, "bytes_a_position": size / positions, "tokens": sum(len(r.ids) for r in readings)}


def training(options: argparse.Namespace, wait: Callable[[], Any]) -> dict[str, Any]:
    """Forward, backward and AdamW: fusing beside transformers' own CLM loss, and beside CLM on response positions only."""
    model = model_of(4, options.quick, options.device, options.dtype).train()
    vocabulary = model.config.vocab_size
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)
    generator = np.random.default_rng(1)
    rows = []
    for reading in chats(4, options.prompt, options.response, vocabulary):
        n = reading.count
        ids = np.stack([generator.choice(vocabulary, 2 * K, replace=False) for _ in range(n)]).astype(np.int32)
        probs = generator.dirichlet(np.ones(2 * K + 1), n).astype(np.float32)
        rows.append(
            {"input_ids": reading.ids, "first": reading.first, "ids": ids, "probs": probs[:, :-1], "tail": probs[:, -1].copy()}
        )
    batch = {name: tensor.to(options.device) for name, tensor in collate(rows).items()}
    labels = batch["labels"]
    follows = labels[:, 1:] != IGNORED
    wanted = torch.arange(labels.numel(), device=labels.device).view_as(labels)[:, :-1][follows]
    there = torch.arange(batch["target_tail"].shape[1], device=labels.device)[None] < follows.sum(1)[:, None]
    mask = {"attention_mask": batch["attention_mask"]}

    def step(loss: torch.Tensor) -> None:
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def plain() -> None:
        step(model(input_ids=batch["input_ids"], labels=labels, use_cache=False, **mask).loss)

    with picked_positions(model) as picked:

        def fused() -> None:
            logits = picked.logits(model, wanted, input_ids=batch["input_ids"], **mask)
            target = (batch["target_ids"][there], batch["target_probs"][there], batch["target_tail"][there])
            step(fusion_loss(logits, labels[:, 1:][follows], *target, 0.9).total.mean())

        def label() -> None:
            logits = picked.logits(model, wanted, input_ids=batch["input_ids"], **mask)
            step(torch.nn.functional.cross_entropy(logits.float(), labels[:, 1:][follows]))

        whole = turns(options.rounds, fused, plain, wait)
        picked_only = turns(max(2, options.rounds // 2), fused, label, wait)
    positions = int(follows.sum())
    target_bytes = sum(batch[name][there].nbytes for name in ("target_ids", "target_probs", "target_tail"))
    return {
        **whole,
        "against_picked": picked_only["ratio"],
        "positions": positions,
        "tokens": int(batch["attention_mask"].sum()),
        "target_bytes_a_position": target_bytes / positions,
        "dense_bytes_a_position": 4 * vocabulary,
        "memory": target_bytes / positions / (4 * vocabulary),
    }


def losses(quick: bool) -> dict[str, float]:
    """The largest relative difference of the sparse loss from one by dense tensors, in float64 and in float32."""
    vocabulary = 2048 if quick else VOCABULARY
    generator = torch.Generator().manual_seed(2)
    n = 32
    logits = 4 * torch.randn(n, vocabulary, generator=generator, dtype=torch.float64)
    labels = torch.randint(vocabulary, (n,), generator=generator)
    ids = torch.stack([torch.randperm(vocabulary, generator=generator)[:K] for _ in range(n)])
    share = torch.rand(n, K + 1, generator=generator, dtype=torch.float64)
    share /= share.sum(1, keepdim=True)
    found = {}
    for dtype in (torch.float64, torch.float32):
        z, p, r = logits.to(dtype), share[:, :-1].to(dtype), share[:, -1].to(dtype)
        dense = torch.zeros(n, vocabulary, dtype=dtype).scatter_(1, ids, p)
        outside = torch.softmax(z, -1).scatter(1, ids, 0.0).sum(1)
        fused = -(dense * torch.log_softmax(z, -1)).sum(1) - r * outside.log()
        wanted = 0.9 * torch.nn.functional.cross_entropy(z, labels, reduction="none") + 0.1 * fused
        name = str(dtype).removeprefix("torch.")
        found[name] = float((fusion_loss(z, labels, ids, p, r, 0.9).total / wanted - 1).abs().max())
        found[f"{name}, by log1mexp"] = float((plain_fusion_loss(z, labels, ids, p, r, 0.9).total / wanted - 1).abs().max())
    return found


def report(told: dict[str, Any]) -> str:
    made, step, loss = told["extraction"], told["training"], told["loss"]
    yes = {True: "yes", False: "no"}
    rows = [
        (
            "extraction, against the forward passes alone",
            f"{made['ratio']:.3f}x ({made['seconds']:.1f} s and {made['alone_seconds']:.1f} s, {made['tokens']:,} tokens)",
            f"at most 1.3x: {yes[made['ratio'] <= TARGETS['extraction']]}",
        ),
        ("on disk", f"{made['bytes_a_position']:.1f} bytes a position", "about 60"),
        (
            "training step, against a plain CLM step",
            f"{step['ratio']:.3f}x ({step['seconds']:.2f} s and {step['alone_seconds']:.2f} s)",
            f"at most 1.2x: {yes[step['ratio'] <= TARGETS['step']]}",
        ),
        ("the same, against CLM whose head also sees response positions only", f"{step['against_picked']:.3f}x", ""),
        (
            "a target in memory, two teachers' ids, against a dense float32 one",
            f"{step['target_bytes_a_position']:.0f} of {step['dense_bytes_a_position']:,} bytes: 1/{1 / step['memory']:,.0f}",
            f"under 1/1000: {yes[step['memory'] < TARGETS['memory']]}",
        ),
        (
            "the loss, against the dense one",
            f"{loss['float64']:.1e} in float64, {loss['float32']:.1e} in float32 (relative, of 32)",
            f"1e-6: {yes[max(loss['float64'], loss['float32']) <= TARGETS['loss']]}",
        ),
    ]
    body = "\n".join(f"| {what} | {measured} | {target} |" for what, measured, target in rows)
    return f"""# Fusing: what it costs

{told["machine"]}. Made by `benchmarks/fuse.py`.

| what | measured | to reach |
|---|---|---|
{body}

Random models of Qwen2.5-0.5B's width and vocabulary (151,936), {told["dtype"]} on {told["device"]}: 24 layers for extraction, 4
for training (where the head, in which fusing differs, weighs more than in any whole model). Prompts of about
{told["prompt"]} tokens, responses of about {told["response"]}. Both sides take turns; medians of {told["rounds"]} rounds.
Extraction is everything from token ids to a hashed shard on disk; its baseline throws the same logits away. The plain CLM step
is transformers' own (`labels=`), whose head sees the prompt too.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=96)
    parser.add_argument("--response", type=int, default=96)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", type=lambda name: getattr(torch, name), default=torch.float32)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    wait = torch.cuda.synchronize if options.device.startswith("cuda") else lambda: None
    cores = os.cpu_count()
    told = {
        "machine": f"{platform.machine()}, {cores} cores, {torch.get_num_threads()} threads; python"
        f" {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, modist {VERSION}",
        "device": options.device,
        "dtype": str(options.dtype).removeprefix("torch."),
        "prompt": options.prompt,
        "response": options.response,
        "rounds": options.rounds,
        "loss": losses(options.quick),
        "training": training(options, wait),
        "extraction": extraction(options, wait),
    }
    text = report(told)
    print(text)
    if not options.quick:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "fuse.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        (options.out / "fuse.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
