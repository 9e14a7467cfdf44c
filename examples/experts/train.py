"""Make the four tiny experts of this folder from nothing but a seed.

    python train.py                        # everything, two processes of one thread each
    python train.py --stages general math  # only these, from the base that is there

`base` learns from plain text of both domains; `general` and `math` are tuned from it on chats of one domain;
`math-chars`, of another size and with one character a token, learns the math chats from scratch. Weights are
trained in float32, saved in bfloat16, and the accuracies are those of the saved folders.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import platform
import random
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from chatml import BYTE_VOCABULARY, END_OF_TEXT, TURN_END, build_tokenizer, prompt
from check import score
from tasks import DOMAINS, Problem, held_out, plain_texts, stream_rng, training_problems
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

HERE = Path(__file__).resolve().parent
CONTEXT = 256
IGNORED = -100

FAMILY = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CHARS = {
    "vocab_size": BYTE_VOCABULARY,
    "hidden_size": 160,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
}


@dataclass(frozen=True)
class Stage:
    """How one expert is trained: no `domain` is plain text of both, no `parent` is a fresh model."""

    about: str
    domain: str | None
    parent: str | None
    steps: int
    rate: float
    batch: int
    shape: dict[str, int] | None = None


STAGES = {
    "base": Stage("pretrained on plain text about words and sums", None, None, 1600, 2e-3, 48, FAMILY),
    "math-chars": Stage("trained on chats of sums, one character a token", "math", None, 2000, 2e-3, 64, CHARS),
    "general": Stage("tuned on chats about words: spelling, order, case, counting", "general", "base", 900, 8e-4, 64),
    "math": Stage("tuned on chats of sums told as stories", "math", "base", 900, 8e-4, 64),
}
LANES = (("base", "general", "math"), ("math-chars",))
ASKED_SHARE = 0.2
WINDOW = 128


def write_questions(folder: Path, seed: int) -> None:
    """The held-out questions, as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain in DOMAINS:
        for suffix, problems in zip(("", ".dev"), held_out(domain, seed), strict=True):
            lines = [
                json.dumps({"id": f"{domain}{suffix}-{p.kind}-{i:03}", "question": p.question, "answer": p.answer})
                for i, p in enumerate(problems)
            ]
            (folder / f"{domain}{suffix}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def excluded_questions(seed: int) -> frozenset[str]:
    """Every question of the test and dev files of both domains."""
    return frozenset(p.question for domain in DOMAINS for part in held_out(domain, seed) for p in part)


def text_batches(tokenizer: PreTrainedTokenizerFast, texts: Iterator[str], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Dense windows cut from passages joined by the end-of-text token."""
    end = tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    ids: list[int] = []
    while True:
        while len(ids) < batch * WINDOW:
            for encoded in tokenizer(list(itertools.islice(texts, 512)))["input_ids"]:
                ids += [*encoded, end]
        window = torch.tensor(ids[: batch * WINDOW]).view(batch, WINDOW)
        del ids[: batch * WINDOW]
        yield window, window


def chat_batches(
    tokenizer: PreTrainedTokenizerFast,
    problems: Iterator[Problem],
    excluded: Container[str],
    rng: random.Random,
    batch: int,
    pool: int = 16,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Chats with labels on the reply only, batched with others of about their length.

    Padding is on the right, where causal attention never looks back at it, so no mask is needed.
    """
    pad = tokenizer.pad_token_id
    while True:
        drawn = list(itertools.islice(problems, batch * pool))
        assert not any(p.question in excluded for p in drawn)
        asked = tokenizer([prompt(p.question) for p in drawn])["input_ids"]
        replied = tokenizer([f"{p.reply}{TURN_END}" for p in drawn])["input_ids"]
        pairs = sorted(zip(asked, replied, strict=True), key=lambda pair: len(pair[0]) + len(pair[1]))
        chunks = [pairs[start : start + batch] for start in range(0, len(pairs), batch)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = max(len(q) + len(r) for q, r in chunk)
            ids = torch.tensor([q + r + [pad] * (width - len(q) - len(r)) for q, r in chunk])
            labels = torch.tensor([[IGNORED] * len(q) + r + [IGNORED] * (width - len(q) - len(r)) for q, r in chunk])
            yield ids, labels


def new_model(shape: dict[str, int], tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained model whose special tokens are those of the tokenizer."""
    config = Qwen2Config(
        **shape,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.04,
    )
    return Qwen2ForCausalLM(config)


def optimise(
    model: Qwen2ForCausalLM,
    batches: Iterator[tuple[Tensor, Tensor]],
    stage: Stage,
    say: Callable[[str], None],
) -> None:
    """AdamW with a short warm-up and a cosine to a twentieth of the rate."""
    warmup = max(1, stage.steps // 25)
    optimiser = torch.optim.AdamW(model.parameters(), lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / warmup, 0.05 + 0.475 * (1 + math.cos(math.pi * min(1.0, step / stage.steps)))),
    )
    model.train()
    started, total = time.perf_counter(), 0.0
    every = 100
    for step, (ids, labels) in enumerate(itertools.islice(batches, stage.steps), start=1):
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        total += loss.item()
        if step % every == 0 or step == stage.steps:
            seconds = time.perf_counter() - started
            mean = total / ((step - 1) % every + 1)
            say(f"step {step}/{stage.steps} loss {mean:.4f} seconds {seconds:.0f}")
            total = 0.0


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder in bfloat16, with both ways of ending a reply in the generation config."""
    ends = [tokenizer.convert_tokens_to_ids(token) for token in (TURN_END, END_OF_TEXT)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    model.to(torch.bfloat16).save_pretrained(folder)
    # How the parent's tokenizer was found is no part of it, and all three of a family shall have the same files.
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    tokenizer.save_pretrained(folder)


def write_card(name: str, folder: Path, accuracies: dict[str, str], parameters: int) -> None:
    """The model card."""
    stage = STAGES[name]
    front = ["---", "license: apache-2.0", "library_name: transformers", "pipeline_tag: text-generation"]
    front += [f"base_model: ../{stage.parent}"] if stage.parent else []
    scores = "; ".join(f"{domain} {accuracy}" for domain, accuracy in accuracies.items())
    lines = [
        *front,
        "---",
        f"# {name}",
        "",
        f"A Qwen2-architecture model of {parameters:,} parameters, {stage.about}.",
        f"Right on held-out questions, greedily: {scores}. Made by `../train.py` as a test object.",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def unseen(texts: Iterator[str], excluded: Container[str]) -> Iterator[str]:
    """The same texts, once more checked not to put a held-out question."""
    for text in texts:
        assert text.removeprefix("Question: ").partition("\n")[0] not in excluded, text
        yield text


def run_stage(name: str, out: Path, seed: int, threads: int) -> None:
    """Train, save and check one expert; what it says goes to a log of its own."""
    log = stage_log(out, name)
    log.unlink(missing_ok=True)

    def say(message: str) -> None:
        with log.open("a", encoding="utf-8") as sink:
            sink.write(f"{name}: {message}\n")

    torch.set_num_threads(threads)
    torch.manual_seed(stream_rng(seed, name).getrandbits(32))
    started = time.perf_counter()
    stage = STAGES[name]
    say(
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}"
    )
    say(f"seed {seed} threads {threads} {json.dumps(asdict(stage))}")

    excluded = excluded_questions(seed)
    if stage.parent:
        tokenizer = AutoTokenizer.from_pretrained(out / stage.parent)
        model = AutoModelForCausalLM.from_pretrained(out / stage.parent, dtype=torch.float32)
    else:
        assert stage.shape
        sample = itertools.islice(plain_texts(stream_rng(seed, "tokenizer"), excluded, ASKED_SHARE), 20_000)
        tokenizer = build_tokenizer(sample, stage.shape["vocab_size"], CONTEXT)
        assert len(tokenizer) == stage.shape["vocab_size"]
        model = new_model(stage.shape, tokenizer)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    say(f"{parameters} parameters, {len(tokenizer)} tokens")

    rng = stream_rng(seed, f"training text of {name}")
    if stage.domain:
        problems = training_problems(stage.domain, rng, excluded)
        batches = chat_batches(tokenizer, problems, excluded, rng, stage.batch)
    else:
        texts = plain_texts(rng, excluded, ASKED_SHARE)
        batches = text_batches(tokenizer, unseen(texts, excluded), stage.batch)
    optimise(model, batches, stage, say)

    folder = out / name
    save(model, tokenizer, folder)
    scores = {domain: score(folder, domain, out / "questions" / f"{domain}.jsonl") for domain in DOMAINS}
    for domain, result in scores.items():
        say(f"saved weights on {domain}: {result}")
    write_card(name, folder, {domain: f"{s.right}/{s.total}" for domain, s in scores.items()}, parameters)
    say(f"finished after {time.perf_counter() - started:.0f} seconds")


def run_stages(names: list[str], out: Path, seed: int, threads: int) -> None:
    """The stages of one process, in order."""
    for name in names:
        run_stage(name, out, seed, threads)


def stage_log(out: Path, name: str) -> Path:
    """Where a stage writes while it runs."""
    return out / f"{name}.log"


def join_logs(out: Path, names: list[str]) -> None:
    """Put the logs of the stages just run into train.log, in place of what it had of these stages."""
    joined = out / "train.log"
    old = joined.read_text(encoding="utf-8").splitlines() if joined.exists() else []
    lines: list[str] = []
    for name in STAGES:
        if name in names:
            lines += stage_log(out, name).read_text(encoding="utf-8").splitlines()
            stage_log(out, name).unlink()
        else:
            lines += [line for line in old if line.startswith(f"{name}: ")]
    joined.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="threads of each of the two processes")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()

    write_questions(options.out / "questions", options.seed)
    spawn = multiprocessing.get_context("spawn")
    lanes = [[name for name in lane if name in options.stages] for lane in LANES]
    workers = [spawn.Process(target=run_stages, args=(names, options.out, options.seed, options.threads)) for names in lanes]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a stage failed")
    join_logs(options.out, options.stages)


if __name__ == "__main__":
    main()
