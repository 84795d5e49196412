"""What latents cost under a standard normal prior, as points and as distributions."""

import torch
from torch import Tensor


def point_cost(z: Tensor) -> Tensor:
    """Return `½‖z‖²` of points (b, d) in nats, shape (b,): minus the logarithm of the prior, but for a constant."""
    return 0.5 * z.square().sum(-1)


def draw(mean: Tensor, log_width: Tensor) -> Tensor:
    """Return a draw from each of b normal distributions (b, d), through which gradients reach mean and width."""
    return mean + log_width.exp() * torch.randn_like(mean)


def divergence(mean: Tensor, log_width: Tensor) -> Tensor:
    """Return the divergence of normal distributions (b, d) from the standard one in nats, `KL(q‖p)`, shape (b,)."""
    return 0.5 * (mean.square() + (2 * log_width).exp() - 1 - 2 * log_width).sum(-1)
