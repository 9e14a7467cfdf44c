"""Code answers are run, and nothing they do gets out, goes on, or passes for a test."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from modist.errors import UserError
from modist.evaluation.answers.code import Outcome, assemble, execute, extract_code, isolation, run_code, weakness
from modist.evaluation.benchmark import Item

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
RIGHT = "def f(x):\n    return x + 1\n"
TESTS = "assert f(1) == 2\nassert f(-1) == 0\n"
HAVE_DATA = pytest.mark.skipif(not (DATA / "code").is_dir(), reason="HumanEval and MBPP (../shared/data/code) are not here")
WALLED = pytest.mark.skipif(
    os.uname().sysname != "Linux" or bool(isolation()), reason=f"the kernel does not separate all of it here: {isolation()}"
)


def item(**extra: Any) -> Item:
    return Item("x", "x-0", "q", "g", extra={"prompt": "", "tests": TESTS, "entry_point": "f"} | extra)


def run(source: str, seconds: float = 5, **settings: Any) -> Outcome:
    return execute([source], TESTS, seconds, **settings)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (RIGHT, True),
        (f"Sure:\n```python\n{RIGHT}```\nDone.", True),
        (f"```\n{RIGHT}```", True),
        (f"```python\ndef f(x): return 0\n```\nBetter:\n```python\n{RIGHT}```", True),
        (f"```python\n{RIGHT}```\nThis prints:\n```\n2\n```", True),
        (f"```python\n{RIGHT}", True),
        (f"Here is the function.\n\n{RIGHT}\nIt adds one, doesn't it?", True),
        ("def f(x):\n    return x\n", False),
        ("def g(x):\n    return x + 1\n", False),
        ("```python\ndef f(x: return x + 1\n```", False),
        ("print('passed')", False),
    ],
)
def test_program_is_found_in_a_reply(answer: str, expected: bool) -> None:
    grade = run_code(item(), answer)
    assert grade.equal is grade.equal_compatible is expected
    assert expected or grade.note


@pytest.mark.parametrize(
    "answer",
    [
        "    return half(2 * x) + 1\n",
        "return half(2 * x) + 1",
        "y = half(2 * x)\nreturn y + 1",
        "```python\ndef f(x):\n    return half(2 * x) + 1\n```",
    ],
)
def test_completion_goes_on_where_the_prompt_ends(answer: str) -> None:
    prompt = 'def half(x):\n    return x // 2\n\n\ndef f(x):\n    """Add one."""\n'
    assert run_code(item(prompt=prompt), answer).equal
    assert assemble("return 1", prompt, "f")[0].startswith(prompt)


def test_last_python_block_is_taken() -> None:
    assert extract_code("```python\n1\n```\n```py\n2\n```\n```sh\n3\n```") == "2\n"


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "raise SystemExit",
        "print('passed')\nquit = exit = None",
        "import os\nfor n in range(3, 64):\n    try: os.write(n, b'passed\\n' * 3)\n    except OSError: pass\nos._exit(0)",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
        "import sys\nclass M:\n    def __getattr__(self, n): return None\nsys.modules['answer'] = M()",
        "import os\nos.closerange(0, 64)\n" + RIGHT,
        "def f(x):\n    import os\n    os._exit(0)",
        "input()\n" + RIGHT,
        "import sys\nassert sys.stdin.read()\n" + RIGHT,
        "import os\nassert 'HOSTNAME' in os.environ or 'USER' in os.environ\n" + RIGHT,
    ],
)
def test_nothing_but_the_tests_passes(source: str) -> None:
    outcome = run(source)
    assert not outcome.passed
    assert outcome.note


def test_a_parent_with_many_open_files_changes_nothing() -> None:
    with contextlib.ExitStack() as files:
        for _ in range(90):
            files.enter_context(open(os.devnull))
        assert run(RIGHT).passed
        assert not run("import os\nos.closerange(0, 64)\n" + RIGHT).passed


@pytest.mark.parametrize(
    "source", ["while True:\n    pass\n", "import time\ntime.sleep(60)\n", "while True:\n    print('x' * 9999)\n"]
)
def test_time_is_limited(source: str) -> None:
    started = time.monotonic()
    outcome = run(source, seconds=0.5)
    assert (outcome.passed, outcome.note) == (False, "time limit: 0.5 s")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("source", ["x = 'x' * 10**11\n", "x = []\nwhile True:\n    x.append(bytearray(10**7))\n"])
def test_memory_is_limited(source: str) -> None:
    outcome = run(source + RIGHT, memory=256 << 20)
    assert (outcome.passed, outcome.note) == (False, "MemoryError")


def test_memory_enough_for_an_answer_is_given() -> None:
    assert run("x = bytearray(10**8)\n" + RIGHT, memory=512 << 20).passed


ESCAPES = {
    "network": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\n",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))\n",
    "write": "open({trace!r}, 'w').write('x')\n",
    "directory": "import os\nos.mkdir({trace!r})\n",
    "large file": "open('x', 'w').write('x' * (2 << 20))\n",
}


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("wall", ["guard", pytest.param("kernel", marks=WALLED)])
def test_each_wall_holds_alone(name: str, wall: str, tmp_path: Path) -> None:
    import socket

    tmp_path.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        source = ESCAPES[name].format(port=server.getsockname()[1], trace=str(tmp_path / "trace"))
        outcome = run(source + RIGHT, guard=wall == "guard", kernel=wall == "kernel")
        with pytest.raises(TimeoutError):
            server.accept()
    assert not outcome.passed
    assert "Error" in outcome.note
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "source", ["import os\nos.fork()\n", "import os\nos.system('true')\n", "import subprocess\nsubprocess.run(['true'])\n"]
)
def test_guard_forbids_processes(source: str) -> None:
    outcome = run(source + RIGHT, kernel=False)
    assert not outcome.passed
    assert "not for answers" in outcome.note


@WALLED
def test_processes_are_few_and_end_with_the_answer() -> None:
    mark = f"{os.getpid()}{time.monotonic_ns()}"
    stubborn = (
        f"import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    open('/proc/self/comm', 'w').write('m{mark[-12:]}')\n"
    )
    assert run(stubborn + "    time.sleep(60)\n" + RIGHT, guard=False).passed
    bomb = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    outcome = run(bomb, seconds=0.5, guard=False)
    assert outcome.note.startswith("time limit")
    time.sleep(0.1)
    names = [path.read_text().strip() for path in Path("/proc").glob("[0-9]*/comm") if _readable(path)]
    assert f"m{mark[-12:]}" not in names
    assert run("import os\nfor n in range(40):\n    if os.fork() == 0: os.pause()\n", guard=False).note.startswith(
        ("BlockingIOError", "AttributeError")
    )


def _readable(path: Path) -> bool:
    try:
        path.read_text()
    except OSError:
        return False
    return True


@WALLED
def test_other_processes_and_root_are_out_of_sight() -> None:
    source = f"import os\nassert not os.path.exists('/proc/{os.getpid()}/maps') and os.getuid() != 0\n"
    source += "assert len([n for n in os.listdir('/proc') if n.isdigit()]) < 5\n"
    assert run(source + RIGHT, guard=False).passed


def test_writing_in_its_own_folder_is_allowed_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run("open('x', 'w').write('1')\nassert open('x').read() == '1'\n" + RIGHT).passed
    assert run("open('x', 'w').write('1')\n" + RIGHT, kernel=False).passed
    assert list(tmp_path.iterdir()) == []


def test_sets_come_in_the_same_order_every_time() -> None:
    order = {execute(["x = list(set('abcdefgh'))"], "assert False, ''.join(x)").note for _ in range(4)}
    assert len(order) == 1


def test_missing_walls_are_told() -> None:
    assert weakness(("network", "files", "processes", "user")) == ""
    assert "network" in weakness(("files", "processes", "user"))
    assert execute([RIGHT], TESTS, kernel=False).walls == ()


def test_answers_that_cannot_be_run_say_why() -> None:
    assert run_code(item(), "").note == "no code"
    assert run_code(item(), "x" * 200_000).note.startswith("too long")
    with pytest.raises(UserError, match="x-0: a code question needs tests"):
        run_code(Item("x", "x-0", "q", "g", extra={"prompt": "", "entry_point": "f"}), RIGHT)


def solutions(name: str, every: int) -> list[tuple[str, bool]]:
    from modist.evaluation.benchmarks import find

    found = []
    for question in find(name).items(DATA)[::every]:
        prompt = str(question.extra["prompt"])
        found.append((question.id, run_code(question, f"```python\n{question.gold}\n```").equal))
        if prompt:
            found.append((question.id + " completed", run_code(question, question.gold[len(prompt) :]).equal))
    return found


@HAVE_DATA
@pytest.mark.parametrize(("name", "every"), [("humaneval", 33), ("mbpp", 86)])
def test_some_solutions_pass(name: str, every: int) -> None:
    assert [question for question, right in solutions(name, every) if not right] == []


@pytest.mark.full
@HAVE_DATA
@pytest.mark.parametrize(("name", "count"), [("humaneval", 328), ("mbpp", 427)])
def test_all_solutions_pass(name: str, count: int) -> None:
    found = solutions(name, 1)
    assert len(found) == count
    assert [question for question, right in found if not right] == []
