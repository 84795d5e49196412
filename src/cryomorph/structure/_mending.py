"""Distances between pairs of atoms brought back to given lengths, by sweeps over the pairs."""

import numpy as np
from numpy.typing import NDArray

from cryomorph.parallel import jit

Array = NDArray[np.float64]


@jit()
def mend(
    x: Array,
    pairs: NDArray[np.int64],
    distance: Array,
    stiffness: Array,
    at_least: NDArray[np.bool_],
    sweeps: int,
    close: float,
) -> None:
    """Move atoms until pairs have their distances (the SHAKE iteration, with shares of each step as stiffness).

    Parameters
    ----------
    x
        In Å, shape (m, 3), changed in place.
    pairs
        Rows of atoms, shape (p, 2); sweeps take them forwards and backwards in turn.
    distance
        Of each pair in Å, shape (p,).
    stiffness
        Share of a pair's deviation that a step takes away, shape (p,).
    at_least
        Which pairs may be further apart, shape (p,).
    sweeps
        At most.
    close
        Å; no more sweeps once no pair is further off.
    """
    for sweep in range(sweeps):
        worst = 0.0
        for step in range(len(pairs)):
            p = step if sweep % 2 == 0 else len(pairs) - 1 - step
            i, j = pairs[p, 0], pairs[p, 1]
            dx, dy, dz = x[i, 0] - x[j, 0], x[i, 1] - x[j, 1], x[i, 2] - x[j, 2]
            length = np.sqrt(dx * dx + dy * dy + dz * dz)
            off = length - distance[p]
            if abs(off) < close or length < 1e-6 or (off > 0 and at_least[p]):
                continue
            worst = max(worst, abs(off))
            move = 0.5 * stiffness[p] * off / length
            x[i, 0] -= move * dx
            x[i, 1] -= move * dy
            x[i, 2] -= move * dz
            x[j, 0] += move * dx
            x[j, 1] += move * dy
            x[j, 2] += move * dz
        if worst < close:
            break
