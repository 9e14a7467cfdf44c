"""What searching costs: weights by EM, a candidate against mergekit, memory, and what a second Ray worker brings.

    MODIST_MERGEKIT=/path/to/mergekit-yaml python benchmarks/search.py          # about ten minutes on two cores
    MODIST_MERGEKIT=/path/to/mergekit-yaml python benchmarks/search.py --only em
    python benchmarks/search.py --quick --out FOLDER                            # one round of each, not for the record

Each part is a script of its own (`search_em.py`, `search_merge.py`), which says what is measured and how; their figures are
gathered in benchmarks/results/search.json, and search.md is made of it.  A part that is run again replaces its own figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = {
    "em": ("search_em.py",),
    "candidate": ("search_merge.py", "--only", "candidate"),
    "memory": ("search_merge.py", "--only", "memory"),
    "workers": ("search_merge.py", "--only", "workers"),
}
MIB = 1 << 20
BUSY = 1.0


def run(part: str, quick: bool, threads: int | None = None) -> dict[str, Any]:
    """What a part's script prints, and when and where."""
    began = time.perf_counter()
    script, *arguments = PARTS[part]
    command = [sys.executable, str(HERE / script), *arguments, *(["--quick"] if quick else [])]
    if part == "candidate" and threads is not None:
        command += ["--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "quick": quick, "took_seconds": round(time.perf_counter() - began, 1)}


def yes(reached: bool) -> str:
    return "yes" if reached else "no"


def em(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Weights by EM",
        "",
        f"{found['tokens']:,} tokens, {found['experts']} experts, one core; medians of {found['rounds']}. To reach: under 1 s,"
        " no other weights better by more than 1e-8 nats a token, log-likelihood within 1e-9 of SLSQP's (scipy).",
        "",
        "| experts differ by | seconds | processor's | scipy | iterations | gap | likelihood against scipy's | reached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found["cases"].values():
        lines.append(
            f"| {one['nats_apart']:g} nats | {one['seconds']:.2f} | {one['cpu_seconds']:.2f} | {one['scipy_seconds']:.1f} |"
            f" {one['iterations']} |"
            f" {one['gap']:.1e} | {one['log_likelihood_minus_scipy']:+.1e} | {yes(one['reached'])} |"
        )
    return lines


def candidate(found: dict[str, Any]) -> list[str]:
    lines = [
        "## A candidate",
        "",
        f"Merged in memory and scored on {found['tokens']:,} tokens, against the same coefficients merged to disk by mergekit"
        f" 0.1.5, loaded and scored; the demo's experts, medians of {found['rounds']}. To reach: 10 times faster.",
        "",
        "| threads | method | genes | merge | likelihood | together | mergekit | load | likelihood | together | faster |"
        " by processor time | largest difference, nats | reached |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for threads, methods in found["candidate"].items():
        for method, one in methods.items():
            ours, theirs = one["in_memory"], one.get("through_mergekit")
            if theirs is None:
                continue
            lines.append(
                f"| {threads.split()[0]} | {method} | {one['genes']} | {ours['merge']['seconds']:.3f} s |"
                f" {ours['likelihood']['seconds']:.3f} s | {ours['seconds']:.3f} s | {theirs['mergekit']['seconds']:.2f} s |"
                f" {theirs['load']['seconds']:.2f} s | {theirs['likelihood']['seconds']:.2f} s | {theirs['seconds']:.2f} s |"
                f" {one['ratio']:.1f}x | {one['cpu_ratio']:.1f}x | {one['largest_difference_nats']:.1e} |"
                f" {yes(one['reached'])} |"
            )
    return lines


def memory(found: dict[str, Any]) -> list[str]:
    one = found["memory"]
    return [
        "## Memory",
        "",
        "Three candidates of TIES over two experts and a base of 125M parameters; the peak above what the process had with"
        " everything imported. To reach: at most the experts and one merged copy.",
        "",
        "| peak | experts on disk | merged copy | allowed | reached |",
        "|---|---|---|---|---|",
        f"| {one['peak_bytes'] / MIB:,.0f} MiB | {one['experts_bytes'] / MIB:,.0f} MiB |"
        f" {one['merged_copy_bytes'] / MIB:,.0f} MiB | {one['allowed_bytes'] / MIB:,.0f} MiB | {yes(one['reached'])} |",
    ]


def workers(found: dict[str, Any]) -> list[str]:
    one = found["workers"]
    rates = one["candidates_per_minute"]
    rounds = len(one["all"]["1"])
    return [
        "## Ray workers",
        "",
        f"{one['candidates']} candidates on {found['cores']} cores, workers of one thread each; medians of {rounds}. To reach:"
        " two score 1.5 times as many a minute.",
        "",
        "| one worker, candidates/min | two | ratio | same scores | reached |",
        "|---|---|---|---|---|",
        f"| {rates['1']:.0f} | {rates['2']:.0f} | {one['ratio']:.2f} | {yes(one['same_scores'])} | {yes(one['reached'])} |",
    ]


def machine() -> str:
    """Processor, cores and memory."""
    model = next((x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{model}, {os.cpu_count()} cores, {memory / (1 << 30):.1f} GiB"


def report(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["# Searching: what it costs", "", f"{found['machine']}. Made by `benchmarks/search.py`."]
    for name, part in (("em", em), ("candidate", candidate), ("memory", memory), ("workers", workers)):
        if name in found:
            lines += ["", *part(found[name])]
            # Seconds of a clock say little where others were at work; those of a processor say more.
            if (load := found[name]["load_before"]) > BUSY:
                lines += ["", f"The machine was busy with other work: its load was {load:.1f} before this part."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, help="one part; the others' figures stay as they are")
    parser.add_argument("--quick", action="store_true", help="one round of each")
    parser.add_argument("--threads", type=int, help="of a candidate; as many as there are cores and one, where left out")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of search.json and search.md")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "search.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found["machine"] = machine()
    for part in [options.only] if options.only else PARTS:
        print(f"{part} ...", file=sys.stderr, flush=True)
        found[part] = run(part, options.quick, options.threads)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (options.out / "search.md").write_text(report(found), encoding="utf-8")
    print((options.out / "search.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
