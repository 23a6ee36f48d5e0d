"""Keeps the process's memory small.

Invariant: nothing here changes a result. Where the C library is not glibc, it does nothing.
"""

import ctypes

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
CHUNK_FLOOR_BYTES = 256 << 10


def give_chunks_back() -> bool:
    """Make the allocator return freed chunks to the system at once; return False where it can't.

    By default glibc learns from the first freed chunk to keep all later ones on its heap. Each
    thread has its own heap. Together they hold some tens of megabytes without use.
    """
    library = ctypes.CDLL(None)
    mallopt = getattr(library, "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, CHUNK_FLOOR_BYTES) and mallopt(M_ARENA_MAX, 1))
