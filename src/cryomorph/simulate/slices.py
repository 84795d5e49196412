"""Atoms cut into slices across the beam: the projected potential of each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import pi

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cryomorph.gridding.footprints import Footprints, kernel_transform
from cryomorph.gridding.transfer import transfer
from cryomorph.structure.potential import atomic_potential, displaced_density, kinds_of_atoms

BAND = 2 / 3
"""Share of the Nyquist frequency up to which potential and wave are kept: their product does not come back."""


class SlicePotentials:
    """Renders the slices of atoms on a periodic grid, up to two thirds of its Nyquist frequency.

    An atom is in one slice as a whole: the one that its centre is in.

    Parameters
    ----------
    elements
        Chemical symbol of each of the m atoms.
    size
        Samples N along an edge.
    sampling
        Å between samples.
    solvent
        Whether the ice that the atoms displace is subtracted.
    b_factor
        Of the atoms' motion, `exp(-B k²/4)`, shape (m,) in Å².
    occupancy
        Share of its scattering that each atom has, shape (m,).
    device
        Where to compute.
    """

    def __init__(
        self,
        elements: Sequence[str],
        size: int,
        sampling: float,
        *,
        solvent: bool,
        b_factor: NDArray[np.float64],
        occupancy: NDArray[np.float64],
        device: torch.device,
    ) -> None:
        self.size, self.sampling, self.device = size, sampling, device
        highest = int(BAND * size / 2)
        oversampling = size / (2 * highest)
        index = torch.fft.fftfreq(size, 1 / size, device=device)
        along = index / (size * sampling)
        radius = torch.hypot(along[: size // 2 + 1].abs()[None], along[:, None])
        inside = torch.hypot(index[: size // 2 + 1].abs()[None], index[:, None]) <= highest
        kernel = torch.from_numpy(kernel_transform(index.abs().clamp(max=highest).cpu().numpy() / size, oversampling))
        kernel = kernel.float().to(device)
        factor = inside / (kernel[:, None] * kernel[None, : size // 2 + 1] * sampling**2)
        self.occupancy = torch.from_numpy(occupancy).float().to(device)
        # Points: what is wider than a point is in the potential's transform.
        self.footprints = Footprints.make(np.ones(1), np.ones(1), oversampling).to(device)
        self.parts = []
        for symbol, blur, atoms in kinds_of_atoms(elements, b_factor):
            blurred = factor * torch.exp(-0.25 * blur * radius.square())
            of_potential = blurred * atomic_potential(symbol, radius, solvent)
            of_volume = blurred * displaced_density(symbol, radius)
            self.parts.append((atoms.to(device), of_potential.float(), of_volume.float()))

    def __call__(self, positions: Tensor, thickness: float, count: int) -> tuple[Tensor, Tensor]:
        """Render slices about z = 0, in the order of ascending z.

        Parameters
        ----------
        positions
            Of the atoms in Å, shape (m, 3); the grid's origin is sample `N // 2` along x and y.
        thickness
            Of a slice, Å.
        count
            Of slices; atoms beyond them are in the outermost ones.

        Returns
        -------
        potential : Tensor (count, N, N)
            Projected, V Å.
        volume : Tensor (count, N, N)
            That atoms take from the solvent, Å³ for each Å².
        """
        number = torch.floor(positions[:, 2] / thickness + 0.5 * count).long().clamp(0, count - 1)
        at = (positions[:, :2] / self.sampling + self.size // 2).float()
        half = self.size // 2 + 1
        potential, volume = torch.zeros(2, count, self.size, half, dtype=torch.complex64, device=self.device)
        spread, one = transfer("auto", self.device).spread, torch.zeros(1, dtype=torch.int64, device=self.device)
        for atoms, of_potential, of_volume in self.parts:
            for layer in torch.unique(number[atoms]).tolist():
                these = atoms[number[atoms] == layer]
                footprints = replace(self.footprints, bead_class=torch.zeros_like(these))
                grid = spread(at[these][None], self.occupancy[these], footprints, one, self.size)[0]
                spectrum = torch.fft.rfft2(grid)
                potential[layer] += of_potential * spectrum
                volume[layer] += of_volume * spectrum
        shape = (self.size, self.size)
        return torch.fft.irfft2(potential, s=shape), torch.fft.irfft2(volume, s=shape)


def transmitted(potential: Tensor, strength: float, amplitude_contrast: float) -> Tensor:
    """By what a slice multiplies the wave.

    `exp(σ (i sqrt(1 - w²) - w) V)`: what is missing from the image, since it was scattered inelastically or beyond the
    aperture, is absorbed, so that a weak object has the contrast transfer of `cryomorph.optics.ctf`.

    Parameters
    ----------
    potential
        Projected, V Å.
    strength
        σ, rad/(V Å).
    amplitude_contrast
        w.
    """
    phase = strength * (1 - amplitude_contrast**2) ** 0.5 * potential
    wave: Tensor = torch.polar(torch.exp(-strength * amplitude_contrast * potential), phase)
    return wave


def propagator(size: int, sampling: float, wavelength: float, device: torch.device) -> Callable[[float], Tensor]:
    """Return what makes the Fresnel propagator `exp(-iπ λ z k²)` over z Å, within two thirds of Nyquist, (N, N)."""
    along = torch.fft.fftfreq(size, sampling, device=device).double()
    k2 = along.square()[None] + along.square()[:, None]
    inside = k2.sqrt() <= BAND / (2 * sampling)

    def over(distance: float) -> Tensor:
        phase = -pi * wavelength * distance * k2
        wave: Tensor = torch.polar(torch.ones_like(phase), phase) * inside
        return wave.to(torch.complex64)

    return over
