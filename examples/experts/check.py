"""Answer the held-out questions greedily through the chat template and print the accuracy.

python check.py base general math math-chars
python check.py --plain base  # ask as the plain text does that base was trained on
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tasks import DOMAINS, extract
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Score:
    """How many of a question file's answers were right, and how long the replies were."""

    right: int
    total: int
    tokens: float
    missed: Counter[str]

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.missed.most_common(6))
        return f"{self.right}/{self.total} = {self.right / self.total:.1%}, mean reply {self.tokens:.1f} tokens" + (
            f" (missed: {kinds})" if kinds else ""
        )


@torch.inference_mode()
def replies(
    folder: Path, questions: Sequence[str], plain: bool = False, batch: int = 100, max_new_tokens: int = 64
) -> list[list[int]]:
    """Token ids of the greedy replies of the saved weights, computed in float32."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found: list[list[int]] = []
    for start in range(0, len(questions), batch):
        asked = questions[start : start + batch]
        if plain:
            prompts = [f"Question: {question}\nAnswer:" for question in asked]
        else:
            chats = [[{"role": "user", "content": question}] for question in asked]
            prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(prompts, padding=True, return_tensors="pt")
        output = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        stops = set(model.generation_config.eos_token_id)
        for row in output[:, inputs["input_ids"].shape[1] :].tolist():
            length = next((i for i, token in enumerate(row) if token in stops), len(row))
            found.append(row[:length])
    return found


def score(folder: Path, domain: str, questions: Path, limit: int | None = None, plain: bool = False) -> Score:
    """Accuracy of one model folder on one question file."""
    rows = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()][:limit]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = replies(folder, [row["question"] for row in rows], plain)
    missed: Counter[str] = Counter()
    for row, ids in zip(rows, answers, strict=True):
        if extract(domain, tokenizer.decode(ids)) != row["answer"]:
            missed[row["id"].split("-", 1)[1].rsplit("-", 1)[0]] += 1
    return Score(len(rows) - missed.total(), len(rows), sum(map(len, answers)) / len(rows), missed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, help="model folders")
    parser.add_argument("--questions", type=Path, default=HERE / "questions", help="folder of the question files")
    parser.add_argument("--split", choices=["test", "dev"], default="test")
    parser.add_argument("--limit", type=int, help="only the first questions of each file")
    parser.add_argument("--plain", action="store_true", help="ask in plain text, not through the chat template")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in options.models:
        for domain in DOMAINS:
            file = options.questions / (f"{domain}.jsonl" if options.split == "test" else f"{domain}.dev.jsonl")
            result = score(folder, domain, file, options.limit, options.plain)
            print(f"{folder.name} on {domain}: {result}", flush=True)


if __name__ == "__main__":
    main()
