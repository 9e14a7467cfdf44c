"""`modist chat`."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from modist.cli import experts as options
from modist.cli.generate import answer, say_if_full, show_ledger
from modist.errors import UserError

if TYPE_CHECKING:
    from modist.mixture import Experts
    from modist.mixture.decode import Settings

_HELP = "/new begins another conversation, /quit leaves; Ctrl-C stops an answer"


def chat_command(
    model: str = options.WHAT,
    system: str = typer.Option(None, "--system", help="A system message to begin with."),
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
    ledger: bool = typer.Option(False, "--ledger", help="Say on stderr what each answer cost."),
    trust_remote_code: bool = options.TRUST,
) -> None:
    """Talk with the mixture of RECIPE's experts (or with one MODEL); on piped stdin each line is a turn."""
    made_gate = options.make_gate(gate, discount, stride, gate_prompt)
    options.require()
    from modist.mixture.decode import Settings, encode_prompts

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
        scores=attribute,
    )
    experts = options.load(model, device, dtype, trust_remote_code)
    opening = [{"role": "system", "content": system}] if system else []
    # No template is better said now than after the first question.
    encode_prompts(experts, [[*opening, {"role": "user", "content": "?"}]])
    _Chat(experts, settings, opening, attribute, ledger).run()


class _Chat:
    """One conversation: what was said, and how to go on."""

    def __init__(
        self, experts: Experts, settings: Settings, opening: list[dict[str, str]], attribute: bool, ledger: bool
    ) -> None:
        self._experts, self._settings = experts, settings
        self._opening, self._messages = opening, list(opening)
        self._attribute, self._ledger = attribute, ledger
        self._on_terminal = _on_terminal()

    def run(self) -> None:
        if self._on_terminal:
            import contextlib

            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  # input() then has a history and can be edited
            print(f"{', '.join(self._experts.names)}: {_HELP}", file=sys.stderr)
        while (line := self._line()) is not None:
            text = line.strip()
            if text in ("/quit", "/exit"):
                return
            if text == "/new":
                self._messages = list(self._opening)
            elif text == "/help":
                print(_HELP, file=sys.stderr)
            elif text:
                self._turn(options.sound(text, "the question"))

    def _line(self) -> str | None:
        """The next turn, or None at the end."""
        while True:
            try:
                return input("> " if self._on_terminal else "")
            except EOFError:
                if self._on_terminal:
                    print(file=sys.stderr)
                return None
            except UnicodeDecodeError as error:
                raise UserError(f"stdin: not UTF-8 text (byte {error.start})") from None
            except KeyboardInterrupt:
                if not self._on_terminal:
                    raise
                print(f"\n{_HELP}", file=sys.stderr)

    def _turn(self, text: str) -> None:
        asked = [*self._messages, {"role": "user", "content": text}]
        said: list[str] = []
        # One seed for all turns would begin every answer with the same draws.
        settings = replace(self._settings, seed=self._settings.seed + len(asked) // 2)
        try:
            result, cost = answer(self._experts, asked, settings, attribute=self._attribute, heard=said.append)
        except KeyboardInterrupt:
            if not self._on_terminal:
                raise
            print("(stopped)", file=sys.stderr)
            self._messages = [*asked, {"role": "assistant", "content": "".join(said)}]
            return
        except UserError as error:
            # As a rule the conversation has outgrown a context; the turn is taken back.
            told = f"{error}; /new begins another conversation" if "context" in str(error) else str(error)
            if not self._on_terminal:
                raise UserError(told) from None
            print(f"modist: error: {told}", file=sys.stderr)
            return
        self._messages = [*asked, {"role": "assistant", "content": result.text}]
        say_if_full(result, settings)
        if self._ledger:
            show_ledger(self._experts, cost)


def _on_terminal() -> bool:
    """Whether a person types and reads."""
    return sys.stdin.isatty() and sys.stdout.isatty()
