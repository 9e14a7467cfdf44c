"""The demo: two tiny experts merged by the paper's six configurations and three more, and mixed, each beside both parents.

python examples/demo/run.py [--out FOLDER] [--limit N]

Prints one table and draws one picture.  Accuracy is greedy pass@1 on held-out questions, with Wilson's 95% interval.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from modist.checkpoint import Checkpoint
from modist.evaluation.statistics import wilson
from modist.merge import Watch, merge

HERE = Path(__file__).resolve().parent
EXPERTS = HERE.parent / "experts"
sys.path.insert(0, str(EXPERTS))

DOMAINS = ("general", "math")
PARENTS = {"general": "general (parent)", "math": "math (parent)"}
MERGES = {
    "mod": "MoD .9/.1 (1)",
    "linear": "Linear (2)",
    "dare": "DARE (3)",
    "ties": "TIES (4)",
    "task_arithmetic": "Task arithmetic (5)",
    "slerp": "SLERP (6)",
    "mod_quantile": "MoD quantile .9/.1",
    "mod_random": "MoD random .9/.1",
    "linear_half": "Linear .5/.5",
}
# Distributions mixed token by token: the recipe, the gate, the law.
MIXTURES = {
    "mix_9": ("Mixture .9/.1", "mod.yml", "static", "arithmetic"),
    "mix_half": ("Mixture .5/.5", "mix_half.yml", "static", "arithmetic"),
    "mix_bayes": ("Mixture .5/.5, bayes gate", "mix_half.yml", "bayes", "arithmetic"),
    "mix_logits": ("Product of experts .5/.5", "mix_half.yml", "static", "logits"),
}
LABELS = PARENTS | MERGES | {name: entry[0] for name, entry in MIXTURES.items()}


@dataclass(frozen=True)
class Row:
    """One model's line: what it is called, right answers by domain, and how much of `general` it changed (None: no weights)."""

    name: str
    label: str
    right: dict[str, int]
    total: dict[str, int]
    changed: float | None


def changed_share(model: Path, reference: Path) -> float:
    """The fraction of the parameters that differ from another folder's, once both are bfloat16."""
    one, two = Checkpoint.open(model), Checkpoint.open(reference)
    differing = total = 0
    for name, tensor in one.tensors.items():
        differing += int(np.count_nonzero(_bfloat16(one, name) != _bfloat16(two, name)))
        total += tensor.elements
    return differing / total


def _bfloat16(checkpoint: Checkpoint, name: str) -> np.ndarray:
    from modist.checkpoint.dtype import narrow

    return narrow(checkpoint.floats(name), "BF16")


def _one_thread() -> None:
    import torch
    from transformers.utils import logging

    # Tiny models leave a second thread nothing to do; two processes of one thread each are twice as fast.
    torch.set_num_threads(1)
    logging.disable_progress_bar()


def _answer(folder: Path, limit: int | None) -> tuple[dict[str, int], dict[str, int]]:
    """Right answers and questions by domain."""
    from check import score

    found = {domain: score(folder, domain, EXPERTS / "questions" / f"{domain}.jsonl", limit) for domain in DOMAINS}
    return {d: s.right for d, s in found.items()}, {d: s.total for d, s in found.items()}


def _answer_mixed(name: str, limit: int | None) -> tuple[dict[str, int], dict[str, int]]:
    """The same for a mixture; all rows at once, so every expert runs at every token: the very answers lazy decoding gives."""
    from tasks import extract

    from modist.mixture.decode import Settings, generate
    from modist.mixture.gate import Gate
    from modist.mixture.load import load_experts
    from modist.recipe import load_recipe

    _, recipe, gate, law = MIXTURES[name]
    experts = load_experts(load_recipe(HERE / recipe), device="cpu", dtype="float32", say=lambda line: None)
    settings = Settings(max_new_tokens=64, gate=Gate(gate), law=law, eager=True)
    right, total = {}, {}
    for domain in DOMAINS:
        lines = (EXPERTS / "questions" / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()[:limit]
        rows = sorted(map(json.loads, lines), key=lambda row: len(row["question"]))
        right[domain], total[domain] = 0, len(rows)
        for start in range(0, len(rows), 100):
            batch = rows[start : start + 100]
            found, _ = generate(experts, [[{"role": "user", "content": row["question"]}] for row in batch], settings)
            right[domain] += sum(extract(domain, one.text) == row["answer"] for one, row in zip(found, batch, strict=True))
    return right, total


def attribute(path: Path) -> str:
    """One answer of the .5/.5 mixture, each token drawn in the colour of the expert whose word it is; the answer's text."""
    from modist.mixture.decode import Settings, generate
    from modist.mixture.load import load_experts
    from modist.recipe import load_recipe
    from modist.report.attribution import draw_attribution, pieces_of

    question = "Leo has 97 nuts and buys 85 more. How many nuts does Leo have?"
    experts = load_experts(load_recipe(HERE / "mix_half.yml"), device="cpu", dtype="float32", say=lambda line: None)
    ((answer,), _) = generate(experts, [[{"role": "user", "content": question}]], Settings())
    pieces = pieces_of(experts.tokenizer, answer.token_ids, answer.text)
    draw_attribution(pieces, answer.responsibilities, experts.names, path, weights=experts.weights, prompt=question)
    return answer.text


def answer_all(models: dict[str, Path], limit: int | None) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    """Every model's right answers and question counts; says on a terminal how long it will still take."""
    results = {}
    began = time.perf_counter()
    with ProcessPoolExecutor(2, get_context("spawn"), _one_thread) as pool:
        # The mixtures first: they take longest.
        futures = {pool.submit(_answer_mixed, name, limit): name for name in MIXTURES}
        futures |= {pool.submit(_answer, folder, limit): name for name, folder in models.items()}
        for number, future in enumerate(as_completed(futures), start=1):
            results[futures[future]] = future.result()
            left = (time.perf_counter() - began) / number * (len(futures) - number)
            if sys.stderr.isatty():
                end = "\n" if number == len(futures) else ""
                print(f"\r  {number} of {len(futures)} models answered, about {left:.0f} s left ", end=end, file=sys.stderr)
    return results


def merge_all(out: Path) -> dict[str, Path]:
    """Every merge of the demo; returns name -> folder."""
    folders = {}
    for name in MERGES:
        folder = out / "merged" / name
        merge(HERE / f"{name}.yml", folder, seed=0, watch=Watch())
        folders[name] = folder
    return folders


def show(rows: Sequence[Row], seconds: float) -> None:
    """The table, for people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    n = rows[0].total
    table = Table(box=box.SIMPLE_HEAVY, title="accuracy on held-out questions (95% interval)", title_justify="left")
    table.add_column("model")
    for domain in DOMAINS:
        table.add_column(f"{domain} questions, n={n[domain]}", justify="right")
    table.add_column("average", justify="right")
    table.add_column("changed against general", justify="right")
    for row in rows:
        cells = []
        for domain in DOMAINS:
            low, high = wilson(row.right[domain], row.total[domain])
            cells.append(f"{100 * row.right[domain] / row.total[domain]:5.1f}  [{100 * low:4.1f}, {100 * high:5.1f}]")
        average = sum(row.right[domain] / row.total[domain] for domain in DOMAINS) / len(DOMAINS)
        last = row.name in (list(PARENTS)[-1], list(MERGES)[-1])
        changed = "two models" if row.changed is None else f"{100 * row.changed:.2f}%"
        table.add_row(row.label, *cells, f"{100 * average:.1f}", changed, end_section=last)
    console = Console(width=max(126, Console().width))
    console.print(table)
    console.print(f"{len(rows)} models, {sum(n.values())} questions each, {seconds:.0f} s", highlight=False)


def markdown(rows: Sequence[Row]) -> str:
    """The same table for documents."""
    n = rows[0].total
    lines = [
        "| model | " + " | ".join(f"{domain} questions, n={n[domain]}" for domain in DOMAINS) + " | average | changed |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = []
        for domain in DOMAINS:
            low, high = wilson(row.right[domain], row.total[domain])
            cells.append(f"{100 * row.right[domain] / row.total[domain]:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        average = sum(row.right[domain] / row.total[domain] for domain in DOMAINS) / len(DOMAINS)
        changed = "two models" if row.changed is None else f"{100 * row.changed:.2f}%"
        lines.append(f"| {row.label} | {' | '.join(cells)} | {100 * average:.1f} | {changed} |")
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], path: Path) -> None:
    """Both accuracies of every model on one line each, with their intervals; parents on top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {"general": "#0072B2", "math": "#D55E00"}
    figure, axes = pyplot.subplots(figsize=(8, 0.42 * len(rows) + 1.3), layout="constrained")
    for height, row in enumerate(rows):
        for domain, offset in zip(DOMAINS, (-0.13, 0.13), strict=True):
            share = 100 * row.right[domain] / row.total[domain]
            low, high = (100 * end for end in wilson(row.right[domain], row.total[domain]))
            axes.hlines(height + offset, low, high, color=colours[domain], linewidth=2.2, alpha=0.55)
            axes.plot(share, height + offset, "o", color=colours[domain], label=domain if height == 0 else None)
    axes.axhspan(-0.5, len(PARENTS) - 0.5, color="#000000", alpha=0.05, zorder=0)
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set(xlim=(-2, 102), ylim=(len(rows) - 0.5, -0.5), xlabel="questions answered right (%), with 95% intervals")
    axes.set_title("Two tiny experts, their merges and mixtures", loc="left")
    axes.legend(title="questions", loc="center", frameon=False)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for merges, table and picture")
    parser.add_argument("--limit", type=int, help="only the first questions of each set")
    options = parser.parse_args()
    began = time.perf_counter()

    print("merging general and math nine ways ...", flush=True)
    folders = merge_all(options.out)
    print(f"  {time.perf_counter() - began:.1f} s; answering 600 questions with each ...", flush=True)
    models = {name: EXPERTS / name for name in PARENTS} | folders
    answered = answer_all(models, options.limit)
    rows = [
        Row(name, LABELS[name], *answered[name], changed_share(models[name], EXPERTS / "general") if name in models else None)
        for name in LABELS
    ]
    show(rows, time.perf_counter() - began)
    (options.out / "table.md").write_text(markdown(rows), encoding="utf-8")
    results = [vars(row) for row in rows]
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(rows, options.out / "demo.png")
    _one_thread()
    print(f"asked for 97 nuts and 85 more, the .5/.5 mixture says: {attribute(options.out / 'answer.png')}")
    print(f"the table, both pictures and the merged models are in {options.out}/")


if __name__ == "__main__":
    main()
