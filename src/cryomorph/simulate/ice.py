"""Vitreous ice as a random field: how its projected potential varies from place to place.

The power of the field has the shape that a published simulator uses, `0.199 exp(-½ (k/0.731)²) + 0.801
exp(-½ ((k - 1/2.88)/0.081)²)` with k in 1/Å: the second term is the ring of neighbouring water molecules. Its
variance is that of as many molecules placed at random, whose number follows from the density of ice. Under the beam
water molecules move like a fluid's, by a mean square distance of 1.1 Å² for each electron per Å² at 300 kV (McMullan,
Vinothkumar & Henderson 2015, Ultramicroscopy 158, 26), and an image is the mean over its exposure.
"""

from functools import cache
from math import pi

import gemmi
import torch
from scipy import constants
from torch import Tensor

from cryomorph.structure.potential import ICE_DENSITY, atomic_potential

HIGHEST = 1.0
"""1/Å up to which the variance of the field is that of the molecules."""
IN_PROTEIN = 1 / 3
"""What is left of the field where protein stands."""


def shape(frequency: Tensor) -> Tensor:
    """Power of the field at |k| in 1/Å, but for a factor."""
    broad = 0.199 * torch.exp(-0.5 * (frequency / 0.731).square())
    return broad + 0.801 * torch.exp(-0.5 * ((frequency - 1 / 2.88) / 0.081).square())


def molecules_per_volume() -> float:
    """Water molecules in an Å³ of ice."""
    molar_mass = 2 * gemmi.Element("H").weight + gemmi.Element("O").weight
    return float(ICE_DENSITY / molar_mass * constants.N_A * 1e-24)


@cache
def power_of_layer() -> float:
    """Factor of `shape`, V² Å³: power of the potential of a layer, in (V Å)² Å², for each Å of its thickness.

    Projected, molecules at random have the power `ρ t |p(k)|²`, p being the transform of a molecule's potential, here
    that of its free atoms at one place.
    """
    frequency = torch.linspace(0, HIGHEST, 4001, dtype=torch.float64)
    molecule = atomic_potential("O", frequency, False) + 2 * atomic_potential("H", frequency, False)
    at_random = torch.trapezoid(molecules_per_volume() * molecule.square() * frequency, frequency)
    return float(at_random / torch.trapezoid(shape(frequency) * frequency, frequency))


def blurred(frequency: Tensor, displacement: float) -> Tensor:
    """Share of the power that is left in the mean over an exposure in which molecules diffuse.

    `2 (a - 1 + e^-a) / a²`, the mean of the correlation `exp(-a |s - t|)` over moments s and t of the exposure, with
    `a = ½ (2π k)² ⟨x²⟩`.

    Parameters
    ----------
    frequency
        |k| in 1/Å.
    displacement
        Mean square distance in space that molecules move during the exposure, Å².
    """
    a = 2 * (pi * frequency).square() * displacement / 3
    left = 2 * (a + torch.expm1(-a)) / a.square()
    return torch.where(a > 1e-3, left, 1 - a / 3)


class IceField:
    """Random fields of layers of ice on a periodic grid.

    Parameters
    ----------
    size
        Samples N along an edge.
    sampling
        Å between samples.
    thickness
        Of a layer, Å.
    displacement
        As in `blurred`.
    device
        Where fields are made.
    """

    def __init__(self, size: int, sampling: float, thickness: float, displacement: float, device: torch.device) -> None:
        along_x = torch.fft.rfftfreq(size, sampling, device=device)
        along_y = torch.fft.fftfreq(size, sampling, device=device)
        frequency = torch.hypot(along_x[None], along_y[:, None])
        self.size = size
        power = power_of_layer() * thickness * shape(frequency) * blurred(frequency, displacement)
        self.amplitude = power.sqrt() / sampling
        self.amplitude[0, 0] = 0.0  # a constant is not seen

    def draw(self, layers: int, generator: torch.Generator) -> Tensor:
        """Return fields (layers, N, N) of projected potential in V Å, of zero mean; `generator` is one of the CPU."""
        white = torch.randn(layers, self.size, self.size, generator=generator).to(self.amplitude.device)
        field: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) * self.amplitude, s=(self.size, self.size))
        return field

    @property
    def variance(self) -> float:
        """Of a sample, (V Å)²."""
        both = torch.full_like(self.amplitude, 2.0)
        both[:, 0] = 1.0
        if self.size % 2 == 0:
            both[:, -1] = 1.0
        return float((both * self.amplitude.square()).sum() / self.size**2)


def left_of_field(volume: Tensor, thickness: float) -> Tensor:
    """Return what is left of the field where atoms displace some of a layer.

    Parameters
    ----------
    volume
        Displaced volume in Å³ for each Å² of the layer.
    thickness
        Of the layer, Å.
    """
    return 1 - (1 - IN_PROTEIN) * (volume / thickness).clamp(0, 1)
