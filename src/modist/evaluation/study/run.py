"""`run_study`: from a YAML to every row's answers.  All of it goes on where a killed run stopped.

OUT/merged/ROW/            a merge's checkpoint, with its manifest
OUT/runs/NAME/             a model's answers (`modist.evaluation.run`); NAME.json beside it says of which model
OUT/runs/PARENT.samples/   a parent's sampled answers, for votes
OUT/tuning/ROW/VALUE.json  what a candidate scored on the development data
OUT/routing/PARENT/        how likely each prompt is to a parent
OUT/recipes/ROW.yml        a mixture's recipe that the study wrote out
OUT/lock                   held while a study writes
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modist.errors import UserError
from modist.evaluation.benchmark import Benchmark
from modist.evaluation.generators.generator import Sampling
from modist.evaluation.plan import Settings
from modist.evaluation.results import Results, read_results
from modist.evaluation.study.document import Row, Study
from modist.evaluation.study.pool import Crew
from modist.evaluation.study.rivals import routed, voted
from modist.evaluation.study.tune import Candidate, Tuned
from modist.evaluation.study.work import Answering, Merging, Reading, Trying


@dataclass(frozen=True)
class Options:
    """What the command says, before the YAML.

    Attributes:
        data: folder of the benchmarks' rows.
        limit: so many questions of each benchmark.
        only: rows; the parents are always there.
        workers: processes; 0 does everything in this one, None is the YAML's, else one, or a core each (at most 2) on a CPU.
        execute_code: run the code that models write, for benchmarks that need it.
    """

    data: Path | None = None
    limit: int | None = None
    only: tuple[str, ...] = ()
    workers: int | None = None
    device: str | None = None
    dtype: str | None = None
    execute_code: bool = False


@dataclass
class Watch:
    """Where a study says what it is doing."""

    phase: Callable[[str], object] = lambda text: None
    done: Callable[[str, int, int], object] = lambda name, number, total: None


@dataclass(frozen=True)
class Entry:
    """One line of the table: its answers, and what there is to say of it.

    Attributes:
        name, label, role: of the row; the role as `modist.evaluation.table` has it.
        results: its answers; a route's and a vote's are taken from the parents'.
        share: what it has of its parents, in words.
        notes: for the page.
    """

    name: str
    label: str
    role: str
    results: Results
    share: str = ""
    notes: tuple[str, ...] = ()
    paper: str | None = None
    tuned: Tuned | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished study."""

    study: Study
    out: Path
    entries: tuple[Entry, ...]
    sampled: Mapping[str, Results] = field(default_factory=dict)


def run_study(study: Study, out: Path, options: Options | None = None, watch: Watch | None = None) -> Outcome:
    """Merge, tune, answer, route and vote.

    Args:
        study: from `load_study`.
        out: the folder everything goes to.

    Raises:
        UserError: something asked cannot be (exit status 2); nothing was merged or answered yet, as far as that can be known.
        ModistError: a row failed (exit status 1); what is finished is kept, and the same call goes on.
    """
    run = _Run(study, Path(out), options or Options(), watch or Watch())
    with _locked(run.out), run.crew:
        return run.everything()


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{out}: cannot be written to ({error.strerror})") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"{out}: another study is writing there") from None
    try:
        yield
    finally:
        os.close(descriptor)


class _Run:
    """One run of a study; the order of `everything` is the order of dependence."""

    def __init__(self, study: Study, out: Path, options: Options, watch: Watch) -> None:
        from modist.evaluation.benchmarks import find

        self.study, self.out, self.options, self.watch = study, out, options, watch
        self.rows = study.chosen(options.only)
        self.test: tuple[Benchmark, ...] = tuple(find(name) for name in (*study.benchmarks, *study.retention))
        tuned = any(row.tuned for row in self.rows)
        self.development = tuple(find(name) for name in study.development) if tuned else ()
        workers, self.threads = workers_of(study, options)
        self.crew = Crew(workers, self.threads)

    def everything(self) -> Outcome:
        self._check()
        identities, gave, notes, tuned = self._merges()
        self._answers(identities)
        self._read_prompts()
        return self._outcome(gave, notes, tuned)

    def _check(self) -> None:
        """What can be known before the first byte is written."""
        if not self.options.execute_code and (code := [one.name for one in self.test if one.kind == "code"]):
            raise UserError(
                f"{' and '.join(code)}: grading runs code that a model wrote; allow that with --execute-code, or leave"
                f" {'it' if len(code) == 1 else 'them'} out of the study"
            )
        self.digests = {}
        asked: dict[str, str] = {}
        for benchmark in (*self.test, *self.development):
            items = benchmark.items(self.options.data)
            self.digests[benchmark.name] = benchmark.digest(items)
            for item in items:
                text = " ".join(item.question.split()).casefold()
                if benchmark.split == "development" and text in asked:
                    raise UserError(
                        f"{benchmark.name}: {item.id} asks what {asked[text]} asks too; a parameter must not be tuned on the"
                        " questions it is then judged by"
                    )
                if benchmark.split != "development":
                    asked[text] = item.id
        for row in self.rows:
            if row.kind == "merge":
                self._check_merge(row)

    def _check_merge(self, row: Row) -> None:
        from modist.merge import prepare
        from modist.merge.compare import refuse

        try:
            prepared = prepare(row.at(row.tuned[1][0] if row.tuned else None), seed=row.entry.seed, allow=row.entry.allow)
            refuse(prepared.aspects)
        except UserError as error:
            said = str(error).replace("--allow ", "in the row, `allow:` with ")
            raise self.study.document.error(f"{row.name}: {said}", *row.path) from None
        for checkpoint in prepared.checkpoints.values():
            checkpoint.close()

    def _merges(self) -> tuple[dict[str, str], dict[str, str], dict[str, list[str]], dict[str, Tuned]]:
        """Every merge's fingerprint, what its parents gave, remarks, and the grids tried; by row."""
        tuned = self._tune()
        work: dict[str, Callable[[], Any]] = {}
        for row in self.rows:
            if row.kind == "merge":
                value = tuned[row.name].best.value if row.name in tuned else None
                work[row.name] = self._merging(row, self.out / "merged" / row.name, value)
        if work:
            self.watch.phase(f"merging {len(work)} ways")
        # One after the other here: a merge has threads of its own.
        made = Crew(0, None).do(work, self.watch.done)
        identities = {name: found[0] for name, found in made.items()}
        gave = {name: "; ".join(found[1]) for name, found in made.items()}
        return identities, gave, {name: list(found[2]) for name, found in made.items()}, tuned

    def _merging(self, row: Row, folder: Path, value: float | None, threads: int | None = None) -> Merging:
        document, allow = row.at(value).document, tuple(row.entry.allow)
        return Merging(row.name, document.text, document.name, folder, row.entry.seed, allow, threads)

    def _tune(self) -> dict[str, Tuned]:
        work: dict[str, Callable[[], Candidate]] = {}
        places: dict[str, list[str]] = {}
        for row in self.rows:
            for value in row.tuned[1] if row.tuned else ():
                folder = self.out / "tuning" / row.name / f"{value:g}"
                name = f"{row.name} at {value:g}"
                limit = _least(self.study.development_limit, self.options.limit)
                asking = self._asking(name, folder / "run", str(folder / "model"), self.development, limit)
                merging = self._merging(row, folder / "model", value, self.threads)
                work[name] = Trying(name, value, merging, asking, folder.with_name(f"{value:g}.json"))
                places.setdefault(row.name, []).append(name)
        if work:
            self.watch.phase(f"tuning: {len(work)} candidates on the development data")
        found = self.crew.do(work, self.watch.done)
        return {
            row.name: Tuned(row.tuned[0], tuple(found[place] for place in places[row.name])) for row in self.rows if row.tuned
        }

    def _answers(self, identities: Mapping[str, str]) -> None:
        """Every model's run; mixtures first, since they take longest, and the parents' samples."""
        work: dict[str, Callable[[], None]] = {}
        for row in self.rows:
            if row.kind == "mixture":
                work[row.label] = self._mixture(row)
        decode = self.study.decode
        sampling = Sampling(decode.temperature, decode.top_p, decode.top_k)
        for name, samples in self.study.samples_needed(self.rows).items():
            parent = self.study.parent(name)
            folder = self.out / "runs" / f"{name}.samples"
            one = self._asking(name, folder, str(parent.reference), self.test, self.options.limit)
            # A vote of one sample is drawn all the same.
            drawn = replace(one.settings, samples=samples, sampling=sampling)
            work[f"{parent.label}, {samples} samples"] = replace(one, settings=drawn)
        for parent in self.study.parents:
            folder = self.out / "runs" / parent.name
            work[parent.label] = self._asking(parent.name, folder, str(parent.reference), self.test, self.options.limit)
        for row in self.rows:
            if row.kind == "merge":
                model, folder = str(self.out / "merged" / row.name), self.out / "runs" / row.name
                one = self._asking(row.name, folder, model, self.test, self.options.limit)
                work[row.label] = replace(one, identity=identities[row.name])
        self.watch.phase(f"{len(work)} models answer {', '.join(one.title for one in self.test)}")
        self.crew.do(work, self.watch.done)

    def _asking(self, name: str, folder: Path, model: str, benchmarks: Sequence[Benchmark], limit: int | None) -> Answering:
        decode = self.study.decode
        development = benchmarks is self.development
        names = self.study.development if development else (*self.study.benchmarks, *self.study.retention)
        return Answering(
            name=name,
            folder=folder,
            kind=decode.generator,
            model=model,
            options=self._options(decode.generator),
            benchmarks=tuple(names),
            data=self.options.data,
            settings=Settings(
                style=decode.style,
                limit=limit,
                seed=decode.seed,
                batch_size=decode.batch_size,
                execute_code=self.options.execute_code,
                max_new_tokens=decode.max_new_tokens,
            ),
            digests=tuple(self.digests[one.name] for one in benchmarks),
        )

    def _options(self, kind: str) -> dict[str, Any]:
        """Device and dtype, where this kind of generator is told them."""
        from modist.evaluation.generators import options_of

        given = {
            "device": self.options.device or self.study.decode.device,
            "dtype": self.options.dtype or self.study.decode.dtype,
        }
        return {key: value for key, value in given.items() if value is not None and key in options_of(kind)}

    def _mixture(self, row: Row) -> Answering:
        assert row.recipe is not None
        file = self.out / "recipes" / f"{row.name}.yml"
        experts = [
            {"source_model": _absolute(source.model.source, source.model.is_local, str(source.model))}
            for source in row.recipe.slices[0].sources
        ]
        weights = [source.parameters["weight"].at("", 0.0) for source in row.recipe.slices[0].sources]
        file.parent.mkdir(parents=True, exist_ok=True)
        # JSON is YAML, and quotes any name.
        file.write_text(json.dumps({"experts": experts, "weights": weights}) + "\n", encoding="utf-8")
        one = self._asking(row.name, self.out / "runs" / row.name, str(file), self.test, self.options.limit)
        entry = row.entry
        given = {"gate": entry.gate, "discount": entry.discount, "stride": entry.stride, "law": entry.law}
        options = {**self._options("mixture"), **{key: value for key, value in given.items() if value is not None}}
        return replace(one, kind="mixture", options=options, identity=row.recipe.document.text)

    def _read_prompts(self) -> None:
        """Every routed parent's likelihood of every prompt it was given."""
        names = list(dict.fromkeys(name for row in self.rows if row.kind == "route" for name in row.parents))
        options = self._options("mixture")
        work = {
            self.study.parent(name).label: Reading(
                name,
                self.out / "routing" / name,
                self.out / "runs" / name,
                str(self.study.parent(name).reference),
                self.options.data,
                (*self.study.benchmarks, *self.study.retention),
                options.get("device"),
                options.get("dtype"),
            )
            for name in names
        }
        if work:
            self.watch.phase("routing: each parent reads the prompts")
        self.crew.do(work, self.watch.done)

    def _outcome(self, gave: Mapping[str, str], notes: Mapping[str, list[str]], tuned: Mapping[str, Tuned]) -> Outcome:
        runs = self.out / "runs"
        parents = {one.name: replace(read_results(runs / one.name), name=one.label) for one in self.study.parents}
        sampled = {name: read_results(runs / f"{name}.samples") for name in self.study.samples_needed(self.rows)}
        entries = [Entry(one.name, one.label, "parent", parents[one.name]) for one in self.study.parents]
        for row in self.rows:
            said = [*notes.get(row.name, []), *([row.entry.note] if row.entry.note else [])]
            share = gave.get(row.name, "")
            role = "rival"
            if row.kind == "route":
                results, shares = routed(row, parents, self.out / "routing")
                share = ", ".join(f"{part:.0%} to {self.study.parent(name).label}" for name, part in shares.items())
            elif row.kind == "vote":
                results = voted(row, sampled)
                each = row.samples // len(row.parents)
                share = f"{row.samples} answers a question" + (f", {each} of each parent" if len(row.parents) > 1 else "")
            else:
                results, role = replace(read_results(runs / row.name), name=row.label), row.kind
                share = share or _mixed(row)
            if row.entry.allow:
                said.append(f"merged although the parents do not fit: allowed are differences in {', '.join(row.entry.allow)}")
            if row.name in tuned:
                said.append(tuned[row.name].line())
            notes_ = tuple(dict.fromkeys(said))
            entries.append(Entry(row.name, row.label, role, results, share, notes_, row.entry.paper, tuned.get(row.name)))
        return Outcome(self.study, self.out, tuple(entries), sampled)


def _mixed(row: Row) -> str:
    """A mixture's weights and how they follow the answer, in words."""
    if row.recipe is None:
        return ""
    sources = row.recipe.slices[0].sources
    weights = "; ".join(f"{source.model.name}: weight {source.parameters['weight'].at('', 0.0):g}" for source in sources)
    return weights + (f"; {row.entry.gate} gate" if row.entry.gate else "")


def _absolute(source: str, local: bool, name: str) -> str:
    return str(Path(source).expanduser().absolute()) if local else name


def _least(*limits: int | None) -> int | None:
    given = [limit for limit in limits if limit is not None]
    return min(given) if given else None


def workers_of(study: Study, options: Options) -> tuple[int, int | None]:
    """Processes, and threads in each (None leaves them, for a GPU and for work in this process)."""
    device = options.device or study.decode.device or "auto"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = options.workers if options.workers is not None else study.decode.workers
    workers = given if given is not None else (min(2, cores) if device == "cpu" else 1)
    return workers, max(1, cores // workers) if workers and device == "cpu" else None
