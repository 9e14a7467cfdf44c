"""Fusing: models of any architecture and tokenizer, distilled into one.  Needs torch and transformers only when it runs."""

from modist.fusion.extraction import Extracted, extract
from modist.fusion.run import FusionReport, Watch, fuse, prepare
from modist.fusion.store import Part, Store, StoreError

__all__ = ["Extracted", "FusionReport", "Part", "Store", "StoreError", "Watch", "extract", "fuse", "prepare"]
