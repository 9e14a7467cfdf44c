"""Random search of equal cost: what drawing the same number of candidates at random finds.

Without it, a search that beats its start has shown little: with enough draws anything does.
"""

from __future__ import annotations

import numpy as np

from modist.search.evolve import Outcome, Scores, Watch
from modist.search.genome import Genome
from modist.search.journal import Journal
from modist.search.pool import Pool
from modist.search.settings import SearchSettings

RANDOM = "random"
# Set apart from the seed of CMA-ES, whose first normals must not decide these places.
_STREAM = 0x52616E64


def random_search(
    genome: Genome, pool: Pool, settings: SearchSettings, journal: Journal, watch: Watch | None = None
) -> Outcome:
    """As many candidates as `evolve` has, the start among them, the others uniform between the bounds.

    Args, Returns, Raises: as `modist.search.evolve.evolve`.
    """
    scores = Scores(RANDOM, genome, pool, settings.budget, journal, watch)
    drawn = np.random.default_rng([_STREAM, settings.seed])
    size = settings.population_of(len(genome))
    while scores.left:
        vectors = [genome.vector(drawn.random(len(genome))) for _ in range(size)]
        scores.of(vectors[: scores.left])
    return Outcome(RANDOM, tuple(scores.candidates))
