"""`search merge`: the coefficients of a merge that score best, and whether looking for them was worth it.

The best candidate on the first split is the choice.  It was chosen for its score there, so that score flatters it; the second
split, which no candidate was chosen on, says what it is worth, beside what there was without searching: the parents, the
starting recipe, and the best of as many candidates drawn at random.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from modist.recipe import Recipe
from modist.search.evolve import Watch, evolve
from modist.search.found import FIRST, SECOND, Found, Mark
from modist.search.genome import Genome
from modist.search.journal import Entry, Journal
from modist.search.parents import Judge
from modist.search.pool import LaterPool, Pool
from modist.search.random_search import random_search
from modist.search.settings import SearchSettings

RECIPE, REPORT = "recipe.yml", "report.json"


def search_merge(
    recipe: str | Path | Recipe,
    metric: str | Sequence[str],
    out: str | Path,
    settings: SearchSettings | None = None,
    *,
    second: Sequence[str] = (),
    hold_out: bool = True,
    asking: Mapping[str, Any] | None = None,
    parents: bool = True,
    compare: bool = True,
    ray: str | None = None,
    workers: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    allow: Iterable[str] = (),
    trust_remote_code: bool = False,
    say: Callable[[str], object] = lambda line: None,
    begin: Callable[[Journal], Watch | None] = lambda journal: None,
) -> Found:
    """Search for the coefficients under which a merge scores best; called again with the same arguments, go on.

    Writes OUT/recipe.yml, what was found, and OUT/report.json beside the journal.

    Args:
        recipe: the merge whose coefficients the search begins at.
        metric: such as `0.7*accuracy:a.dev.yml + 0.3*likelihood:b.jsonl`; several are added.
        out: the search's folder.
        settings: what is searched and how.
        second: the metric of the second split, which nothing is chosen on; left out, half of the data is kept for it.
        hold_out: whether there is a second split.
        asking: more of `modist.search.metric.read_metrics`: data, limit, tests, style, ...
        parents: whether to score the parents too.
        compare: whether to run a random search of equal cost.
        ray: a cluster's address, or `local`; None scores candidates in this process.
        workers: on Ray; one a device where left out.
        device, dtype, threads, allow, trust_remote_code: see `modist.search.candidate.Workshop`.
        say: given notes for people, a line each.
        begin: called with the journal before anything is scored; what it returns is told of every candidate's score.

    Raises:
        UserError, RecipeError: what cannot be searched, or searched on; a test set; another search's folder.
        ModistError: a candidate or a parent cannot be scored; what is journalled is kept.
    """
    from modist.search.candidate import check_dtype
    from modist.search.genes import open_genome
    from modist.search.parents import Parents
    from modist.search.site import Here, OnRay, Running
    from modist.search.splits import Splits

    began = time.monotonic()
    settings = settings or SearchSettings()
    check_dtype(dtype)
    genome = open_genome(recipe, settings, allow=allow, trust_remote_code=trust_remote_code)
    splits = Splits([metric] if isinstance(metric, str) else metric, second, hold_out, asking)
    running = Running(device, dtype, threads, trust_remote_code)
    site = Here(genome, running) if ray is None else OnRay(genome, running, ray, workers, say)
    plan = {**genome.identity, **settings.identity, **splits.identity, "dtype": dtype}
    with Journal(Path(out), plan) as journal:
        for text in (*genome.warnings, *splits.notes):
            say(text)
        if journal.replayed:
            say(f"{out}: going on with a search that has {journal.replayed} scores")
        pools = {split: LaterPool(partial(site.pool, splits, split)) for split in splits.metrics}
        judge = Parents(genome, dict(splits.metrics), device, dtype, trust_remote_code) if parents else None
        try:
            found = search_splits(
                genome,
                settings,
                journal,
                pools[FIRST],
                pools.get(SECOND),
                splits.metrics[FIRST].name,
                parents=judge,
                compare=compare,
                watch=begin(journal),
            )
        finally:
            for pool in pools.values():
                pool.close()
        _write(journal, found, report(found, settings, journal, time.monotonic() - began))
    return found


def search_splits(
    genome: Genome,
    settings: SearchSettings,
    journal: Journal,
    first: Pool,
    second: Pool | None,
    metric: str,
    *,
    parents: Judge | None = None,
    compare: bool = True,
    watch: Watch | None = None,
) -> Found:
    """Search, then score what was found where nothing was chosen.

    Args:
        genome, settings: what is searched and how.
        journal: of this search.
        first: scores candidates.
        second: scores the finalists on the second split, or None.
        metric: its name.
        parents: scores the plan's inputs; None leaves them out.
        compare: whether to run the random search of equal cost.
        watch: told of every candidate's score.

    Raises:
        ModistError: a candidate or a parent cannot be scored; what is journalled is kept.
    """
    splits = [FIRST] if second is None else [FIRST, SECOND]
    known: list[list[float]] = []
    if parents is not None:
        # Before any candidate: a parent and the merged copy need not be in memory together.
        for index in range(len(genome.plan.inputs)):
            known.append([_once(journal, f"parent, {split}", index, parents) for split in splits])
        parents.close()
    evolved = evolve(genome, first, settings, journal, watch)
    drawn = random_search(genome, first, settings, journal, watch) if compare else None
    # Its workers, if it has any, make room for the second split's.
    first.close()

    def mark(entry: Entry, name: str, kind: str) -> Mark:
        again = None if second is None else _again(journal, second, entry)
        return Mark(name, kind, entry.score, again, entry.number)

    best, *others = evolved.finalists(settings.finalists)
    marks = [mark(best, "the merge found", "best")]
    marks += [mark(entry, f"candidate {entry.number}", "finalist") for entry in others if entry.number]
    marks.append(mark(evolved.candidates[0], "the starting recipe", "start"))
    if drawn is not None:
        marks.append(mark(drawn.best, "the best at random", "random"))
    for name, scores in zip(genome.plan.names, known, strict=False):
        marks.append(Mark(name, "parent", scores[0], scores[1] if second is not None else None))
    return Found(genome, metric, tuple(marks), evolved, drawn, genome.recipe(best.vector))


def _once(journal: Journal, stage: str, index: int, parents: Judge) -> float:
    entry = journal.find(stage, index)
    if entry is None:
        entry = Entry(stage, index, (), parents(index, stage.removeprefix("parent, ")))
        journal.add(entry)
    return entry.score


def _again(journal: Journal, pool: Pool, entry: Entry) -> float:
    stage = f"{entry.stage}, {SECOND}"
    known = journal.find(stage, entry.number)
    if known is None or known.vector != entry.vector:
        (score,) = pool.scores([np.array(entry.vector)])
        known = Entry(stage, entry.number, entry.vector, score, entry.generation)
        journal.add(known)
    return known.score


def report(found: Found, settings: SearchSettings, journal: Journal, seconds: float) -> dict[str, Any]:
    """What was found and how it was run, as JSON."""
    from modist.merge.manifest import versions

    return {
        **found.as_dict(),
        "out": str(journal.folder),
        "settings": asdict(settings),
        "versions": versions(),
        "replayed": journal.replayed,
        "seconds": round(seconds, 3),
    }


def _write(journal: Journal, found: Found, told: Mapping[str, Any]) -> None:
    best = found.best
    worth = "" if best.second is None else f", {best.second:.6g} on the second split"
    lines = [
        f"# Found by modist search merge: candidate {best.candidate} of {len(found.evolved.candidates)}",
        f"# {found.metric}: {best.first:.6g}{worth}",
    ]
    # A name of a file may hold anything.
    head = "".join("".join(letter if letter.isprintable() else "?" for letter in line) + "\n" for line in lines)
    journal.write_whole(RECIPE, (head + found.recipe).encode("utf-8", "replace"))
    journal.write_whole(REPORT, (json.dumps(told, indent=1) + "\n").encode("utf-8", "replace"))
