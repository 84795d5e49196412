"""Electron scattering factors of atoms."""

from functools import cache
from math import pi

import gemmi
import numpy as np
from numpy.typing import NDArray

from cryomorph.errors import InputError


@cache
def electron_scattering(element: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients of an atom's elastic electron scattering factor (International Tables C, table 4.3.2.2).

    Parameters
    ----------
    element
        Symbol, e.g. "C"; deuterium scatters as hydrogen.

    Returns
    -------
    a : array (5,)
        Å.
    b : array (5,)
        Å². `f(s) = Σ a exp(-b s²)`, with `s = sin θ / λ = k / 2`. Both are read-only.

    Raises
    ------
    InputError
        If there is no such element in the table.
    """
    symbol = "H" if element in ("D", "T") else element
    found = gemmi.Element(symbol)
    table = found.c4322 if found.atomic_number > 0 else None
    if table is None or not any(table.a):
        raise InputError(f"element '{element}': no electron scattering factors are known for it; correct the model")
    a, b = np.array(table.a, dtype=np.float64), np.array(table.b, dtype=np.float64)
    a.flags.writeable = b.flags.writeable = False
    return a, b


def forward_scattering(element: str) -> float:
    """Scattering amplitude f(0) of an atom in Å: the volume integral of its potential, up to a constant."""
    return float(electron_scattering(element)[0].sum())


def atomic_variance(element: str) -> float:
    """Variance of an atom's potential along one dimension in Å² (0.47² for carbon), without thermal motion.

    Each term `a exp(-b k²/4)` is a Gaussian of variance `b / (8 π²)`; the terms are weighted by their volume `a`.
    """
    a, b = electron_scattering(element)
    return float((a * b).sum() / a.sum() / (8 * pi**2))
