"""Does fusing help?  `math-chars` (another size, one character a token) as teacher, `general` as pivot, on few chats.

    python examples/fusion/run.py                      # every arm, three seeds, both test sets: 6 minutes on two cores
    python examples/fusion/run.py --split dev --seeds 1 --arms clm mince --out /tmp/pilot    # a trial

Every arm trains the same pivot on the same chats in the same order for the same steps, and differs in the target alone;
`clm` is the plain one (lambda = 1).  Two thirds of the chats are of sums, which the pivot cannot do and the teacher can; a
third are of the pivot's own domain, so that it does not forget.  None of them asks a test or development question, which is
asserted.  Twice: with right replies, and with replies of which a third of the sums have a wrong digit, as data have that
nobody checked.  Answers are greedy, graded by exact match.  Intervals: questions and seeds drawn again 10,000 times.
"""

import argparse
import json
import platform
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXPERTS = HERE.parent / "experts"
sys.path.insert(0, str(EXPERTS))

SETS = ("general", "math")
PIVOT, TEACHER = EXPERTS / "general", EXPERTS / "math-chars"
REPLAY = 3  # every third chat is of the pivot's own domain

WRONG = 1 / 3  # of the sums' replies, in the noisy data
NOISY = ", noisy"

# name -> fusion settings, lambda, weights of pivot and teacher; those called noisy are trained on the noisy data
_MINCE, _AVGCE, _MIXTURE = {"target": "mince"}, {"target": "avgce"}, {"target": "weights"}
ARMS = {
    "clm": ({}, 1.0, None),
    "mince .9": (_MINCE, 0.9, None),
    "mince .5": (_MINCE, 0.5, None),
    "avgce .5": (_AVGCE, 0.5, None),
    "mixture .5": (_MIXTURE, 0.5, (0.5, 0.5)),
    f"clm{NOISY}": ({}, 1.0, None),
    f"mince .5{NOISY}": (_MINCE, 0.5, None),
}


def write_data(path: Path, chats: int, wrong: float) -> None:
    """Chats of both domains, drawn from streams that no expert was trained on; each question once.

    Args:
        wrong: the share of the sums' replies in which one digit of the result is another, wherever the result stands.
    """
    from answers import row
    from tasks import DOMAINS, held_out, stream_rng, training_problems

    held = {problem.question for domain in DOMAINS for part in held_out(domain, 1) for problem in part}
    streams = {domain: training_problems(domain, stream_rng(7, f"fusion {domain}"), held) for domain in DOMAINS}
    noise = stream_rng(7, "wrong digits")
    rows, seen = [], set()
    while len(rows) < chats:
        domain = "general" if len(rows) % REPLAY == 0 else "math"
        problem = next(streams[domain])
        assert problem.question not in held
        if problem.question in seen:
            continue
        seen.add(problem.question)
        rows.append(row(domain, problem))
        if domain == "math" and noise.random() < wrong:
            place = noise.randrange(len(problem.answer))
            digit = noise.choice([d for d in "0123456789" if d != problem.answer[place]])
            other = problem.answer[:place] + digit + problem.answer[place + 1 :]
            right, false = (f"= {number}. \\boxed{{{number}}}" for number in (problem.answer, other))
            assert problem.reply.endswith(right)
            rows[-1]["messages"][1]["content"] = problem.reply.removesuffix(right) + false
    path.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")


def write_recipe(path: Path, arm: str, data: Path, options: argparse.Namespace) -> None:
    """The recipe of one arm; JSON is YAML."""
    fusion, mix, weights = ARMS[arm]
    pivot = {"source_model": str(PIVOT)} | ({"weight": weights[0]} if weights else {})
    expert = {"source_model": str(TEACHER)} | ({"weight": weights[1]} if weights else {})
    training = {
        "lambda": mix,
        "learning_rate": options.rate,
        "epochs": options.epochs,
        "global_batch": 32,
        "batch_size": 32,
        "precision": "float32",
        "save_every": 100_000,
    }
    recipe = {
        "pivot": pivot,
        "experts": [expert],
        "data": str(data),
        "fusion": {"dtype": "float32", **fusion},
        "training": training,
    }
    path.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")


def slug(arm: str) -> str:
    """An arm's name as a file's."""
    return re.sub(r"[^a-z0-9.]+", "-", arm)


def distributions(out: Path, arm: str) -> Path:
    """What both models say of an arm's chats."""
    return out / ("distributions-noisy" if arm.endswith(NOISY) else "distributions")


def grade(folder: Path, split: str) -> dict[str, list[bool]]:
    """Which questions of each set a model answers rightly."""
    from check import replies
    from tasks import extract
    from transformers import AutoTokenizer

    found = {}
    for domain in SETS:
        file = EXPERTS / "questions" / f"{domain}{'' if split == 'test' else '.dev'}.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        answers = replies(folder, [one["question"] for one in rows])
        found[domain] = [
            extract(domain, tokenizer.decode(ids)) == one["answer"] for one, ids in zip(rows, answers, strict=True)
        ]
    return found


def work(job: tuple[str, int, Path, Path, str]) -> tuple[str, int, dict]:
    """In a process of its own: one arm with one seed, trained and graded (seed -1: a model as it stands)."""
    import torch
    from transformers.utils import logging

    arm, seed, recipe, out, split = job
    # Tiny models leave a second thread nothing to do; two processes of one thread each are twice as fast.
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    began = time.perf_counter()
    told: dict = {}
    if seed < 0:
        told["right"] = grade(recipe, split)
        return arm, seed, told
    from modist.fusion import fuse

    folder = out / f"{slug(arm)}-{seed}"
    report = fuse(recipe, folder, distributions=distributions(out, arm), seed=seed, device="cpu", resume=True)
    summary = next(iter(report.targets.values())) if report.targets else None
    if summary is not None:
        told |= {"shares": dict(summary.shares), "aligned": summary.aligned, "nats": dict(summary.nats)}
        history = next(iter(report.trained.values())).history
        told["loss"] = [history[0].loss, history[-1].loss]
        told["clm"] = [history[0].clm, history[-1].clm]
    told["right"] = grade(folder, split)
    told["seconds"] = time.perf_counter() - began
    return arm, seed, told


@cache
def drawn_again(count: int, times: int = 10_000):
    """How often each of `count` things is drawn in as many draws with replacement, as shares; [times, count]."""
    import numpy as np

    return np.random.default_rng(count).multinomial(count, np.full(count, 1 / count), times) / count


def interval(right, other=None) -> tuple[float, float, float]:
    """Mean of [seeds, questions] and its 95% interval; of the difference to `other` where that is given."""
    import numpy as np

    def means(values):
        seeds = drawn_again(len(values))[:: -1 if values is two else 1]  # the other's seeds are drawn apart, questions are not
        return ((seeds @ values) * drawn_again(values.shape[1])).sum(1)

    one, two = np.asarray(right, dtype=float), None if other is None else np.asarray(other, dtype=float)
    means_drawn, value = means(one), one.mean()
    if two is not None:
        means_drawn, value = means_drawn - means(two), value - two.mean()
    low, high = np.percentile(means_drawn, [2.5, 97.5])
    return float(value), float(low), float(high)


def table(results: dict, arms: list[str]) -> str:
    """In Markdown: the models as they are, then each arm, with its difference to plain CLM."""
    import numpy as np

    questions = {domain: len(results["pivot"][-1]["right"][domain]) for domain in SETS}
    heads = [f"{domain}, n={questions[domain]}" for domain in SETS]
    lines = [f"| model | lambda | {' | '.join(heads)} | general vs CLM | math vs CLM |", "|---|---|---|---|---|---|"]

    def of(name: str, domain: str) -> list[list[bool]]:
        return [told["right"][domain] for _, told in sorted(results[name].items())]

    for name in (name for name in ("pivot", "teacher", *arms) if name in results):
        cells = []
        for domain in SETS:
            value, low, high = interval(of(name, domain))
            each = "" if len(results[name]) == 1 else f" ({', '.join(f'{np.mean(one):.1%}' for one in of(name, domain))})"
            cells.append(f"{value:.1%} [{low:.1%}, {high:.1%}]{each}")
        for domain in SETS:
            plain = f"clm{NOISY}" if name.endswith(NOISY) else "clm"
            if name == plain or plain not in results:
                cells.append("")
                continue
            value, low, high = interval(of(name, domain), of(plain, domain))
            cells.append(f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        mix = f"{ARMS[name][1]:g}" if name in ARMS else ""
        lines.append(f"| {name} | {mix} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("fusion-output"), help="folder of data, distributions and results")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chats", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--split", choices=["test", "dev"], default="test")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--log", type=Path, help="append what is said to this file too")
    options = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)
        if options.log:
            with options.log.open("a", encoding="utf-8") as sink:
                sink.write(line + "\n")

    began = time.perf_counter()
    import torch
    import transformers

    from modist.fusion import extract
    from modist.version import VERSION

    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    data = {noisy: (options.out / f"chats{'-noisy' if noisy else ''}.jsonl").resolve() for noisy in (False, True)}
    for noisy, path in data.items():
        write_data(path, options.chats, WRONG if noisy else 0.0)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    say(f"modist {VERSION}, {versions}; {options.split} questions")
    say(f"{options.chats} chats, {options.epochs} epochs, learning rate {options.rate:g}, {options.seeds} seeds")
    recipes = {}
    for arm in options.arms:
        recipes[arm] = options.out / f"{slug(arm)}.yml"
        write_recipe(recipes[arm], arm, data[arm.endswith(NOISY)], options)
    # Once, for all arms on the same data: what both models say of it does not depend on the target.
    for arm in {distributions(options.out, arm): arm for arm in reversed(options.arms)}.values():
        for one in extract(recipes[arm], distributions(options.out, arm), device="cpu"):
            say(f"{one.expert}: {one.positions:,} positions, {one.nats_per_position:.4f} nats each, {one.nbytes:,} bytes")
    jobs = [("pivot", -1, PIVOT, options.out, options.split), ("teacher", -1, TEACHER, options.out, options.split)]
    jobs += [(arm, seed, recipes[arm], options.out, options.split) for seed in range(options.seeds) for arm in options.arms]
    results: dict = {}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for arm, seed, told in pool.map(work, jobs):
            results.setdefault(arm, {})[seed] = told
            right = ", ".join(f"{domain} {sum(told['right'][domain])}/{len(told['right'][domain])}" for domain in SETS)
            more = ""
            if "loss" in told:
                shares = ", ".join(f"{name} {share:.1%}" for name, share in told["shares"].items())
                more = (
                    f"; targets of {shares}; loss {told['loss'][0]:.3f} -> {told['loss'][1]:.3f}, label's {told['clm'][1]:.4f}"
                )
            say(f"{arm}{f', seed {seed}' if seed >= 0 else ''}: {right}{more}")
            # What there is so far: a run that is stopped has not been for nothing.
            (options.out / "results.json").write_text(json.dumps(results) + "\n", encoding="utf-8")
            if {"pivot", "teacher"} <= results.keys():
                (options.out / "table.md").write_text(table(results, options.arms), encoding="utf-8")
    say(f"\n{table(results, options.arms)}\n{time.perf_counter() - began:.0f} seconds")


if __name__ == "__main__":
    main()
