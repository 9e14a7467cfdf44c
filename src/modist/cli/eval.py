"""`modist eval`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.cli import experts as options
from modist.errors import UserError

if TYPE_CHECKING:
    from modist.evaluation.album import Album
    from modist.evaluation.benchmark import Benchmark
    from modist.evaluation.model import Model
    from modist.evaluation.plan import Settings
    from modist.evaluation.price import Pace, Price


def eval_command(
    models: list[str] | None = typer.Argument(
        None, metavar="MODEL...", help="Folders, hub ids, recipes of mixtures (YAML), or an endpoint's address (http://...)."
    ),
    benchmark: list[str] = typer.Option([], "--benchmark", "-b", help="A name (modist benchmarks) or a YAML; may be repeated."),
    data: Path = typer.Option(None, "--data", help="Folder with the benchmarks' rows."),
    out: Path = typer.Option(Path("runs"), "--out", help="Folder for the answers, a folder a model, and for the table."),
    parents: list[str] = typer.Option(
        [], "--parents", help="Which models are the parents; may be repeated. By default those that the others were made of."
    ),
    generator: str = typer.Option(
        None, "--generator", help="transformers, mixture, openai or vllm; by default what MODEL looks like."
    ),
    model_name: str = typer.Option(None, "--model-name", help="What the endpoint calls the model."),
    concurrency: int = typer.Option(None, "--concurrency", min=1, help="openai: requests at once; 8 by default."),
    timeout: float = typer.Option(None, "--timeout", help="openai: seconds for one answer, all tries included."),
    style: str = typer.Option(None, "--style", help="Prompts: qwen25-math-cot, chat or plain, where a benchmark has no own."),
    limit: int = typer.Option(None, "--limit", min=1, help="Only so many questions of each benchmark, drawn by the seed."),
    seed: int = options.SEED,
    samples: int = typer.Option(1, "--samples", min=1, help="Answers a question: avg@K and pass@K. Needs a temperature."),
    temperature: float = options.TEMPERATURE,
    top_p: float = options.TOP_P,
    top_k: int = options.TOP_K,
    max_new_tokens: int = typer.Option(None, "--max-new-tokens", min=1, help="In place of each benchmark's own limit."),
    batch_size: int = typer.Option(None, "--batch-size", min=1, help="Questions at once; by default the generator's own."),
    device: str = typer.Option(None, "--device", help="cpu, cuda, cuda:1, mps, auto."),
    dtype: str = typer.Option(None, "--dtype", help="auto, bfloat16, float16, float32, float64."),
    gate: str = typer.Option(None, "--gate", help="Mixtures: static or bayes."),
    discount: float = options.DISCOUNT,
    stride: int = options.STRIDE,
    gate_prompt: bool = options.GATE_PROMPT,
    law: str = typer.Option(None, "--law", help="Mixtures: arithmetic or logits."),
    graders: int = typer.Option(1, "--graders", min=1, help="Processes that grade."),
    grade_seconds: float = typer.Option(5.0, "--grade-seconds", help="Time limit for grading one answer."),
    execute_code: bool = typer.Option(False, "--execute-code", help="Run the code that models write, where grading needs it."),
    retry_errors: bool = typer.Option(False, "--retry-errors", help="Ask again what failed in an earlier run."),
    keep_going: bool = typer.Option(False, "--keep-going", help="Go on however many answers fail."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what it would take; answer nothing."),
    probe: bool = typer.Option(False, "--probe", help="With --dry-run: answer one batch of each benchmark, to tell the hours."),
    results: Path | None = typer.Option(
        None, "--results", help="Tell the table of this folder's finished runs; answer nothing."
    ),
    lm_eval_tasks: bool = typer.Option(False, "--lm-eval-tasks", help="Print the folder of tasks for lm-evaluation-harness."),
    trust_remote_code: bool = options.TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Score models on benchmarks, the parents beside, every answer kept.

    A run that was stopped goes on when the same command is given again.
    """
    if lm_eval_tasks:
        from modist.evaluation.lm_eval_tasks import folder

        print(folder())
        return
    if results is not None:
        if models:
            raise UserError("--results tells runs that are finished; leave the models out")
        from modist.evaluation.album import read_album

        _tell(read_album(results, _listed(parents), options.note), [], as_json)
        return
    if not models:
        raise UserError("no MODEL: give a folder, a hub id, a mixture's recipe or an endpoint's address")
    if not benchmark:
        raise UserError("no benchmark: give at least one with --benchmark; modist benchmarks lists them")
    from modist.evaluation.benchmarks import find
    from modist.evaluation.generators.generator import Sampling
    from modist.evaluation.model import orphans, parents_of, read_model, with_own_names
    from modist.evaluation.plan import Settings, check_run

    chosen = with_own_names([read_model(model, generator, model_name) for model in models])
    named = parents_of(chosen, _listed(parents))
    settings = Settings(
        style=style,
        limit=limit,
        seed=seed,
        samples=samples,
        sampling=Sampling(temperature, top_p, top_k),
        batch_size=batch_size,
        execute_code=execute_code,
        graders=graders,
        seconds_per_grade=grade_seconds,
        max_new_tokens=max_new_tokens,
        retry_errors=retry_errors,
        keep_going=keep_going,
    )
    asked = [find(name) for name in benchmark]
    # Before a model is loaded: what it is to be asked must be there.
    check_run(asked, data, settings)
    local = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code or None}
    mixed = {"gate": gate, "discount": discount, "stride": stride, "gate_prompt": gate_prompt or None, "law": law}
    given = {**local, **mixed, "concurrency": concurrency, "timeout": timeout}
    how = {model.name: _how(model, given, chosen) for model in chosen}
    for name, missing in orphans(chosen).items():
        options.note(f"{name}: made of {', '.join(missing)}, which is not among the models, so nothing is held against it")
    if style is not None:
        for one in asked:
            if one.prompt not in (None, style):
                options.note(f"{one.name}: is asked in its own style, {one.prompt}")
    if dry_run:
        _price(chosen, how, asked, data, settings, out, probe, as_json)
        return
    _run(chosen, named, how, asked, data, settings, out, as_json)


def _listed(names: Sequence[str]) -> list[str]:
    """Names given one by one, or with commas between."""
    return [part for name in names for part in name.split(",") if part]


def _how(model: Model, given: Mapping[str, Any], chosen: Sequence[Model]) -> dict[str, Any]:
    """The options of this model's generator.

    Raises:
        UserError: one was given that no model here takes.
    """
    from modist.evaluation.generators.open import options_of

    taken = options_of(model.kind)
    flags = {name: value for name, value in given.items() if value is not None}
    everybody = {name for one in chosen for name in options_of(one.kind)}
    for name in flags:
        if name not in everybody:
            raise UserError(f"--{name.replace('_', '-')}: no model here takes it")
    found = {name: value for name, value in flags.items() if name in taken}
    if model.kind == "openai" and model.what.lower().startswith("http"):
        found["base_url"] = model.what
    return found


def _open(model: Model, how: Mapping[str, Any]) -> Any:
    from modist.evaluation.generators import open_generator

    if model.kind in ("transformers", "mixture"):
        options.require()
        options.quiet()
    named = model.name if model.kind == "openai" else model.what
    if model.kind == "openai" and not model.what.lower().startswith("http"):
        named = model.what
    return open_generator(model.kind, named, **{**how, "name": model.name})


def _run(
    chosen: Sequence[Model],
    parents: Sequence[str],
    how: Mapping[str, Mapping[str, Any]],
    asked: Sequence[Benchmark],
    data: Path | None,
    settings: Settings,
    out: Path,
    as_json: bool,
) -> None:
    from modist.evaluation.album import Album
    from modist.evaluation.run import Watch, evaluate

    found = []
    try:
        for number, model in enumerate(chosen, start=1):
            with _Progress(model.name, number, len(chosen)) as progress:
                generator = _open(model, how[model.name])
                try:
                    watch = Watch(progress.priced, progress.advance, progress.measured, progress.note)
                    found.append(evaluate(generator, asked, out / model.name, data, settings, watch, model.name))
                finally:
                    generator.close()
                if found[-1].already == len(found[-1].records):
                    progress.note(f"{model.name}: all {len(found[-1].records):,} answers were there already")
    except KeyboardInterrupt:
        print("modist: stopped; the same command goes on from what is finished", file=sys.stderr)
        raise typer.Exit(130) from None
    roles = {model.name: model.role for model in chosen}
    shares = {model.name: model.share for model in chosen if model.share}
    album = Album(out, tuple(found), tuple(parents), roles, shares)
    album.remember()
    _tell(album, [shlex.join(["modist", *sys.argv[1:]])], as_json)


def _tell(album: Album, commands: Sequence[str], as_json: bool) -> None:
    page = album.write(commands)
    if as_json:
        print(json.dumps(options.finite({**album.as_dict(), "page": str(page)})))
        return
    table = album.table()
    print(table.text(None, sys.stdout.isatty()))
    for line in table.findings():
        print(line)
    for one in album.results:
        for record in one.disagreements()[:_LISTED]:
            said = "right" if record.equal else "wrong"
            other = "right" if record.equal_compatible else "wrong"
            print(f"{one.name}: {record.id}: {said} here, {other} by the published rules: {_short(record.extracted)}")
        if (more := len(one.disagreements()) - _LISTED) > 0:
            print(f"{one.name}: {more:,} more of these; --json and the page list them")
    print(f"the page is {page}")


# Disagreements of each model that a terminal is told.
_LISTED = 5


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _price(
    chosen: Sequence[Model],
    how: Mapping[str, Mapping[str, Any]],
    asked: Sequence[Benchmark],
    data: Path | None,
    settings: Settings,
    out: Path,
    probe: bool,
    as_json: bool,
) -> None:
    """What each run would take; a tokenizer is all that is loaded, unless a probe is asked for."""
    from modist.evaluation.plan import make_plan
    from modist.evaluation.price import earlier_pace, price
    from modist.evaluation.price import probe as measure
    from modist.evaluation.ruler import Ruler

    prices: list[Price] = []
    for model in chosen:
        ruler = None if probe or model.kind == "openai" else Ruler.of(model, how[model.name])
        living = ruler or _open(model, how[model.name])
        try:
            plan = make_plan(living, asked, data, settings, model.name)
            pace = measure(living, plan, settings) if probe else earlier_pace(out / model.name)
        finally:
            living.close()
        found = price(plan, settings, range(len(plan.batches)), pace, unit=ruler.unit if ruler else None)
        prices.append(found)
    if as_json:
        print(json.dumps(options.finite({"models": [one.as_dict() for one in prices]})))
        return
    for line in prices[0].questions():
        print(line)
    for one in prices:
        for line in one.work():
            print(f"{one.name}: {line}")
        if one.pace is None:
            print(f"{one.name}: hours are not known before something was answered; --probe answers a batch")


class _Progress:
    """A bar with the time left in a terminal; the price and remarks, always; all on stderr."""

    def __init__(self, name: str, number: int, total: int) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._name, self._number, self._place = name, number, f" ({number} of {total})" if total > 1 else ""
        self._price: Price | None = None
        self._told = False
        self._bar: Any = None

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def priced(self, price: Price) -> None:
        self._price = price
        # The questions are the same for all models.
        for line in price.questions() if self._number == 1 else ():
            self.note(line)
        for line in price.work():
            self.note(f"{price.name}: {line}")

    def note(self, line: str) -> None:
        # While a bar is drawn its console writes above it.
        console = self._bar.console if self._bar is not None else self._console
        console.print(f"modist: {line}")

    def advance(self, done: int, total: int) -> None:
        if self._bar is None and self._console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task(self._name + self._place, total=total, completed=done)
            self._bar.start()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)

    def measured(self, pace: Pace) -> None:
        """One line after the first batch, where the wait will be long and no bar tells it."""
        from modist.evaluation.price import duration

        if self._told or self._price is None:
            return
        self._told = True
        left = pace.seconds_for(self._price.left - pace.answers)
        if left is not None and left > _LONG_S:
            self.note(f"{self._name}: about {duration(left)} left, at {pace.tokens_per_second:,.0f} tokens/s")


# A wait worth a line.
_LONG_S = 60
