"""Output distributions mixed token by token, p = sum_i a_i p_i, without touching a weight.

Importing this package makes transformers' auto classes know mixtures.
"""

from modist.mixture.cache import MixtureCache
from modist.mixture.config import MixtureConfig
from modist.mixture.law import mix_log_probs, responsibilities
from modist.mixture.load import Experts, assemble, load_experts
from modist.mixture.model import MixtureForCausalLM

__all__ = [
    "Experts",
    "MixtureCache",
    "MixtureConfig",
    "MixtureForCausalLM",
    "assemble",
    "load_experts",
    "mix_log_probs",
    "responsibilities",
]
