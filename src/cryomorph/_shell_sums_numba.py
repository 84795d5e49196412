"""Sums over shells on a CPU: images in parallel, each coefficient read once."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryomorph.parallel import jit, prange, use_torch_threads


def add_up(observed: Tensor, model: Tensor, transfer: Tensor, weight: Tensor, seen: Tensor, shell: Tensor) -> Tensor:
    """Add up; see `cryomorph.shell_sums.shell_sums`. `shell` numbers the shell of each coefficient."""
    use_torch_threads()
    images = len(observed)
    sums = torch.zeros(4, images, observed.shape[-1])
    _add_up(
        torch.view_as_real(observed.contiguous()).reshape(images, -1, 2).numpy(),
        torch.view_as_real(model.contiguous()).reshape(images, -1, 2).numpy(),
        transfer.flatten(1).numpy(),
        weight.flatten(1).expand(images, -1).numpy(),
        seen.flatten(1).numpy(),
        shell.flatten().numpy(),
        sums.numpy(),
    )
    return sums


@jit(parallel=True)
def _add_up(observed: Any, model: Any, transfer: Any, weight: Any, seen: Any, shell: Any, sums: Any) -> None:
    images, count = transfer.shape
    for i in prange(images):
        totals = np.zeros((sums.shape[2], 4))
        for c in range(count):
            h, w = transfer[i, c], weight[i, c]
            real, imaginary = h * model[i, c, 0], h * model[i, c, 1]
            first = 0 if seen[i, c] else 2
            row = totals[shell[c]]
            row[first] += w * (observed[i, c, 0] * real + observed[i, c, 1] * imaginary)
            row[first + 1] += w * (real * real + imaginary * imaginary)
        sums[:, i] = totals.T
