"""Grids of rotations."""

from dataclasses import dataclass

import numpy as np
import roma
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]

PHI = np.sqrt(2.0)
PSI = 1.533751168755204288118041
"""Positive root of x⁴ = x + 4 (Alexa 2022)."""


def super_fibonacci(count: int) -> Array:
    """Rotation matrices spread evenly over SO(3), by super-Fibonacci spirals (Alexa 2022, CVPR).

    Parameters
    ----------
    count
        How many.

    Returns
    -------
    array (count, 3, 3)
    """
    s = np.arange(count) + 0.5
    t = s / count
    inner, outer = np.sqrt(t), np.sqrt(1 - t)
    alpha, beta = 2 * np.pi * s / PHI, 2 * np.pi * s / PSI
    quaternions = np.stack(
        [inner * np.sin(alpha), inner * np.cos(alpha), outer * np.sin(beta), outer * np.cos(beta)], axis=1
    )
    return np.asarray(roma.unitquat_to_rotmat(torch.from_numpy(quaternions)).numpy(), dtype=np.float64)


@dataclass(frozen=True)
class ProductGrid:
    """Rotations that are all in-plane rotations of all viewing directions: `R = R_z(angle) R_direction`.

    Attributes
    ----------
    directions
        How many viewing directions, evenly spread over the sphere.
    in_plane
        How many in-plane angles, evenly spread over the circle.
    """

    directions: int
    in_plane: int

    def __len__(self) -> int:
        return self.directions * self.in_plane

    @classmethod
    def of_at_least(cls, rotations: int) -> "ProductGrid":
        """Return the smallest grid of so many rotations whose steps are alike in all directions."""
        in_plane = int(np.ceil(np.cbrt(np.pi * rotations)))
        return cls(-(-rotations // in_plane), in_plane)

    @property
    def angles(self) -> Array:
        """In-plane angles in radians, shape (in_plane,)."""
        return np.asarray(2 * np.pi * np.arange(self.in_plane) / self.in_plane)

    def viewing(self) -> Array:
        """Rotations to the viewing directions, shape (directions, 3, 3); row 2 of each is the direction."""
        i = np.arange(self.directions) + 0.5
        z = 1 - 2 * i / self.directions
        azimuth = np.pi * (1 + np.sqrt(5)) * i  # a Fibonacci spiral
        sin_tilt, zero = np.sqrt(1 - z * z), np.zeros_like(z)
        cosine, sine = np.cos(azimuth), np.sin(azimuth)
        rows = [[z * cosine, z * sine, -sin_tilt], [-sine, cosine, zero], [sin_tilt * cosine, sin_tilt * sine, z]]
        return np.moveaxis(np.array(rows), (0, 1), (-2, -1))

    def rotations(self, direction: NDArray[np.int64], angle: NDArray[np.int64]) -> Array:
        """Rotation matrices (..., 3, 3) of directions and in-plane angles, given by their numbers (...)."""
        viewing = self.viewing()[direction]
        cosine, sine = np.cos(self.angles[angle])[..., None], np.sin(self.angles[angle])[..., None]
        turned = viewing.copy()
        turned[..., 0, :] = cosine * viewing[..., 0, :] - sine * viewing[..., 1, :]
        turned[..., 1, :] = sine * viewing[..., 0, :] + cosine * viewing[..., 1, :]
        return turned
