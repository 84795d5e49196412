"""Distilling a library of conformations into a decoder, which then knows a motion before it has seen an image."""

import torch
from torch import Tensor

from cryomorph.conformations.base import ConformationModel
from cryomorph.errors import InputError

BATCH = 8
"""Points of the path in a step."""
RATE = 2e-2
"""Of Adam at first; it falls to zero along half a cosine. Far above that of training, whose gradients
are mostly noise."""
CHECKED = 256
"""Points of the path at which the error is measured in the end."""


def learn_path(model: ConformationModel, x: Tensor, *, seed: int = 0) -> tuple[Tensor, float]:
    """Make a decoder follow a path of conformations, by its own means if it has some, else by distillation.

    Parameters
    ----------
    model
        Changed in place.
    x
        Residue coordinates in Å, shape (k, n, 3), k > 1.
    seed
        As in `distil`.

    Returns
    -------
    latents : Tensor (k, d)
        Of the path.
    error : float
        Root mean square in Å, over residues and points of the path.
    """
    z = model.follow(x)
    if z is None:
        z = path_latents(len(x), model.latent_dim).to(x)
        return z, distil(model, z, x, seed=seed)
    with torch.no_grad():
        return z, float(_square_error(model(z), x).sqrt())


def path_latents(count: int, latent_dim: int, span: float = 1.5) -> Tensor:
    """Return latents (count, d) of a path: the first coordinate runs from -span to span, the others are zero.

    Parameters
    ----------
    count
        Conformations of the path; a single one is at the origin.
    latent_dim
        Number d of latent coordinates.
    span
        In units of latent coordinates, whose prior has a spread of 1.
    """
    latents = torch.zeros(count, latent_dim)
    if count > 1:
        latents[:, 0] = torch.linspace(-span, span, count)
    return latents


def distil(
    model: ConformationModel, z: Tensor, x: Tensor, *, steps: int = 600, spread: float = 1.0, seed: int = 0
) -> float:
    """Train a decoder to follow a path of conformations, whatever the latent coordinates that the path leaves alone.

    Between neighbours, latents and conformations are interpolated on straight lines. Coordinates in which the latents
    of the path do not differ are drawn at random, so that the decoder learns not to depend on them: they are
    free for what the images will tell.

    Parameters
    ----------
    model
        Changed in place; its weights stay trainable.
    z
        Latents of the path in its order, shape (k, d).
    x
        Residue coordinates in Å, shape (k, n, 3).
    steps
        Steps of Adam.
    spread
        Standard deviation of the coordinates that are drawn.
    seed
        Of the points that are drawn; the global random state is left alone.

    Returns
    -------
    float
        Root mean square error in Å over residues and points drawn anew.

    Raises
    ------
    InputError
        If the decoder has nothing to learn with.
    """
    device = model.template.device
    path = _Path(z, x, spread, torch.Generator().manual_seed(seed))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise InputError("poses: search teaches conformations to the decoder; this one has no weights: choose another")
    optimizer = torch.optim.Adam(weights, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        latents, wanted = path.draw(BATCH)
        optimizer.zero_grad()
        _square_error(model(latents.to(device)), wanted.to(device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()
    with torch.no_grad():
        latents, wanted = path.draw(CHECKED)
        return float(_square_error(model(latents.to(device)), wanted.to(device)).sqrt())


class _Path:
    """Points drawn evenly along straight lines between neighbours."""

    def __init__(self, z: Tensor, x: Tensor, spread: float, generator: torch.Generator) -> None:
        self.z, self.x = z.float().cpu(), x.float().cpu()
        self.spread = spread * (self.z == self.z[0]).all(0)
        self.generator = generator

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return latents (count, d) and conformations (count, n, 3)."""
        at = torch.rand(count, generator=self.generator) * (len(self.z) - 1)
        row = at.long().clamp(max=max(len(self.z) - 2, 0))
        beyond = (row + 1).clamp(max=len(self.z) - 1)
        share = at - row
        noise = torch.randn(count, self.z.shape[1], generator=self.generator) * self.spread
        latents = torch.lerp(self.z[row], self.z[beyond], share[:, None])
        return latents + noise, torch.lerp(self.x[row], self.x[beyond], share[:, None, None])


def _square_error(decoded: Tensor, wanted: Tensor) -> Tensor:
    return (decoded - wanted).square().sum(-1).mean()
