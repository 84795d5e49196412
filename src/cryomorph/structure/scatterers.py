"""What scatters beside a complete, sharp molecule: density about it that does not move, residues that fade or blur.

Detergent, lipid or a partner that is not in the template is made of wide beads on a coarse lattice about the template,
fixed in the map frame. A residue that is absent in part scatters by a factor less; one that is disordered is wider, by
a B-factor. All are found from the images (`cryomorph.amplitudes`).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import cKDTree
from torch import Tensor, nn

from cryomorph.components import Settings
from cryomorph.structure.beads import BeadModel, Beads

MOST_PLACES = 2500
"""Of the lattice; it is made coarser for molecules that need more."""
MOST_FACTOR = 1.5
"""Largest amplitude of a residue, compared with its atoms'."""
MOST_BLUR = 500.0
"""Largest B-factor of a residue, Å²: beads 2.5 Å wide at least."""
PER_VARIANCE = 8 * np.pi**2
"""B-factor of a bead for each Å² of variance along an axis."""


class ScatteringSettings(Settings):
    """Where beads are in their residues, and what is looked for beside a complete molecule.

    The latter when shells are calibrated for the last time; it is kept if free coefficients gain.
    """

    freedom: float = Field(
        1.0, ge=0, description="how far beads, but ca, may be elsewhere in their residues, times what models differ by"
    )

    surroundings: bool = Field(False, description="density about the template that does not move with it")
    occupancy: bool = Field(False, description="an amplitude for each residue")
    b_factors: bool = Field(False, description="a B-factor for each residue")
    reach: float = Field(20.0, gt=0, description="Å from the template's residues up to which there may be such density")
    gap: float = Field(5.0, ge=0, description="Å from the template's residues that stay free of it")
    spacing: float = Field(6.0, ge=2, description="Å between the beads that it is made of")

    @property
    def active(self) -> bool:
        """Whether anything is looked for beside a complete, sharp molecule."""
        return self.surroundings or self.occupancy or self.b_factors


class Scatterers(nn.Module):
    """Takes conformations to beads: the molecule's, faint or blurred where residues are, and those that do not move.

    Parameters
    ----------
    molecule
        Beads of the complete molecule.
    residues
        n.
    places
        Of beads about it, shape (G, 3) in Å in the map frame.
    width
        Their standard deviation in Å.

    Attributes
    ----------
    factor : Tensor (n,)
        By which the amplitudes of each residue are multiplied.
    b_factor : Tensor (n,)
        Of each residue, `exp(-B k²/4)` in Å², beyond what calibrated shells say of all; not negative.
    extra : Tensor (G,)
        Amplitudes of the beads about the molecule, in the unit of its own, not negative; those of 0 take no part.
    places : Tensor (G, 3)
        Å.
    """

    factor: Tensor
    b_factor: Tensor
    extra: Tensor
    places: Tensor
    extra_width: Tensor

    def __init__(self, molecule: BeadModel, residues: int, places: NDArray[np.float64], width: float) -> None:
        super().__init__()
        self.molecule = molecule
        self.register_buffer("factor", torch.ones(residues))
        self.register_buffer("b_factor", torch.zeros(residues))
        self.register_buffer("extra", torch.zeros(len(places)))
        self.register_buffer("places", torch.from_numpy(places).float(), persistent=False)
        self.register_buffer("extra_width", torch.full((len(places),), width), persistent=False)

    def forward(self, coordinates: Tensor) -> Beads:
        """Place the beads that scatter, of conformations (b, n, 3) in Å."""
        return self.beads(coordinates, self.extra > 0)

    def cost(self) -> Tensor:
        """Return what places of the molecule's beads that were learned cost in nats, shape ()."""
        return self.molecule.cost()

    def beads(self, coordinates: Tensor, chosen: Tensor) -> Beads:
        """Place the molecule's beads, then those about it that are chosen, bool (G,), whatever their amplitude."""
        beads = self.molecule(coordinates)
        blur = (self.b_factor / PER_VARIANCE).sqrt()[self.molecule.residue]
        around = self.places[chosen].to(coordinates.dtype).expand(len(coordinates), -1, -1)
        return Beads(
            torch.cat([beads.positions, around], dim=1),
            torch.cat([beads.amplitude * self.factor[self.molecule.residue], self.extra[chosen]]),
            torch.cat([torch.hypot(beads.width, blur), self.extra_width[chosen]]),
        )

    def of_residues(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return factors and B-factors (Å²) of the residues, each of shape (n,)."""
        return self.factor.cpu().numpy(), self.b_factor.cpu().numpy()


def scatterers(molecule: BeadModel, coordinates: NDArray[np.float64], settings: ScatteringSettings) -> Scatterers:
    """Let there be something about a molecule, and let residues fade and blur: nothing does before it is looked for.

    Parameters
    ----------
    molecule
        Its beads.
    coordinates
        Of the template's residues in the map frame, shape (n, 3) in Å.
    settings
        What is looked for.
    """
    places, spacing = np.zeros((0, 3)), settings.spacing
    if settings.surroundings:
        places, spacing = lattice(coordinates, settings)
    return Scatterers(molecule, len(coordinates), places, spacing / 2)


def lattice(coordinates: NDArray[np.float64], settings: ScatteringSettings) -> tuple[NDArray[np.float64], float]:
    """Return places (G, 3) about residues (n, 3), neither too near nor too far, and their spacing, in Å."""
    tree = cKDTree(coordinates)
    spacing = settings.spacing
    while True:
        low, high = coordinates.min(0) - settings.reach, coordinates.max(0) + settings.reach
        axes = [np.arange(np.ceil(a / spacing), b / spacing) * spacing for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        distance, _ = tree.query(grid)
        places = grid[(distance > settings.gap) & (distance <= settings.reach)]
        if len(places) <= MOST_PLACES:
            return places, spacing
        spacing *= 1.05 * (len(places) / MOST_PLACES) ** (1 / 3)
