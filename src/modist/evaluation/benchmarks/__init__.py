"""The benchmarks modist knows, and those a user declares in YAML."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from modist.errors import UserError, nearest
from modist.evaluation.benchmark import Benchmark


@cache
def _all() -> tuple[Benchmark, ...]:
    from modist.evaluation.benchmarks.code import programs
    from modist.evaluation.benchmarks.maths import mathematics
    from modist.evaluation.benchmarks.reasoning import reasoning

    *twelve, development = mathematics()
    return (*twelve, *reasoning(), *programs(), development)


def known() -> dict[str, Benchmark]:
    """Every declared benchmark by name: the paper's twelve in its order, then the others; development splits last."""
    return {benchmark.name: benchmark for benchmark in _all()}


def find(name: str) -> Benchmark:
    """A benchmark by its name, or a user's own by the path of its YAML file.

    Raises:
        UserError: no such benchmark (with the nearest), or the file is wrong (with the line).
    """
    found = known()
    if name in found:
        return found[name]
    path = Path(name).expanduser()
    if path.suffix.lower() in (".yml", ".yaml") or "/" in name or path.is_file():
        from modist.evaluation.benchmarks.own import read_own

        return read_own(path)
    close = nearest(name.lower(), found) or f"; there are {', '.join(found)}, and files ending in .yml"
    raise UserError(f"{name}: no such benchmark{close}")
