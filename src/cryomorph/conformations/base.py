"""The seam of conformation models: latent coordinates to atomic coordinates."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from cryomorph.components import Settings
from cryomorph.structure.model import Template


class ConformationModel(nn.Module, ABC):
    """Deforms a template: `x(z) = x_0 + Δ(z)`.

    Parameters
    ----------
    template
        In the map frame; its residue coordinates are `x_0`.
    latent_dim
        Number d of latent coordinates.

    Attributes
    ----------
    template : Tensor (n, 3)
        `x_0` in Å.
    latent_dim : int
    """

    Settings: ClassVar[type[Settings]]
    template: Tensor

    def __init__(self, template: Template, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.register_buffer("template", torch.from_numpy(template.coordinates).float())

    @abstractmethod
    def displacement(self, z: Tensor) -> Tensor:
        """Return Δ in Å, shape (b, n, 3), for latents of shape (b, d)."""

    def forward(self, z: Tensor) -> Tensor:
        """Return residue coordinates in Å, shape (b, n, 3), for latents of shape (b, d)."""
        return self.template + self.displacement(z).to(self.template.dtype)

    def follow(self, x: Tensor) -> Tensor | None:
        """Make a path of conformations (k, n, 3) the middle of what latents reach, and return its latents (k, d).

        For models of a given form. None, as here, is for those that have to be taught it (`cryomorph.search.distil`).
        """
        return None

    def latent_blocks(self) -> dict[str, slice]:
        """Name the slices of the latent vector, for analysis; together they cover it without overlap."""
        return {"shape": slice(0, self.latent_dim)}
