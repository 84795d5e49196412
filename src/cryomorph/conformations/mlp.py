"""Multilayer perceptron from latents to displacements (paper A, the model it compares its network with)."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cryomorph.components import Settings
from cryomorph.conformations.base import ConformationModel
from cryomorph.structure.model import Template


class MLPSettings(Settings):
    """Size of the perceptron; the defaults are paper A's for adenylate kinase."""

    kind: Literal["mlp"] = "mlp"
    latent_dim: int = Field(8, ge=1, description="number of latent coordinates d")
    layers: int = Field(8, ge=1, description="hidden layers H")
    width: int = Field(32, ge=1, description="units D of each hidden layer")


class MLP(ConformationModel):
    """Linear (d to D), H hidden layers (D to D), linear (D to 3n), ReLU between them.

    The output layer starts near zero, so that training starts at the template.
    """

    Settings = MLPSettings

    def __init__(self, settings: MLPSettings, template: Template) -> None:
        super().__init__(template, settings.latent_dim)
        self.settings = settings
        stack: list[nn.Module] = [nn.Linear(settings.latent_dim, settings.width), nn.ReLU()]
        for _ in range(settings.layers):
            stack += [nn.Linear(settings.width, settings.width), nn.ReLU()]
        self.hidden = nn.Sequential(*stack)
        self.output = nn.Linear(settings.width, 3 * len(template))
        nn.init.normal_(self.output.weight, std=1e-3)
        nn.init.zeros_(self.output.bias)

    def displacement(self, z: Tensor) -> Tensor:
        """Return Δ in Å, shape (b, n, 3)."""
        hidden = self.hidden(z)
        with torch.autocast(hidden.device.type, enabled=False):  # a displacement of 10 Å must not be rounded
            flat: Tensor = self.output(hidden.float())
        return flat.view(len(z), -1, 3)
