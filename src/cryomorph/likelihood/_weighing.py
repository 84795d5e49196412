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

    def quadrants(
        self, share: Tensor, group: Tensor, axis: Tensor, phase: Tensor, *, astigmatic: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the power of the transfer at `kx, ky = 0..K`, split by what a change of one sign does to it.

        Parameters
        ----------
        share
            Of each of these coefficients, for each optics group, shape (groups, K + 1, K + 1).
        group, axis, phase
            As in `weigh_box`.
        astigmatic
            False if no image is: the odd part is empty then.

        Returns
        -------
        even, odd : Tensor (b, K + 1, K + 1)
            Half the sum and half the difference of the powers at (kx, ky) and (kx, -ky).
        """

    def weigh_cut(self, spectrum: Tensor, even: Tensor, odd: Tensor, unspread: Tensor) -> None:
        """Multiply spectra, in place, by weights given as `quadrants` gives them; coefficients beyond them become 0.

        Parameters
        ----------
        spectrum
            Half of the plane, shape (b, N, N // 2 + 1), complex64.
        even, odd
            Shape (b, M + 1, M + 1); the odd part may be empty.
        unspread
            Factors at indices 0..M of either axis, shape (M + 1,).
        """


def products(engine: Engine, device: torch.device) -> Weighing:
    """Return the products for a device; engines as in `cryomorph.gridding.transfer.transfer`."""
    module: Weighing = importlib.import_module(f"cryomorph.likelihood._weigh_{resolve(engine, device)}")
    return module
