"""How long a million tokens' weights take to solve for, on one core, and how far the answer is from scipy's.

    OMP_NUM_THREADS=1 python benchmarks/search_em.py            # a minute; prints one JSON object
    OMP_NUM_THREADS=1 python benchmarks/search_em.py --quick    # 50,000 tokens

Three experts in two cases: well apart (their log-probabilities of a token differ by about two nats), and alike (by 0.1 nats,
where plain EM crawls).  The synthetic tokens are drawn from a mixture with known weights.  Seconds are from the float32 array
in memory to the weights; medians of five.  scipy's SLSQP on the same likelihood in float64 is the reference.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from typing import Any

import numpy as np

from modist.search.em import fit_weights

TRUTH = np.array([0.5, 0.3, 0.2])
CASES = {"well apart": 2.0, "alike": 0.1}
TARGET_SECONDS, TARGET_GAP, TARGET_DIFFERENCE = 1.0, 1e-8, 1e-9
ROUNDS = 5
_IDS = 8


def draw(tokens: int, nats: float, seed: int = 0) -> np.ndarray:
    """log p_i of ids drawn from the mixture, float32 [tokens, 3]; the experts' logits differ by noise of size `nats`."""
    generator = np.random.default_rng(seed)
    found = np.empty((tokens, 3), dtype=np.float32)
    for start in range(0, tokens, 50_000):
        count = min(50_000, tokens - start)
        # What the experts agree on, and what each adds.
        logits = 2 * generator.standard_normal((count, _IDS, 1)) + nats * generator.standard_normal((count, _IDS, 3))
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        mixed = (np.exp(log_p) @ TRUTH).cumsum(1)
        chosen = (generator.random(count)[:, None] > mixed).sum(1).clip(0, _IDS - 1)
        found[start : start + count] = log_p[np.arange(count), chosen]
    return found


def by_scipy(log_probs: np.ndarray) -> tuple[float, float]:
    """The mean log-likelihood of SLSQP's optimum, and its seconds."""
    from scipy import optimize

    began = time.perf_counter()
    p = np.exp(log_probs.astype(np.float64))

    def negative(weights: np.ndarray) -> tuple[float, np.ndarray]:
        mixed = p @ weights
        return -float(np.log(mixed).mean()), -(1 / mixed) @ p / len(p)

    sum_is_one = {"type": "eq", "fun": lambda a: a.sum() - 1, "jac": np.ones_like}
    found = optimize.minimize(
        negative,
        np.full(3, 1 / 3),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * 3,
        constraints=sum_is_one,
        options={"ftol": 1e-15},
    )
    weights = found.x / found.x.sum()
    return -negative(weights)[0], time.perf_counter() - began


def measure(nats: float, tokens: int) -> dict[str, Any]:
    data = draw(tokens, nats)
    seconds, busy = [], []
    for _ in range(ROUNDS):
        began, used = time.perf_counter(), time.process_time()
        fit = fit_weights(data)
        seconds.append(time.perf_counter() - began)
        busy.append(time.process_time() - used)
    best, scipy_seconds = by_scipy(data)
    difference = -fit.nats_per_token - best
    return {
        "nats_apart": nats,
        "seconds": round(statistics.median(seconds), 4),
        "seconds_all": [round(one, 4) for one in seconds],
        "cpu_seconds": round(statistics.median(busy), 4),
        "gap": fit.gap,
        "iterations": fit.iterations,
        "converged": fit.converged,
        "weights": fit.weights.tolist(),
        "nats_per_token": fit.nats_per_token,
        "experts": fit.experts.tolist(),
        "log_likelihood_minus_scipy": difference,
        "scipy_seconds": round(scipy_seconds, 3),
        "reached": statistics.median(seconds) < TARGET_SECONDS and fit.gap <= TARGET_GAP and difference >= -TARGET_DIFFERENCE,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50,000 tokens")
    tokens = 50_000 if parser.parse_args().quick else 1_000_000
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found = {
        "tokens": tokens,
        "experts": 3,
        "cores": 1,
        "rounds": ROUNDS,
        "machine": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "load_before": os.getloadavg()[0],
        "cases": {name: measure(nats, tokens) for name, nats in CASES.items()},
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
