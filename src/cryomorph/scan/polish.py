"""From a grid's rotation to the nearest optimum: a few quasi-Newton steps with the likelihood's own gradient."""

import math
from collections.abc import Callable

import roma
import torch
from torch import Tensor

from cryomorph.likelihood.base import Likelihood
from cryomorph.particles.batch import ParticleBatch
from cryomorph.structure.beads import Beads

STEPS = 8
FIRST_TURN, FIRST_MOVE = math.radians(2.0), 0.5
"""Radians and Å of a first step: they set the scale of the unknowns."""
LONGEST = 2.0
"""Of a step, in these units."""


def polish(
    likelihood: Likelihood,
    beads: Beads,
    rotation: Tensor,
    shift: Tensor,
    batch: ParticleBatch,
    *,
    shifts: bool,
    steps: int = STEPS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimise the misfit of each image over its pose, from a pose nearby (BFGS, all images at once).

    Parameters
    ----------
    likelihood
        Its sums for the gain are left as they are.
    beads
        Of b conformations.
    rotation, shift
        Where to begin, shapes (b, 3, 3) and (b, 2) Å.
    batch
        The images.
    shifts
        Whether shifts are unknown too.
    steps
        Gradients that are computed.

    Returns
    -------
    rotation, shift, misfit
        The best that were seen; the misfit in nats, shape (b,).
    """
    unknowns = 5 if shifts else 3

    def evaluate(u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            misfit = likelihood.misfit(*likelihood.terms(beads, *moved(u, rotation, shift), batch), batch)
            (gradient,) = torch.autograd.grad(misfit.sum(), u)
        return misfit.detach(), gradient

    at, value = descend(evaluate, rotation.new_zeros(len(batch), unknowns), steps)
    return *moved(at, rotation, shift), value


def descend(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], at: Tensor, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Minimise b functions at once by BFGS.

    Parameters
    ----------
    evaluate
        Returns values (b,) and gradients (b, n) at unknowns (b, n), whose natural scale is 1.
    at
        Where to begin, shape (b, n).
    steps
        Gradients that are computed.

    Returns
    -------
    at, value
        The best that were seen, shapes (b, n) and (b,).
    """
    value, gradient = evaluate(at)
    size, unknowns = at.shape
    inverse = torch.eye(unknowns).to(at).expand(size, -1, -1) / gradient.norm(dim=1).clamp(min=1e-6)[:, None, None]
    for _ in range(steps):
        step = -torch.einsum("bij,bj->bi", inverse, gradient)
        step = step * (LONGEST / step.norm(dim=1).clamp(min=1e-12)).clamp(max=1)[:, None]
        new_value, new_gradient = evaluate(at + step)
        inverse = _updated(inverse, step, new_gradient - gradient)
        better = new_value < value
        # Where a step went too far the curvature just learned makes the next one shorter.
        at = torch.where(better[:, None], at + step, at)
        gradient = torch.where(better[:, None], new_gradient, gradient)
        value = torch.where(better, new_value, value)
    return at, value


def moved(u: Tensor, rotation: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return the poses that unknowns (b, 3 or 5) stand for, in units of `FIRST_TURN` and `FIRST_MOVE`."""
    turned = rotation @ roma.rotvec_to_rotmat(FIRST_TURN * u[:, :3])
    return turned, shift + FIRST_MOVE * u[:, 3:] if u.shape[1] > 3 else shift


def _updated(inverse: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Inverse Hessians (b, n, n) after steps (b, n) that changed gradients by (b, n); where it is positive."""
    product = (step * change).sum(1)
    usable = product > 1e-3 * step.norm(dim=1) * change.norm(dim=1)
    rho = torch.where(usable, 1 / torch.where(usable, product, 1.0), 0.0)[:, None, None]
    identity = torch.eye(step.shape[1]).to(step)
    left = identity - rho * step[:, :, None] * change[:, None]
    return left @ inverse @ left.mT + rho * step[:, :, None] * step[:, None]
