"""The command line: one thin file a verb, which parses, calls the API and prints."""

from __future__ import annotations

import io
import os
import sys

_LONGEST_LINE = 4000


def main() -> None:
    """Run `modist`; exit status 0 when it worked, 2 for what the user wrote, 1 for what failed, 130 for Ctrl-C."""
    from modist.cli.app import app
    from modist.errors import ModistError

    for stream in (sys.stdout, sys.stderr):
        # A name of a file may hold what the terminal's encoding cannot show; that is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except ModistError as error:
        _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except BrokenPipeError:
        # Whoever read our output has gone; stdout must not be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except MemoryError:
        _fail("out of memory", 1)
    except Exception as error:
        if os.environ.get("MODIST_TRACEBACK"):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        _fail(f"{type(error).__name__}: {reason} (MODIST_TRACEBACK=1 shows where; please report this)", 1)


def _fail(message: str, status: int) -> None:
    line = _one_line(message)
    print(f"modist: {'error: ' if status != 130 else ''}{line}", file=sys.stderr)
    sys.exit(status)


def _one_line(message: str) -> str:
    """A message without line breaks and control characters, which names of files and tensors may hold; not endless."""
    line = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(message.split("\n")))
    return line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 4]} ..."
