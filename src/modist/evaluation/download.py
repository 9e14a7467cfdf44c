"""The benchmarks' public files: fetched from pinned commits, checked against their SHA-256, whole or absent.

Only what was compared with the published files is fetched.  For the rest there is no source that anybody verified, and the
command says where a person finds it and what its SHA-256 must be.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from modist.errors import HubError, ModistError, UserError
from modist.evaluation.benchmark import Benchmark, data_folder
from modist.evaluation.benchmarks import find, known

HOST = "https://raw.githubusercontent.com"
_QWEN = "QwenLM/Qwen2.5-Math/a45202bd16f1ec06f433442dc1152d0074773465/evaluation/data/{}/test.jsonl"
_ATTEMPTS, _PAUSE_S, _TIMEOUT_S, _BLOCK = 4, 1.0, 60.0, 1 << 16


@dataclass(frozen=True)
class Pinned:
    """A file at a commit.

    Attributes:
        path: below the host: owner, repository, commit, file.
        size: bytes.
        sha256: of the file as it is on the host.
    """

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Unverified:
    """What nobody compared with its source: where a person finds it, under which name it goes into the data folder."""

    origin: str
    place: str
    sha256: str


def _qwen(name: str, size: int, sha256: str) -> Pinned:
    return Pinned(_QWEN.format(name), size, sha256)


SOURCES: dict[str, Pinned | Unverified] = {
    "gsm8k": _qwen("gsm8k", 761421, "9f098df7ff4522078d6ccec27a5c38a454790fdb51131bedfaa0e490070d5394"),
    "math": Pinned(
        "ZubinGou/math-evaluation-harness/db77bc6bb2a17c90ed2d63e88ebd8c40a82858c5/data/math/test.jsonl",
        4101364,
        "3371949f33dd702d04b43fddd7d53a028de0aaca0e76abb1b875a050297b3aa4",
    ),
    "college_math": _qwen("college_math", 1188309, "91131bc4a355b884fc63ef7c4f048c35adb030004a4cb07b1475698f120aa4a6"),
    "svamp": _qwen("svamp", 280029, "d0826ff1264f3860e46fc4e71db9e31d2d188960db87090e22677f9493e67a0d"),
    "asdiv": _qwen("asdiv", 613636, "5759580385e706f961a30d4c07d6925b35c3f7c86d6c50bc413957169693dad2"),
    "mawps": _qwen("mawps", 402636, "00ffe31161be8623a3d36741830edbba87a3aee0109f693810fe40b9d5d91b8b"),
    "carp_en": _qwen("carp_en", 1278970, "f93f00bed6273d7f6795f674d8458662be596950f81ef433d8b80592ba3aae64"),
    "gaokao2023en": _qwen("gaokao2023en", 139740, "654d8f49bdb86f578c171dbc0dd8f4d9f1bf3d7a7438f60359fda7d643df4951"),
    "olympiadbench": _qwen("olympiadbench", 1493870, "bb8c1e38a16ea9eacb77530315a674d883f267fbff79183effc53681b4fcc416"),
    "mmlu_stem": _qwen("mmlu_stem", 1024981, "fd7c16f96067d285638abb5aaef9cd8a063b11454e14cb64df93141a58691478"),
    "aime24": _qwen("aime24", 156944, "af2b8bd2aa911b6333ad0df32f3ca05c7ae8ed10f1731f4372c8ae26990bf7ac"),
    "amc23": _qwen("amc23", 27631, "43707e1ca784602d8479de24ee8ce36609dbebc46dd152b0b12a46611aa898a4"),
    "bbh": Unverified(
        "bbh/*.json of github.com/suzgunmirac/BIG-Bench-Hard (27 files)",
        "bbh/",
        "ece69fdd03a4a1ae3f8553bf49a8573a9e7ab0304ca56e1a79d84b03361fd40b",
    ),
    "humaneval": Unverified(
        "data/HumanEval.jsonl.gz of github.com/openai/human-eval, unpacked",
        "humaneval/test.jsonl",
        "1d49078ba3e2b196b9344535bef34a43021f038fad9561d6ee7c53450609a6a2",
    ),
    "mbpp": Unverified(
        "mbpp/sanitized-mbpp.json of github.com/google-research/google-research",
        "mbpp/sanitized-mbpp.json",
        "8ac32b2799150228e2d745aed09c870b7e4444246d4727d1004576207ef40769",
    ),
    "gsm8k-train": Unverified(
        "grade_school_math/data/train.jsonl of github.com/openai/grade-school-math",
        "gsm8k/train.jsonl",
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    ),
}

Outcome = Literal["fetched", "here", "different", "unverified", "failed"]


@dataclass(frozen=True)
class Fetch:
    """What became of one benchmark.

    Attributes:
        name: the benchmark.
        outcome: `fetched`; `here`, it was there already with the right SHA-256; `different`, a file with another is there and
            left alone; `unverified`, there is no source to fetch from; `failed`.
        message: one line for a person.
    """

    name: str
    outcome: Outcome
    message: str

    @property
    def good(self) -> bool:
        return self.outcome in ("fetched", "here")


def download(
    names: Sequence[str],
    data: Path | None = None,
    host: str = HOST,
    watch: Callable[[str, int, int], object] = lambda name, done, total: None,
) -> list[Fetch]:
    """Put benchmarks into the data folder, one after the other; one that fails does not stop the next.

    A file that is there and right is not fetched again; an unfinished one is begun anew.

    Args:
        names: benchmarks; none means all that have a verified source.
        data: the folder; None for the default.
        host: another host that has the same paths.
        watch: is told (benchmark, bytes, all bytes) as they come.

    Raises:
        UserError: a name is not that of a benchmark to download, or the folder is a file.
    """
    folder = data_folder(data)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: this is a file; --data names a folder")
    if urllib.parse.urlsplit(host).scheme not in ("http", "https"):
        raise UserError(f"{host}: a host begins with http:// or https://")
    chosen = [_find(name) for name in dict.fromkeys(names)] or [
        benchmark for name, benchmark in known().items() if isinstance(SOURCES[name], Pinned)
    ]
    return [_one(benchmark, folder, host.rstrip("/"), watch) for benchmark in chosen]


def _find(name: str) -> Benchmark:
    benchmark = find(name)
    if benchmark.name not in SOURCES:
        raise UserError(f"{name}: a benchmark of your own; there is nothing to download")
    return benchmark


def _one(benchmark: Benchmark, folder: Path, host: str, watch: Callable[[str, int, int], object]) -> Fetch:
    name, source = benchmark.name, SOURCES[benchmark.name]
    try:
        found = benchmark.where(folder)
        if found is not None:
            right = digest(found) == source.sha256
            return Fetch(name, "here" if right else "different", f"{found} {_is_there(right, source)}")
        if isinstance(source, Unverified):
            where = folder / source.place
            what = "the list of" if source.place.endswith("/") else "the"
            return Fetch(
                name,
                "unverified",
                f"no source was verified, so nothing is fetched; put {source.origin} at {where} "
                f"({what} SHA-256 must be {source.sha256}; run this again to check)",
            )
        target = folder / benchmark.files[0]
        _fetch(f"{host}/{source.path}", source, target, lambda done: watch(name, done, source.size))
    except ModistError as error:
        return Fetch(name, "failed", str(error))
    except OSError as error:
        return Fetch(name, "failed", f"{error.filename or folder}: {error.strerror or error}")
    return Fetch(name, "fetched", str(target))


def _is_there(right: bool, source: Pinned | Unverified) -> str:
    if right:
        return "is there, and its SHA-256 is right"
    return f"is there, but its SHA-256 is not {source.sha256}; it is left as it is: move it away to have the published one"


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the lines `SHA-256  name` of its .json files by name."""
    if path.is_dir():
        lines = [f"{digest(file)}  {file.name}\n" for file in sorted(path.glob("*.json"))]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, source: Pinned, target: Path, advance: Callable[[int], object]) -> None:
    """One file under a name of its own, renamed only when it is whole and right."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                found = _stream(url, part, source.size, advance)
                break
            except _Passing as error:
                if attempt == _ATTEMPTS:
                    raise HubError(f"{url}: {error} ({_ATTEMPTS} attempts)") from None
                time.sleep(_PAUSE_S * 2 ** (attempt - 1))
        if found != source.sha256:
            raise HubError(f"{url}: SHA-256 is {found}, not {source.sha256}; what came is deleted")
        os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink()
        with suppress(OSError):  # only if nothing came into it
            target.parent.rmdir()


class _Passing(Exception):
    """Worth another attempt."""


def _stream(url: str, part: Path, size: int, advance: Callable[[int], object]) -> str:
    found, done = hashlib.sha256(), 0
    request = urllib.request.Request(url, headers={"User-Agent": "modist", "Accept-Encoding": "identity"})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer, part.open("wb") as file:
            while block := answer.read(_BLOCK):
                done += len(block)
                if done > size:
                    raise HubError(f"{url}: longer than the {size:,} bytes it must have; what came is deleted")
                found.update(block)
                file.write(block)
                advance(done)
            file.flush()
            os.fsync(file.fileno())
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code in (408, 429):
            raise _Passing(f"answers {error.code} {error.reason}") from None
        raise HubError(f"{url}: answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        if isinstance(getattr(error, "reason", None), socket.gaierror):
            raise HubError(f"{url}: no host of that name can be reached") from None
        raise _Passing(f"cannot be read ({getattr(error, 'reason', None) or error or type(error).__name__})") from None
    if done < size:
        raise _Passing(f"broke off after {done:,} of {size:,} bytes")
    return found.hexdigest()


def _sweep(target: Path) -> None:
    """Remove what a killed download of this file left."""
    for part in target.parent.glob(f".{target.name}.*.part"):
        owner = part.suffixes[-2].lstrip(".") if len(part.suffixes) > 1 else ""
        if owner.isdigit() and not _alive(int(owner)):
            with suppress(OSError):
                part.unlink()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
