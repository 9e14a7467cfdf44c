"""The methods, one small file per family."""

from modist.merge.methods.arcee_fusion import ARCEE_FUSION
from modist.merge.methods.linear import LINEAR
from modist.merge.methods.localize_and_stitch import LOCALIZE_AND_STITCH
from modist.merge.methods.mod import MOD
from modist.merge.methods.model_stock import MODEL_STOCK
from modist.merge.methods.nearswap import NEARSWAP
from modist.merge.methods.nuslerp import NUSLERP
from modist.merge.methods.passthrough import PASSTHROUGH
from modist.merge.methods.ram import RAM, RAMPLUS_TL
from modist.merge.methods.sce import SCE
from modist.merge.methods.slerp import SLERP
from modist.merge.methods.sphere import KARCHER, MULTISLERP
from modist.merge.methods.task_vectors import (
    BREADCRUMBS,
    BREADCRUMBS_TIES,
    DARE_LINEAR,
    DARE_TIES,
    DELLA,
    DELLA_LINEAR,
    TASK_ARITHMETIC,
    TIES,
)
from modist.merge.methods.widen import WIDEN

OWN = (
    MOD,
    LINEAR,
    SLERP,
    NUSLERP,
    MULTISLERP,
    KARCHER,
    TASK_ARITHMETIC,
    TIES,
    DARE_LINEAR,
    DARE_TIES,
    BREADCRUMBS,
    BREADCRUMBS_TIES,
    DELLA,
    DELLA_LINEAR,
    SCE,
    RAM,
    RAMPLUS_TL,
    MODEL_STOCK,
    WIDEN,
    LOCALIZE_AND_STITCH,
    ARCEE_FUSION,
    NEARSWAP,
    PASSTHROUGH,
)
