"""What aligning tokenizers costs: id maps of large vocabularies, cold and cached, and position maps a minute.

    python benchmarks/fuse_align.py                # two or three minutes on two cores
    python benchmarks/fuse_align.py --quick        # a trial of some seconds; nothing is written

The tokenizers are those of ../shared/tokenizers.  A cold map is timed with all that belongs to it: reading both tokenizers,
comparing, writing the cache; a cached one with reading both and the cache, in a new process.  Position maps are made on one
thread, of texts cut to exactly 512 tokens of the first tokenizer: solved problems, code, and this project's documents; a minute
is one of processor time there, so that other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modist.version import VERSION
from modist.vocabulary import TokenTexts, align_ids, align_positions, encode, token_spans
from modist.vocabulary.coverage import count_kinds, cover

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
TOKENIZERS = SHARED / "tokenizers"
PAIRS = (("qwen2.5", "mistral-v3"), ("mistral-v3", "qwen2.5"), ("gpt2-hf", "mistral-v3"), ("qwen2.5", "gpt2-hf"))
TOKENS = 512
COLD_TARGET_S = 300.0
MAPS_TARGET = 10_000


@dataclass(frozen=True)
class Aligned:
    """One pair: seconds by the clock, seconds of processor time, and what came of it."""

    source: str
    target: str
    cold_s: float
    cold_cpu_s: float
    cached_s: float
    peak_bytes: int
    exact: int
    role: int
    edit: int
    unaligned: int
    source_tokens: int


def one_pair(source: str, target: str, cache: Path) -> dict[str, Any]:
    """Align in this process; what `measure` asks of a new one."""
    began, used = time.perf_counter(), time.process_time()
    one, two = TokenTexts.of(TOKENIZERS / source), TokenTexts.of(TOKENIZERS / target)
    found = align_ids(one, two, cache=cache)
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    told = cover(one, two, found)
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        **{key: getattr(told, key) for key in ("exact", "role", "edit", "unaligned", "source_tokens")},
    }


def measure(source: str, target: str) -> Aligned:
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for _ in range(2):
            command = [sys.executable, __file__, "--pair", source, target, "--cache", folder]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    cold, cached = runs
    kept = {key: cold[key] for key in ("exact", "role", "edit", "unaligned", "source_tokens", "peak_bytes")}
    return Aligned(source, target, cold["wall_s"], cold["cpu_s"], cached["wall_s"], **kept)


def texts_of(tokenizer: Any, count: int) -> list[str]:
    """Texts of exactly TOKENS tokens, in turn from each source."""
    piles: list[str] = ["\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]
    for name, keys in (
        ("math/gsm8k/test.jsonl", ("question", "answer")),
        ("math/carp_en/test.jsonl", ("content", "question", "solution", "answer")),
        ("code/humaneval/test.jsonl", ("prompt", "canonical_solution")),
    ):
        file = SHARED / "data" / name
        if file.is_file():
            rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
            piles.append("\n\n".join(" ".join(str(row.get(key, "")) for key in keys) for row in rows))
    found: list[list[str]] = []
    for pile in piles:
        text = pile[: 3000 * count]
        offsets = tokenizer.encode(text, add_special_tokens=False).offsets
        cut = []
        for low in range(0, len(offsets) - TOKENS, TOKENS):
            piece = text[offsets[low][0] : offsets[low + TOKENS - 1][1]]
            if len(tokenizer.encode(piece, add_special_tokens=False).ids) == TOKENS:
                cut.append(piece)
        found.append(cut[: -(-count // len(piles))])
    return [text for pile in found for text in pile][:count]


def a_minute(work: Callable[[int], object], count: int, rounds: int) -> float:
    """Calls a minute of one core's time: the median over rounds of `count` calls each."""
    speeds = []
    for _ in range(rounds):
        began = time.process_time()
        for place in range(count):
            work(place)
        speeds.append(60 * count / (time.process_time() - began))
    return float(np.median(speeds))


def position_maps(source: str, target: str, count: int, rounds: int) -> dict[str, Any]:
    from tokenizers import Tokenizer

    tokenizers = [Tokenizer.from_file(str(TOKENIZERS / name / "tokenizer.json")) for name in (source, target)]
    known = [TokenTexts.of(TOKENIZERS / name) for name in (source, target)]
    texts = texts_of(tokenizers[0], count)
    found = [[t.encode(text, add_special_tokens=False) for text in texts] for t in tokenizers]
    ids = [[np.array(encoding.ids) for encoding in side] for side in found]
    offsets = [[encoding.offsets for encoding in side] for side in found]
    spans = [[token_spans(known[side], ids[side][k], texts[k], offsets[side][k]) for k in range(len(texts))] for side in (0, 1)]
    maps = [align_positions(spans[0][k], spans[1][k]) for k in range(len(texts))]
    kinds: dict[str, int] = {}
    for one in maps:
        for kind, number in count_kinds(one).items():
            kinds[kind] = kinds.get(kind, 0) + number

    def from_ids(k: int) -> object:
        return align_positions(
            *(token_spans(known[side], ids[side][k], texts[k], offsets[side][k]) for side in (0, 1))
        )  # fmt: skip

    def from_text(k: int) -> object:
        return align_positions(*(encode(tokenizers[side], texts[k], known[side])[1] for side in (0, 1)))

    def with_partners(k: int) -> object:
        return align_positions(spans[0][k], spans[1][k]).partner

    many = len(texts)
    return {
        "source": source,
        "target": target,
        "texts": many,
        "source_tokens": TOKENS,
        "target_tokens": float(np.mean([len(one.kind) for one in maps])),
        "kinds": kinds,
        "maps_from_spans": a_minute(lambda k: align_positions(spans[0][k], spans[1][k]), many, rounds),
        "maps_with_partners": a_minute(with_partners, many, rounds),
        "maps_from_ids": a_minute(from_ids, many, rounds),
        "maps_from_text": a_minute(from_text, many, rounds),
    }


def table(aligned: Sequence[Aligned], maps: Sequence[dict[str, Any]]) -> str:
    lines = [
        "# Aligning tokenizers: what it costs",
        "",
        f"{machine()}. Made by `benchmarks/fuse_align.py`.",
        "",
        "## Ids",
        "",
        "Cold: reading both tokenizers, comparing, writing the cache, by the clock; then the processor time of it, both cores"
        f" together. Cached: the same call again, in a new process. {load()}",
        "",
        "| source | target | cold | processor | cached | peak memory | to reach |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in aligned:
        first = (one.source, one.target) == PAIRS[0]
        goal = f"{COLD_TARGET_S:.0f} s: {'reached' if one.cold_s < COLD_TARGET_S else 'NOT reached'}" if first else ""
        lines.append(
            f"| {one.source} | {one.target} | {one.cold_s:.1f} s | {one.cold_cpu_s:.1f} s | {one.cached_s:.2f} s"
            f" | {one.peak_bytes / 2**20:.0f} MiB | {goal} |"
        )
    lines += ["", "| source | target | ids | exact | by role | by edit distance | unaligned |", "|---|---|---|---|---|---|---|"]
    for one in aligned:
        share = f"{100 * one.exact / one.source_tokens:.1f}%"
        lines.append(
            f"| {one.source} | {one.target} | {one.source_tokens:,} | {one.exact:,} ({share}) | {one.role} | {one.edit:,}"
            f" | {one.unaligned:,} |"
        )
    lines += [
        "",
        "## Positions",
        "",
        f"Maps a minute of one core, of texts of {TOKENS} source tokens; to reach: {MAPS_TARGET:,}.",
        "",
        "| source | target | target tokens | from spans | with partners | from ids | from text, tokenizing both | to reach |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in maps:
        speeds = [row[key] for key in ("maps_from_spans", "maps_with_partners", "maps_from_ids", "maps_from_text")]
        goal = "reached" if min(speeds) >= MAPS_TARGET else "reached from ids" if speeds[2] >= MAPS_TARGET else "NOT reached"
        told = " | ".join(f"{speed:,.0f}" for speed in speeds)
        lines.append(f"| {row['source']} | {row['target']} | {row['target_tokens']:.0f} | {told} | {goal} |")
    lines += [
        "",
        "Kinds of target positions in these texts:",
        "",
        "| source | target | same | joined | part | crossed | none |",
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for row in maps:
        whole = sum(row["kinds"].values())
        told = " | ".join(f"{100 * row['kinds'][kind] / whole:.1f}%" for kind in ("same", "joined", "part", "crossed", "none"))
        lines.append(f"| {row['source']} | {row['target']} | {told} |")
    return "\n".join(lines) + "\n"


def load() -> str:
    """What else was going on, since the clock counts it too."""
    runs = os.getloadavg()[2]
    return f"Load of the machine over the last quarter of an hour: {runs:.1f}."


def machine() -> str:
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "fuse-align")
    parser.add_argument("--pair", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.pair:
        print(json.dumps(one_pair(*asked.pair, asked.cache)))
        return
    if not TOKENIZERS.is_dir():
        sys.exit(f"{TOKENIZERS}: the tokenizers are not here")
    pairs = PAIRS[2:3] if asked.quick else PAIRS
    aligned = [measure(*pair) for pair in pairs]
    maps = [position_maps(*pair, count=40 if asked.quick else 400, rounds=2 if asked.quick else 5) for pair in pairs[:3]]
    text = table(aligned, maps)
    print(text)
    if not asked.quick:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.with_suffix(".md").write_text(text)
        whole = {"modist": VERSION, "machine": machine(), "ids": [asdict(one) for one in aligned], "positions": maps}
        asked.out.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
