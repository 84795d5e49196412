"""What a scan returns: the poses and conformations that fit each image best."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Candidates:
    """The k best of all poses (and conformations) that were compared with each of b images, best first.

    Attributes
    ----------
    rotation
        Map frame to image frame, shape (b, k, 3, 3).
    shift
        Displacement of the particle in the image in Å, shape (b, k, 2).
    conformation
        Row of the library, int64, shape (b, k); 0 where each image was compared with its own conformation.
    misfit
        In nats as `Likelihood.forward` gives it, ascending, shape (b, k).
    """

    rotation: Tensor
    shift: Tensor
    conformation: Tensor
    misfit: Tensor

    def with_misfit(self, misfit: Tensor) -> Self:
        """Return the same candidates in the order of other misfits (b, k)."""
        ordered, order = misfit.sort(dim=1, stable=True)
        rows = torch.arange(len(order), device=order.device)[:, None]
        return type(self)(self.rotation[rows, order], self.shift[rows, order], self.conformation[rows, order], ordered)
