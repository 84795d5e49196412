"""The seam of geometric priors."""

from abc import ABC, abstractmethod
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from cryomorph.components import Settings


class PriorSettings(Settings):
    """What every prior has."""

    weight: float = Field(ge=0, description="λ of paper A, eq. 3; 0 leaves the term out")


class Prior(nn.Module, ABC):
    """Cost of a conformation, whatever the images say. The weight λ is applied by whoever sums the terms.

    Conformations are compared with one at rest: in paper A the template, else one that all particles share.
    """

    Settings: ClassVar[type[PriorSettings]]
    settings: PriorSettings

    @abstractmethod
    def forward(self, coordinates: Tensor, rest: Tensor) -> Tensor:
        """Return the cost of conformations, shape (b,), differentiable by both.

        Parameters
        ----------
        coordinates
            Of the residues in Å, shape (b, n, 3).
        rest
            Those of the conformation at rest, shape (n, 3).
        """
