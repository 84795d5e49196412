"""Inner products of images with what a model expects of them, shell by shell: seen by a fit, and kept out of it."""

import torch
from torch import Tensor

from cryomorph.fourier import shell_index


def shell_sums(observed: Tensor, model: Tensor, transfer: Tensor, weight: Tensor, seen: Tensor) -> Tensor:
    """Return `⟨y, h v⟩` and `‖h v‖²` of the coefficients of each shell that are seen, then of those that are not.

    Parameters
    ----------
    observed, model
        Coefficients y and v of images and of projections, shape (b, 2K + 1, K + 1), complex64.
    transfer
        The signal h in each, the same shape, float32.
    weight
        By which they count, shape (1 or b, 2K + 1, K + 1), float32.
    seen
        Which are seen, bool.

    Returns
    -------
    Tensor (4, b, K + 1)
        Float32: the products and the power of those seen, and both of the rest.
    """
    box = 2 * observed.shape[-1] - 1
    shell = shell_index(box, observed.device)
    if observed.device.type == "cpu":
        from cryomorph._shell_sums_numba import add_up  # compilers take long to import

        return add_up(observed, model, transfer, weight, seen, shell)
    return add_up_planes(observed, model, transfer, weight, seen, shell)


def add_up_planes(
    observed: Tensor, model: Tensor, transfer: Tensor, weight: Tensor, seen: Tensor, shell: Tensor
) -> Tensor:
    """Do it one operation of PyTorch after the other, on any device; `shell` numbers the shell of each coefficient."""
    expected = model * transfer
    cross = weight * (observed.real * expected.real + observed.imag * expected.imag)
    power = weight * (expected.real.square() + expected.imag.square())
    planes = torch.stack([cross * seen, power * seen, cross * ~seen, power * ~seen])
    sums = planes.new_zeros(*planes.shape[:2], observed.shape[-1])
    return sums.index_add_(2, shell.flatten(), planes.flatten(2))
