"""Rows of text with made-up log-likelihoods."""

from __future__ import annotations

from typing import Any

import numpy as np

from modist.search.evidence import Measure, Values


def rows(seed: int, count: int = 300) -> tuple[Measure, Any]:
    """Rows of 5 to 30 tokens, and a maker of log-likelihoods around some nats a token."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 31, count)
    common = generator.normal(0, 0.2, count)

    def make(nats: float, noise: float = 0.05) -> Values:
        return (-(nats + common + generator.normal(0, noise, count)) * lengths,)

    return Measure.of_rows(lengths), make
