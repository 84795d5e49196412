"""R2 of paper A: log-ratios of distances within a chain, fading with the separation along it."""

from math import ceil, log
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cryomorph.priors.base import Prior, PriorSettings
from cryomorph.structure.model import Template

NEGLIGIBLE = 1e-6
"""Pairs whose weight is below this are left out: 1e-6 of a neighbour's is below float32 rounding of the sum."""
TINY = 1e-6
"""Å² added to squared distances: residues may coincide, and beyond the last residue they all do."""


class LogDistancePriorSettings(PriorSettings):
    """Squared logarithm of how much distances changed."""

    kind: Literal["log_distance"] = "log_distance"
    weight: float = Field(1e-2, ge=0, description="λ of paper A, eq. 3; 0 leaves the term out")
    omega: float = Field(0.25, gt=0, description="decay of the weight per residue of separation")


class LogDistancePrior(Prior):
    """`R2 = Σ_{i<j} exp(-ω|i-j|) log²(|x^i - x^j| / |x0^i - x0^j|)` (eq. 5), within each chain.

    Pairs are laid out as (residue, separation), a band of the distance matrix, since the weight fades along the chain.
    """

    Settings = LogDistancePriorSettings
    pair_weight: Tensor

    def __init__(self, settings: LogDistancePriorSettings, template: Template) -> None:
        super().__init__()
        self.settings = settings
        residues = len(template)
        self.separation = min(ceil(-log(NEGLIGIBLE) / settings.omega), residues - 1)
        separation = np.arange(1, self.separation + 1)
        partner = np.arange(residues)[:, None] + separation
        inside = partner < residues
        same_chain = template.chain[np.minimum(partner, residues - 1)] == template.chain[:, None]
        weight = np.exp(-settings.omega * separation) * (inside & same_chain)
        self.register_buffer("pair_weight", torch.from_numpy(weight).float())

    def forward(self, coordinates: Tensor, rest: Tensor) -> Tensor:
        """Return R2 of each conformation, shape (b,); `rest` (n, 3) is x0."""
        reference = self._squared_distances(rest[None])[0] + TINY
        if coordinates.device.type == "cpu" and coordinates.dtype == torch.float32:
            from cryomorph.priors._compiled import cost_of, log_distances

            return cost_of(log_distances, coordinates, self.pair_weight.T, reference.T)
        return self._plain(coordinates, reference)

    def _plain(self, coordinates: Tensor, reference: Tensor) -> Tensor:
        ratio = (self._squared_distances(coordinates) + TINY) / reference
        return (self.pair_weight * (0.5 * torch.log(ratio)).square()).sum((1, 2))

    def _squared_distances(self, coordinates: Tensor) -> Tensor:
        """Return |x^{i+d} - x^i|², d = 1..separation, shape (b, n, separation); no meaning past the last residue."""
        padded = torch.cat([coordinates, coordinates[:, -1:].expand(-1, self.separation, -1)], dim=1)
        windows = padded.unfold(1, self.separation + 1, 1)  # (b, n, 3, separation + 1)
        return (windows[..., 1:] - coordinates[..., None]).square().sum(2)
