"""`modist generate`."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modist.cli import experts as options
from modist.cli.amount import show_amount
from modist.cli.needs import needs_of, show_needs
from modist.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from modist.mixture import Experts
    from modist.mixture.decode import Generation, Ledger, Settings


def generate_command(
    model: str = options.WHAT,
    prompt: str = typer.Option(None, "--prompt", help="A plain text to go on with; - reads it from stdin, as does no prompt."),
    chat: str = typer.Option(None, "--chat", help="A question, asked through each expert's chat template; - reads stdin."),
    max_new_tokens: int = options.MAX_NEW_TOKENS,
    seed: int = options.SEED,
    temperature: float = options.TEMPERATURE,
    top_k: int = options.TOP_K,
    top_p: float = options.TOP_P,
    min_p: float = options.MIN_P,
    warp: str = options.WARP,
    law: str = options.LAW,
    gate: str = options.GATE,
    discount: float = options.DISCOUNT,
    stride: int = options.STRIDE,
    gate_prompt: bool = options.GATE_PROMPT,
    stop: list[str] = options.STOP,
    eager: bool = options.EAGER,
    device: str = options.DEVICE,
    dtype: str = options.DTYPE,
    attribute: bool = typer.Option(False, "--attribute", help="Colour each token by responsibility: whose word it is."),
    picture: Path = typer.Option(None, "--picture", help="Draw the same into this file (png, svg or pdf)."),
    ledger: bool = typer.Option(False, "--ledger", help="Say on stderr what it cost: passes, catch-up, tokens/s."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show memory and download; load nothing."),
    trust_remote_code: bool = options.TRUST,
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object, at the end."),
) -> None:
    """Go on with a text, or answer a question, from the mixture of RECIPE's experts (or from one MODEL)."""
    if dry_run:
        show_needs(needs_of(options.read_recipe_or_model(model), dtype, max_new_tokens), as_json)
        return
    made_gate = options.make_gate(gate, discount, stride, gate_prompt)
    options.require()
    from modist.mixture.decode import Settings

    settings = Settings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        warp=warp,
        seed=seed,
        stop=tuple(stop),
        gate=made_gate,
        eager=eager,
        law=law,
        scores=as_json or attribute or picture is not None,
    )
    asked = _prompt(prompt, chat)
    if picture is not None:
        from modist.report.attribution import check_picture

        check_picture(picture)
    experts = options.load(model, device, dtype, trust_remote_code)
    result, cost = answer(experts, asked, settings, show=not as_json, attribute=attribute)
    if picture is not None:
        from modist.report.attribution import draw_attribution, pieces_of

        pieces = pieces_of(experts.tokenizer, result.token_ids, result.text)
        text = asked if isinstance(asked, str) else asked[-1]["content"]
        draw_attribution(pieces, result.responsibilities, experts.names, picture, weights=experts.weights, prompt=text)
    if as_json:
        print(json.dumps(options.finite(_as_dict(experts, result, cost, seed))))
    if ledger:
        show_ledger(experts, cost)
    say_if_full(result, settings)


def answer(
    experts: Experts,
    prompt: str | Sequence[dict[str, str]],
    settings: Settings,
    *,
    show: bool = True,
    attribute: bool = False,
    heard: Callable[[str], object] = lambda piece: None,
) -> tuple[Generation, Ledger]:
    """Decode one response, and show it as it comes.

    With `attribute` the colours come at the end, when every expert has read all of it; till then a terminal shows it plain.
    `heard` is given each piece too.
    """
    from rich.console import Console

    from modist.mixture.decode import stream

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    writer = _Writer(console, show, attribute)
    found: Any = None
    with writer:
        for piece in stream(experts, prompt, settings):
            if isinstance(piece, str):
                writer.add(piece)
                heard(piece)
            else:
                found = piece
    result, cost = found
    if show and attribute:
        show_attribution(console, experts, result)
    return result, cost


class _Writer:
    """Text on stdout piece by piece; with `attribute` only its last lines, on a terminal, until the colours are known."""

    def __init__(self, console: Console, show: bool, attribute: bool) -> None:
        self._console = console
        self._plain = show and not attribute
        self._passing = show and attribute and console.is_terminal
        self._live: Any = None
        self._text = ""

    def __enter__(self) -> _Writer:
        if self._passing:
            from rich.live import Live

            self._live = Live(console=self._console, transient=True, refresh_per_second=12)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
        if self._plain and self._text and not self._text.endswith("\n"):
            sys.stdout.write("\n")
            sys.stdout.flush()

    def add(self, piece: str) -> None:
        self._text += piece
        if self._plain:
            sys.stdout.write(printable(piece) if self._console.is_terminal else piece)
            sys.stdout.flush()
        elif self._live is not None:
            from rich.text import Text

            room = max(1, self._console.height - 2)
            lines = Text(printable(self._text)).wrap(self._console, self._console.width)
            self._live.update(Text("\n").join(lines[-room:]))


def printable(text: str) -> str:
    """A text that cannot move a terminal's cursor or change its colours."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)


def show_attribution(console: Console, experts: Experts, result: Generation) -> None:
    """The answer coloured by responsibility, and a legend; letters in place of colours where there are none."""
    from rich.text import Text

    from modist.report.attribution import MOSTLY, NOBODY, letters, marked, mean_shares, pieces_of, shade

    pieces = pieces_of(experts.tokenizer, result.token_ids, result.text)
    shares = mean_shares(result.responsibilities, len(experts))
    told = [
        f"{name}, weight {weight:g}: {100 * share:.1f}% mean responsibility"
        for name, weight, share in zip(experts.names, experts.weights, shares, strict=True)
    ]
    if console.is_terminal and console.color_system and not console.no_color:
        text = Text()
        for piece, row in zip(pieces, result.responsibilities, strict=True):
            text.append(printable(piece), style=f"#111111 on {shade(row)}")
        console.print(text)
        for index, line in enumerate(told):
            tint = shade([float(index == other) for other in range(len(experts))])
            console.print(Text.assemble(("  ", f"on {tint}"), " ", printable(line)))
        return
    console.print(printable(marked(pieces, result.responsibilities)))
    for mark, line in zip(letters(len(experts)), told, strict=True):
        console.print(f"{mark} {printable(line)}")
    if len(experts) > 1:
        console.print(f"{NOBODY} no expert has {MOSTLY:.0%} of the token")


def show_ledger(experts: Experts, cost: Ledger) -> None:
    """What a run cost, on stderr."""
    lines = [
        f"tokens     {cost.tokens} in {cost.seconds:.2f} s, {cost.tokens_per_second:.1f} tokens/s",
        f"passes     {cost.passes_per_step:.2f} a token: " + ", ".join(f"{name} {n}" for name, n in cost.passes.items()),
    ]
    for name, chunks in cost.chunks.items():
        # The first of an expert's chunks reads the prompt too.
        rest = [chunk for chunk in chunks[1:] if chunk]
        if rest:
            lines.append(f"catch-up   {name}: {statistics.median(rest):g} tokens a pass (median), {max(rest)} at most")
    if len(experts) > 1:
        lines.append(f"certified  {cost.certified_share:.1%} of the tokens without asking every expert")
        lines.append(f"shared     {show_amount(experts.saved_bytes)} of equal tensors held once")
    print("\n".join(lines), file=sys.stderr)


def say_if_full(result: Generation, settings: Settings) -> None:
    """Say so where not the limit asked for but an expert's context ended an answer."""
    if result.finish_reason == "length" and len(result.token_ids) < settings.max_new_tokens:
        options.note(f"the answer was cut after {len(result.token_ids)} tokens: an expert's context is full")


def _prompt(prompt: str | None, chat: str | None) -> str | list[dict[str, str]]:
    if prompt is not None and chat is not None:
        raise UserError("--prompt and --chat: give one of them")
    text = chat if chat is not None else prompt
    if text in (None, "-"):
        if sys.stdin is None or sys.stdin.isatty():
            raise UserError("no prompt: give --prompt TEXT, --chat TEXT, or a text on stdin")
        text = _read_stdin()
    assert text is not None
    if not text:
        raise UserError("the prompt is empty; give at least one token")
    text = options.sound(text, "the prompt")
    return text if chat is None else [{"role": "user", "content": text}]


def _read_stdin() -> str:
    """All of stdin, without the line break that `echo` adds."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UserError(f"stdin: not UTF-8 text (byte {error.start})") from None


def _as_dict(experts: Experts, result: Generation, cost: Ledger, seed: int) -> dict[str, Any]:
    return {
        "text": result.text,
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        "passes": cost.passes,
        "passes_per_token": cost.passes_per_step,
        "chunks": cost.chunks,
        "certified_share": cost.certified_share,
        "seconds": cost.seconds,
        "tokens_per_second": cost.tokens_per_second,
        "logprobs": result.logprobs,
        "responsibilities": result.responsibilities,
        "prompts": dict(zip(experts.names, result.prompts, strict=True)),
        "experts": [
            {"name": name, "weight": weight, "source": source}
            for name, weight, source in zip(experts.names, experts.weights, experts.references, strict=True)
        ],
        "seed": seed,
        "saved_bytes": experts.saved_bytes,
    }
