"""Answers a second: the transformers generator in batches, beside a loop that asks one question after the other.

    python benchmarks/evaluate_generator.py                       # a minute on one core
    python benchmarks/evaluate_generator.py --model DIR --data FILE.jsonl --n 100 --device cuda

Both answer the same chat prompts greedily, with at most --max-new-tokens tokens; they take turns, round after round, and
medians are told.  The loop is transformers' own `generate`, as its documentation shows it.  Every answer of the generator is
compared with the loop's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from modist.evaluation.generators import Ask, Sampling
from modist.evaluation.generators.transformers import TransformersGenerator
from modist.version import VERSION

EXPERTS = Path(__file__).resolve().parents[1] / "examples" / "experts"
TARGET = 3.0


class Loop:
    """One question after the other."""

    def __init__(self, model: str, device: str | None, dtype: str) -> None:
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval().to(device or "cpu")

    @torch.inference_mode()
    def answer(self, prompt: Any, limit: int) -> str:
        given = self._tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
        output = self._model.generate(**given, max_new_tokens=limit, do_sample=False)
        return str(self._tokenizer.decode(output[0, given["input_ids"].shape[1] :], skip_special_tokens=True))


def batched(generator: TransformersGenerator, asks: list[Ask], size: int) -> dict[str, str]:
    """Every answer by key; batches of questions of about one length, as a run makes them."""
    ordered = sorted(asks, key=lambda ask: generator.length(ask.prompt))
    texts = {}
    for start in range(0, len(ordered), size):
        for reply in generator.answer(ordered[start : start + size], Sampling()):
            texts[reply.key] = reply.text
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(EXPERTS / "general"), help="folder or hub id")
    parser.add_argument("--data", type=Path, default=EXPERTS / "questions" / "general.jsonl", help="JSONL with `question`")
    parser.add_argument("--n", type=int, default=300, help="questions")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, help="the generator's own by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch; tiny models leave a second one nothing to do")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, help="write the JSON here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()

    rows = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()[: options.n]]
    asks = [
        Ask(str(number), [{"role": "user", "content": row["question"]}], options.max_new_tokens)
        for number, row in enumerate(rows)
    ]
    generator = TransformersGenerator(options.model, device=options.device, dtype=options.dtype)
    size = options.batch_size or generator.batch_size
    loop = Loop(options.model, options.device, options.dtype)
    # The first run of each pays for what is set up once.
    generator.answer(asks[:size], Sampling())
    loop.answer(asks[0].prompt, 4)

    speeds: dict[str, list[float]] = {"generator": [], "loop": []}
    texts: dict[str, dict[str, str]] = {}
    for number in range(options.rounds):
        # Which goes first changes from round to round, so that a drift of the machine favours neither.
        for name in ("generator", "loop") if number % 2 == 0 else ("loop", "generator"):
            began = time.perf_counter()
            if name == "generator":
                texts[name] = batched(generator, asks, size)
            else:
                texts[name] = {ask.key: loop.answer(ask.prompt, options.max_new_tokens) for ask in asks}
            speeds[name].append(len(asks) / (time.perf_counter() - began))
        print(", ".join(f"{name} {values[-1]:.1f} answers/s" for name, values in speeds.items()), file=sys.stderr, flush=True)
    gain = statistics.median(one / other for one, other in zip(speeds["generator"], speeds["loop"], strict=True))
    found = {
        "model": Path(options.model).name,
        "questions": len(asks),
        "max_new_tokens": options.max_new_tokens,
        "batch_size": size,
        "rounds": options.rounds,
        "answers_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "each_round": speeds,
        "gain": gain,
        "target": TARGET,
        "reached": gain >= TARGET,
        "same_answers": sum(texts["generator"][ask.key] == texts["loop"][ask.key] for ask in asks),
        "threads": options.threads,
        "device": generator.describe()["device"],
        "dtype": generator.describe()["dtype"],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"modist": VERSION, "torch": str(torch.__version__), "transformers": transformers.__version__},
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
