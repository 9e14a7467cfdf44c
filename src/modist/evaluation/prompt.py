"""How a question is put to a model: three styles, and what ends a reply in each.

- `qwen25-math-cot`: the published harness's text, to the character: ChatML written by hand, whatever template the model has,
  all worked examples in the one user turn.  The tokenizer adds its BOS, if it has one.  A question whose gold is yes or no,
  true or false says so, as there (23 of the 19,541: ASDiv 5, College Math 18).  That lets the gold's type into the prompt, so
  the other two styles leave it out.  Where the answer is no formula (`text`, `code`), the benchmark's instruction is the
  system's turn.
- `chat`: messages for the model's own template.  The instruction follows the question in the user's turn, because many
  templates know no system; worked examples are turns of their own.
- `plain`: `Question: ...` and `Answer:`, for models that never saw a chat.  HumanEval is the bare code to go on with.
"""

from __future__ import annotations

import re

from modist.errors import UserError, nearest
from modist.evaluation.benchmark import Benchmark, Item

Message = dict[str, str]

QWEN, CHAT, PLAIN = STYLES = ("qwen25-math-cot", "chat", "plain")
DEFAULT = QWEN
_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
_QWEN_TEXT = "<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
_STOPS: dict[str, tuple[str, ...]] = {
    QWEN: ("</s>", "<|im_end|>", "<|endoftext|>"),
    CHAT: (),  # the model's own end of turn
    PLAIN: ("\nQuestion:", "</s>", "<|im_end|>", "<|endoftext|>"),
}
_TYPES = (("yes", "no"), ("true", "false"))


def build(item: Item, benchmark: Benchmark, style: str) -> str | list[Message]:
    """What a model is asked.

    Args:
        item: the question.
        benchmark: its worked examples and its instruction.
        style: one of STYLES.

    Returns:
        Messages for `chat`, else the text.

    Raises:
        UserError: no such style.
    """
    shots = [(shot.question, shot.answer) for shot in benchmark.examples[: benchmark.shots]]
    if check(style) == QWEN:
        system = benchmark.instruction if benchmark.kind in ("text", "code") and benchmark.instruction else _SYSTEM
        told = _type_told(item) if benchmark.kind == "math" else ""
        asked = "\n\n".join([*(f"{question}\n{answer}" for question, answer in shots), item.question.strip() + told])
        return _QWEN_TEXT.format(system=system, user=asked)
    if style == CHAT:
        turns: list[Message] = []
        for question, answer in shots:
            turns += [_user(question, benchmark.instruction), {"role": "assistant", "content": answer}]
        return [*turns, _user(item.question.strip(), benchmark.instruction)]
    if benchmark.kind == "code" and item.extra.get("prompt"):
        return str(item.extra["prompt"])
    head = f"{benchmark.instruction}\n\n" if benchmark.instruction else ""
    worked = "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in shots)
    return f"{head}{worked}Question: {item.question.strip()}\nAnswer:"


def stop_strings(style: str, benchmark: Benchmark | None = None) -> tuple[str, ...]:
    """The strings that end a reply of a style, and the benchmark's own after them."""
    own = benchmark.stop if benchmark else ()
    if benchmark and check(style) == PLAIN:
        own += benchmark.completion_stop
    return tuple(dict.fromkeys((*_STOPS[check(style)], *own)))


def check(style: str) -> str:
    """The style itself.

    Raises:
        UserError: no such style.
    """
    if style not in STYLES:
        raise UserError(f"{style!r}: no such prompt style{nearest(style, STYLES)}; there are {', '.join(STYLES)}")
    return style


def _user(question: str, instruction: str) -> Message:
    return {"role": "user", "content": f"{question}\n\n{instruction}" if instruction else question}


def _type_told(item: Item) -> str:
    gold = re.sub(r"^\\text\s*\{(.*)\}$", r"\1", item.gold.strip().strip("$")).strip(" .").lower()
    return next((f" ({one.capitalize()} or {other.capitalize()})" for one, other in _TYPES if gold in (one, other)), "")
