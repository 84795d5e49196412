"""Contrast transfer of spectra: the same two products in plain PyTorch, in numba for CPUs and in Triton for GPUs."""

import importlib
from typing import Protocol

import torch
from torch import Tensor

from cryomorph.gridding.transfer import Engine, resolve


class Weighing(Protocol):
    """Products of Fourier coefficients and their weights, which are evaluated where they are needed, never stored."""

    def weigh_box(self, spectrum: Tensor, share: Tensor, group: Tensor, axis: Tensor, phase: Tensor) -> None:
        """Multiply spectra, in place, by the power of the transfer; coefficients beyond K become 0.

        Parameters
        ----------
        spectrum
            Half of the plane, shape (b, N, N // 2 + 1), complex64.
        share
            Of each coefficient with `ky = -K..K, kx = 0..K`, for each optics group, shape (groups, 2K + 1, K + 1).
        group
            Optics group of each image, shape (b,).
        axis
            Factors at indices 0..K of either axis, shape (b, K + 1).
        phase
            What `cryomorph.optics.phase_coefficients` returns, shape (b, 5).
        """

    def weigh_radial(self, spectrum: Tensor, table: Tensor, place: Tensor, unspread: Tensor) -> None:
        """Multiply spectra, in place, by radial tables.

        Parameters
        ----------
        spectrum
            Half of the plane, shape (b, N, N // 2 + 1), complex64.
        table
            Weight at each radius, shape (b, radii).
        place
            Radius of each coefficient, shape (N, N // 2 + 1), int64; the number of radii where nothing counts.
        unspread
            Factors at indices 0..N // 2 of either axis, shape (N // 2 + 1,).
        """


def products(engine: Engine, device: torch.device) -> Weighing:
    """Return the products for a device; engines as in `cryomorph.gridding.transfer.transfer`."""
    module: Weighing = importlib.import_module(f"cryomorph.likelihood._weigh_{resolve(engine, device)}")
    return module
