"""Latents read from the images by a convolutional network (paper B; Koo et al., section 2.1 and appendix C)."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from cryomorph.latents._distributions import point_cost
from cryomorph.latents._encoding import EncodedLatents, EncoderSettings
from cryomorph.particles.batch import ParticleBatch


class EncoderLatentsSettings(EncoderSettings):
    """One point of latent space for each image."""

    kind: Literal["encoder"] = "encoder"


class EncoderLatents(EncodedLatents):
    """The network's outputs are the latent coordinates, priced as points."""

    Settings = EncoderLatentsSettings

    def __init__(self, settings: EncoderLatentsSettings, blocks: Mapping[str, slice], particles: int) -> None:
        super().__init__(settings, blocks, particles, numbers=1)
        self.settings = settings

    def encode(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return a point for each image, shape (b, d), and what it costs, shape (b,)."""
        (z,) = self.read(batch)
        return z, point_cost(z)
