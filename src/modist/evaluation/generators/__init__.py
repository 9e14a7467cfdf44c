"""Who answers: a model in this process, a mixture of several, an endpoint, vLLM's engine."""

from modist.evaluation.generators.generator import Ask, GenerationError, Generator, Prompt, Reply, Sampling
from modist.evaluation.generators.open import KINDS, open_generator, options_of

__all__ = [
    "KINDS",
    "Ask",
    "GenerationError",
    "Generator",
    "Prompt",
    "Reply",
    "Sampling",
    "open_generator",
    "options_of",
]
