"""Which Fourier coefficients of each image count: some are kept out of the fit, like reflections in a free R.

Noise in one coefficient says nothing of the noise in another. What a model learned of the noise where it was fitted
gains it nothing where it was not; what it learned of the particle does (Brünger 1992, for crystals).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cryomorph.components import Settings
from cryomorph.fourier import band, multiplicity, shell_index

WHOLE = 2
"""Blocks along an axis, the lowest, that nothing is left out of: one of them would be most of a shell."""


class FreeSettings(Settings):
    """Which coefficients of each image never enter the fit, and how many images tell how well those are explained."""

    share: float = Field(0.1, ge=0, le=0.5, description="of each image's Fourier coefficients; 0 keeps none out")
    block: int = Field(3, ge=1, description="coefficients along an edge of the blocks that are kept out together")
    images: int = Field(2048, ge=1, description="images at most that are compared after each epoch")


@dataclass(frozen=True, eq=False)
class Selection:
    """Some coefficients of each image, by one of a few patterns, which images take in turn.

    A pattern holds blocks of coefficients and their mirror images in both axes. Together the patterns' complements
    hold every coefficient equally often.

    Attributes
    ----------
    patterns : Tensor (P, K + 1, K + 1)
        Which coefficients count, bool, rows |ky| and columns |kx|. Image i has pattern i modulo P.
    """

    patterns: Tensor

    @classmethod
    def work(cls, box: int, settings: FreeSettings, seed: int) -> "Selection":
        """Leave a share of the coefficients out at random, the same share of every shell but the lowest.

        Parameters
        ----------
        box
            Pixels along an edge of the images.
        settings
            What share, in blocks of what size.
        seed
            Of the choice.

        Raises
        ------
        ValueError
            If the share is 0: then nothing is to be selected.
        """
        if settings.share == 0:
            raise ValueError("a share of 0 leaves nothing out")
        patterns = _kept(box, round(1 / settings.share), settings.block, seed)
        lowest = WHOLE * settings.block
        patterns[:, :lowest, :lowest] = True
        return cls(patterns)

    @classmethod
    def half(cls, box: int, block: int, seed: int) -> "Selection":
        """Return half of the coefficients, whose `complement` is the other half."""
        return cls(_kept(box, 2, block, seed))

    @property
    def complement(self) -> "Selection":
        """The coefficients that do not count here."""
        return Selection(~self.patterns)

    @cached_property
    def plane(self) -> Tensor:
        """The patterns on the grid of `image_coefficients`, shape (P, 2K + 1, K + 1)."""
        return torch.cat([self.patterns[:, 1:].flip(1), self.patterns], dim=1)

    @cached_property
    def shells(self) -> Tensor:
        """Share of each shell's coefficients that counts, shape (P, K + 1)."""
        box = 2 * self.patterns.shape[-1] - 1
        device = self.patterns.device
        shell, counted = shell_index(box, device).flatten(), multiplicity(box, device)
        sums = torch.zeros(2, len(self), self.patterns.shape[-1], dtype=torch.float64, device=device)
        for total, values in zip(sums, (self.plane * counted, counted.expand_as(self.plane)), strict=True):
            total.index_add_(1, shell, values.flatten(1).double())
        return sums[0] / sums[1].clamp(min=1)

    def __len__(self) -> int:
        return len(self.patterns)

    def to(self, device: torch.device) -> "Selection":
        """Return a copy on another device."""
        return self if self.patterns.device == device else replace(self, patterns=self.patterns.to(device))

    def of(self, index: Tensor) -> Tensor:
        """Return which coefficients of particles `index` (b,) count, on the grid of `image_coefficients`."""
        return self.plane[index % len(self)]


def _kept(box: int, parts: int, block: int, seed: int) -> Tensor:
    """Deal out the blocks of a quadrant to `parts` patterns, each of which is without its own.

    Blocks are dealt in the order of their distance from the origin, so that every pattern has its share of all shells.
    """
    size = band(box) + 1
    blocks = -(-size // block)
    index = np.arange(blocks)
    generator = np.random.default_rng(np.random.SeedSequence([seed, box, parts, block]))
    distance = np.hypot(index, index[:, None]).ravel() + 0.5 * generator.random(blocks**2)
    order = np.argsort(distance)
    rounds = -(-len(order) // parts)
    hands = generator.permuted(np.tile(np.arange(parts), (rounds, 1)), axis=1).ravel()[: len(order)]
    owner = np.empty(blocks**2, dtype=np.int64)
    owner[order] = hands
    owners = owner.reshape(blocks, blocks).repeat(block, 0).repeat(block, 1)[:size, :size]
    return torch.from_numpy(owners != np.arange(parts)[:, None, None])
