"""Keep between passes what a pass needs, where the C library is glibc.

A batch's activations are some tens of MiB each. By default glibc asks the kernel for such blocks anew in every pass and
gives them back after it, and the kernel clears them page by page: on a CPU that takes longer than some of the layers.
"""

import ctypes
import platform

_TRIM, _TOP_PAD, _MMAP, _ARENAS = -1, -2, -3, -8  # of mallopt(3)
_MIB = 2**20


def keep_memory_between_passes() -> bool:
    """Tell glibc to keep up to 512 MiB that are free, and one heap for all threads; whether it did.

    Blocks above 64 MiB, as of very large films, still go back to the system at once. To be called before the threads
    begin. Elsewhere than with glibc it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    # glibc before 2.35 takes no more than 32 MiB
    done = [mallopt(_MMAP, 64 * _MIB) or mallopt(_MMAP, 32 * _MIB)]
    done += [mallopt(_TRIM, 512 * _MIB), mallopt(_TOP_PAD, 64 * _MIB), mallopt(_ARENAS, 1)]
    return all(done)
