"""Does searching help?  Searched weights and searched merges of the tiny experts, beside everything that needs no search.

python examples/search/run.py [--out FOLDER] [--docs FOLDER]

Beside both parents, 0.9/0.1 and every method at its defaults with equal weights: the mixture at the likeliest weights (EM), the
gate fitted with them, and merges searched by CMA-ES, by likelihood and by accuracy.  Searches see development questions alone,
so many of them drawn by each of three seeds, which are the seeds of CMA-ES too; the table is of the 300 + 300 test questions.
What is there already in FOLDER is not done again.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
EXPERTS, QUESTIONS = HERE.parent / "experts", HERE.parent / "experts" / "questions"
DOMAINS = ("general", "math")
SEEDS = (0, 1, 2)
# Development rows of each domain that a seed draws for the mixture's weights, and a split's for the merges.
MIXTURE_ROWS, SPLIT_ROWS = 150, 80
METRICS = {
    "likelihood": f"likelihood:{QUESTIONS / 'answers.dev.jsonl'}",
    "accuracy": " + ".join(f"0.5*accuracy:{QUESTIONS / f'{domain}.dev.yml'}" for domain in DOMAINS),
}
# Weights of both experts' attention, MLP, embeddings and the rest: by likelihood, which is cheap, for each of the five layers
# (32 numbers), by accuracy for all layers together (8), so that a budget of minutes says something of them.
MODULES, BOUNDS = ("attention", "mlp", "embeddings"), {"weight": (0.0, 1.5)}
LAYER_BLOCKS = {"likelihood": 1, "accuracy": None}
BUDGETS = {"likelihood": 60, "accuracy": 40}
ENOUGH = 0.95
# What each search began at.
STARTS = {"gate": "mixture .5/.5, bayes gate", "EM": "mixture .5/.5", "task_arithmetic": "task_arithmetic, defaults"}


@dataclass(frozen=True)
class Entrant:
    """Something that answers the test questions.

    Attributes:
        name: for the table; the same for all seeds.
        group: `parent`, `merge`, `mixture` or `searched`.
        file: a folder, or a mixture's recipe.
        gate: discount and stride of a bayes gate, or None.
        seed: of its search.
        note: what was found, in a few words.
    """

    name: str
    group: str
    file: Path
    gate: tuple[float, int] | None = None
    seed: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """An entrant's right answers by domain, of so many questions."""

    entrant: Entrant
    right: dict[str, int]
    total: dict[str, int]

    def share(self, domain: str) -> float:
        return self.right[domain] / self.total[domain]

    @property
    def average(self) -> float:
        return sum(map(self.share, DOMAINS)) / len(DOMAINS)


def _one_thread() -> None:
    import torch
    from transformers.utils import logging

    # Tiny models leave a second thread nothing to do; two processes of one thread each are twice as fast.
    torch.set_num_threads(1)
    logging.disable_progress_bar()


def write_json(path: Path, data: Any) -> Path:
    """A recipe; JSON is YAML."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return path


def mixture_of(general: float) -> dict[str, Any]:
    experts = [{"source_model": str(EXPERTS / name)} for name in DOMAINS]
    return {"experts": experts, "weights": [general, 1 - general]}


def default_recipe(name: str) -> dict[str, Any]:
    """A method as it comes, from the base, with equal weights."""
    from modist.merge.method import find_method

    method = find_method(name)
    required = {parameter.name: parameter for parameter in method.parameters if parameter.default is None}
    models: list[dict[str, Any]] = [{"model": str(EXPERTS / domain)} for domain in DOMAINS]
    recipe: dict[str, Any] = {"merge_method": name, "models": models, "dtype": "bfloat16"}
    if method.base == "required":
        # A path between two models begins at one of them; all else is measured from the ancestor.
        two = method.inputs[1] == 1
        recipe["base_model"] = str(EXPERTS / ("general" if two else "base"))
    for parameter in required.values():
        if parameter.scope == "shared":
            recipe.setdefault("parameters", {})[parameter.name] = 0.5
        else:
            for model in models:
                model.setdefault("parameters", {})[parameter.name] = 0.5
    return recipe


def unsearched(out: Path) -> list[Entrant]:
    """Parents, 0.9/0.1, every method at its defaults, and the mixtures of equal weights."""
    from modist.errors import ModistError
    from modist.merge import merge
    from modist.merge.method import methods

    found = [Entrant(f"{domain} alone", "parent", EXPERTS / domain) for domain in DOMAINS]
    recipes = {
        "mod .9/.1, as in the paper": HERE.parent / "demo" / "mod.yml",
        "linear .9/.1": HERE.parent / "demo" / "linear.yml",
    }
    for name in methods():
        recipes[f"{name}, defaults"] = write_json(out / "recipes" / f"{name}.yml", default_recipe(name))
    for name, recipe in recipes.items():
        folder = out / "merged" / name.replace(", ", "-").replace("/", "-").replace(" ", "-")
        try:
            if not folder.is_dir():
                merge(recipe, folder)
        except ModistError as error:
            print(f"  not merged: {name}: {error}", flush=True)
            continue
        found.append(Entrant(name, "merge", folder))
    for name, general, gate in (
        ("mixture .9/.1", 0.9, None),
        ("mixture .5/.5", 0.5, None),
        ("mixture .9/.1, bayes gate", 0.9, (1.0, 1)),
        ("mixture .5/.5, bayes gate", 0.5, (1.0, 1)),
    ):
        file = write_json(out / "recipes" / f"mixture-{general:g}.yml", mixture_of(general))
        found.append(Entrant(name, "mixture", file, gate))
    return found


def search_weights(out: Path, seed: int) -> list[Entrant]:
    """The likeliest weights, and the gate's with its discount and stride, on what the seed drew."""
    from modist.search.mixture import search_mixture
    from modist.search.part import drawn

    lines = (QUESTIONS / "answers.dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [(line, json.loads(line)) for line in lines]
    chosen = []
    for domain in DOMAINS:
        here = [line for line, row in rows if row["domain"] == domain]
        asked = [row["messages"][0]["content"] for _, row in rows if row["domain"] == domain]
        chosen += drawn(domain, here, asked, MIXTURE_ROWS, seed, None)
    folder = out / "searches" / f"mixture-{seed}"
    recipe = write_json(folder / "half.yml", mixture_of(0.5))
    data = folder / "data.jsonl"
    data.write_text("\n".join(chosen) + "\n", encoding="utf-8")
    found = search_mixture(recipe, data, cache=out / "cache", seed=seed, device="cpu")
    assert found.gate is not None
    low, high = found.intervals.low[0], found.intervals.high[0]
    static = write_json(folder / "weights.yml", mixture_of(float(found.weights[0])))
    gated = write_json(folder / "gate.yml", mixture_of(float(found.gate.weights[0])))
    note = f"{found.weights[0]:.3f}/{found.weights[1]:.3f} ({low:.3f} to {high:.3f})"
    gate = (float(found.gate.discount), int(found.gate.stride))
    words = f"{found.gate.weights[0]:.2f}/{found.gate.weights[1]:.2f}, discount {gate[0]:g}, stride {gate[1]}"
    return [
        Entrant("mixture, weights by EM", "searched", static, None, seed, note),
        Entrant("mixture, gate fitted", "searched", gated, gate, seed, words),
    ]


def search_coefficients(out: Path, seed: int, kind: str) -> list[Entrant]:
    """The merge that scores best on the first split of what the seed drew."""
    from modist.merge import merge
    from modist.search.merge import RECIPE, search_merge
    from modist.search.settings import SearchSettings

    recipe = write_json(out / "recipes" / "task_arithmetic.yml", default_recipe("task_arithmetic"))
    folder = out / "searches" / f"{kind}-{seed}"
    asking = {"limit": SPLIT_ROWS * (2 if kind == "likelihood" else 1), "seed": seed}
    settings = SearchSettings(layer_blocks=LAYER_BLOCKS[kind], modules=MODULES, bounds=BOUNDS, budget=BUDGETS[kind], seed=seed)
    found = search_merge(recipe, METRICS[kind], folder, settings, asking=asking, device="cpu", threads=1, parents=False)
    if not (folder / "model").is_dir():
        merge(folder / RECIPE, folder / "model")
    of = {mark.kind: mark for mark in found.marks}
    note = ", ".join(f"{name} {_second(of[name]):.3f}" for name in ("best", "start", "random"))
    return [Entrant(f"task_arithmetic, searched by {kind}", "searched", folder / "model", None, seed, f"second split: {note}")]


def _second(mark: Any) -> float:
    assert mark.second is not None
    return float(mark.second)


def answer(entrant: Entrant, out: Path) -> Row:
    """Greedy answers to all test questions, as `modist eval` asks and grades them."""
    from modist.evaluation.benchmarks import find
    from modist.evaluation.generators import open_generator
    from modist.evaluation.run import Settings, evaluate

    benchmarks = [find(str(QUESTIONS / f"{domain}.yml")) for domain in DOMAINS]
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    kind = "transformers"
    if entrant.file.suffix == ".yml":
        kind = "mixture"
        if entrant.gate is not None:
            options |= {"gate": "bayes", "discount": entrant.gate[0], "stride": entrant.gate[1]}
    generator = open_generator(kind, str(entrant.file), **options)
    name = re.sub(r"\W+", "-", entrant.name if entrant.seed is None else f"{entrant.name} {entrant.seed}")
    try:
        found = evaluate(generator, benchmarks, out / "answers" / name, None, Settings())
    finally:
        generator.close()
    by_domain = dict(zip(DOMAINS, benchmarks, strict=True))
    right = {domain: found.right(one.name) for domain, one in by_domain.items()}
    return Row(entrant, right, {domain: found.count(one.name) for domain, one in by_domain.items()})


def run_all(what: str, jobs: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """The results in the jobs' order, from two processes; on stderr, how far it is."""
    began, found = time.perf_counter(), {}
    with ProcessPoolExecutor(2, get_context("spawn"), _one_thread) as pool:
        futures = {pool.submit(job, *arguments): place for place, (job, arguments) in enumerate(jobs)}
        for done, future in enumerate(as_completed(futures), start=1):
            found[futures[future]] = future.result()
            left = (time.perf_counter() - began) / done * (len(jobs) - done)
            if sys.stderr.isatty():
                end = "\n" if done == len(jobs) else ""
                print(f"\r  {what}: {done} of {len(jobs)}, about {left:.0f} s left ", end=end, file=sys.stderr)
    print(f"  {what}: {len(jobs)} done", flush=True)
    return [found[place] for place in range(len(jobs))]


def cells(row: Row, parents: dict[str, Row]) -> list[str]:
    """Accuracies with Wilson's 95% interval, the average, and what part of each specialist's accuracy that is."""
    from modist.evaluation.statistics import wilson

    shown = []
    for domain in DOMAINS:
        low, high = wilson(row.right[domain], row.total[domain])
        shown.append(f"{100 * row.share(domain):.1f} [{100 * low:.1f}, {100 * high:.1f}]")
    parts = [row.share(domain) / parents[domain].share(domain) for domain in DOMAINS]
    enough = "**yes**" if min(parts) >= ENOUGH else "no"
    return [*shown, f"{100 * row.average:.1f}", f"{enough} ({', '.join(f'{100 * part:.0f}%' for part in parts)})"]


HEAD = "general, n={general} | math, n={math} | average | 95% of both specialists |\n|---|---|---|---|---|"


def full_table(rows: Sequence[Row]) -> str:
    """Every row, also of every seed."""
    parents = {domain: rows[place] for place, domain in enumerate(DOMAINS)}
    lines = [f"| | found | {HEAD.format(**rows[0].total)}---|"]
    for row in rows:
        seed = "" if row.entrant.seed is None else f", seed {row.entrant.seed}"
        lines.append(f"| {row.entrant.name}{seed} | {row.entrant.note} | {' | '.join(cells(row, parents))} |")
    return "\n".join(lines) + "\n"


def short_table(rows: Sequence[Row]) -> str:
    """A line a name: of several seeds the one with the median average, and the others' averages beside it."""
    parents = {domain: rows[place] for place, domain in enumerate(DOMAINS)}
    lines = [f"| | {HEAD.format(**rows[0].total)}"]
    names = list(dict.fromkeys(row.entrant.name for row in rows))
    for name in names:
        same = sorted((row for row in rows if row.entrant.name == name), key=lambda row: row.average)
        general, maths, average, enough = cells(same[len(same) // 2], parents)
        if len(same) > 1:
            average += f" ({' / '.join(f'{100 * row.average:.1f}' for row in same)})"
        lines.append(f"| {name} | {general} | {maths} | {average} | {enough} |")
    return "\n".join(lines) + "\n"


def findings(rows: Sequence[Row]) -> list[str]:
    """What the table says, a sentence each."""

    def of(group: str) -> list[Row]:
        return [row for row in rows if row.entrant.group == group]

    def averages(name: str) -> list[float]:
        return [100 * row.average for row in rows if row.entrant.name == name]

    best_merge = max(of("merge"), key=lambda row: row.average)
    parent = max(of("parent"), key=lambda row: row.average)
    lines = [
        f"the best parent has {100 * parent.average:.1f} on average, the best merge without a search"
        f" ({best_merge.entrant.name}) {100 * best_merge.average:.1f}"
    ]
    for name in dict.fromkeys(row.entrant.name for row in of("searched")):
        found = averages(name)
        than = next(start for word, start in STARTS.items() if word in name)
        other = averages(than)[0]
        above = sum(one > 100 * parent.average for one in found)
        verdict = "better than" if min(found) > other else "worse than" if max(found) < other else "no better than"
        lines.append(
            f"{name}: {median(found):.1f} ({min(found):.1f} to {max(found):.1f} over seeds), {verdict} {than}, where it began"
            f" ({other:.1f}); above the best parent with {above} of {len(found)} seeds"
        )
    parents = {domain: rows[place] for place, domain in enumerate(DOMAINS)}
    kept = [row for row in rows[2:] if all(row.share(domain) >= ENOUGH * parents[domain].share(domain) for domain in DOMAINS)]
    names = list(dict.fromkeys(row.entrant.name for row in kept))
    lines.append(f"at least {ENOUGH:.0%} of each specialist's accuracy on both sets: {', '.join(names) or 'none'}")
    return lines


def draw(rows: Sequence[Row], path: Path) -> None:
    """Accuracy on the one set against the other: keeping both parents is the upper right corner."""
    from modist.report.figure import BLUE, GREEN, GREY, INK, PURPLE, VERMILION, blank, save

    colours = {"parent": INK, "merge": GREY, "mixture": BLUE}
    figure = blank(6.4, 5.6, path)
    axes = figure.subplots()
    parents = {domain: rows[place].share(domain) for place, domain in enumerate(DOMAINS)}
    wanted = [100 * ENOUGH * parents[domain] for domain in DOMAINS]
    axes.fill_between([wanted[0], 103], wanted[1], 103, color=GREEN, alpha=0.15, linewidth=0)
    axes.text(wanted[0] - 1, 101.5, "95% of both parents", color=GREEN, fontsize=8, ha="right", va="top")
    searched = {"mixture, weights by EM": ("D", PURPLE), "mixture, gate fitted": ("D", GREEN)}
    seen = set()
    for row in rows:
        name, group = row.entrant.name, row.entrant.group
        if group == "searched":
            marker, colour = searched.get(name, ("^", VERMILION if "accuracy" in name else "#E69F00"))
            label = name
        else:
            marker, colour = ("*" if group == "parent" else "o"), colours[group]
            label = {"parent": "parents", "merge": "merges, no search", "mixture": "mixtures, no search"}[group]
        axes.plot(
            100 * row.share("general"),
            100 * row.share("math"),
            marker,
            color=colour,
            markersize=9 if group != "merge" else 6,
            alpha=0.8,
            label=None if label in seen else label,
            linestyle="none",
        )
        seen.add(label)
    axes.set(xlim=(-3, 103), ylim=(-3, 103), xlabel="general questions right (%)", ylabel="math questions right (%)")
    axes.set_title("Does searching help? Test questions, three seeds", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(loc=(0.2, 0.1), frameon=False, fontsize=8)
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("search-output"), help="folder for searches, merges and answers")
    parser.add_argument("--docs", type=Path, help="folder for the table and the picture; OUT by default")
    options = parser.parse_args()
    out: Path = options.out.resolve()
    docs = options.docs or out
    began, resumed = time.perf_counter(), out.exists()
    print("merging every method at its defaults ...", flush=True)
    entrants = unsearched(out)
    jobs: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
    jobs += [(search_coefficients, (out, seed, "accuracy")) for seed in SEEDS]
    jobs += [(search_coefficients, (out, seed, "likelihood")) for seed in SEEDS]
    # One after the other, since the cache they share is of use to the next.
    jobs += [(search_all_weights, (out,))]
    searched = [entrant for found in run_all("searches", jobs) for entrant in found]
    entrants += sorted(searched, key=lambda one: (("mixture" not in one.name), one.name, one.seed))
    rows = run_all("models answering 600 questions", [(answer, (entrant, out)) for entrant in entrants])
    docs.mkdir(parents=True, exist_ok=True)
    said = findings(rows)
    table, short = full_table(rows), short_table(rows)
    (docs / "search-table.md").write_text(table, encoding="utf-8")
    write_json(out / "results.json", [{**asdict(row), "entrant": {**asdict(row.entrant), "file": None}} for row in rows])
    draw(rows, docs / "search-demo.png")
    print(f"\n{table}\n{short}\n" + "\n".join(said))
    took = "an earlier run gone on with" if resumed else f"{time.perf_counter() - began:.0f} s"
    print(f"{took}; table and picture are in {docs}/", flush=True)


def search_all_weights(out: Path) -> list[Entrant]:
    """The mixtures of all seeds."""
    return [entrant for seed in SEEDS for entrant in search_weights(out, seed)]


if __name__ == "__main__":
    main()
