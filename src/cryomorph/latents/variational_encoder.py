"""Distributions over latent space read from the images (Kingma & Welling 2014), by the network of paper B.

What `variational` is to `table`, this is to `encoder`: coordinates that do not help the images are drawn towards the
prior and fit less noise.
"""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor

from cryomorph.latents._distributions import divergence, draw
from cryomorph.latents._encoding import EncodedLatents, EncoderSettings
from cryomorph.particles.batch import ParticleBatch


class VariationalEncoderLatentsSettings(EncoderSettings):
    """A normal distribution with its own mean and widths for each image."""

    kind: Literal["variational_encoder"] = "variational_encoder"
    start_width: float = Field(0.37, gt=0, description="width of every distribution at the start; the prior's is 1")


class VariationalEncoderLatents(EncodedLatents):
    """The network's outputs are means and logarithms of the widths.

    While training, z is drawn from the distributions; in evaluation mode it is their mean.
    """

    Settings = VariationalEncoderLatentsSettings

    def __init__(
        self, settings: VariationalEncoderLatentsSettings, blocks: Mapping[str, slice], particles: int
    ) -> None:
        super().__init__(settings, blocks, particles, numbers=2)
        self.settings = settings

    def encode(self, batch: ParticleBatch) -> tuple[Tensor, Tensor]:
        """Return a draw from the distribution of each image, or its mean in evaluation mode, and the divergence."""
        mean, log_width = self.read(batch)
        log_width = log_width + math.log(self.settings.start_width)
        z = draw(mean, log_width) if self.training else mean
        return z, divergence(mean, log_width)
