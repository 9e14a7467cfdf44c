"""`modist fuse`: a fusion, and `modist fuse extract`, its first half alone."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from modist.cli import experts as options

if TYPE_CHECKING:
    from modist.fusion import Extracted, FusionReport
    from modist.fusion.price import FusionPrice

_RUN = "run"
# A wait that is shorter needs no bar.
_PATIENCE_S = 2.0


class _RunByDefault(TyperGroup):
    """`modist fuse RECIPE OUT` means `modist fuse run RECIPE OUT`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [_RUN, *args]
        return super().parse_args(ctx, args)


fuse_app = typer.Typer(
    cls=_RunByDefault,
    help="Distil models of any architecture and tokenizer into one: modist fuse RECIPE OUT.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
DEVICE = typer.Option(None, "--device", help="cpu, cuda, cuda:1, mps, auto; a GPU where there is one.")
RECIPE = typer.Argument(help="YAML: pivot, experts, data, and perhaps fusion and training.")


@fuse_app.command(_RUN)
def fuse_command(
    recipe: Path = RECIPE,
    out: Path | None = typer.Argument(None, help="Folder to write; it appears whole or not at all. Not needed for --dry-run."),
    distributions: Path | None = typer.Option(
        None, "--distributions", help="Folder of what experts say, as extract makes it; OUT.distributions by default."
    ),
    seed: int = typer.Option(0, "--seed", help="Of the order of chats and of dropout; recorded in the manifest."),
    resume: bool = typer.Option(False, "--resume", help="Go on from what a killed run left."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Price it: positions, bytes, steps, memory; run nothing."),
    device: str | None = DEVICE,
    trust_remote_code: bool = options.TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Fuse the experts of RECIPE into its pivot; the result is the checkpoint OUT. The default: `run` may be left out."""
    from modist.errors import UserError

    options.require()
    options.quiet()
    from modist.fusion import Watch, fuse, prepare

    if dry_run:
        from modist.fusion.price import price
        from modist.fusion.training import world_size

        place = distributions or Path(f"{out}.distributions" if out is not None else "distributions")
        _show_price(price(prepare(recipe, trust_remote_code=trust_remote_code, weights=False), place, world_size()), as_json)
        return
    if out is None:
        raise UserError("OUT is missing: modist fuse RECIPE OUT")
    try:
        with _Progress() as progress:
            report = fuse(
                recipe,
                out,
                distributions=distributions,
                seed=seed,
                resume=resume,
                device=device,
                trust_remote_code=trust_remote_code,
                watch=Watch(options.note, progress.advance),
            )
    except KeyboardInterrupt:
        print("modist: stopped; the same command with --resume goes on from what is finished", file=sys.stderr)
        raise typer.Exit(130) from None
    if _is_first():
        _show(report, as_json)


@fuse_app.command("extract")
def extract_command(
    recipe: Path = RECIPE,
    out: Path = typer.Argument(help="Folder of all experts' distributions; for fuse --distributions."),
    expert: list[str] = typer.Option([], "--expert", help="Only this one; may be repeated. The pivot is one too."),
    shard: str | None = typer.Option(
        None, "--shard", help="Only a part of the work: 2/4, the second of four; parts may run at once."
    ),
    ray: str | None = typer.Option(None, "--ray", help="Run experts and parts on a Ray cluster: its address, or local."),
    workers: int = typer.Option(1, "--workers", min=1, help="--ray: parts of each expert's work."),
    device: str | None = DEVICE,
    trust_remote_code: bool = options.TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Run experts on the data of RECIPE once, and keep what they say of every response token; goes on where it was stopped."""
    from modist.errors import UserError

    options.require()
    options.quiet()
    from modist.fusion import Part, extract

    if ray is not None and shard is not None:
        raise UserError("--ray divides the work by itself; leave --shard out")
    try:
        with _Progress() as progress:
            if ray is not None:
                from modist.fusion.by_ray import extract_by_ray

                found = extract_by_ray(
                    recipe,
                    out,
                    experts=expert,
                    parts=workers,
                    address=ray,
                    device=device,
                    trust_remote_code=trust_remote_code,
                    advance=progress.advance,
                )
            else:
                found = extract(
                    recipe,
                    out,
                    experts=expert,
                    part=None if shard is None else Part.parse(shard),
                    device=device,
                    trust_remote_code=trust_remote_code,
                    say=options.note,
                    advance=progress.advance,
                )
    except KeyboardInterrupt:
        print("modist: stopped; the same command goes on from what is finished", file=sys.stderr)
        raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(options.finite([one.as_dict() for one in found])))
        return
    for one in found:
        print(_extracted(one))


def _is_first() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def _extracted(one: Extracted) -> str:
    from modist.cli.amount import show_amount

    left = f"; {one.lacking} shards are other parts' to make" if one.lacking else ""
    again = f", {one.repaired} of them damaged before" if one.repaired else ""
    return (
        f"{one.expert}: {one.positions:,} positions of {one.chats:,} chats, {one.nats_per_position:.4f} nats each,"
        f" {show_amount(one.nbytes)} in {one.folder} ({one.made} shards made now{again}, {one.seconds:.1f} s){left}"
    )


def _show(report: FusionReport, as_json: bool) -> None:
    if as_json:
        print(json.dumps(options.finite(report.as_dict())))
        return
    if report.already:
        print(f"{report.out} is already the finished result of this fusion")
        return
    for one in report.extracted:
        print(_extracted(one))
    for name, summary in report.targets.items():
        shares = ", ".join(f"{teacher} {share:.1%}" for teacher, share in summary.shares.items())
        nats = ", ".join(f"{teacher} {value:.4f}" for teacher, value in summary.nats.items())
        print(
            f"targets for {name}: {summary.positions:,} positions of {summary.chats:,} chats, {summary.aligned:.1%} of them"
            f" more than the label; whose: {shares}; nats a position: {nats}"
        )
    for name, found in report.trained.items():
        end = found.history[-1] if found.history else None
        loss = f"; loss {found.history[0].loss:.4f} -> {end.loss:.4f}" if end is not None else ""
        part = f"{found.parameters:,} of {found.of:,} parameters"
        print(f"trained {name}: {found.steps:,} steps, {part}, {found.seconds:.1f} s{loss}")
    print(f"wrote {report.out} in {report.seconds['total']:.1f} s, seed {report.seed}")


def _show_price(found: FusionPrice, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.as_dict()))
        return
    from modist.cli.amount import show_amount

    for expert in found.experts:
        there = f", {expert.there:.0%} of it there" if expert.there else ""
        skipped = f", {expert.skipped:,} chats too long" if expert.skipped else ""
        print(
            f"extract {expert.name}: {expert.tokens:,} tokens read, {expert.positions:,} positions stored in"
            f" {show_amount(expert.nbytes)}{there}{skipped}; {show_amount(expert.weights_bytes)} of weights"
        )
    times = f"{found.trainings} trainings of " if found.trainings > 1 else ""
    print(
        f"train    {times}{found.steps:,} steps of {found.global_batch} chats, about {found.tokens:,} tokens;"
        f" {found.parameters:,} parameters"
    )
    print(f"memory   {show_amount(found.training_bytes)} for weights, gradients and moments, beside activations")
    print(
        f"targets  {show_amount(found.target_bytes)} on disk; {found.target_bytes_a_position:,} bytes a position,"
        f" where a dense one has {found.dense_bytes_a_position:,}"
    )
    print(f"writes   {show_amount(found.output_bytes)}")
    if found.download_bytes:
        print(f"download {show_amount(found.download_bytes)}")


class _Progress:
    """A bar for each phase with the time left, on stderr, in a terminal, once the wait is worth one."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        self._began = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, phase: str, done: int, total: int) -> None:
        if not sys.stderr.isatty() or time.monotonic() - self._began < _PATIENCE_S:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns: tuple[Any, ...] = (
                TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            )  # fmt: skip
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=total)
        self._bar.update(self._tasks[phase], completed=done, total=total)
