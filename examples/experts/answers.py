"""Write the development questions with their worked replies: what a search is fitted to, never a test question.

    python answers.py                       # questions/answers.dev.jsonl: 400 chats, both domains in turn
    python answers.py --out elsewhere.jsonl

Each row is a chat in the format that `general` and `math` were tuned on, with its `domain`. The questions are those of
`general.dev.jsonl` and `math.dev.jsonl`, which no expert was trained on and no test file has; both are asserted here.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tasks import DOMAINS, Problem, held_out

HERE = Path(__file__).resolve().parent


def rows(seed: int) -> Iterator[dict[str, object]]:
    """Rows of both domains in turn."""
    parts = {domain: held_out(domain, seed) for domain in DOMAINS}
    asked = {problem.question for test, _ in parts.values() for problem in test}
    for pair in zip(*(dev for _, dev in parts.values()), strict=True):
        for domain, problem in zip(DOMAINS, pair, strict=True):
            assert problem.question not in asked
            yield row(domain, problem)


def row(domain: str, problem: Problem) -> dict[str, object]:
    """One chat."""
    messages = [{"role": "user", "content": problem.question}, {"role": "assistant", "content": problem.reply}]
    return {"domain": domain, "messages": messages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of the questions, as train.py had it")
    parser.add_argument("--out", type=Path, default=HERE / "questions" / "answers.dev.jsonl")
    options = parser.parse_args()
    found = list(rows(options.seed))
    if options.seed == 1:
        files = [HERE / "questions" / f"{domain}.dev.jsonl" for domain in DOMAINS]
        there = {json.loads(line)["question"] for file in files for line in file.read_text(encoding="utf-8").splitlines()}
        assert {row["messages"][0]["content"] for row in found} == there  # type: ignore[index]
    options.out.write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    print(f"{len(found)} rows in {options.out}")


if __name__ == "__main__":
    main()
