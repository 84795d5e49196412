"""Normal modes of the whole molecule (paper B's baseline N100, after Nashed et al. 2022)."""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from cryomorph.components import Settings
from cryomorph.conformations._spread import Motions
from cryomorph.structure.model import Template
from cryomorph.structure.modes import CUTOFF, RIGID, template_modes


class NMASettings(Settings):
    """How many modes of which elastic network; the default is paper B's."""

    kind: Literal["nma"] = "nma"
    modes: int = Field(100, ge=1, description="softest normal modes, or all if the molecule has fewer")
    cutoff: float = Field(CUTOFF, gt=0, description="Å; residues up to this far apart are joined by a spring")
    adapt: bool = Field(True, description="learn mean and spread of each coordinate; off: latents are Å, as published")


class NMA(Motions):
    """`Δ = sqrt(n) Σ a_k U_k`, so that a coordinate `a_k` is the root mean square displacement it makes, in Å.

    Modes are computed from the template and kept with the weights: other machines may find other bases of modes of the
    same frequency, as symmetric molecules have them.
    """

    Settings = NMASettings
    vectors: Tensor

    def __init__(self, settings: NMASettings, template: Template) -> None:
        count = min(settings.modes, 3 * len(template) - RIGID)
        modes = template_modes(template, count, settings.cutoff)
        super().__init__(template, modes.softness, settings.adapt)
        self.settings = settings
        vectors = np.sqrt(len(template)) * modes.vectors.reshape(count, -1)
        self.register_buffer("vectors", torch.from_numpy(vectors).float())

    def move(self, coordinates: Tensor) -> Tensor:
        """Return Δ in Å, shape (b, n, 3)."""
        flat: Tensor = coordinates @ self.vectors
        return flat.view(len(coordinates), -1, 3)

    def latent_blocks(self) -> dict[str, slice]:
        """Return the one block of modes."""
        return {"modes": slice(0, self.latent_dim)}
