"""Approaching the images: the template moves along its soft motions to where images fit it better, poses unknown.

An image is compared with a conformation in all orientations; the best misfit says how well they fit, whatever the pose.
Its mean over images is a smooth guide over many Å, where misfits at found poses are not: the poses of a wrong
conformation are wrong too.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from pydantic import Field
from scipy.special import chdtri
from torch import Tensor

from cryomorph.components import Settings
from cryomorph.errors import InputError
from cryomorph.progress import Progress, Silent
from cryomorph.search.relaxing import relax
from cryomorph.structure.model import Template
from cryomorph.structure.modes import RIGID, template_modes

logger = logging.getLogger(__name__)

LENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Of the step along the direction of descent, in steps."""
CHANCE = 0.01
"""How often a round may take noise for progress."""

Score = Callable[[Tensor], Tensor]
Geometry = Callable[[Tensor], Tensor]


class ApproachSettings(Settings):
    """How the template is moved towards the images before anything is learned, with poses unknown."""

    rounds: int = Field(12, ge=0, description="rounds at most; 0 starts from the template as it is")
    modes: int = Field(12, ge=1, description="soft motions that are tried in each round, back and forth")
    step: float = Field(3.0, gt=0, description="Å rms, displacement along a motion at first; halved where none helps")
    shortest_step: float = Field(0.5, gt=0, description="Å rms; shorter steps end the approach")
    images: int = Field(1000, ge=2, description="images that are asked")
    stiffness: float = Field(30.0, ge=0, description="weight of the geometric priors when a displacement is relaxed")
    softness: float = Field(3.0, gt=0, description="Å by which a residue yields then, at a cost of half a nat")


@dataclass(frozen=True, eq=False)
class Path:
    """Conformations from the start of an approach to its end, each fitting the images better than the one before.

    Attributes
    ----------
    conformations
        Residue coordinates in Å, shape (k, n, 3); the first is the start.
    misfit
        Mean over images of the best misfit, in nats, shape (k,).
    """

    conformations: Tensor
    misfit: Tensor


def approach(
    template: Template,
    start: Tensor,
    score: Score,
    geometry: Geometry,
    settings: ApproachSettings,
    progress: Progress | None = None,
) -> Path:
    """Move a conformation along its normal modes to where the images fit it better.

    In each round the modes of the current conformation are tried back and forth. One step goes along all those whose
    slope is more than its error, and the best length of it is taken if the images fit better for sure. Otherwise steps
    become shorter. Displacements are relaxed before they are compared.

    Parameters
    ----------
    template
        Names the residues in messages.
    start
        Residue coordinates in Å, shape (n, 3).
    score
        Best misfit of each image with each conformation in nats, shape (l, n, 3) to (l, images); not finite for
        conformations that cannot be compared with images, such as those that leave the window.
    geometry
        Cost of conformations in nats, shape (l, n, 3) to (l,), such as `Reconstruction.geometry`.
    settings
        How far and how long.
    progress
        Told about each conformation that was compared.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the start itself cannot be compared with the images.
    """
    progress = progress or Silent()
    progress.start("approaching the images", settings.rounds * (2 * settings.modes + len(LENGTHS)), "conformations")
    try:
        return _walk(template, start, score, geometry, settings, progress)
    finally:
        progress.finish()


def _walk(
    template: Template,
    start: Tensor,
    score: Score,
    geometry: Geometry,
    settings: ApproachSettings,
    progress: Progress,
) -> Path:
    here = _Compared(start[None], score(start[None]).double())
    if not here.misfit.isfinite().all():
        raise ValueError("the start of an approach cannot be compared with the images")

    def compare(displaced: Tensor) -> _Compared:
        relaxed = relax(displaced, geometry, settings.stiffness, settings.softness)
        compared = _Compared(relaxed, score(relaxed).double())
        progress.advance(len(relaxed), f"misfit {float(here.mean[0]):.2f}")
        return compared

    walked = [here]
    step = settings.step
    for _ in range(settings.rounds):
        if step < settings.shortest_step:
            break
        try:
            modes = _soft_motions(template, here.x[0], settings.modes)
        except InputError as error:
            logger.warning("the approach ends where normal modes do: %s", error)
            break
        better = _round(here, modes, step, compare)
        if better is None:
            step /= 2
        else:
            here = better
            walked.append(here)
    return Path(torch.cat([point.x for point in walked]), torch.cat([point.mean for point in walked]))


@dataclass(frozen=True, eq=False)
class _Compared:
    """Conformations (l, n, 3) in Å and their best misfit with each image, (l, images) in nats."""

    x: Tensor
    misfit: Tensor

    @property
    def usable(self) -> Tensor:
        """Which of them could be compared with all images, shape (l,)."""
        return self.misfit.isfinite().all(1)

    @property
    def mean(self) -> Tensor:
        """Mean over images, infinite where not usable, shape (l,)."""
        return torch.where(self.usable, self.misfit.mean(1), torch.inf)

    def best(self) -> "_Compared":
        """Return the one with the least mean."""
        row = int(self.mean.argmin())
        return _Compared(self.x[row : row + 1], self.misfit[row : row + 1])


def _round(here: _Compared, modes: Tensor, step: float, compare: Callable[[Tensor], _Compared]) -> _Compared | None:
    """Return a conformation that fits the images better for sure; None if there is none among those tried."""
    back_and_forth = compare(here.x + step * torch.cat([modes, -modes]))
    tried = [back_and_forth]
    direction = torch.tensordot(_descent(here, back_and_forth, step).to(modes), modes, dims=1)
    length = direction.square().sum(-1).mean().sqrt()
    if length > 0:
        lengths = step * torch.tensor(LENGTHS).to(modes)
        tried.append(compare(here.x + lengths[:, None, None] * direction / length))
    best = _Compared(torch.cat([some.x for some in tried]), torch.cat([some.misfit for some in tried])).best()
    return best if _surely_better(best, here, len(modes)) else None


def _descent(here: _Compared, back_and_forth: _Compared, step: float) -> Tensor:
    """Negative slope of the mean misfit along each mode in nats/Å, zero where it is within its error, shape (k,).

    A difference is taken to where the conformation is on a side that cannot be compared with the images.
    """
    usable = back_and_forth.usable
    misfit = torch.where(usable[:, None], back_and_forth.misfit, here.misfit)
    forth, back = misfit.chunk(2)
    span = step * usable.view(2, -1).sum(0)
    mean, error = _mean_and_error((back - forth) / span.clamp(min=step)[:, None])
    return torch.where(mean.abs() > error, mean, 0.0)


def _surely_better(best: _Compared, here: _Compared, modes: int) -> bool:
    """Whether images fit better than noise would let them along the best direction in the space of so many modes.

    That direction was found with the same images. If they are noise, the square of its gain in standard errors has the
    χ² distribution of as many degrees of freedom (Scheffé's bound for all directions at once).
    """
    if not best.usable:
        return False
    mean, error = _mean_and_error(here.misfit - best.misfit)
    return bool(mean > float(chdtri(modes, CHANCE)) ** 0.5 * error)


def _mean_and_error(difference: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over images and its standard error, each (l,). Each image sees both, so that its own noise cancels."""
    return difference.mean(1), difference.std(1) / difference.shape[1] ** 0.5


def _soft_motions(template: Template, x: Tensor, count: int) -> Tensor:
    """Return normal modes of a conformation (n, 3), each of 1 Å rms over residues, shape (k, n, 3)."""
    moved = replace(template, coordinates=x.double().cpu().numpy())
    modes = template_modes(moved, min(count, 3 * len(template) - RIGID))
    return torch.from_numpy(modes.vectors * len(template) ** 0.5).to(x)
