"""Projected electrostatic potential of atoms in vitreous ice, band-limited to an image's pixels.

An atom's potential has the Fourier transform `h²/(2π m e) f(k/2)`, f being its electron scattering factor. It stands
where ice would be, so the ice it displaces is taken away: a Gaussian of the atom's volume times the mean inner
potential of ice (Fraser, MacRae & Suzuki, J. Appl. Cryst. 11, 693, 1978). Only the difference gives contrast.
"""

from collections.abc import Sequence
from math import pi

import gemmi
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import constants
from torch import Tensor

from cryomorph.structure.scattering import electron_scattering, forward_scattering

POTENTIAL_PER_SCATTERING = constants.h**2 / (2 * pi * constants.m_e * constants.e) * 1e20
"""`h²/(2π m e)` in V Å²: integrated potential (V Å³) of a scattering factor in Å; 47.878."""

ICE_DENSITY = 0.94
"""Low-density amorphous ice, g/cm³."""

DISPLACED_VOLUMES = {"H": 5.15, "D": 5.15, "C": 16.44, "N": 2.49, "O": 9.13, "P": 5.73, "S": 19.86}
"""Solvent that an atom displaces, Å³; Svergun, Barberato & Koch, J. Appl. Cryst. 28, 768 (1995), table 1.

An atom's number means little by itself; for a whole protein they add up to a partial specific volume of 0.73 to
0.76 cm³/g. They are meant for models with hydrogens.
"""


def interaction_constant(voltage: float) -> float:
    """Phase of an electron wave per projected potential, `2π m e λ / h²` with the relativistic mass, in rad/(V Å).

    Parameters
    ----------
    voltage
        Acceleration voltage in kV; 6.526e-4 rad/(V Å) at 300 kV.
    """
    energy = voltage * 1e3 * constants.e
    rest = constants.m_e * constants.c**2
    momentum = np.sqrt(energy * (energy + 2 * rest)) / constants.c
    relativistic_mass = (energy + rest) / constants.c**2
    return float(2 * pi * relativistic_mass * constants.e / (constants.h * momentum) * 1e-10)


def ice_potential() -> float:
    """Mean inner potential in V of vitreous ice: the scattering of its free atoms at its density."""
    per_molecule = 2 * forward_scattering("H") + forward_scattering("O")
    molar_mass = 2 * gemmi.Element("H").weight + gemmi.Element("O").weight
    molecules_per_volume = ICE_DENSITY / molar_mass * constants.N_A * 1e-24
    return POTENTIAL_PER_SCATTERING * per_molecule * molecules_per_volume


def displaced_volume(element: str) -> float:
    """Volume in Å³ of the solvent that an atom displaces; of its van der Waals sphere where none is tabulated."""
    sphere = 4 / 3 * pi * float(gemmi.Element(element).vdw_r) ** 3
    return DISPLACED_VOLUMES.get(element.capitalize(), sphere)


def atomic_potential(element: str, frequency: Tensor, solvent: bool) -> Tensor:
    """Fourier transform of one atom's potential.

    Parameters
    ----------
    element
        Chemical symbol.
    frequency
        |k| in 1/Å, any shape.
    solvent
        Whether the ice that the atom displaces is subtracted.

    Returns
    -------
    Tensor
        In V Å³, the shape of `frequency`; its value at k = 0 is the integral of the potential.
    """
    potential = torch.zeros_like(frequency)
    for a, b in zip(*electron_scattering(element), strict=True):
        potential = potential + POTENTIAL_PER_SCATTERING * float(a) * torch.exp(-0.25 * float(b) * frequency.square())
    if solvent:
        volume = displaced_volume(element)
        # The Gaussian exp(-π r² / V^(2/3)) has the integral V and this transform.
        displaced = volume * torch.exp(-pi * volume ** (2 / 3) * frequency.square())
        potential = potential - ice_potential() * displaced
    return potential


class ProjectedPotential:
    """Renders projections of one kind of molecule, exactly up to the Nyquist frequency.

    Phase factors separate into x and y, so that the sum over the atoms of an element is one product of real matrices of
    cosines and sines. Terms at the Nyquist frequency itself (even boxes), which have no sign, are left out.

    Parameters
    ----------
    elements
        Chemical symbol of each of the m atoms.
    box
        D, pixels a side, even or odd.
    pixel_size
        Å per pixel.
    solvent
        Whether the ice that the atoms displace is subtracted.
    """

    def __init__(self, elements: Sequence[str], box: int, pixel_size: float, solvent: bool):
        self.box, self.pixel_size = box, pixel_size
        self._highest = (box - 1) // 2
        frequency = torch.arange(self._highest + 1, dtype=torch.float64) / (box * pixel_size)
        radius = torch.hypot(frequency[:, None], frequency[None])
        self._angular = (2 * pi * frequency).float()
        symbols: NDArray[np.str_] = np.array(elements)
        self._elements = [
            (torch.from_numpy(np.flatnonzero(symbols == symbol)), atomic_potential(symbol, radius, solvent).float())
            for symbol in sorted(set(elements))
        ]

    def __call__(self, positions: Tensor) -> Tensor:
        """Discrete Fourier transform of the projected potential.

        Parameters
        ----------
        positions
            Projected atoms `(x, y)` in Å from the image's origin, float32, shape (b, m, 2).

        Returns
        -------
        Tensor (b, D, D // 2 + 1), complex64
            In V Å, as of `torch.fft.rfft2` with the origin in pixel 0; `to_image` turns it into pixels.
        """
        n = self._highest + 1
        upper = positions.new_zeros((len(positions), n, n), dtype=torch.complex64)
        lower = torch.zeros_like(upper)
        for atoms, potential in self._elements:
            columns, rows = (self._phase_factors(positions[:, atoms, axis]) for axis in (0, 1))
            products = rows @ columns.transpose(1, 2)
            cos_cos, cos_sin = products[:, :n, :n], products[:, :n, n:]
            sin_cos, sin_sin = products[:, n:, :n], products[:, n:, n:]
            upper += potential * torch.complex(cos_cos - sin_sin, -(sin_cos + cos_sin))
            lower += potential * torch.complex(cos_cos + sin_sin, sin_cos - cos_sin)
        fourier = upper.new_zeros((len(positions), self.box, self.box // 2 + 1))
        fourier[:, :n, :n] = upper
        fourier[:, self.box - n + 1 :, :n] = lower[:, 1:].flip(1)
        return fourier / self.pixel_size**2

    def _phase_factors(self, coordinate: Tensor) -> Tensor:
        """Cosines, then sines, of 2π k x for all frequencies k: (b, atoms) to (b, 2n, atoms)."""
        angle = self._angular[:, None] * coordinate[:, None]
        n = len(self._angular)
        factors = angle.new_empty((len(angle), 2 * n, angle.shape[-1]))
        torch.cos(angle, out=factors[:, :n])
        torch.sin(angle, out=factors[:, n:])
        return factors


def to_image(fourier: Tensor, box: int) -> Tensor:
    """Turn transforms (b, D, D // 2 + 1) with the origin in pixel 0 into images (b, D, D) with it in pixel `D // 2`."""
    image: Tensor = torch.fft.irfft2(fourier, s=(box, box))
    return image.roll((box // 2, box // 2), dims=(-2, -1))
