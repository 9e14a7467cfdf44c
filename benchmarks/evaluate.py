"""What evaluating costs: grading, generating in batches, and the whole tiny study.

    python benchmarks/evaluate.py                 # some minutes on two cores
    python benchmarks/evaluate.py --only grading

Each part is a script or a command of its own, run as a user would; their figures are gathered in benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = ("grading", "generator", "study")
STUDY_MINUTES = 6


def script(name: str, *arguments: str) -> dict[str, Any]:
    """What a benchmark of this folder prints."""
    done = subprocess.run([sys.executable, str(HERE / name), *arguments], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def study() -> dict[str, Any]:
    """The tiny study into an empty folder, by the clock."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "modist",
            "study",
            str(HERE.parent / "examples" / "tiny.yml"),
            "--out",
            folder,
            "--json",
        ]
        began = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        seconds = time.perf_counter() - began
        table = json.loads(done.stdout)["table"]
    return {
        "seconds": seconds,
        "rows": len(table["rows"]),
        "benchmarks": len(table["columns"]),
        "questions": sum(column["n"] for column in table["columns"]),
        "reached": seconds < 60 * STUDY_MINUTES,
    }


def report(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        "# Evaluating: what it costs",
        "",
        f"{found['processor']}, {os.cpu_count()} cores. Made by `benchmarks/evaluate.py`.",
        "",
        "| what | measured | to reach |",
        "|---|---|---|",
    ]
    if "grading" in found:
        for kind, what in (("plain", "plain numbers"), ("symbolic", "the symbolic mix")):
            part = found["grading"][kind]
            lines.append(
                f"| grading {what}, {part['answers']:,} answers, both graders |"
                f" {part['answers_per_second_per_core']:,.0f} a second and core; {part['over_time_limit']} over the time"
                f" limit | at least {found['grading']['targets'][kind]:,} |"
            )
    if "generator" in found:
        part = found["generator"]
        speeds = part["answers_per_second"]
        lines.append(
            f"| transformers generator, {part['questions']} questions, batches of {part['batch_size']}, one thread |"
            f" {speeds['generator']:.0f} answers/s against {speeds['loop']:.1f} one by one: {part['gain']:.1f} times;"
            f" {part['same_answers']} of {part['questions']} the same | at least {part['target']:g} times |"
        )
    if "study" in found:
        part = found["study"]
        lines.append(
            f"| the tiny study: {part['rows']} rows, {part['benchmarks']} benchmarks, {part['questions']} questions |"
            f" {part['seconds']:.0f} s | under {60 * STUDY_MINUTES} s |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be repeated")
    parser.add_argument("--rounds", type=int, default=3, help="of the generator and the loop in turn")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for evaluate.md and evaluate.json")
    options = parser.parse_args()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    found: dict[str, Any] = {
        "processor": next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "a processor")
    }
    for part in options.only or PARTS:
        print(f"{part} ...", file=sys.stderr, flush=True)
        if part == "grading":
            found[part] = script("evaluate_grading.py")
        elif part == "generator":
            found[part] = script("evaluate_generator.py", "--rounds", str(options.rounds))
        else:
            found[part] = study()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "evaluate.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (options.out / "evaluate.md").write_text(report(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
