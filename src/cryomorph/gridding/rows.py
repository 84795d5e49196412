"""Which samples of a periodic grid are kept, row by row."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples of an N × N periodic grid that are kept: a stretch of each row, one after the other.

    Sample (row, column) is number `offset[row] + column` if `first[row] <= column < last[row]`. The grid's origin is
    sample `N // 2` along both axes.

    Attributes
    ----------
    size : int
        N.
    first, last, offset : Tensor (N,)
        int64.
    count : int
        Samples in all.
    safe : float
        Radius in samples about the origin within which every kept row has all samples.
    """

    size: int
    first: Tensor
    last: Tensor
    offset: Tensor
    count: int
    safe: float

    @classmethod
    def disc(cls, size: int, radius: float) -> Self:
        """Keep what is closer to the origin than `radius` samples; everything if the disc does not fit the grid."""
        centre = size // 2
        at = np.arange(size) - centre
        if radius >= size - centre - 1:
            first, last, safe = np.zeros(size, np.int64), np.full(size, size), float(size - centre - 1)
        else:
            half = np.floor(np.sqrt(np.maximum(radius**2 - np.square(at), 0))).astype(np.int64)
            kept = np.abs(at) <= radius
            first, last = np.where(kept, centre - half, 0), np.where(kept, centre + half + 1, 0)
            safe = float(radius)
        before = np.concatenate([[0], np.cumsum(last - first)[:-1]])
        return cls(
            size=size,
            first=torch.from_numpy(first.astype(np.int64)),
            last=torch.from_numpy(last.astype(np.int64)),
            offset=torch.from_numpy((before - first).astype(np.int64)),
            count=int((last - first).sum()),
            safe=safe,
        )

    @property
    def whole(self) -> bool:
        """Whether every sample of the grid is kept."""
        return len(self) == self.size**2

    def __len__(self) -> int:
        return self.count

    def places(self) -> Tensor:
        """Return the number of each kept sample in the flattened grid, shape (samples,), int64."""
        row = torch.arange(self.size, device=self.first.device)
        column = torch.arange(self.size, device=self.first.device)
        kept = (column >= self.first[:, None]) & (column < self.last[:, None])
        return (row[:, None] * self.size + column)[kept]

    def to(self, device: torch.device) -> Self:
        """Return a copy on another device."""
        return replace(self, first=self.first.to(device), last=self.last.to(device), offset=self.offset.to(device))
