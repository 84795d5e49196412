"""R0 of paper A: the molecule as a whole stays where it is."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from cryomorph.priors.base import Prior, PriorSettings
from cryomorph.structure.model import Template


class CentrePriorSettings(PriorSettings):
    """Squared drift of the mean position."""

    kind: Literal["centre"] = "centre"
    weight: float = Field(5e-4, ge=0, description="λ of paper A, eq. 3; 0 leaves the term out")


class CentrePrior(Prior):
    """`R0 = ‖mean of x - mean of x_0‖²` in Å²: paper A's term, for a template docked anywhere."""

    Settings = CentrePriorSettings
    mean: Tensor

    def __init__(self, settings: CentrePriorSettings, template: Template) -> None:
        super().__init__()
        self.settings = settings
        self.register_buffer("mean", torch.from_numpy(template.coordinates.mean(0)).float())

    def forward(self, coordinates: Tensor, rest: Tensor) -> Tensor:
        """Return R0 of each conformation, shape (b,); the place is the template's, whatever is at rest."""
        return (coordinates.mean(1) - self.mean).square().sum(-1)
