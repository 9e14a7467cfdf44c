"""Scaled deltas and equal distances, measured on the tiny experts: do AIM, Fisher, TIES or DARE help?

python examples/scaling/run.py [--out FOLDER] [--limit N] [--norms 0.4,0.6,0.8,1,1.2]

Base: examples/experts/base; parents: general and math.  Every recipe is scored on both development sets, greedily, as it
stands and at equal distances from the base.  About two minutes on two cores.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
EXPERTS = HERE.parent / "experts"
sys.path.insert(0, str(EXPERTS))

SETS = ("general", "math")
TEXTS = 256
# Task arithmetic and TIES as MergeBench has them (arXiv 2505.10833); DARE keeps half, for a tenth of so small a model is noise.
# Embeddings, which are the head here too, stay the base's: what Fisher does first of all, so it is looked at alone.
SPARED = {"filter": "embed_tokens", "value": 0.0}
RECIPES = {
    "linear": ("linear", {"weight": 0.5}, None),
    "task arithmetic": ("task_arithmetic", {"weight": 0.4}, None),
    "task arithmetic + AIM": ("task_arithmetic", {"weight": 0.4}, "aim"),
    "task arithmetic + Fisher": ("task_arithmetic", {"weight": 0.4}, "fisher"),
    "task arithmetic, embeddings spared": ("task_arithmetic", {"weight": [SPARED, {"value": 0.4}]}, None),
    "DARE": ("dare_linear", {"weight": 0.4, "density": 0.5}, None),
    "TIES": ("ties", {"weight": 1.0, "density": 0.3}, None),
    "TIES + AIM": ("ties", {"weight": 1.0, "density": 0.3}, "aim"),
    "TIES + Fisher": ("ties", {"weight": 1.0, "density": 0.3}, "fisher"),
    "TIES, embeddings spared": ("ties", {"weight": [SPARED, {"value": 1.0}], "density": 0.3}, None),
}


def write_statistics(out: Path) -> dict[str, Path]:
    """Both kinds for the base: activations on texts of its own training, Fisher on random tokens."""
    from tasks import held_out, plain_texts, stream_rng

    from modist.search.statistics_file import make_statistics

    excluded = {problem.question for name in SETS for part in held_out(name, 1) for problem in part}
    texts = islice(plain_texts(stream_rng(2, "calibration"), excluded, asked=0.5), TEXTS)
    data = out / "calibration.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    files = {kind: out / f"{kind}.safetensors" for kind in ("aim", "fisher")}
    make_statistics(EXPERTS / "base", files["aim"], kind="aim", data=data)
    make_statistics(EXPERTS / "base", files["fisher"], kind="fisher", random_tokens=(8, 64))
    return files


def write_recipes(out: Path, files: dict[str, Path]) -> list[Path]:
    """A recipe a row of the table."""
    paths = []
    for name, (method, parameters, kind) in RECIPES.items():
        models = [{"model": str(EXPERTS / parent), "parameters": parameters} for parent in SETS]
        recipe = {"merge_method": method, "base_model": str(EXPERTS / "base"), "models": models}
        if kind:
            recipe["scaling"] = {"kind": kind, "statistics": str(files[kind])}
        path = out / f"{name}.yml"
        # JSON is YAML.
        path.write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def compare(recipes: list[Path], norms: tuple[float, ...], limit: int | None):
    """In a process of its own: these recipes' curves."""
    import torch
    from transformers.utils import logging

    from modist.search.compare import compare_at_distances
    from modist.search.metric import read_metrics

    # Tiny models leave a second thread nothing to do; two processes of one thread each are twice as fast.
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    texts = [f"0.5*accuracy:{EXPERTS / 'questions' / f'{name}.dev.yml'}" for name in SETS]
    metric = read_metrics(texts, limit=limit, compare=False)
    try:
        return compare_at_distances(recipes, metric, norms=norms, threads=1)
    finally:
        metric.close()


def cell(value: float, questions: int) -> str:
    from modist.evaluation.statistics import wilson

    low, high = wilson(value * questions, questions)
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def tables(found) -> str:
    """Both tables, in Markdown: as the recipes stand, and the mean of both sets at equal distances."""
    n = found.questions
    lines = [
        f"| as it stands | distance | general, n={n[0]} | math, n={n[1]} | mean |",
        "|---|---|---|---|---|",
    ]
    rows = [found.base, *found.parents, *((curve.name, curve.own) for curve in found.curves)]
    for name, point in rows:
        sets = " | ".join(cell(value, count) for value, count in zip(point.terms, n, strict=True))
        lines.append(f"| {name} | {point.distance:.2f} | {sets} | {point.score:.1%} |")
    distances = [point.distance for point in found.curves[0].points if point.distance and not point.own]
    lines += ["", "| mean of both at distance | " + " | ".join(f"{distance:g}" for distance in distances) + " | cos | inside |"]
    lines.append("|---" * (len(distances) + 3) + "|")
    for curve in found.curves:
        at = {point.distance: point for point in curve.points if not point.own}
        scores = " | ".join(f"{at[distance].score:.1%}" for distance in distances)
        cosines = ", ".join(f"{cosine:.2f}" for cosine in curve.cosines)
        lines.append(f"| {curve.name} | {scores} | {cosines} | {curve.inside:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("scaling-output"), help="folder for statistics, tables and picture")
    parser.add_argument("--limit", type=int, help="only so many questions of each set")
    parser.add_argument("--norms", default="0.4,0.6,0.8,1,1.2", help="distances from the base; 1 is the parents' mean")
    options = parser.parse_args()
    began = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    recipes = write_recipes(options.out, write_statistics(options.out))
    norms = tuple(float(norm) for norm in options.norms.split(","))
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        halves = list(pool.map(compare, (recipes[::2], recipes[1::2]), (norms,) * 2, (options.limit,) * 2))
    curves = {curve.name: curve for half in halves for curve in half.curves}
    found = replace(halves[0], curves=tuple(curves[name] for name in RECIPES), notes=())
    text = tables(found)
    print(text)
    print(
        f"distance 1 is {found.unit:.3g}, the parents' mean L2 distance from the base; cos: of the merged delta with general's"
    )
    print("and math's; inside: with the nearest weighted sum of both; intervals are Wilson's, 95%")
    from modist.cli.search_compare import draw

    (options.out / "tables.md").write_text(text, encoding="utf-8")
    (options.out / "results.json").write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")
    draw(found, options.out / "scaling.png")
    print(f"{time.perf_counter() - began:.0f} s; the tables, the picture, statistics and recipes are in {options.out}/")


if __name__ == "__main__":
    main()
