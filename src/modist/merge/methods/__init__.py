"""The methods, one small file per family."""

from modist.merge.methods.linear import LINEAR
from modist.merge.methods.mod import MOD
from modist.merge.methods.passthrough import PASSTHROUGH
from modist.merge.methods.slerp import SLERP
from modist.merge.methods.task_vectors import DARE_LINEAR, DARE_TIES, TASK_ARITHMETIC, TIES

OWN = (MOD, LINEAR, SLERP, TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES, PASSTHROUGH)
