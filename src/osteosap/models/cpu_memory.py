"""Memory that tensors on a CPU leave behind, kept for the next ones.

A network frees and asks for the same large blocks in every step. glibc hands every block of some
MB back to the kernel, which clears each of its pages when it is asked for again. Over a third of
the time of a small network went there (``benchmarks/cpu_memory.py``).
"""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # malloc.h of glibc


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, from now on until it ends.

    Its memory then stays at its peak, and other libraries in it are allotted theirs the same way;
    so trainings and the stage that segments ask for it, no function below. Results do not change.

    Returns
    -------
    kept
        False where there is no glibc to be told so (macOS, Windows, Alpine): nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    tell = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1))
    return all(tell(name, value) == 1 for name, value in settings)
