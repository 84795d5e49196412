"""Projected electrostatic potential of atoms in vitreous ice, band-limited to an image's pixels.

An atom's potential has the Fourier transform `h²/(2π m e) f(k/2)`, f being its electron scattering factor. It stands
where ice would be, so the ice it displaces is taken away: a Gaussian of the atom's volume times the mean inner
potential of ice (Fraser, MacRae & Suzuki, J. Appl. Cryst. 11, 693, 1978). Only the difference gives contrast.
"""

from collections.abc import Iterator, Sequence
from math import pi

import gemmi
import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from scipy import constants
from torch import Tensor

from cryomorph.gridding.footprints import Footprints, kernel_transform
from cryomorph.gridding.transfer import transfer
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

OVERSAMPLING = 2.0
"""Of the grid that atoms are spread on, against the pixels; errors are those of single precision."""


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
        potential = potential - ice_potential() * displaced_density(element, frequency)
    return potential


def displaced_density(element: str, frequency: Tensor) -> Tensor:
    """Fourier transform, in Å³, of the share of space that an atom takes from the solvent; as `atomic_potential`."""
    volume = displaced_volume(element)
    # The Gaussian exp(-π r² / V^(2/3)) has the integral V and this transform.
    return volume * torch.exp(-pi * volume ** (2 / 3) * frequency.square())


class ProjectedPotential:
    """Renders projections of one kind of molecule, up to the Nyquist frequency to the accuracy of single precision.

    The atoms of an element are spread on a grid finer than the pixels, whose Fourier transform has their structure
    factors (`cryomorph.gridding`). Terms at the Nyquist frequency itself (even boxes), which have no sign, are left
    out.

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
    occupancy
        Share of its scattering that each atom has, shape (m,); 1 if not given.
    b_factor
        Of each atom, `exp(-B k²/4)`, shape (m,) in Å²; 0 if not given.
    """

    def __init__(
        self,
        elements: Sequence[str],
        box: int,
        pixel_size: float,
        solvent: bool,
        occupancy: NDArray[np.float64] | None = None,
        b_factor: NDArray[np.float64] | None = None,
    ):
        self.box = box
        self._frequencies = (box + 1) // 2  # along an axis, from 0
        self._size = int(scipy.fft.next_fast_len(int(np.ceil(OVERSAMPLING * box)), real=True))
        self._samples = self._size / (box * pixel_size)  # an Å
        index = np.arange(self._frequencies)
        frequency = torch.from_numpy(index / (box * pixel_size))
        radius = torch.hypot(frequency[:, None], frequency[None])
        spread = torch.from_numpy(kernel_transform(index / self._size, OVERSAMPLING))
        factor = 1 / (spread[:, None] * spread * pixel_size**2)
        occupied = torch.ones(len(elements)) if occupancy is None else torch.from_numpy(occupancy).float()
        self._kinds = []
        for symbol, blur, atoms in kinds_of_atoms(elements, b_factor):
            # Points: what is wider than a point is in the potential's transform.
            footprints = Footprints.make(np.ones(len(atoms)), np.ones(1), OVERSAMPLING)
            potential = factor * atomic_potential(symbol, radius, solvent) * torch.exp(-0.25 * blur * radius.square())
            self._kinds.append((atoms, occupied[atoms], footprints, potential.float()))

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
        n, images = self._frequencies, len(positions)
        spread = transfer("auto", positions.device).spread
        step = torch.zeros(images, dtype=torch.int64, device=positions.device)
        fourier = positions.new_zeros((images, self.box, self.box // 2 + 1), dtype=torch.complex64)
        for atoms, occupancy, footprints, potential in self._kinds:
            points = positions[:, atoms] * self._samples
            grid = spread(points, occupancy.to(points.device), footprints, step, self._size)
            transform = torch.fft.rfft2(grid)[..., :n]
            fourier[:, :n, :n] += potential * transform[:, :n]
            fourier[:, self.box - n + 1 :, :n] += potential[1:].flip(0) * transform[:, self._size - n + 1 :]
        return fourier


def kinds_of_atoms(
    elements: Sequence[str], b_factor: NDArray[np.float64] | None
) -> Iterator[tuple[str, float, Tensor]]:
    """Yield each kind of atom: its element, its B-factor in Å² (0 if none are given), and which atoms are of it."""
    symbols: NDArray[np.str_] = np.array(elements)
    blurs = np.zeros(len(elements)) if b_factor is None else b_factor
    for symbol in sorted(set(elements)):
        for blur in np.unique(blurs[symbols == symbol]):
            yield symbol, float(blur), torch.from_numpy(np.flatnonzero((symbols == symbol) & (blurs == blur)))


def to_image(fourier: Tensor, box: int) -> Tensor:
    """Turn transforms (b, D, D // 2 + 1) with the origin in pixel 0 into images (b, D, D) with it in pixel `D // 2`."""
    image: Tensor = torch.fft.irfft2(fourier, s=(box, box))
    return image.roll((box // 2, box // 2), dims=(-2, -1))
