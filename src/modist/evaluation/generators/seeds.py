"""Seeds of one answer and of one batch, from asks alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from modist.evaluation.generators.generator import Ask


def row_seed(ask: Ask) -> int:
    """A 63-bit seed from an ask's seed and key: questions of one sample share their seed and must not share their luck."""
    return batch_seed([ask])


def batch_seed(asks: Sequence[Ask]) -> int:
    """One 63-bit seed for a batch, from all its asks' seeds and keys, in order."""
    told = json.dumps([[ask.seed, ask.key] for ask in asks]).encode()
    return int.from_bytes(hashlib.sha256(told).digest()[:8], "little") >> 1
