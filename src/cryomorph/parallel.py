"""Compiled loops over several threads, for what tensor operations do slowly on a CPU.

Importing this module imports numba, which takes a while: import it, and modules with kernels, where they are needed.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import torch

F = TypeVar("F", bound=Callable[..., Any])

prange = numba.prange

FAST_MATH = {"reassoc", "contract", "arcp", "nsz"}
"""What may be rearranged for vector instructions. Infinities and NaN keep their meaning: divergence must show."""


def jit(*, parallel: bool = False, strict: bool = False) -> Callable[[F], F]:
    """Compile a function with numba on its first call; machine code is kept for later processes.

    numba notices changes of the function's own file only, so a kernel and the compiled functions it calls belong
    into one file.

    Parameters
    ----------
    parallel
        Divide the loops over `prange` among threads. Call `use_torch_threads` before such a kernel.
    strict
        Round each operation as it is written. What may be rearranged can differ in the last bits between a process that
        compiled it and those that find it compiled.
    """

    def compile_it(function: F) -> F:
        # A helper becomes part of each kernel that calls it. Else a fresh process would call a copy compiled by itself,
        # one that finds the kernel in the cache another copy, with other rounding: runs would not resume bit by bit.
        compiled = numba.njit(
            cache=True,
            fastmath=set() if strict else FAST_MATH,
            error_model="numpy",
            parallel=parallel,
            forceinline=not parallel,
        )(function)
        return cast(F, compiled)

    return compile_it


def use_torch_threads() -> None:
    """Let kernels called from this thread use as many threads as torch does, as far as numba has started them."""
    threads = torch.get_num_threads()
    started: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(min(threads, started))
    if torch.get_num_threads() != threads:  # both may share one OpenMP: numba sets its number when it starts threads
        torch.set_num_threads(threads)
