"""R1 of paper A: distances along the chain stay as they are at rest."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from cryomorph.priors.base import Prior, PriorSettings
from cryomorph.structure.model import Template


class BondsPriorSettings(PriorSettings):
    """Squared change of the distances between consecutive residues."""

    kind: Literal["bonds"] = "bonds"
    weight: float = Field(1e-2, ge=0, description="λ of paper A, eq. 3; 0 leaves the term out")


class BondsPrior(Prior):
    """`R1 = (1/N) Σ (|x^{i+1} - x^i| - |x0^{i+1} - x0^i|)²` in Å² (eq. 4), never across a chain break or gap."""

    Settings = BondsPriorSettings
    bonded: Tensor

    def __init__(self, settings: BondsPriorSettings, template: Template) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("bonded", torch.from_numpy(template.bonded).float())

    def forward(self, coordinates: Tensor, rest: Tensor) -> Tensor:
        """Return R1 of each conformation, shape (b,); `rest` (n, 3) is x0."""
        reference = (rest[1:] - rest[:-1]).norm(dim=-1)
        if coordinates.device.type == "cpu" and coordinates.dtype == torch.float32:
            from cryomorph.priors._compiled import cost_of, stretches

            return cost_of(stretches, coordinates, self.bonded, reference)
        return self._plain(coordinates, reference)

    def _plain(self, coordinates: Tensor, reference: Tensor) -> Tensor:
        length = (coordinates[:, 1:] - coordinates[:, :-1]).norm(dim=-1)
        stretch: Tensor = length - reference
        return (self.bonded * stretch.square()).sum(-1) / coordinates.shape[1]
