"""What a merge did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from modist.merge.compare import Aspect
from modist.merge.share import ParentShare


@dataclass(frozen=True)
class MergeReport:
    """What a merge did.

    Attributes:
        out: the finished folder.
        method, seed: as run.
        parents: what each gave.
        comparison: the parents side by side.
        warnings: remarks made.
        read_bytes, write_bytes: of tensors.
        seconds: `plan`, `engine` (reading, computing and writing blocks), `fsync`, `hashing` (waited for after the engine),
            `total`.
        resumed: tensors that an earlier run had finished.
        already: whether there was nothing to do.
        lost: of adapters cut to a lower rank, the share of the merged delta's norm that is gone, 0 to 1.
        peak_memory_bytes: of this process, the interpreter and its imports included.
    """

    out: str
    method: str
    seed: int
    parents: tuple[ParentShare, ...]
    comparison: tuple[Aspect, ...] = ()
    warnings: tuple[str, ...] = ()
    read_bytes: int = 0
    write_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    resumed: int = 0
    already: bool = False
    peak_memory_bytes: int | None = None
    lost: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def peak_memory() -> int | None:
    """The most memory this process ever held, in bytes; None where the system does not say."""
    try:
        import resource
        import sys
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
