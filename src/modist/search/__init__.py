"""Searching: the weights of a mixture, by likelihood.

`em` solves for the weights, `bootstrap` says how sure they are, `gate_fit` fits the bayes gate, `likelihoods` scores a data
file once with every expert and keeps the result on disk, `simplex` prepares pictures and held-out figures.
"""

from modist.search.bootstrap import Intervals, bootstrap_weights
from modist.search.em import Fit, fit_weights
from modist.search.gate_fit import GateFit, fit_gate

__all__ = ["Fit", "GateFit", "Intervals", "bootstrap_weights", "fit_gate", "fit_weights"]
