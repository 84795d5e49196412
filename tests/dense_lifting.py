"""The lifted problem of a single image as the paper writes it, and its solution without the closed form."""

import numpy as np
from scipy.optimize import brentq


def lifted_problem(misfit: np.ndarray, j0: float = 15.0, eta: float = 2 / 3) -> tuple[np.ndarray, float]:
    """`F` and the factor of `½‖μ‖²` for the misfits (n,) of an image at all rotations of a grid."""
    squared_residual, n = 2 * misfit, len(misfit)
    size = min(int(j0 * n ** ((2 - 3 * eta) / 5)), n - 1)
    ascending = np.sort(squared_residual)
    strength = 0.5 * j0 * n ** ((2 + 2 * eta) / 5) * (ascending[size] - ascending[:size].mean())
    return squared_residual, strength / n**eta


def solved(misfit: np.ndarray, j0: float = 15.0, eta: float = 2 / 3) -> np.ndarray:
    """The measure (n,) by its optimality condition: `μ = max(θ - F, 0) / factor`, with the root θ of `Σ μ = 1`."""
    squared_residual, factor = lifted_problem(misfit, j0, eta)

    def measure(level: float) -> np.ndarray:
        return np.maximum(level - squared_residual, 0) / factor

    lowest = squared_residual.min()
    level = brentq(lambda level: measure(level).sum() - 1, lowest, lowest + 2 * factor, xtol=1e-13, rtol=1e-14)
    return measure(level)
