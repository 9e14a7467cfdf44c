"""Model folders: found, read, written, verified.  Knows nothing of merging."""

from modist.checkpoint.folder import Checkpoint, read_json
from modist.checkpoint.header import StoredTensor, read_header

__all__ = ["Checkpoint", "StoredTensor", "read_header", "read_json"]
