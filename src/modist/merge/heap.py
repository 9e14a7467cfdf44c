"""Blocks are freed and asked for again thousands of times a second; this keeps their pages in the process in between.

By default glibc gives arrays of this size back to the kernel, which then zeroes each page anew: on a linear merge of two 0.5B
models that was 700,000 page faults and two thirds of all system time.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEEP = 1 << 30


def keep_freed_pages() -> bool:
    """Ask the allocator to keep freed memory; False where it is not glibc's, and nothing changes."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_MMAP_THRESHOLD, _KEEP), (_TRIM_THRESHOLD, _KEEP), (_TOP_PAD, 1 << 25))
    return all(mallopt(name, value) == 1 for name, value in settings)
