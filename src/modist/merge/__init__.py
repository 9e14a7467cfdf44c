"""Merging: tensors of models of one architecture into one checkpoint.  Needs numpy, not torch."""

from modist.merge.compare import ALLOWABLE, Aspect, compare
from modist.merge.method import Method, Parameter, find_method
from modist.merge.plan import Plan, make_plan
from modist.merge.report import MergeReport
from modist.merge.run import Watch, merge, prepare
from modist.merge.tensor import Block, Choice, Copy, Tensor

__all__ = [
    "ALLOWABLE",
    "Aspect",
    "Block",
    "Choice",
    "Copy",
    "MergeReport",
    "Method",
    "Parameter",
    "Plan",
    "Tensor",
    "Watch",
    "compare",
    "find_method",
    "make_plan",
    "merge",
    "prepare",
]
