"""Relaxing geometry: what a displacement tears is mended, what it moves stays moved."""

from collections.abc import Callable

import torch
from torch import Tensor

RATE = 0.3
"""Å: the first step of each coordinate."""


def relax(
    x: Tensor, geometry: Callable[[Tensor], Tensor], strength: float, softness: float, steps: int = 200
) -> Tensor:
    """Minimise `strength * geometry(x) + ½ ‖x - x_start‖² / softness²` for each of some conformations.

    Displacements along normal modes are straight lines, along which turning parts stretch. A spring to where each
    residue was moved keeps the displacement, the priors mend bonds. Adam with steps that shrink to zero: nothing is
    drawn, so that results can be repeated, and no conformation depends on the others.

    Parameters
    ----------
    x
        Residue coordinates in Å, shape (l, n, 3).
    geometry
        Cost of conformations in nats, shape (l, n, 3) to (l,), such as `Reconstruction.geometry`.
    strength
        How often the geometry counts. Images pull on a residue as a stack and weigh far more than one spring does.
    softness
        Å by which a residue yields at a cost of half a nat.
    steps
        How many.

    Returns
    -------
    Tensor (l, n, 3)
    """
    start = x.detach()
    relaxed = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([relaxed], lr=RATE)
    with torch.enable_grad():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / steps)
            spring = 0.5 * (relaxed - start).square().sum((1, 2)) / softness**2
            cost = (strength * geometry(relaxed) + spring).sum()
            (relaxed.grad,) = torch.autograd.grad(cost, relaxed)
            optimizer.step()
    return relaxed.detach()
