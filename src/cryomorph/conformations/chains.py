"""CryoChains: a rigid motion and normal modes of every chain (paper B; Koo et al., equation 1 and section 2.2)."""

from typing import Literal, cast

import numpy as np
import roma
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cryomorph.components import Settings
from cryomorph.conformations._spread import Motions
from cryomorph.structure.domains import Domain, read_domains
from cryomorph.structure.model import Template
from cryomorph.structure.modes import CUTOFF, RIGID, template_modes

SHORTEST = 1e-6
"""Vectors are divided by their length, or by this if they are shorter."""


class ChainsSettings(Settings):
    """What moves; by default as in paper B.

    Its ablations: cN50 is `rigid: none`, cR is `modes: 0, rigid: rotation`, cRT is `modes: 0`.
    """

    kind: Literal["chains"] = "chains"
    modes: int = Field(50, ge=0, description="softest normal modes of each chain, or all if it has fewer")
    rigid: Literal["none", "rotation", "full"] = Field(
        "full", description="rigid motion of each chain: none, rotation about its centre, or translation too (full)"
    )
    groups: str | None = Field(
        None, description="rigid domains in place of chains, such as A:1-120,A:121-214,B or A+B,C"
    )
    cutoff: float = Field(CUTOFF, gt=0, description="Å; residues up to this far apart are joined by a spring")
    adapt: bool = Field(True, description="learn mean and spread of each coordinate; off: latents are Å, as published")

    @model_validator(mode="after")
    def _something_moves(self) -> "ChainsSettings":
        if self.modes == 0 and self.rigid == "none":
            raise ValueError("with neither modes nor rigid motions nothing moves; choose at least one")
        return self


class Chains(Motions):
    """`x_c = R_c (x_c0 - m_c + sqrt(n_c) Σ a_k U_k) + m_c + t_c` for every chain, or domain, c with its centre `m_c`.

    All coordinates are lengths in Å: the root mean square displacement that a mode makes, translations, and for
    rotations the displacement at the radius of gyration.
    """

    Settings = ChainsSettings
    order: Tensor

    def __init__(self, settings: ChainsSettings, template: Template) -> None:
        domains = read_domains(template, settings.groups)
        bodies = [_Body(domain, template, settings) for domain in domains]
        super().__init__(template, np.concatenate([body.softness for body in bodies]), settings.adapt)
        self.settings = settings
        self.names = [domain.name for domain in domains]
        self.bodies = nn.ModuleList(bodies)
        order = np.argsort(np.concatenate([domain.rows for domain in domains]))
        self.register_buffer("order", torch.from_numpy(order), persistent=False)

    def move(self, coordinates: Tensor) -> Tensor:
        """Return Δ in Å, shape (b, n, 3)."""
        bodies = [cast(_Body, body) for body in self.bodies]
        parts = torch.split(coordinates, [body.size for body in bodies], dim=1)
        moved = [body(part) for body, part in zip(bodies, parts, strict=True)]
        return torch.cat(moved, dim=1)[:, self.order]

    def latent_blocks(self) -> dict[str, slice]:
        """Name the coordinates of each chain: "modes A", "rotation A", "translation A"."""
        blocks, start = {}, 0
        for name, body in zip(self.names, self.bodies, strict=True):
            for part, size in cast(_Body, body).sizes.items():
                if size:
                    blocks[f"{part} {name}"] = slice(start, start + size)
                start += size
        return blocks


class _Body(nn.Module):
    """One chain or domain: coordinates (b, size) in Å to displacements (b, r, 3) of its residues."""

    centred: Tensor
    vectors: Tensor

    def __init__(self, domain: Domain, template: Template, settings: ChainsSettings) -> None:
        super().__init__()
        count = min(settings.modes, 3 * len(domain.rows) - RIGID)
        self.sizes = {
            "modes": count,
            "rotation": 0 if settings.rigid == "none" else 6,
            "translation": 3 if settings.rigid == "full" else 0,
        }
        self.size = sum(self.sizes.values())
        centred = template.coordinates[domain.rows] - template.coordinates[domain.rows].mean(0)
        self.radius = float(np.sqrt(np.square(centred).sum(1).mean()))
        vectors = np.zeros((0, centred.size))
        self.softness = np.ones(self.size)  # rigid motions are as soft as the softest mode
        if count:
            modes = template_modes(template, count, settings.cutoff, domain.rows)
            self.softness[:count] = modes.softness
            vectors = np.sqrt(len(centred)) * modes.vectors.reshape(count, -1)
        self.register_buffer("centred", torch.from_numpy(centred).float(), persistent=False)
        # Kept with the weights: other machines may find other bases of modes of the same frequency.
        self.register_buffer("vectors", torch.from_numpy(vectors).float())

    def forward(self, coordinates: Tensor) -> Tensor:
        modes, turn, move = torch.split(coordinates, list(self.sizes.values()), dim=1)
        moved: Tensor = self.centred + (modes @ self.vectors).view(len(coordinates), -1, 3)
        if self.sizes["rotation"]:
            moved = moved @ rotation_of(turn / self.radius).mT
        if self.sizes["translation"]:
            moved = moved + move[:, None]
        return moved - self.centred


def rotation_of(pair: Tensor) -> Tensor:
    """Rotation matrices whose first two columns are orthonormalised vectors (Gram-Schmidt).

    Parameters
    ----------
    pair : Tensor (b, 6)
        How far the two vectors are from the x and the y axis, before hyperbolic tangents bound that, as those of the
        published encoder do; bounded to 2, so that every rotation can be reached.

    Returns
    -------
    Tensor (b, 3, 3)
        The unit matrix for zeros. Vectors of length zero or along one line stand for no rotation; what is returned
        for them is finite.
    """
    axes = torch.eye(3, 2, dtype=pair.dtype, device=pair.device)
    vectors = axes + 2 * torch.tanh(pair / 2).view(-1, 2, 3).mT
    rotation: Tensor = roma.special_gramschmidt(vectors, epsilon=SHORTEST)
    return rotation
