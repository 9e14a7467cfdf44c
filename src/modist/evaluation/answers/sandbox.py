"""What a code answer runs in: started by `code.py` as a script of its own, with nothing but the standard library.

The kernel's walls first, as many as it grants: network, mount, process and IPC namespaces (a read-only file system but for a
small temporary folder, no network at all, a process list of its own), another user where started by root, no capabilities,
limits on time, memory, files and processes.  Then an audit hook, which cannot be removed from inside Python and says no to
sockets, processes, foreign code and writing elsewhere: the only wall where the kernel grants none.

Fd `report` takes lines about what happened; `token` is a pipe that holds a secret, read and sent back only when all tests are
over.  Nothing printed and no exit status counts.  An answer that hunts for open file descriptors could forge that; one that
prints "passed", leaves early or patches modules cannot.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import resource
import sys
import types
from typing import Any

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_PRIVATE, _RECURSIVE, _BIND = 1 << 18, 1 << 14, 1 << 12
_NOSUID, _NODEV = 2, 4
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 1
_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NO_NEW_PRIVS, _SIGKILL = 1, 4, 38, 9
_LINUX = os.uname().sysname == "Linux"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = ("socket.", "ctypes.", "subprocess.", "os.fork", "os.posix_spawn", "os.system", "os.exec", "os.kill", "pty.")
_CHANGES = {
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate"),
    *("os.utime", "os.setxattr", "os.removexattr", "shutil.rmtree", "shutil.move", "os.mkfifo", "os.mknod"),
}


def main() -> None:
    report, token = _lowest(int(sys.argv[1])), _lowest(int(sys.argv[2]))
    spec = json.loads(sys.stdin.buffer.read())
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    walls = _separate() if spec["kernel"] and _LINUX else set()
    # A process namespace begins with the next child.  That one only waits: a namespace ends with its first process, and a
    # first process does not die of signals as others do.
    _in_child(lambda: _first(spec, walls, report, token))


def _lowest(number: int) -> int:
    """The same pipe under the lowest free number: what the parent has open must not decide what an answer reaches."""
    low = os.dup(number)
    os.close(max(low, number))
    return min(low, number)


def _in_child(work: Any) -> None:
    """Do `work` in a child and wait for its end; leave as it left."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if _LINUX:
                _libc().prctl(_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
            work()
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(ended) & 0x7F)


def _first(spec: dict[str, Any], walls: set[str], report: int, token: int) -> None:
    if "files" in walls and not _close_files(spec["folder"]):
        walls.discard("files")
    if _LINUX:
        _drop(walls)
    os.chdir(spec["folder"])
    os.write(report, f"walls {' '.join(sorted(walls))}\n".encode())
    _in_child(lambda: _run(spec, report, token))


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _separate() -> set[str]:
    """Leave the namespaces of the parent; which walls that gave."""
    libc = _libc()
    flags = _NEWNET | _NEWNS | _NEWPID | _NEWIPC
    if os.geteuid() == 0 and libc.unshare(flags) == 0:
        return {"network", "files", "processes"}
    if os.geteuid() == 0 and not _other_user():
        return set()
    user, group = os.geteuid(), os.getegid()
    for wanted, walls in ((flags, {"network", "files", "processes"}), (_NEWNET, {"network"})):
        if libc.unshare(_NEWUSER | wanted) == 0:
            try:
                for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
                    with open(f"/proc/self/{name}", "w") as file:
                        file.write(text)
            except OSError:
                return walls - {"files"}
            return set(walls)
    return set()


def _close_files(folder: str) -> bool:
    """Every file system read-only, a small one of our own at `folder`, and a /proc without the processes outside."""
    libc = _libc()
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)
    done = (
        libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None) == 0
        and libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), 32) == 0
        and libc.mount(b"tmpfs", folder.encode(), b"tmpfs", _NOSUID | _NODEV, b"size=16m,mode=0777") == 0
    )
    if libc.mount(b"proc", b"/proc", b"proc", _NOSUID | _NODEV, None) != 0:
        libc.mount(b"tmpfs", b"/proc", b"tmpfs", _NOSUID | _NODEV, b"size=4k")
    if done and os.geteuid() == 0:
        _show_library(libc, os.path.join(folder, ".python"))
    return bool(done)


def _show_library(libc: Any, place: str) -> None:
    """The standard library at a place that another user can read, whoever may enter the folders above the real one."""
    library = os.path.dirname(os.path.realpath(os.__file__))
    os.mkdir(place, 0o755)
    if libc.mount(library.encode(), place.encode(), None, _BIND, None) != 0:
        return
    sys.path[:] = [path.replace(os.path.dirname(os.__file__), place, 1) for path in sys.path]
    for module in list(sys.modules.values()):
        if getattr(module, "__path__", None):
            module.__path__ = [path.replace(os.path.dirname(os.__file__), place, 1) for path in module.__path__]


def _other_user() -> bool:
    """Become a user who owns nothing; not where the standard library could then not be read."""
    number = random.SystemRandom().randrange(1_000_000, 2_000_000_000)
    os.seteuid(number)
    try:
        if not any(os.access(os.path.join(path, "os.py"), os.R_OK, effective_ids=True) for path in sys.path):
            raise PermissionError
    except OSError:
        os.seteuid(0)
        return False
    os.seteuid(0)
    try:
        os.setgroups([])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
    except OSError:
        return False
    # Else /proc/self/uid_map would stay root's.
    _libc().prctl(_SET_DUMPABLE, 1, 0, 0, 0)
    return True


def _drop(walls: set[str]) -> None:
    """Another user, no capabilities, no way to new ones."""
    if (os.geteuid() == 0 and _other_user()) or os.geteuid() != 0:
        walls.add("user")
    libc = _libc()
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capset(ctypes.byref(header), ctypes.byref(none))
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _limit(spec: dict[str, Any]) -> None:
    # More than the parent waits, so that it is the parent that says why; it is for what outlives the parent.
    seconds = int(spec["seconds"]) + 3
    for what, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, spec["memory"]),
        (resource.RLIMIT_FSIZE, 1 << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (getattr(resource, "RLIMIT_NPROC", resource.RLIMIT_CORE), 16),
    ):
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(what, (value, value))
        except (OSError, ValueError):
            continue


def _guard(folder: str) -> None:
    real, inside = os.path.realpath, os.path.realpath(folder) + os.sep

    def allowed(path: Any) -> bool:
        if isinstance(path, int):
            return True
        found = real(os.fsdecode(path))
        return found == os.devnull or found.startswith(inside)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event} is not for answers")
        if event == "open" and arguments[2] & _WRITING and arguments[0] is not None and not allowed(arguments[0]):
            raise PermissionError("an answer writes in its own folder only")
        if event in _CHANGES and not all(allowed(path) for path in arguments[:2] if isinstance(path, str | bytes)):
            raise PermissionError(f"{event}: an answer writes in its own folder only")

    sys.addaudithook(hook)


def _run(spec: dict[str, Any], report: int, token: int) -> None:
    # Taken before the answer can put something else in their places.
    read, write, leave = os.read, os.write, os._exit
    _limit(spec)
    if spec["guard"]:
        _guard(spec["folder"])
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    sys.argv = ["answer"]
    try:
        program = _compile(spec["sources"])
        tests = compile(spec["tests"], "tests", "exec")
        exec(program, module.__dict__)
        exec(tests, module.__dict__)
    except BaseException as error:
        write(report, f"failed {_say(error)}\n".encode(errors="replace"))
        leave(1)
    write(report, read(token, 64) + b"\n")
    leave(0)


def _compile(sources: list[str]) -> types.CodeType:
    """The first that compiles, whole or, where text follows the program, as far as whole lines of it do."""
    for source in sources:
        try:
            return compile(source, "answer", "exec")
        except (SyntaxError, ValueError):
            continue
    for source in sources:
        lines = source.splitlines()
        for end in range(len(lines) - 1, max(0, len(lines) - 100), -1):
            try:
                return compile("\n".join(lines[:end]), "answer", "exec")
            except (SyntaxError, ValueError):
                continue
    return compile(sources[0], "answer", "exec")


def _say(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    except BaseException:
        text = "an error that cannot be told"
    return "".join(character if character.isprintable() else " " for character in text)[:160]


if __name__ == "__main__":
    main()
