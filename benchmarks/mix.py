"""What a lazy mixture costs, beside the eager one and beside one expert alone.

    python benchmarks/mix.py                      # about half an hour on two cores; 6 GB of memory
    python benchmarks/mix.py --quick              # a trial of a minute; nothing is written
    python benchmarks/mix.py --device cuda --dtype bfloat16

Speed is measured on random, seeded models of Qwen2.5-0.5B's shape: lazy, eager and single runs take turns, round after
round, and medians are told.  Random models have flat distributions, so passes of greedy decoding and of warped mixtures are
counted on trained ones: the tiny experts of this repository, and a pair of fine-tunes (--pair).  Every lazy answer is compared
with the eager one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from modist.mixture import Experts, assemble, load_experts
from modist.mixture.decode import Ledger, Run, Settings, encode_prompts
from modist.mixture.linear import quicken
from modist.mixture.reader import ModelCore
from modist.recipe import parse_recipe
from modist.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "examples" / "experts"
PAIR = [ROOT.parent / "shared" / "models" / f"stories260K-ft-{name}" for name in ("gsm8k", "grimm")]
CHUNKS = (1, 2, 4, 8, 16)
PROMPT = 32
GREEDY_TARGETS = {(0.9, 0.1): 1.35, (0.7, 0.3): 1.55, (0.5, 0.5): 1.75}
TOP_P_TARGET = 1.5
OPENINGS = (
    "Once upon a time there was a king who had",
    "In the middle of the forest there lived",
    "A poor woodcutter said to his wife",
    "One day a little girl went to the park with",
    "The old queen looked into the mirror and",
    "There was a small dog who wanted to",
    "When the sun came up, the three brothers",
    "The wolf knocked at the door and said",
    "Tom has 12 apples and buys 7 more. How many",
    "A train travels 60 miles in one hour. In 3 hours",
    "Each box holds 8 pencils. If there are 5 boxes,",
    "Anna reads 20 pages a day. In a week she reads",
    "There are 24 children in a class. Half of them",
    "A shop sells a pen for $3 and a book for $9. The",
    "Sam earns $15 an hour and works 8 hours. He",
    "John has twice as many marbles as Bill. Together",
)


@dataclass(frozen=True)
class Mode:
    """One line of the table of speeds.

    Attributes:
        name: for people.
        weights: of the first models.
        rows: batch.
        on_cpu, on_gpu: how much faster than eager it must be, or None.
        scores: whether logprobs and responsibilities are asked for.
    """

    name: str
    weights: tuple[float, ...]
    rows: int = 1
    on_cpu: float | None = None
    on_gpu: float | None = None
    scores: bool = True


MODES = (
    Mode("sampling, .9/.1", (0.9, 0.1), 1, 1.5, 1.9),
    Mode("sampling, .5/.5", (0.5, 0.5), 1, 1.2, 1.8),
    Mode("sampling, 3 equal experts", (1 / 3, 1 / 3, 1 / 3), 1, 1.6, 2.5),
    Mode("sampling, batch 8, .5/.5, text only", (0.5, 0.5), 8, 1.6, None, scores=False),
    Mode("sampling, batch 8, .5/.5, with logprobs", (0.5, 0.5), 8, None, None),
)


@dataclass
class Speed:
    """Tokens a second of one mode, one entry a round."""

    mode: Mode
    target: float | None
    lazy: list[float] = field(default_factory=list)
    eager: list[float] = field(default_factory=list)
    single: list[float] = field(default_factory=list)
    passes: list[float] = field(default_factory=list)
    flush: list[float] = field(default_factory=list)
    same: list[bool] = field(default_factory=list)

    @property
    def gain(self) -> float:
        """How many times as fast as eager: the median over rounds, in each of which the two ran one after the other."""
        return statistics.median(lazy / eager for lazy, eager in zip(self.lazy, self.eager, strict=True))

    def as_dict(self) -> dict[str, Any]:
        found = asdict(self)
        found["mode"] = self.mode.name
        return found | {"gain": self.gain, "reached": None if self.target is None else self.gain >= self.target}


@dataclass(frozen=True)
class Passes:
    """Passes per token of one mode on real text."""

    experts: str
    mode: str
    target: float | None
    passes: float
    most: float
    certified: float
    answers: int
    tokens: int
    same: int
    tokens_per_second: float
    eager_tokens_per_second: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"reached": None if self.target is None else self.passes <= self.target}


def random_models(count: int, device: str, dtype: torch.dtype, quick: bool) -> list[Any]:
    """Seeded models of Qwen2.5-0.5B's shape that never end an answer."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=2048 if quick else 151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=2 if quick else 24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(Qwen2ForCausalLM(config).to(device=device, dtype=dtype).eval())
    return models


def decode(experts: Experts, prompts: Sequence[Sequence[Sequence[int]]], settings: Settings) -> tuple[Ledger, float, list[Any]]:
    """One run: its ledger, seconds of the closing flush, the responses."""
    run = Run(experts, prompts, settings)
    for _ in run.steps():
        pass
    ledger = run.ledger()
    began = time.perf_counter()
    found = run.results()
    return ledger, time.perf_counter() - began, found


def measure_speeds(models: Sequence[Any], rounds: int, tokens: int, device: str, say: Callable[[str], None]) -> list[Speed]:
    """Lazy, eager and single in turn, for every mode, round after round."""
    size = models[0].config.vocab_size
    speeds = [Speed(mode, mode.on_gpu if device.startswith("cuda") else mode.on_cpu) for mode in MODES]
    mixtures = [assemble(models[: len(mode.weights)], mode.weights, share=False) for mode in MODES]
    single = assemble(models[:1], (1.0,), share=False)
    drawn = torch.Generator().manual_seed(0)
    for experts in mixtures:
        # The first run of a shape pays for what is set up once.
        decode(experts, [[[1] * PROMPT]] * len(experts), Settings(max_new_tokens=2, temperature=1.0))
    for number in range(rounds):
        alone: dict[int, float] = {}
        for speed, experts in zip(speeds, mixtures, strict=True):
            rows = torch.randint(size, (speed.mode.rows, PROMPT), generator=drawn).tolist()

            def settings(eager: bool, seed: int = number, scores: bool = speed.mode.scores) -> Settings:
                return Settings(max_new_tokens=tokens, temperature=1.0, seed=seed, eager=eager, scores=scores)

            if speed.mode.rows not in alone:
                alone[speed.mode.rows] = decode(single, [rows], settings(False))[0].tokens_per_second
            speed.single.append(alone[speed.mode.rows])
            found = {}
            # Which goes first changes from round to round, so that a drift of the machine favours neither.
            for eager in (False, True) if number % 2 == 0 else (True, False):
                ledger, flush, found[eager] = decode(experts, [rows] * len(experts), settings(eager))
                (speed.eager if eager else speed.lazy).append(ledger.tokens_per_second)
                if not eager:
                    speed.passes.append(ledger.passes_per_step)
                    speed.flush.append(flush)
            speed.same.append([one.token_ids for one in found[False]] == [one.token_ids for one in found[True]])
            say(
                f"round {number + 1} of {rounds}: {speed.mode.name}: {speed.lazy[-1]:.2f} tokens/s, eager {speed.eager[-1]:.2f}"
            )
    return speeds


def chunk_curve(model: Any, repeats: int) -> dict[int, float]:
    """Seconds of a pass over n tokens after a prompt, medians."""
    found: dict[int, list[float]] = {size: [] for size in CHUNKS}
    core = ModelCore(model)
    core.start([list(range(PROMPT))])
    core.read(torch.zeros(1, 0, dtype=torch.long), 1)
    for _ in range(repeats + 1):
        for size in CHUNKS:
            tokens = torch.arange(size)[None]
            settle(model)
            began = time.perf_counter()
            core.read(tokens, size)
            settle(model)
            found[size].append(time.perf_counter() - began)
            core.rollback(size)
    return {size: statistics.median(values[1:]) for size, values in found.items()}


def bandwidth(device: str) -> float:
    """Bytes a second at which this machine reads memory: sums over half a gigabyte."""
    block = torch.ones(1 << 27, device=device)
    times = []
    for _ in range(6):
        settle(block)
        began = time.perf_counter()
        block.sum()
        settle(block)
        times.append(time.perf_counter() - began)
    return 4 * block.numel() / min(times)


def settle(holder: Any) -> None:
    """Wait for a GPU."""
    if torch.device(holder.device).type == "cuda":
        torch.cuda.synchronize()


def real_experts(folders: Sequence[Path], weights: Sequence[float], device: str) -> Experts:
    recipe = {"experts": [{"source_model": str(folder)} for folder in folders], "weights": list(weights)}
    return load_experts(parse_recipe(json.dumps(recipe)), device=device, dtype="float32", say=lambda line: None)


def questions(count: int) -> Iterator[list[dict[str, str]]]:
    """Questions of both domains in turn, as chats."""
    files = [(TINY / "questions" / f"{name}.jsonl").read_text("utf-8").splitlines() for name in ("general", "math")]
    for index in range(count):
        yield [{"role": "user", "content": json.loads(files[index % 2][index // 2])["question"]}]


def count_passes(
    name: str, folders: Sequence[Path], prompts: Sequence[Any], tokens: int, device: str, say: Callable[[str], None]
) -> Iterator[Passes]:
    """Greedy at three weights, and sampling with top-p over the mixture, each answer also made eagerly."""
    for weights, target in GREEDY_TARGETS.items():
        experts = real_experts(folders, weights, device)
        modes: list[tuple[str, float | None, dict[str, Any]]] = [("greedy", target, {})]
        if weights == (0.9, 0.1):
            modes.append(("top-p .95 over the mixture", TOP_P_TARGET, {"temperature": 1.0, "top_p": 0.95, "warp": "mixture"}))
        for mode, wanted, more in modes:
            lazy, eager, same = [], [], 0
            for seed, prompt in enumerate(prompts):
                encoded = encode_prompts(experts, [prompt])
                pair = {}
                for plain in (False, True):
                    settings = Settings(max_new_tokens=tokens, seed=seed, eager=plain, **more)
                    ledger, _, pair[plain] = decode(experts, encoded, settings)
                    (eager if plain else lazy).append(ledger)
                same += pair[False][0].token_ids == pair[True][0].token_ids
            steps = sum(ledger.steps for ledger in lazy)
            found = Passes(
                experts=name,
                mode=f"{mode}, {'/'.join(f'{weight:g}'.lstrip('0') for weight in weights)}",
                target=wanted,
                passes=sum(sum(ledger.passes.values()) for ledger in lazy) / steps,
                most=max(ledger.passes_per_step for ledger in lazy),
                certified=sum(ledger.certified_share * ledger.tokens for ledger in lazy)
                / sum(ledger.tokens for ledger in lazy),
                answers=len(lazy),
                tokens=steps,
                same=same,
                tokens_per_second=steps / sum(ledger.seconds for ledger in lazy),
                eager_tokens_per_second=sum(ledger.steps for ledger in eager) / sum(ledger.seconds for ledger in eager),
            )
            say(f"{name}, {found.mode}: {found.passes:.2f} passes a token")
            yield found


def machine(device: str) -> dict[str, Any]:
    """What it ran on, and with what."""
    processor = platform.processor() or platform.machine()
    memory = None
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": None if memory is None else round(memory / (1 << 30), 1),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "modist": VERSION,
    }


def report(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    here = found["machine"]
    versions = ", ".join(f"{name} {here[name]}" for name in ("python", "torch", "transformers", "modist"))
    place = here["gpu"] or f"{here['processor']}, {here['cores']} cores, {here['threads']} threads, {here['memory_gib']} GiB"
    lines = [
        "# Mixing: what a token costs",
        "",
        f"{place}; {here['system']}; {versions}. {found['dtype']}. Made by `benchmarks/mix.py`.",
        "",
        "## Speed",
        "",
        f"Random models of {found['shape']}, {found['new_tokens']} new tokens after a prompt of {PROMPT}; medians"
        f" of {found['rounds']} rounds in which lazy, eager and single take turns. Tokens/s count all rows of a batch. The"
        " floor is the first expert alone, decoded by the same code.",
        "",
        "| mode | passes per token | lazy, tokens/s | eager | one expert | against eager | to reach | same tokens | flush |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["speed"]:
        figures = " | ".join(f"{statistics.median(row[key]):.2f}" for key in ("passes", "lazy", "eager", "single"))
        lines.append(
            f"| {row['mode']} | {figures} | {row['gain']:.2f}x | {goal(row['target'], row['reached'], 'x')} |"
            f" {sum(row['same'])} of {len(row['same'])} | {statistics.median(row['flush']):.2f} s |"
        )
    lines += [
        "",
        "The flush reads, once at the end, what experts still lag, for their logprobs; it is not in the figures before it.",
        "",
        "## One pass over n tokens",
        "",
        "| n | " + " | ".join(found["chunk_seconds"]) + " |",
        "|---|" + "---|" * len(found["chunk_seconds"]),
        *(
            f"| {name}, ms | " + " | ".join(f"{1000 * seconds:.0f}" for seconds in found[kind].values()) + " |"
            for name, kind in (("as here", "chunk_seconds"), ("torch's own products", "chunk_seconds_plain"))
        ),
        "",
        f"Reading {found['weights_bytes'] / 1e9:.2f} GB of weights at the {found['bandwidth'] / 1e9:.1f} GB/s measured here"
        f" would take {1000 * found['weights_bytes'] / found['bandwidth']:.0f} ms.",
        "",
        "## Passes on real text",
        "",
        "| experts | mode | passes per token | to reach | worst answer | settled early | lazy, tokens/s | eager | same |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found["passes"]:
        lines.append(
            f"| {row['experts']} | {row['mode']} | {row['passes']:.2f} | {goal(row['target'], row['reached'], '')} |"
            f" {row['most']:.2f} | {row['certified']:.0%} | {row['tokens_per_second']:.0f} |"
            f" {row['eager_tokens_per_second']:.0f} | {row['same']} of {row['answers']} |"
        )
    lines += [
        "",
        "Settled early: tokens decided without asking every expert. Same: answers equal to the eager ones, token for token."
        " These models are so small that overhead, not reading, is timed.",
    ]
    return "\n".join(lines) + "\n"


def goal(target: float | None, reached: bool | None, unit: str) -> str:
    if target is None:
        return "-"
    return f"{'at least' if unit else 'at most'} {target:g}{unit}: {'yes' if reached else 'no'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small trial: tiny shapes, few tokens, one round")
    parser.add_argument("--rounds", type=int, default=3, help="how often each speed is measured")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--pair", type=Path, nargs=2, default=PAIR, metavar="FOLDER", help="two fine-tunes of one model")
    parser.add_argument("--out", type=Path, help="folder for mix.md and mix.json; benchmarks/results, with --quick none")
    parser.add_argument("--no-speed", action="store_true", help="count passes only")
    options = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - began:6.0f} s] {line}", flush=True)

    tokens, rounds = (12, 1) if options.quick else (128, options.rounds)
    found: dict[str, Any] = {
        "machine": machine(options.device),
        "dtype": options.dtype,
        "shape": "two layers of Qwen2.5-0.5B's (a trial)" if options.quick else "Qwen2.5-0.5B's shape",
        "new_tokens": tokens,
        "rounds": rounds,
        "speed": [],
    }
    models = random_models(1 if options.no_speed else 3, options.device, getattr(torch, options.dtype), options.quick)
    found["weights_bytes"] = sum(tensor.nbytes for tensor in models[0].parameters())
    found["bandwidth"] = bandwidth(options.device)
    for kind in ("chunk_seconds_plain", "chunk_seconds"):
        if kind == "chunk_seconds":
            quicken(models)
        curve = chunk_curve(models[0], 3 if options.quick else 9)
        found[kind] = {str(size): seconds for size, seconds in curve.items()}
        say(f"{kind}: " + ", ".join(f"{size}: {1000 * seconds:.0f} ms" for size, seconds in curve.items()))
    if not options.no_speed:
        speeds = measure_speeds(models, rounds, tokens, options.device, say)
        found["speed"] = [speed.as_dict() for speed in speeds]
    del models
    kinds = [("general and math", [TINY / "general", TINY / "math"], list(questions(4 if options.quick else 40)))]
    if all(folder.is_dir() for folder in options.pair):
        kinds.insert(0, ("two fine-tunes", list(options.pair), list(OPENINGS[::6] if options.quick else OPENINGS)))
    else:
        say("there is no pair of fine-tunes here (--pair): left out")
    found["passes"] = [
        row.as_dict()
        for kind, folders, prompts in kinds
        for row in count_passes(kind, folders, prompts, tokens, options.device, say)
    ]
    text = report(found)
    out = options.out or (None if options.quick else ROOT / "benchmarks" / "results")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        name = "mix" if options.device == "cpu" else f"mix-{options.device.partition(':')[0]}"
        (out / f"{name}.md").write_text(text, encoding="utf-8")
        (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
