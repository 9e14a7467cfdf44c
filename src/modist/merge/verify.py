"""`verify`: whether a result is what its manifest says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modist.checkpoint.adapter import Adapter
from modist.checkpoint.adapter_config import CONFIG
from modist.checkpoint.dtype import all_finite
from modist.checkpoint.folder import Checkpoint
from modist.checkpoint.staging import MANIFEST
from modist.errors import CheckpointError, ModistError, UserError
from modist.merge.hashing import sha256_file
from modist.merge.manifest import RECIPE_FILE, read_manifest, recipe_digest

CARD = "README.md"
_STEP = 1 << 20


@dataclass(frozen=True)
class Check:
    """One thing looked at, and what was seen."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """All checks of one folder."""

    out: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def verify(out: str | Path, recipe: str | Path | None = None) -> Verification:
    """Check a folder against its manifest.

    Args:
        out: what `merge` wrote.
        recipe: a recipe file that should be the one recorded.

    Raises:
        UserError: there is no such folder, or no manifest in it.
    """
    out = Path(out)
    if not out.is_dir():
        raise UserError(f"{out}: there is no such folder")
    manifest = read_manifest(out)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        raise UserError(f"{out}: has no {MANIFEST} that can be read; only results of modist can be verified")
    checks = [_files(out, manifest["files"]), _headers(out), _recipe(out, manifest, recipe)]
    if checks[1].passed:
        checks.insert(2, _values(out, manifest))
    return Verification(str(out), tuple(checks))


def _files(out: Path, files: dict[str, Any]) -> Check:
    edited = ""
    for name, entry in files.items():
        path = out / name
        if Path(name).name != name or not isinstance(entry, dict):
            return Check("hashes", False, f"the manifest names {name!r}, which is no file of the folder")
        if not path.is_file():
            return Check("hashes", False, f"{name} is missing")
        if name == CARD:
            # People are meant to write into a card; it is no part of the model.
            edited = "" if sha256_file(path) == entry.get("sha256") else f"; {CARD} was edited"
            continue
        size = path.stat().st_size
        if size != entry.get("size"):
            return Check("hashes", False, f"{name} has {size} bytes, the manifest says {entry.get('size')}")
        if sha256_file(path) != entry.get("sha256"):
            return Check("hashes", False, f"{name} was changed: its SHA-256 is not the recorded one")
    strange = sorted(path.name for path in out.glob("*.safetensors*") if path.name not in files)
    if strange:
        return Check("hashes", False, f"{strange[0]} is not in the manifest")
    count = len(files) - bool(edited)
    return Check("hashes", True, f"{count} files are as they were written{edited}")


def _opened(out: Path) -> Checkpoint:
    return Adapter.open(out).weights if (out / CONFIG).exists() else Checkpoint.open(out)


def _headers(out: Path) -> Check:
    try:
        checkpoint = _opened(out)
    except (CheckpointError, UserError) as error:
        return Check("headers", False, str(error))
    checkpoint.close()
    return Check("headers", True, f"{len(checkpoint.tensors)} tensors in {len(checkpoint.files)} files")


def _values(out: Path, manifest: dict[str, Any]) -> Check:
    checkpoint = _opened(out)
    known = manifest.get("nonfinite_blocks") or {}
    try:
        for name, tensor in checkpoint.tensors.items():
            for start in range(0, tensor.elements, _STEP):
                stored = checkpoint.read(name, start, min(start + _STEP, tensor.elements))
                if name not in known and not all_finite(stored, tensor.dtype):
                    return Check("values", False, f"tensor {name!r} holds NaN or infinite values")
    except ModistError as error:
        return Check("values", False, str(error))
    finally:
        checkpoint.close()
    return Check(
        "values",
        True,
        "no NaN, nothing infinite" + (f" but in {len(known)} tensors where allowed" if known else ""),
    )


def _recipe(out: Path, manifest: dict[str, Any], given: str | Path | None) -> Check:
    recorded = manifest.get("recipe") or {}
    try:
        text = (out / RECIPE_FILE).read_text(encoding="utf-8")
        if recipe_digest(text) != recorded.get("sha256") or text != recorded.get("text"):
            return Check("recipe", False, f"{RECIPE_FILE} is not the recipe the manifest records")
        if given is not None and recipe_digest(Path(given).read_text(encoding="utf-8")) != recorded.get("sha256"):
            return Check("recipe", False, f"{given} is not the recipe the manifest records")
    except (OSError, UnicodeDecodeError) as error:
        return Check("recipe", False, f"cannot be read: {error}")
    return Check("recipe", True, f"as recorded, seed {manifest.get('seed')}")
