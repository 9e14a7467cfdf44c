"""The demo: two tiny experts merged by the paper's six configurations and two more, each beside both parents.

python examples/demo/run.py [--out FOLDER] [--limit N]

Prints one table and draws one picture.  Accuracy is greedy pass@1 on held-out questions, with Wilson's 95% interval.
"""

import argparse
import contextlib
import io
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modist.checkpoint import Checkpoint
from modist.merge import Watch, merge

HERE = Path(__file__).resolve().parent
EXPERTS = HERE.parent / "experts"
sys.path.insert(0, str(EXPERTS))

DOMAINS = ("general", "math")
PARENTS = {"general": "general (parent)", "math": "math (parent)"}
MERGES = {
    "mod": "MoD .9/.1 (Configuration 1)",
    "linear": "Linear (2)",
    "dare": "DARE (3)",
    "ties": "TIES (4)",
    "task_arithmetic": "Task arithmetic (5)",
    "slerp": "SLERP (6)",
    "mod_quantile": "MoD quantile .9/.1",
    "mod_random": "MoD random .9/.1",
}


@dataclass(frozen=True)
class Row:
    """One model's line: what it is called, right answers by domain, and how much of `general` it changed."""

    name: str
    label: str
    right: dict[str, int]
    total: dict[str, int]
    changed: float


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927, eq. 2), as fractions."""
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


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


def answer_all(folder: Path, limit: int | None) -> tuple[dict[str, int], dict[str, int]]:
    """Right answers and questions by domain."""
    from check import score

    right, total = {}, {}
    for domain in DOMAINS:
        found = score(folder, domain, EXPERTS / "questions" / f"{domain}.jsonl", limit)
        right[domain], total[domain] = found.right, found.total
    return right, total


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
        last = row.name == list(PARENTS)[-1]
        table.add_row(row.label, *cells, f"{100 * average:.1f}", f"{100 * row.changed:.2f}%", end_section=last)
    console = Console(width=max(110, Console().width))
    console.print(table)
    console.print(f"{len(rows)} models, {sum(n.values())} questions each, {seconds:.0f} s", highlight=False)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Both accuracies of every model as a point, the parents marked."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.6), layout="constrained")
    colours = {"parent": "#444444", "mod": "#D55E00", "other": "#0072B2"}
    placed: list[tuple[float, float]] = []
    for row in rows:
        x, y = (100 * row.right[domain] / row.total[domain] for domain in DOMAINS)
        spans = [wilson(row.right[domain], row.total[domain]) for domain in DOMAINS]
        kind = "parent" if row.name in PARENTS else "mod" if row.name.startswith("mod") else "other"
        axes.errorbar(
            x, y,
            xerr=[[x - 100 * spans[0][0]], [100 * spans[0][1] - x]],
            yerr=[[y - 100 * spans[1][0]], [100 * spans[1][1] - y]],
            fmt="s" if kind == "parent" else "o", color=colours[kind], markersize=7, elinewidth=1, alpha=0.9,
        )  # fmt: skip
        crowd = sum(abs(x - a) < 12 and abs(y - b) < 5 for a, b in placed)
        placed.append((x, y))
        right = x < 70
        axes.annotate(
            row.label, (x, y), xytext=(9 if right else -9, 6 + 13 * crowd), textcoords="offset points",
            ha="left" if right else "right", fontsize=9, color=colours[kind],
        )  # fmt: skip
    axes.set(xlim=(-4, 104), ylim=(-4, 104), xlabel="general questions right (%)", ylabel="math questions right (%)")
    axes.set_title("Merges of two tiny experts, beside their parents", loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for merges, table and picture")
    parser.add_argument("--limit", type=int, help="only the first questions of each set")
    options = parser.parse_args()
    began = time.perf_counter()

    print("merging general and math eight ways ...", flush=True)
    folders = merge_all(options.out)
    print(f"  {time.perf_counter() - began:.1f} s; importing transformers and answering ...", flush=True)
    models = {name: EXPERTS / name for name in PARENTS} | folders
    rows = []
    for number, (name, folder) in enumerate(models.items(), start=1):
        right, total = answer_all(folder, options.limit)
        rows.append(Row(name, (PARENTS | MERGES)[name], right, total, changed_share(folder, EXPERTS / "general")))
        left = (time.perf_counter() - began) / number * (len(models) - number)
        if sys.stderr.isatty():
            print(f"\r  {number} of {len(models)} models answered, about {left:.0f} s left ", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    show(rows, time.perf_counter() - began)
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        show(rows, time.perf_counter() - began)
    (options.out / "table.txt").write_text(table.getvalue(), encoding="utf-8")
    results = [vars(row) for row in rows]
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw(rows, options.out / "demo.png")
    print(f"table, picture and merged models are in {options.out}/")


if __name__ == "__main__":
    main()
