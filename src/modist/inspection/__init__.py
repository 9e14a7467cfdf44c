"""Inspecting: what a model folder is, and for several how far apart they lie and who descends from whom.

Reads headers alone for one model, and every compared tensor once, in blocks, for several.  Needs numpy, not torch.
"""

from modist.inspection.facts import ModelFacts, model_facts
from modist.inspection.kinship import Delta, Kinship, LayerNorms, Pair
from modist.inspection.memory import Memory, memory_of
from modist.inspection.run import Inspection, LeftOut, Onlooker, inspect_models
from modist.inspection.verdict import Verdict

__all__ = [
    "Delta",
    "Inspection",
    "Kinship",
    "LayerNorms",
    "LeftOut",
    "Memory",
    "ModelFacts",
    "Onlooker",
    "Pair",
    "Verdict",
    "inspect_models",
    "memory_of",
    "model_facts",
]
