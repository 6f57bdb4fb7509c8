"""A hint to the C library's allocator."""

from __future__ import annotations

from functools import cache

import torch


@cache
def keep_freed_memory() -> None:
    """Let the process keep up to 64 MiB of freed memory instead of giving it back to the system at once.

    A step that allocates the same megabytes again and again otherwise pays for fresh pages every time, which can take
    longer than the arithmetic. glibc raises its thresholds (``M_MMAP_THRESHOLD``, ``M_TRIM_THRESHOLD``) to the size of
    the largest block up to 32 MiB that it has seen freed; so one such block is taken, never touched, and freed. It is
    harmless where the C library is another.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)
