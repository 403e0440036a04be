"""Keep the memory of a pass for the next pass, where the C library is glibc.

A batch's activations are some tens of MiB each. By default glibc asks the kernel for such blocks anew in every pass and
returns them after it, and the kernel clears them page by page; on a CPU that takes longer than some of the layers.
"""

import ctypes
import platform

_TRIM, _TOP_PAD, _MMAP, _ARENAS = -1, -2, -3, -8  # parameters of mallopt(3)
_MIB = 2**20


def keep_memory_between_passes() -> bool:
    """Tell glibc to keep up to 512 MiB of free memory and one heap for all threads; return whether it accepted that.

    Blocks above 64 MiB (32 MiB before glibc 2.35), as very large images need, are still returned to the system at once.
    Call this before the threads begin. With another C library it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    # glibc before 2.35 accepts no more than 32 MiB
    done = [mallopt(_MMAP, 64 * _MIB) or mallopt(_MMAP, 32 * _MIB)]
    done += [mallopt(_TRIM, 512 * _MIB), mallopt(_TOP_PAD, 64 * _MIB), mallopt(_ARENAS, 1)]
    return all(done)
