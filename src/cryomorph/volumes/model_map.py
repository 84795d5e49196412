"""Maps and masks made of a model."""

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from cryomorph.structure.grouping import calpha_groups
from cryomorph.structure.model import Template
from cryomorph.structure.scattering import atomic_variance, forward_scattering
from cryomorph.volumes.shells import shell_of

Array = NDArray[np.floating]

OVERSAMPLING = 1.5
"""Of the grid that Gaussians are added up on, against the map's."""
SPREAD = 1.0
"""Standard deviation, in voxels of that grid, that they are widened by there, and narrowed again in Fourier space."""
INSIDE, EDGE = 6.0, 8.0
"""Å from an atom within which a mask is 1, and over which it falls to 0."""


def scattering(template: Template, atoms: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the amplitude and the width in Å of the Gaussian for each point of a model.

    Parameters
    ----------
    template
        Of n residues and m atoms.
    atoms
        Points of the model: m, each an atom; or n, each a residue.
    """
    if atoms == len(template.atom_names):
        table = {element: (forward_scattering(element), atomic_variance(element)) for element in set(template.elements)}
        amplitude, variance = np.array([table[element] for element in template.elements]).T
        return amplitude, np.sqrt(variance)
    groups = calpha_groups(template)
    return np.array([group.amplitude for group in groups]), np.array([group.width for group in groups])


def model_map(
    positions: Array, amplitude: Array, width: Array, *, box: int, pixel_size: float, resolution: float
) -> NDArray[np.float32]:
    """Map of Gaussians, whose Fourier transform falls to 1/e of itself at a resolution.

    Parameters
    ----------
    positions
        (x, y, z) in Å from the map's centre, shape (B, 3).
    amplitude, width
        Integral and standard deviation in Å of each, shape (B,).
    box
        D, voxels along an edge.
    pixel_size
        Å.
    resolution
        d in Å: coefficients are multiplied by `exp(-(d k)²)`, a B-factor of 4 d².

    Returns
    -------
    array (D, D, D)
        z, y, x; density per Å³, of frequencies within the Nyquist sphere. Its origin is voxel `D // 2`.
    """
    from cryomorph.volumes._kernels import add_gaussians

    fine = int(scipy.fft.next_fast_len(int(np.ceil(OVERSAMPLING * box)), real=True))
    step = box * pixel_size / fine
    grid = np.zeros((fine, fine, fine), dtype=np.float32)
    wide = np.hypot(np.asarray(width) / step, SPREAD)
    add_gaussians(grid, np.asarray(positions, np.float64) / step, np.asarray(amplitude, np.float64), wide)
    spectrum = _cropped(scipy.fft.rfftn(grid), fine, box)
    along, last = (f(box, pixel_size) for f in (scipy.fft.fftfreq, scipy.fft.rfftfreq))
    exponent = 2 * np.pi**2 * (SPREAD * step) ** 2 - resolution**2
    factors = [np.exp(exponent * frequency**2).astype(np.float32) for frequency in (along, last)]
    spectrum *= factors[0][:, None, None] * factors[0][:, None] * factors[1] / pixel_size**3
    shell = shell_of(box)
    spectrum[shell == shell.max()] = 0
    density = scipy.fft.irfftn(spectrum, s=(box, box, box))
    return np.roll(density, box // 2, axis=(0, 1, 2)).astype(np.float32)


def _cropped(spectrum: NDArray[np.complexfloating], fine: int, box: int) -> NDArray[np.complexfloating]:
    rows = scipy.fft.fftfreq(box, 1 / box).astype(np.int64) % fine
    return np.asarray(spectrum[np.ix_(rows, rows, np.arange(box // 2 + 1))])


def model_mask(positions: Array, box: int, pixel_size: float) -> NDArray[np.float32]:
    """Mask that is 1 near a model, and falls to 0 like a cosine.

    Parameters
    ----------
    positions
        Atoms or residues, of one model or several, in Å from the map's centre, shape (B, 3).
    box, pixel_size
        As in `model_map`.

    Returns
    -------
    array (D, D, D)
        z, y, x.
    """
    from cryomorph.volumes._kernels import nearest

    squares = np.full((box, box, box), np.inf, dtype=np.float32)
    reach = (INSIDE + EDGE) / pixel_size
    nearest(squares, np.asarray(positions, np.float64) / pixel_size + box // 2, reach)
    beyond = np.clip((np.sqrt(squares) * pixel_size - INSIDE) / EDGE, 0, 1)
    return np.asarray(0.5 * (1 + np.cos(np.pi * beyond)), dtype=np.float32)
