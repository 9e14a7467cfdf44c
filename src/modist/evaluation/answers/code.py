"""Code answers: the program in a reply, run with the benchmark's own tests in a process that can do no harm.

Only on request (`--execute-code`).  What the process may do, and what stops it, is in `sandbox.py`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from modist.errors import UserError
from modist.evaluation.answers.grade import Grade
from modist.evaluation.benchmark import Item

SECONDS = 10.0
MEMORY = 1 << 30
_LONGEST = 100_000
_WALLS = {"network": "network", "files": "file system", "processes": "process list", "user": "user"}
_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_HEAD = re.compile(r"^(?:def |class |import |from \w|@\w|async def )", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What came of a program.

    Attributes:
        passed: every test ran to its end without an error.
        note: what failed, or "".
        walls: which of "network", "files", "processes" and "user" the kernel separated; the others only Python's audit hook
            guards.
    """

    passed: bool
    note: str
    walls: tuple[str, ...]


def run_code(item: Item, answer: str, seconds: float = SECONDS, memory: int = MEMORY) -> Grade:
    """Whether the program in `answer` passes the item's tests.

    Args:
        item: with `prompt` (code that a completion continues, or ""), `tests` (a script) and `entry_point` in `extra`.
        answer: a whole reply; its last ```python block, or the reply itself, is the program or a completion of the prompt.
        seconds: of wall time; the process gets one more to start in.
        memory: bytes of address space.

    Returns:
        a grade whose two verdicts are the same, whose spans are the program, and whose note says what failed, or, of a
        right answer, which walls were missing around it.
    """
    missing = [key for key in ("prompt", "tests", "entry_point") if key not in item.extra]
    if missing:
        raise UserError(f"{item.id}: a code question needs {', '.join(missing)}")
    if len(answer) > _LONGEST:
        return Grade(False, False, "", "", f"too long: {len(answer):,} characters, at most {_LONGEST:,} are run")
    code = extract_code(answer)
    if not code.strip():
        return Grade(False, False, "", "", "no code")
    sources = assemble(code, str(item.extra["prompt"]), str(item.extra["entry_point"]))
    outcome = execute(sources, str(item.extra["tests"]), seconds, memory)
    note = outcome.note or weakness(outcome.walls)
    return Grade(outcome.passed, outcome.passed, code, code, note)


def extract_code(answer: str) -> str:
    """The last fenced block that says it is Python, else the last fenced block, else the answer."""
    blocks = _FENCE.findall(answer)
    python = [body for language, body in blocks if language.lower() in ("python", "python3", "py")]
    if python:
        return str(python[-1])
    return str(blocks[-1][1]) if blocks else answer.strip("\n")


def assemble(code: str, prompt: str, entry_point: str) -> list[str]:
    """Programs that `code` may be meant as, best first; the first that compiles is run.

    A function of the wanted name is taken whole, below the imports and helpers that the prompt puts before it.  Anything else
    continues the prompt; its indentation may be lost.
    """
    head = _HEAD.search(code)
    from_head = code[head.start() :] if head else code
    defined = re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", code, re.MULTILINE) if entry_point else head
    if not prompt:
        return list(dict.fromkeys((code, from_head)))
    before = re.split(rf"^def {re.escape(entry_point)}\b", prompt, flags=re.MULTILINE)[0] if entry_point else ""
    if defined:
        return list(dict.fromkeys(f"{before}\n{text}\n" for text in (code, from_head)))
    indented = "".join(f"    {line}" for line in code.splitlines(keepends=True))
    lines = code.splitlines(keepends=True)
    first = "    " + "".join(lines)
    return [f"{prompt}{text}\n" for text in (code, first, indented)]


def execute(
    sources: Sequence[str], tests: str, seconds: float = SECONDS, memory: int = MEMORY, guard: bool = True, kernel: bool = True
) -> Outcome:
    """Run the first of `sources` that compiles, then `tests`, in a fresh process.

    `guard` and `kernel` leave out the audit hook or the kernel's walls, to test the one without the other.
    """
    script = Path(__file__).with_name("sandbox.py")
    token = secrets.token_hex(16).encode()
    with tempfile.TemporaryDirectory(prefix="modist-", ignore_cleanup_errors=True) as folder:
        # The user inside is another than ours where ours is root.
        os.chmod(folder, 0o777)
        token_out, token_in = os.pipe()
        report_out, report_in = os.pipe()
        spec = {"sources": list(sources), "tests": tests, "seconds": seconds, "memory": memory, "folder": folder}
        spec |= {"guard": guard, "kernel": kernel}
        # -I without -E, because the environment is ours: sets come in the same order in every run.
        environment = {"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-P", "-s", "-S", "-B", str(script), str(report_in), str(token_out)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(report_in, token_out),
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
            late = _feed(process, json.dumps(spec).encode(), token_in, token, seconds)
            os.set_blocking(report_out, False)
            try:
                told = os.read(report_out, 1 << 16)
            except BlockingIOError:
                told = b""
        finally:
            for number in (token_out, token_in, report_out, report_in):
                os.close(number)
    return _outcome(told, token, process.returncode, late, seconds)


def _feed(process: subprocess.Popen[bytes], spec: bytes, token_in: int, token: bytes, seconds: float) -> bool:
    """Give the process its work and wait for it; whether it had to be killed for its time."""
    os.write(token_in, token)
    late = False
    try:
        process.communicate(spec, timeout=seconds + 1.0)
    except subprocess.TimeoutExpired:
        late = True
    finally:
        # The whole session: what an answer started goes with it, and with its first process its namespace.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return late


def _outcome(told: bytes, token: bytes, status: int, late: bool, seconds: float) -> Outcome:
    lines = told.split(b"\n")
    # The first line is written before the answer begins; nothing else but the token is believed.
    walls = tuple(lines[0].decode(errors="replace").split()[1:]) if lines[0].startswith(b"walls") else ()
    if not late and status == 0 and token in lines[1:]:
        return Outcome(True, "", walls)
    failed = next((line[7:].decode(errors="replace") for line in lines[1:] if line.startswith(b"failed ")), "")
    if late:
        return Outcome(False, f"time limit: {seconds:g} s", walls)
    if not lines[0].startswith(b"walls"):
        return Outcome(False, "the process that runs answers did not start", walls)
    return Outcome(False, failed or "ended before its tests did", walls)


def weakness(walls: Sequence[str]) -> str:
    """What to tell of missing walls; "" where all stand."""
    missing = [name for wall, name in _WALLS.items() if wall not in walls]
    if not missing:
        return ""
    return f"weaker isolation: the kernel does not separate {', '.join(missing)} here; a Python guard stands in"


@cache
def isolation() -> str:
    """The same, tried once: what a run should say before it executes anything."""
    return weakness(execute(["pass"], "").walls)
